//! What is not as it should be about the ways to other hosts, told and not put right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use shoal_agent_planning::overlay::{Course, OverlayView};
use shoal_agent_planning::tunnel::{LeftOut, SeenPeer, Side};
use shoal_agent_planning::verify::{Compared, Difference, of_tunnel};
use shoal_agent_tunnel::Comparison;
use shoal_types::assignment::Peer;
use shoal_types::error_chain::chain;
use shoal_types::id::NodeId;
use shoal_types::object::TunnelEpochs;
use shoal_types::time::Timestamp;

use super::{ANSWER, Overlay, Phase};

/// What came of looking at the ways to other hosts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overseen {
    pub(crate) compared: Compared,
    /// From where other hosts are reached; `None` if there is no way to any.
    pub(crate) from: Option<SeenFrom>,
}

impl Overseen {
    /// Who looks is busy.
    pub(super) fn none_in_time() -> Self {
        let note = format!(
            "what leads to other nodes is being set up: what is wrong with it could not be said within {} seconds",
            ANSWER.as_secs()
        );
        Self { compared: Compared { findings: Vec::new(), notes: vec![note] }, from: None }
    }
}

/// One end of the tunnel, as it is.
#[derive(Debug, Clone)]
pub(crate) struct SeenFrom {
    pub(crate) own: NodeId,
    /// Its interfaces.
    pub(crate) ifnames: BTreeSet<String>,
    pub(crate) mtu: u32,
    /// The host's own address in the tunnel.
    pub(crate) home: Option<Ipv4Addr>,
    /// The other nodes that it leads to.
    pub(crate) peers: BTreeMap<NodeId, SeenLink>,
    /// The epochs of its keys.
    pub(crate) epochs: TunnelEpochs,
    /// Nodes that are reached by links of the former one.
    pub(crate) lagging: u64,
}

/// How another node is reached.
#[derive(Debug, Clone)]
pub(crate) struct SeenLink {
    /// Its address in the tunnel.
    pub(crate) address: Option<Ipv4Addr>,
    /// By which interface.
    pub(crate) by: String,
    /// What that says of it.
    pub(crate) seen: Option<SeenPeer>,
}

impl Overlay {
    pub(super) async fn compared(&mut self) -> Overseen {
        if self.phase != Phase::Told {
            let notes = match self.phase {
                Phase::Outside => Vec::new(),
                _ => vec!["managers have not said yet what else is in the cluster".to_owned()],
            };
            let compared = Compared { findings: Vec::new(), notes };
            return Overseen { compared, from: None };
        }
        let view = Arc::clone(&self.view.borrow());
        let Some(own) = view.node_id else { return Overseen::default() };
        let mut courses = std::mem::take(&mut self.courses);
        let course = courses.follow(&view);
        let epochs = self.epochs(&view);
        let (mut all, mut notes) = (Vec::new(), Vec::new());
        let mut seen: BTreeMap<u64, Comparison> = BTreeMap::new();
        let mut left_out = BTreeMap::new();
        for epoch in epochs.all() {
            let tunnel = self.tunnels.of(Side::of(epoch));
            let Some(key) = tunnel.key().filter(|key| key.epoch == epoch) else {
                let subject = format!("key of epoch {epoch} of the tunnel");
                all.push(Difference::new(subject, "there", "missing"));
                continue;
            };
            let (desired, without) = self.desired(key, epochs, course, &view);
            if epoch == epochs.present {
                left_out = without;
            }
            match tunnel.compare(desired.clone()).await {
                Ok(compared) => {
                    let name = |peer: &Arc<Peer>| {
                        let end = peer.end(epoch, epochs.present)?;
                        Some((end.public_key, peer.node_id.to_string()))
                    };
                    let names = view.peers.values().filter_map(name).collect();
                    let (observed, steps) = (&compared.observed, &compared.steps);
                    let (ifname, own) = (&compared.ifname, key.public_key);
                    all.extend(of_tunnel(ifname, own, &desired, observed, steps, &names));
                    seen.insert(epoch, compared);
                }
                Err(error) => notes.push(chain(&error).to_string()),
            }
        }
        all.extend(self.known_wrongs(course, &view, &left_out));
        if let Some(since) = self.errors.1 {
            for difference in &all {
                self.wrong.failed(difference, since);
            }
        }
        let findings = self.wrong.findings(all, clock());
        let from = self.seen_from(own, epochs, course, &view, &seen);
        self.courses = courses;
        Overseen { compared: Compared { findings, notes }, from }
    }
}

impl Overlay {
    /// From where others are reached, if there is an interface.
    fn seen_from(
        &self,
        own: NodeId,
        epochs: TunnelEpochs,
        course: &Course,
        view: &OverlayView,
        seen: &BTreeMap<u64, Comparison>,
    ) -> Option<SeenFrom> {
        let links = seen.values().filter_map(|seen| Some((&seen.ifname, seen.observed.link?)));
        let ifnames: BTreeSet<String> = links.clone().map(|(ifname, _)| ifname.clone()).collect();
        let mtu = links.map(|(_, link)| link.mtu).min()?;
        let peer = |node: &NodeId| {
            let peer = view.peers.get(node)?;
            let epoch = self.keys.epoch_for(*node, epochs);
            let compared = seen.get(&epoch)?;
            let address = match peer.tunnel_address {
                Some(IpAddr::V4(address)) => Some(address),
                Some(IpAddr::V6(_)) | None => None,
            };
            let device = compared.observed.device.as_ref();
            let key = peer.end(epoch, epochs.present).map(|end| end.public_key);
            let seen = key.and_then(|key| device?.peers.get(&key).cloned());
            Some((*node, SeenLink { address, by: compared.ifname.clone(), seen }))
        };
        let peers = course.allowed.keys().filter(|node| !self.left_out.contains_key(*node));
        Some(SeenFrom {
            own,
            ifnames,
            mtu,
            home: course.ingress.home,
            peers: peers.filter_map(peer).collect(),
            epochs,
            lagging: self.keys.lagging_count(),
        })
    }

    /// What is known to be wrong without a look.
    fn known_wrongs(
        &self,
        course: &Course,
        view: &OverlayView,
        left_out: &BTreeMap<NodeId, LeftOut>,
    ) -> Vec<Difference> {
        let mut all: Vec<Difference> = Vec::new();
        for (node, why) in left_out {
            all.push(Difference::new(format!("peer {node}"), "a tunnel", why.to_string()));
        }
        for (address, nodes) in &course.contested {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            let found = format!("claimed by {}", nodes.join(" and "));
            all.push(Difference::new(format!("address {address}"), "of one node", found));
        }
        let followed = *self.networks.followed().borrow();
        if followed < view.revision {
            let subject = "what managers have said of other nodes";
            let found = format!("done up to {followed}");
            all.push(Difference::new(subject, format!("done up to {}", view.revision), found));
        }
        let failing = self.errors.0.iter();
        all.extend(failing.map(|error| Difference::new("ways to other nodes", "set up", error)));
        all
    }
}

/// What the clock says.
pub(super) fn clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
