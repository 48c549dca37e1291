//! The device of the mesh: what to do so that packets to and from other nodes' published ports go by it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Action, Observed, Wishes};
use crate::network::ingress::{self, MTU, NETWORK, PORT, mac};
use crate::network::{Family, Mac, links};
use crate::tunnel::Side;

/// The tunnel and the device, as the host has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedMesh {
    /// Interfaces of the tunnel that are there, and up.
    pub tunnels: BTreeSet<Side>,
    /// What has the device's name.
    pub device: Option<MeshDevice>,
}

/// A link with the name of the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshDevice {
    /// Its number.
    pub index: u32,
    /// What it is, if it is of VXLAN.
    pub vxlan: Option<Vxlan>,
    /// Administratively up.
    pub up: bool,
    /// It asks for hardware addresses.
    pub arp: bool,
    /// Bytes per packet.
    pub mtu: u32,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Addresses of the host on it.
    pub addresses: BTreeSet<IpNet>,
    /// Where frames for a hardware address are sent to, and by which of the tunnel's interfaces; `None` for what goes
    /// by another way.
    pub far: BTreeMap<Mac, BTreeSet<Option<(Ipv4Addr, Side)>>>,
    /// Families of which what is sent by it needs no other route.
    pub default_routes: BTreeSet<Family>,
}

/// A device of VXLAN, as it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    /// Number of its network.
    pub id: u32,
    /// UDP port.
    pub port: u16,
    /// The host's address in its outer packets.
    pub local: Option<Ipv4Addr>,
    /// It lies on another interface, and goes when that does. By which one outer packets go is said for each node.
    pub bound: bool,
    /// It learns where hardware addresses are from what comes.
    pub learning: bool,
}

/// One change of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named by what they are")]
pub enum MeshAction {
    /// Make the device, down and without address.
    Create { home: Ipv4Addr },
    /// Send frames for a node there, by this interface from now on.
    AddFar(Ipv4Addr, Side),
    /// Send frames for a hardware address nowhere.
    RemoveFar(Mac),
    /// Lead packets of a family that are to go by the mesh to the device.
    AddRoute(Family),
}

impl std::fmt::Display for MeshAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create { home } => write!(f, "create the mesh's device for {home}"),
            Self::AddFar(address, _) => write!(f, "find {address} by the mesh"),
            Self::RemoveFar(mac) => write!(f, "find {mac} by the mesh no more"),
            Self::AddRoute(family) => write!(f, "lead packets of {family} to the mesh"),
        }
    }
}

/// What is done for the device.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// It is there then.
    pub(super) is_there: bool,
    /// It is made now, so that its settings are the kernel's.
    pub(super) is_new: bool,
    /// Before the tables: one of them needs it.
    pub(super) before: Vec<Action>,
    /// After them.
    pub(super) after: Vec<Action>,
}

impl MeshDevice {
    /// Whether it can be made right without making it anew.
    fn is_for(&self, home: Ipv4Addr) -> bool {
        let wanted =
            Vxlan { id: NETWORK, port: PORT, local: Some(home), bound: false, learning: false };
        self.vxlan == Some(wanted) && self.mac == Some(mac(home)) && !self.arp
    }

    fn as_made(home: Ipv4Addr) -> Self {
        Self { mtu: MTU, mac: Some(mac(home)), ..Self::default() }
    }
}

/// Plans it. What was not looked at is left alone, and is there if it was.
pub(super) fn steps(wishes: &Wishes, observed: &Observed, v6: bool) -> Steps {
    let ingress = &wishes.ingress;
    let wanted = ingress.spans() && !observed.without_egress;
    let mut steps = Steps::default();
    let Some(ObservedMesh { tunnels, device }) = &observed.mesh else {
        return Steps { is_there: wanted && observed.was_meshed, ..steps };
    };
    let ifname = || ingress::ifname(&wishes.prefix);
    let home = ingress.home.filter(|_| !tunnels.is_empty() && wanted);
    let kept = device.as_ref().zip(home).filter(|(device, home)| device.is_for(*home));
    if device.is_some() && kept.is_none() {
        steps.before.push(Action::Link(links::Action::Remove { ifname: ifname() }));
    }
    let Some(home) = home else { return steps };
    if kept.is_none() {
        steps.before.push(Action::Mesh(MeshAction::Create { home }));
    }
    (steps.is_there, steps.is_new) = (true, kept.is_none());
    let made = MeshDevice::as_made(home);
    let device = kept.map_or(&made, |(device, _)| device);
    let mut link = |action| steps.after.push(Action::Link(action));
    if device.mtu != MTU {
        link(links::Action::SetMtu { ifname: ifname(), mtu: MTU });
    }
    let own = own_addresses(home, v6);
    for address in device.addresses.difference(&own) {
        link(links::Action::RemoveAddress { ifname: ifname(), address: *address });
    }
    for address in own.difference(&device.addresses) {
        link(links::Action::AddAddress { ifname: ifname(), address: *address });
    }
    steps.after.extend(far(wishes, device, tunnels).into_iter().map(Action::Mesh));
    if !device.up {
        steps.after.push(Action::Link(links::Action::SetUp { ifname: ifname() }));
    }
    // What goes down loses its routes.
    for family in Family::ALL.into_iter().filter(|family| v6 || *family == Family::V4) {
        if !device.up || !device.default_routes.contains(&family) {
            steps.after.push(Action::Mesh(MeshAction::AddRoute(family)));
        }
    }
    steps
}

/// Where frames for others go. What only goes by the other interface from now on is replaced in one step.
fn far(wishes: &Wishes, device: &MeshDevice, tunnels: &BTreeSet<Side>) -> Vec<MeshAction> {
    let way = |peer: &Ipv4Addr| {
        let is_second = wishes.second.contains(&IpAddr::V4(*peer));
        (*peer, if is_second { Side::Second } else { Side::First })
    };
    let wanted: BTreeMap<Mac, (Ipv4Addr, Side)> =
        wishes.numbers.keys().map(|peer| (mac(*peer), way(peer))).collect();
    let mut actions = Vec::new();
    let mut right = BTreeSet::new();
    for (at, to) in &device.far {
        let wanted = wanted.get(at);
        if wanted.is_some_and(|way| *to == [Some(*way)].into()) {
            right.insert(*at);
        } else if wanted.is_none_or(|(peer, side)| *to != [Some((*peer, side.other()))].into()) {
            actions.push(MeshAction::RemoveFar(*at));
        }
    }
    for (at, (peer, side)) in wanted {
        if !right.contains(&at) && tunnels.contains(&side) {
            actions.push(MeshAction::AddFar(peer, side));
        }
    }
    actions
}

/// The host's addresses on the device. That of IPv6 is on it with those of all others, so that there is a way to
/// them before a packet's mark says that it goes by the mesh: those of IPv4 have theirs by the tunnel.
fn own_addresses(home: Ipv4Addr, v6: bool) -> BTreeSet<IpNet> {
    let mut own = BTreeSet::from([IpNet::from(Ipv4Net::from(home))]);
    if v6 {
        own.extend(Ipv6Net::new(ingress::twin(home), ingress::TWINS_LENGTH).map(IpNet::from));
    }
    own
}
