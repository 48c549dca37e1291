//! From what the tunnel is to what it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use shoal_types::object::{TunnelKey, TunnelKind};

use super::{Desired, Device, LinkKind, Observed, SeenPeer, TunnelPeer};

/// Where each peer was last said to be. One that speaks from elsewhere since is answered there, until it is
/// said to be somewhere new.
pub type Told = BTreeMap<TunnelKey, SocketAddr>;

/// Until when keys are good that were agreed on (`Reject-After-Time` of WireGuard): a peer that was heard
/// from since is where it was heard from.
const HEARD: Duration = Duration::from_secs(180);

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ends the process that works for the interface.
    EndProcess,
    /// Deletes the interface.
    RemoveLink,
    /// Makes an interface of the kernel's WireGuard.
    CreateLink,
    /// Starts a process that works for the interface, and makes the interface if there is none.
    StartProcess,
    /// Tells the device something, in one request.
    Configure(Change),
    /// Sets the largest packet, in bytes.
    SetMtu(u32),
    /// Takes what comes also if an answer goes by the other interface.
    Loosen,
    /// Lets packets pass.
    SetUp,
    /// Gives the host an address on the interface.
    AddAddress(Ipv4Addr),
    /// Takes one away.
    RemoveAddress(Ipv4Net),
}

/// What a device is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Its private key.
    pub key: bool,
    /// Where it listens.
    pub listen_port: Option<u16>,
    /// Whom it forgets.
    pub remove: BTreeSet<TunnelKey>,
    /// Who is new or other.
    pub peers: BTreeMap<TunnelKey, PeerChange>,
}

/// What is other of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerChange {
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// How often it hears of us at least, in seconds; 0 is never.
    pub keepalive_s: Option<u16>,
    /// What it may send from.
    pub allowed: AllowedChange,
}

/// What is other of a peer's allowed addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AllowedChange {
    /// Nothing.
    #[default]
    Same,
    /// There are more.
    Add(BTreeSet<IpNet>),
    /// It has these and no others.
    Replace(BTreeSet<IpNet>),
}

