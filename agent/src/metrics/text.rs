//! Figures in the words of OpenMetrics (<https://github.com/prometheus/OpenMetrics>, 1.0), which
//! Prometheus reads. docs/metrics.md has the list.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use shoal_types::id::NodeId;
use shoal_types::task_state::TaskState;

/// As the format's specification has it.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What there is to tell.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Where each task is; `None` if nobody knows.
    pub tasks: Option<Vec<TaskState>>,
    /// The ways to other nodes; `None` if nobody knows: managers have not said yet who there is, or the
    /// tunnel could not be looked at.
    pub ways: Option<Ways>,
    /// Links to other nodes that not everything passes, as far as that was found out by trying.
    pub troubled: u32,
    /// Whether names are answered; `None` where nobody asks for any.
    pub names: Option<bool>,
}

/// The ways to other nodes.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    /// What is not as it should be about the tunnel and its peers.
    pub wrong: u64,
    /// The tunnel; `None` if there is none.
    pub tunnel: Option<Tunnel>,
}

/// This host's end of the tunnel.
#[derive(Debug, Clone, Default)]
pub struct Tunnel {
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// The nodes that it leads to.
    pub links: BTreeMap<NodeId, Link>,
    /// The epoch of its keys.
    pub epoch: u64,
    /// Nodes that are reached by links of an earlier one still.
    pub lagging: u64,
}

/// What the tunnel says of one other node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// How long ago keys were last agreed on with it; `None`: never.
    pub handshake_age: Option<Duration>,
    /// Bytes that came from it, encrypted.
    pub rx_bytes: u64,
    /// Bytes that went to it, encrypted.
    pub tx_bytes: u64,
}

type ByLabel<M> = Family<[(&'static str, String); 1], M>;
type Count = Gauge<u64, AtomicU64>;

impl Figures {
    /// All of it, as it is sent.
    #[must_use]
    pub fn text(&self) -> String {
        let mut registry = Registry::with_prefix("shoal");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("agent", "The agent that tells this", version);
        if let Some(tasks) = &self.tasks {
            of_tasks(&mut registry, tasks);
        }
        if let Some(answers) = self.names {
            let help =
                "Whether the process that answers names of containers answers (1) or not (0)";
            registry.register("names_up", help, count(answers.into()));
        }
        if let Some(ways) = &self.ways {
            of_ways(&mut registry, ways);
        }
        let help = "Links to other nodes that not everything passes; node inspect names them";
        registry.register("tunnel_troubled_links", help, count(self.troubled.into()));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

fn count(value: u64) -> Count {
    let gauge = Count::default();
    gauge.set(value);
    gauge
}

fn of_tasks(registry: &mut Registry, tasks: &[TaskState]) {
    let by_state = ByLabel::<Count>::default();
    for state in TaskState::ALL {
        let is_there = tasks.iter().filter(|task| **task == state).count();
        by_state.get_or_create(&[("state", state.to_string())]).set(is_there as u64);
    }
    registry.register("tasks", "Tasks of this node, by state", by_state);
}

fn of_ways(registry: &mut Registry, Ways { wrong, tunnel }: &Ways) {
    let help =
        "What is not as it should be about the tunnel and its peers; network verify names it";
    registry.register("tunnel_findings", help, count(*wrong));
    let help = "Whether there is a tunnel to other hosts (1) or not (0)";
    registry.register("tunnel_up", help, count(tunnel.is_some().into()));
    if let Some(tunnel) = tunnel {
        of_tunnel(registry, tunnel);
    }
}

fn of_tunnel(registry: &mut Registry, tunnel: &Tunnel) {
    let mtu = count(tunnel.mtu.into());
    registry.register_with_unit("tunnel_mtu", "The largest packet of the tunnel", Unit::Bytes, mtu);
    let help = "Other nodes that the tunnel leads to";
    registry.register("tunnel_peers", help, count(tunnel.links.len() as u64));
    let help = "The epoch of the keys of the tunnel: how often they have changed";
    registry.register("tunnel_key_epoch", help, count(tunnel.epoch));
    let help = "Other nodes that are reached by links of the former keys still";
    registry.register("tunnel_peers_by_former_keys", help, count(tunnel.lagging));
    let (received, sent) = (ByLabel::<Counter>::default(), ByLabel::<Counter>::default());
    let ages = ByLabel::<Gauge<f64, AtomicU64>>::default();
    for (node, link) in &tunnel.links {
        let label = [("node", node.to_string())];
        received.get_or_create(&label).inc_by(link.rx_bytes);
        sent.get_or_create(&label).inc_by(link.tx_bytes);
        if let Some(age) = link.handshake_age {
            ages.get_or_create(&label).set(age.as_secs_f64());
        }
    }
    let help = "What came from a node by the tunnel, encrypted";
    registry.register_with_unit("tunnel_peer_received", help, Unit::Bytes, received);
    let help = "What went to a node by the tunnel, encrypted";
    registry.register_with_unit("tunnel_peer_sent", help, Unit::Bytes, sent);
    let help = "How long ago keys were last agreed on with a node; absent before the first time";
    registry.register_with_unit("tunnel_peer_handshake_age", help, Unit::Seconds, ages);
}
