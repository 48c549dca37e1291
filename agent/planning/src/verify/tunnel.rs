//! Of the tunnel and its peers.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use shoal_types::object::TunnelKey;

use super::Difference;
use crate::tunnel::{
    Action, AllowedChange, Change, Desired, Device, LinkKind, Observed, PeerChange, SeenPeer,
};

/// What the steps towards `desired` say is not right, seen from what they were planned from. `nodes` has who the
/// peers are.
#[must_use]
pub fn differences(
    ifname: &str,
    own: TunnelKey,
    desired: &Desired,
    observed: &Observed,
    actions: &[Action],
    nodes: &BTreeMap<TunnelKey, String>,
) -> Vec<Difference> {
    let anew =
        actions.iter().any(|action| matches!(action, Action::CreateLink | Action::StartProcess));
    let blank = Device::default();
    let device = observed.device.as_ref().unwrap_or(&blank);
    let telling = Telling { own, desired, device, nodes };
    let mut all = Vec::new();
    for action in actions {
        match action {
            Action::EndProcess => all.push(Difference::new(
                "process of the tunnel",
                "works for the interface",
                "does not",
            )),
            Action::RemoveLink => {
                let found = match observed.link.map(|link| link.kind) {
                    Some(LinkKind::Wireguard) => "one of WireGuard",
                    Some(LinkKind::Tun) => "one of a process",
                    Some(LinkKind::Other) | None => "something else",
                };
                all.push(Difference::new(format!("link {ifname}"), "that of the tunnel", found));
            }
            Action::CreateLink => all.push(Difference::missing(format!("link {ifname}"))),
            Action::StartProcess => {
                all.push(Difference::new("process of the tunnel", "runs", "does not answer"));
            }
            // What is made anew has nothing.
            _ if anew => {}
            Action::Configure(change) => telling.changes(change, &mut all),
            Action::SetMtu(mtu) => {
                let found = observed.link.map_or(0, |link| link.mtu);
                let subject = format!("mtu of {ifname}");
                all.push(Difference::new(subject, mtu.to_string(), found.to_string()));
            }
            Action::Loosen => {
                let subject = format!("rp_filter of {ifname}");
                all.push(Difference::new(subject, "2", "strict"));
            }
            Action::SetUp => all.push(Difference::new(format!("link {ifname}"), "up", "down")),
            Action::AddAddress(address) => {
                all.push(Difference::missing(format!("address {address}/32 on {ifname}")));
            }
            Action::RemoveAddress(address) => {
                all.push(Difference::strange(format!("address {address} on {ifname}")));
            }
        }
    }
    all
}

struct Telling<'a> {
    own: TunnelKey,
    desired: &'a Desired,
    device: &'a Device,
    nodes: &'a BTreeMap<TunnelKey, String>,
}

impl Telling<'_> {
    fn name(&self, key: &TunnelKey) -> String {
        self.nodes.get(key).map_or_else(|| format!("peer {key}"), |node| format!("peer {node}"))
    }

    fn changes(&self, change: &Change, all: &mut Vec<Difference>) {
        let Change { key, listen_port, remove, peers } = change;
        if *key {
            let found = self.device.key.map_or_else(|| "none".to_owned(), |key| key.to_string());
            all.push(Difference::new("public key of the tunnel", self.own.to_string(), found));
        }
        if let Some(port) = listen_port {
            let found =
                self.device.listen_port.map_or_else(|| "none".to_owned(), |p| p.to_string());
            all.push(Difference::new("port of the tunnel", port.to_string(), found));
        }
        all.extend(remove.iter().map(|key| Difference::strange(self.name(key))));
        for (key, change) in peers {
            match self.device.peers.get(key) {
                None => all.push(Difference::missing(self.name(key))),
                Some(seen) => self.peer(key, seen, change, all),
            }
        }
    }

    fn peer(
        &self,
        key: &TunnelKey,
        seen: &SeenPeer,
        change: &PeerChange,
        all: &mut Vec<Difference>,
    ) {
        let PeerChange { endpoint, keepalive_s, allowed } = change;
        let name = self.name(key);
        if let Some(endpoint) = endpoint {
            let found = seen.endpoint.map_or_else(|| "none".to_owned(), |at| at.to_string());
            all.push(Difference::new(format!("endpoint of {name}"), endpoint.to_string(), found));
        }
        if let Some(seconds) = keepalive_s {
            let found = seen.keepalive.map_or(0, |every| every.as_secs());
            let subject = format!("keepalive of {name}");
            all.push(Difference::new(subject, format!("{seconds} s"), format!("{found} s")));
        }
        if *allowed != AllowedChange::Same {
            let none = BTreeSet::new();
            let wanted = self.desired.peers.get(key).map_or(&none, |peer| &peer.allowed);
            let wanted: BTreeSet<IpNet> = wanted.iter().map(IpNet::trunc).collect();
            let found: BTreeSet<IpNet> = seen.allowed.iter().map(IpNet::trunc).collect();
            let of = |net: &IpNet| format!("allowed address {net} of {name}");
            all.extend(wanted.difference(&found).map(|net| Difference::missing(of(net))));
            all.extend(found.difference(&wanted).map(|net| Difference::strange(of(net))));
        }
    }
}