impl Change {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is to encrypt, as far as that can be told: what was asked for, else what does so already. `None`: it
/// is to be tried whether the kernel can.
#[must_use]
pub fn choose(asked: Option<TunnelKind>, observed: &Observed) -> Option<TunnelKind> {
    asked.or_else(|| match observed.link.map(|link| link.kind) {
        Some(LinkKind::Wireguard) => Some(TunnelKind::Kernel),
        Some(LinkKind::Tun) => Some(TunnelKind::Userspace),
        Some(LinkKind::Other) | None => observed.process.then_some(TunnelKind::Userspace),
    })
}

/// The steps that lead from `observed` to `desired` on the host with the public key `own`; none if nothing
/// is missing. `desired` has passed [`Desired::check`].
#[must_use]
pub fn plan(
    kind: TunnelKind,
    own: TunnelKey,
    desired: &Desired,
    told: &Told,
    observed: &Observed,
) -> Vec<Action> {
    let wanted = match kind {
        TunnelKind::Kernel => LinkKind::Wireguard,
        TunnelKind::Userspace => LinkKind::Tun,
    };
    let link = observed.link.filter(|link| link.kind == wanted);
    let works = match kind {
        // What answers while there is a process is that process.
        TunnelKind::Kernel => link.is_some() && !observed.process && observed.device.is_some(),
        // One with another key is begun anew: it would let go of its port and ask for it again, and may not get it.
        TunnelKind::Userspace => {
            let device = observed.device.as_ref().filter(|_| observed.process && link.is_some());
            device.is_some_and(|device| device.key.is_none_or(|key| key == own))
        }
    };
    let mut actions = Vec::new();
    if observed.process && !works {
        actions.push(Action::EndProcess);
    }
    let kept = link.filter(|_| works || kind == TunnelKind::Userspace);
    if observed.link.is_some() && kept.is_none() {
        actions.push(Action::RemoveLink);
    }
    if !works {
        actions.push(match kind {
            TunnelKind::Kernel => Action::CreateLink,
            TunnelKind::Userspace => Action::StartProcess,
        });
    }
    if kept.is_some() && observed.strict {
        actions.push(Action::Loosen);
    }
    let blank = Device::default();
    let device = observed.device.as_ref().filter(|_| works).unwrap_or(&blank);
    let change = change(own, desired, told, device);
    if !change.is_empty() {
        actions.push(Action::Configure(change));
    }
    if kept.is_none_or(|link| link.mtu != desired.mtu) {
        actions.push(Action::SetMtu(desired.mtu));
    }
    if kept.is_none_or(|link| !link.up) {
        actions.push(Action::SetUp);
    }
    let none = BTreeSet::new();
    let present = if kept.is_some() { &observed.addresses } else { &none };
    // Who was given none has what there is: an earlier agent's, until managers have said everything.
    if let Some(own) = desired.address {
        let whole = Ipv4Net::from(own);
        let strange = present.iter().copied().filter(|address| *address != whole);
        actions.extend(strange.map(Action::RemoveAddress));
        actions.extend((!present.contains(&whole)).then_some(Action::AddAddress(own)));
    }
    actions
}

fn change(own: TunnelKey, desired: &Desired, told: &Told, device: &Device) -> Change {
    let strangers = device.peers.keys().filter(|key| !desired.peers.contains_key(key));
    let changed = desired.peers.iter().filter_map(|(key, peer)| {
        let change = match device.peers.get(key) {
            Some(seen) => peer_change(peer, told.get(key).copied(), seen)?,
            None => introduced(peer),
        };
        Some((*key, change))
    });
    let listen_port = Some(desired.listen_port);
    Change {
        key: device.key != Some(own),
        listen_port: listen_port.filter(|_| device.listen_port != listen_port),
        remove: strangers.copied().collect(),
        peers: changed.collect(),
    }
}

/// Everything of a peer that is new.
fn introduced(peer: &TunnelPeer) -> PeerChange {
    PeerChange {
        endpoint: Some(peer.endpoint),
        keepalive_s: peer.keepalive.map(|every| seconds(Some(every))),
        allowed: AllowedChange::Replace(nets(&peer.allowed)),
    }
}

fn peer_change(peer: &TunnelPeer, told: Option<SocketAddr>, seen: &SeenPeer) -> Option<PeerChange> {
    let moved = match told {
        Some(told) => told != peer.endpoint || seen.endpoint.is_none(),
        // Whoever set it is gone, and where it was heard from since counts more than where it was said to be.
        None => {
            let heard = seen.handshake_age.is_some_and(|age| age < HEARD);
            seen.endpoint != Some(peer.endpoint) && !heard
        }
    };
    let (allowed, seen_allowed) = (nets(&peer.allowed), nets(&seen.allowed));
    let change = PeerChange {
        endpoint: Some(peer.endpoint).filter(|_| moved),
        keepalive_s: Some(seconds(peer.keepalive)).filter(|_| peer.keepalive != seen.keepalive),
        allowed: if allowed == seen_allowed {
            AllowedChange::Same
        } else if allowed.is_superset(&seen_allowed) {
            AllowedChange::Add(allowed.difference(&seen_allowed).copied().collect())
        } else {
            AllowedChange::Replace(allowed)
        },
    };
    Some(change).filter(|change| *change != PeerChange::default())
}

/// As devices keep them: without bits of a host.
fn nets(nets: &BTreeSet<IpNet>) -> BTreeSet<IpNet> {
    nets.iter().map(IpNet::trunc).collect()
}

fn seconds(every: Option<Duration>) -> u16 {
    every.map_or(0, |every| u16::try_from(every.as_secs()).unwrap_or(u16::MAX))
}
