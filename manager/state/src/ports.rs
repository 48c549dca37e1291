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

/// Who has which ports.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Ports {
    /// On every node.
    everywhere: OrdSet<(Protocol, u16, ServiceId)>,
    /// On nodes that run a task.
    at_tasks: OrdSet<(Protocol, u16, ServiceId)>,
}

impl Ports {
    pub(crate) fn service(&mut self, old: Option<&Service>, new: Option<&Service>) {
        if let (Some(old), Some(new)) = (old, new)
            && old.endpoint.ports == new.endpoint.ports
        {
            return;
        }
        for (set, key) in old.into_iter().flat_map(keys) {
            self.of(set).remove(&key);
        }
        for (set, key) in new.into_iter().flat_map(keys) {
            self.of(set).insert(key);
        }
    }

    const fn of(&mut self, mode: PublishMode) -> &mut OrdSet<(Protocol, u16, ServiceId)> {
        match mode {
            PublishMode::Ingress => &mut self.everywhere,
            PublishMode::Host => &mut self.at_tasks,
        }
    }

    /// Who cannot have a port beside somebody who publishes it in `mode`, and in which mode they have it.
    pub(crate) fn holders(
        &self,
        mode: PublishMode,
        protocol: Protocol,
        port: u16,
    ) -> impl Iterator<Item = (ServiceId, PublishMode)> {
        let range = (protocol, port, IDS.0.into())..=(protocol, port, IDS.1.into());
        let everywhere =
            self.everywhere.range(range.clone()).map(|key| (key.2, PublishMode::Ingress));
        let beside = (mode == PublishMode::Ingress).then_some(range);
        let at_tasks = beside.into_iter().flat_map(|range| self.at_tasks.range(range));
        everywhere.chain(at_tasks.map(|key| (key.2, PublishMode::Host)))
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

/// The ports of a service whose number is known, each in the set that it is in.
fn keys(service: &Service) -> impl Iterator<Item = (PublishMode, (Protocol, u16, ServiceId))> {
    let numbered = service.endpoint.ports.iter().filter(|port| port.published_port != 0);
    numbered.map(|port| (port.publish_mode, (port.protocol, port.published_port, service.id)))
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
    let ports = state.services().flat_map(|service| keys(service));
    let mut sorted: Vec<_> =
        ports.map(|(mode, (protocol, port, id))| (protocol, port, mode, id)).collect();
    // Of one number those that are everywhere come first.
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
