//! Published ports: whose each one is. They follow from the services, in which they lie with their numbers.
//!
//! A port that answers on every node is one service's alone, and nobody has it on his own nodes either. Ports in
//! mode host are told apart by the scheduler, node by node, so several services may have the same one.

use std::ops::RangeInclusive;

use imbl::OrdSet;
use shoal_types::id::ServiceId;
use shoal_types::object::Service;
use shoal_types::spec::{Protocol, PublishMode};

use crate::cluster_state::ClusterState;

/// The lowest and the highest id.
const IDS: (u128, u128) = (u128::MIN, u128::MAX);

/// A port, where it answers, and whose it is.
type Key = (Protocol, u16, PublishMode, ServiceId);

/// Who has which ports. Of one number, those that answer on every node come first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Ports(OrdSet<Key>);

impl Ports {
    pub(crate) fn service(&mut self, old: Option<&Service>, new: Option<&Service>) {
        if let (Some(old), Some(new)) = (old, new)
            && old.endpoint.ports == new.endpoint.ports
        {
            return;
        }
        for key in old.into_iter().flat_map(keys) {
            self.0.remove(&key);
        }
        self.0.extend(new.into_iter().flat_map(keys));
    }

    /// Who cannot have a port beside somebody who publishes it in `mode`, and in which mode they have it.
    pub(crate) fn holders(
        &self,
        mode: PublishMode,
        protocol: Protocol,
        port: u16,
    ) -> impl Iterator<Item = (ServiceId, PublishMode)> {
        let last = match mode {
            PublishMode::Ingress => PublishMode::Host,
            PublishMode::Host => PublishMode::Ingress,
        };
        let from = (protocol, port, PublishMode::Ingress, IDS.0.into());
        let to = (protocol, port, last, IDS.1.into());
        self.0.range(from..=to).map(|(_, _, mode, id)| (*id, *mode))
    }

    /// The first of some ports, from `begin` on and around, that nobody has and of which `also` is true.
    pub(crate) fn free(
        &self,
        protocol: Protocol,
        range: RangeInclusive<u16>,
        begin: u16,
        also: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let nobody = |port| self.holders(PublishMode::Ingress, protocol, port).next().is_none();
        let around = (begin..=*range.end()).chain(*range.start()..begin);
        around.into_iter().find(|port| also(*port) && nobody(*port))
    }
}

/// The ports of a service whose number is known.
fn keys(service: &Service) -> impl Iterator<Item = Key> {
    let numbered = service.endpoint.ports.iter().filter(|port| port.published_port != 0);
    numbered.map(|port| (port.protocol, port.published_port, port.publish_mode, service.id))
}

/// A port that services have together though one of them has it on every node, with that one and another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clash {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) first: ServiceId,
    pub(crate) second: ServiceId,
}

/// All of them. By a look at the services, not at what follows from them.
pub(crate) fn clashes(state: &ClusterState) -> Vec<Clash> {
    let mut sorted: Vec<_> = state.services().flat_map(|service| keys(service)).collect();
    sorted.sort_unstable();
    let mut wrong = Vec::new();
    let mut alone = None;
    for (protocol, port, mode, second) in sorted {
        match alone {
            Some((p, n, first)) if (p, n) == (protocol, port) => {
                if first != second {
                    wrong.push(Clash { protocol, port, first, second });
                }
            }
            _ => alone = (mode == PublishMode::Ingress).then_some((protocol, port, second)),
        }
    }
    wrong
}
