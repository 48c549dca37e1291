//! What is not as it should be about the ways to other hosts, told and not put right.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{SystemTime, UNIX_EPOCH};

use shoal_agent_planning::overlay::{Course, OverlayView};
use shoal_agent_planning::tunnel::{LeftOut, SeenPeer};
use shoal_agent_planning::verify::{Compared, Difference, of_tunnel};
use shoal_types::error_chain::chain;
use shoal_types::id::NodeId;
use shoal_types::object::TunnelKey;
use shoal_types::time::Timestamp;

use super::{Overlay, Phase};

/// What came of looking at the ways to other hosts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overseen {
    pub(crate) compared: Compared,
    /// From where other hosts are reached; `None` if there is no way to any.
    pub(crate) from: Option<SeenFrom>,
}

/// One end of the tunnel, as it is.
#[derive(Debug, Clone)]
pub(crate) struct SeenFrom {
    pub(crate) own: NodeId,
    pub(crate) ifname: String,
    pub(crate) mtu: u32,
    /// The host's own address in the tunnel.
    pub(crate) home: Option<Ipv4Addr>,
    /// The other nodes that it leads to, with their addresses in it and what it says of them.
    pub(crate) peers: BTreeMap<NodeId, (Option<Ipv4Addr>, Option<SeenPeer>)>,
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
        let view = std::sync::Arc::clone(&self.view.borrow());
        let Some(own) = view.node_id else { return Overseen::default() };
        let course = Course::of(&view);
        let (desired, left_out) = self.desired(&course, &view);
        let mut all = self.known_wrongs(&course, &view, &left_out);
        let (mut notes, mut seen) = (Vec::new(), None);
        let mtu = desired.mtu;
        match self.tunnel.compare(desired.clone()).await {
            Ok(compared) => {
                let names: BTreeMap<TunnelKey, String> = view
                    .peers
                    .values()
                    .map(|peer| (peer.public_key, peer.node_id.to_string()))
                    .collect();
                let own = self.tunnel.public_key();
                let (observed, steps) = (&compared.observed, &compared.steps);
                all.extend(of_tunnel(&compared.ifname, own, &desired, observed, steps, &names));
                seen = Some(compared);
            }
            Err(error) => notes.push(chain(&error).to_string()),
        }
        if let Some(since) = self.errors.1 {
            for difference in &all {
                self.wrong.failed(difference, since);
            }
        }
        let findings = self.wrong.findings(all, clock());
        let from = seen.filter(|seen| seen.observed.link.is_some()).map(|seen| {
            let device = seen.observed.device.unwrap_or_default();
            let peer = |node: &NodeId| {
                let peer = view.peers.get(node)?;
                let address = match peer.tunnel_address {
                    Some(IpAddr::V4(address)) => Some(address),
                    Some(IpAddr::V6(_)) | None => None,
                };
                Some((*node, (address, device.peers.get(&peer.public_key).cloned())))
            };
            let peers = course.allowed.keys().filter(|node| !left_out.contains_key(*node));
            SeenFrom {
                own,
                ifname: seen.ifname,
                mtu: seen.observed.link.map_or(mtu, |link| link.mtu),
                home: course.ingress.home,
                peers: peers.filter_map(peer).collect(),
            }
        });
        Overseen { compared: Compared { findings, notes }, from }
    }
}

impl Overlay {
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
