//! Published ports that answer on every node.
//!
//! A node that is asked leads each connection to one of all tasks behind the port. One that runs elsewhere gets
//! it by the mesh: a VXLAN device whose packets go through the tunnel, so that the client's own address can
//! stay in them, where the tunnel itself lets each host speak for its own addresses alone. Whoever has it then
//! answers by the node that was asked: it remembers in the connection's mark from where it came.
//!
//! In a packet's mark is its way: [`MARK`] says that it goes by the mesh, or came by it and may pass, and
//! [`NUMBERS`] which node it goes to or came from. What marks it is the tunnel's own check of the sender's
//! address, before the VXLAN header is taken off.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::leases::Leases;
use super::{Family, Mac, Protocol};
use crate::tunnel;

/// UDP port of the mesh. Not the usual one of VXLAN, which others on the host may use, and not among those that
/// the kernel chooses for clients.
pub const PORT: u16 = 14_789;
/// Number of the mesh's network in the VXLAN header, and of its routing table. Nobody else's, by its odd number:
/// "sho" in ASCII.
pub const NETWORK: u32 = 0x0073_686f;
/// Bytes that a packet grows by: 14 of Ethernet, 8 of VXLAN, 8 of UDP, 20 of IPv4.
pub const OVERHEAD: u32 = 50;
/// The largest packet that goes by the mesh, in bytes: one for all nodes, which fits a usual wire however the tunnel fills
/// it up.
pub const MTU: u32 = tunnel::MTU / tunnel::FILLED * tunnel::FILLED - OVERHEAD;
/// The bit of a mark that sends a packet by the mesh, and that lets one pass that has come by it. Another one
/// than [`super::fence::MARK`]: what has that goes by the host's own routes.
pub const MARK: u32 = 0x1000_0000;
/// The bits of a mark that have the number of a node. These are not used by programs that mark packets and
/// are often beside us (Docker, Podman, Kubernetes, Tailscale).
pub const NUMBERS: u32 = 0x1fff;

/// A published port: its protocol and number.
pub type Port = (Protocol, u16);

/// The number of each other node on this host, by its address in the tunnel.
pub type Numbers = BTreeMap<Ipv4Addr, u16>;

/// Where somebody is who answers at a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A container of this host.
    Here(String),
    /// On the node with this address in the tunnel.
    Far(Ipv4Addr),
    /// There, too, and reached by IPv6 as well.
    Both(Ipv4Addr),
    /// There, and reached by IPv6 alone.
    Six(Ipv4Addr),
}

impl Backend {
    /// The address in the tunnel of the node that it is on, if it is another one.
    #[must_use]
    pub fn far(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Here(_) => None,
            Self::Far(address) | Self::Both(address) | Self::Six(address) => Some(*address),
        }
    }
}

/// What a host knows of ports that answer on every node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ingress {
    /// Its own address in the tunnel. Without one it leads to its own containers alone.
    pub home: Option<Ipv4Addr>,
    /// Those of other nodes, with the address by which each is reached from outside.
    pub peers: BTreeMap<Ipv4Addr, Option<IpAddr>>,
    /// Who serves at each port, one for each task; nobody where a port is kept for tasks that do not serve.
    pub ports: OrdMap<Port, Arc<[Backend]>>,
    /// Those of them whose clients are led to the same task each time, with the name of each, which is the same on all
    /// nodes.
    pub sticky: BTreeMap<Port, Arc<[String]>>,
}

impl Ingress {
    /// Whether packets can go by the mesh.
    #[must_use]
    pub fn spans(&self) -> bool {
        self.home.is_some() && !self.peers.is_empty() && !self.ports.is_empty()
    }

    /// Whether somebody on another node is reached by IPv6.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        let by_v6 = |one: &Backend| matches!(one, Backend::Both(_) | Backend::Six(_));
        self.ports.values().any(|backends| backends.iter().any(by_v6))
    }

    /// Nobody is led to these nodes: there is no tunnel to them.
    pub fn leave_out(&mut self, nodes: &BTreeSet<Ipv4Addr>) {
        self.peers.retain(|address, _| !nodes.contains(address));
        if nodes.is_empty() {
            return;
        }
        for (port, names) in &mut self.sticky {
            let backends = self.ports.get(port).map(Arc::as_ref).unwrap_or_default();
            let named = backends.iter().zip(names.iter());
            let left = named
                .filter(|(one, _)| one.far().is_none_or(|address| !nodes.contains(&address)))
                .map(|(_, name)| name.clone());
            *names = left.collect();
        }
        let is_left = |one: &&Backend| one.far().is_none_or(|address| !nodes.contains(&address));
        let of = |(port, backends): (&Port, &Arc<[Backend]>)| {
            (*port, backends.iter().filter(is_left).cloned().collect::<Arc<[Backend]>>())
        };
        self.ports = self.ports.iter().map(of).collect();
    }
}

/// Where the addresses of IPv6 are that nodes have on the mesh. Of nobody else's networks by its odd number: "shoal"
/// in ASCII, after the first byte of all local prefixes (RFC 4193).
const TWINS: [u8; 12] = [0xfd, 0x73, 0x68, 0x6f, 0x61, 0x6c, 0, 0, 0, 0, 0, 0];
/// How many bits those have in common.
pub const TWINS_LENGTH: u8 = 96;

/// The address of IPv6 that a node has on the mesh, beside the one that it has in the tunnel: all nodes find the same.
#[must_use]
pub fn twin(address: Ipv4Addr) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[..12].copy_from_slice(&TWINS);
    octets[12..].copy_from_slice(&address.octets());
    octets.into()
}

/// What a node has of one family on the mesh.
#[must_use]
pub fn on_mesh(address: Ipv4Addr, family: Family) -> IpAddr {
    match family {
        Family::V4 => address.into(),
        Family::V6 => twin(address).into(),
    }
}

/// The name of the interface of the agent with this prefix.
#[must_use]
pub fn ifname(prefix: &str) -> String {
    format!("{prefix}vx0")
}

/// The hardware address on the mesh of the node with this address in the tunnel: locally administered, and
/// that of no container.
#[must_use]
pub fn mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0x02, 0x74, a, b, c, d])
}

/// Numbers for other nodes. Who has one keeps it, as connections remember it; who is new gets the one that its
/// address ends with if that is free, so that an agent that starts anew finds nearly always the same. More
/// nodes than there are numbers get none.
#[must_use]
pub fn numbers(before: &Numbers, peers: impl IntoIterator<Item = Ipv4Addr>) -> Numbers {
    let peers: BTreeSet<Ipv4Addr> = peers.into_iter().collect();
    let mut numbers = before.clone();
    numbers.retain(|peer, _| peers.contains(peer));
    let mut taken: BTreeSet<u16> = numbers.values().copied().collect();
    for peer in peers {
        if numbers.contains_key(&peer) {
            continue;
        }
        let wished = u32::from(peer);
        let free = (0..=NUMBERS)
            .filter_map(|step| u16::try_from(wished.wrapping_add(step) & NUMBERS).ok())
            .find(|number| *number != 0 && !taken.contains(number));
        if let Some(number) = free {
            taken.insert(number);
            numbers.insert(peer, number);
        }
    }
    numbers
}

/// How many nodes have no number, so that nobody is led to them.
#[must_use]
pub fn without_number(ingress: &Ingress, numbers: &Numbers) -> usize {
    ingress.peers.keys().filter(|peer| !numbers.contains_key(*peer)).count()
}

/// What decides where ports lead on a host, beside who serves at each. Clones share everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// Its own containers behind each port, whether they serve or not, with where each is, by family.
    own: Arc<BTreeMap<Port, BTreeMap<String, Ends>>>,
    numbers: Arc<Numbers>,
}

/// The address of a container and its own port, of IPv4 and of IPv6.
type Ends = [Option<(IpAddr, u16)>; 2];

impl Ways {
    /// On a host with these containers, on which other nodes have these numbers.
    #[must_use]
    pub fn of(leases: &Leases, numbers: &Arc<Numbers>) -> Self {
        let mut own: BTreeMap<Port, BTreeMap<String, Ends>> = BTreeMap::new();
        for (at, family) in Family::ALL.into_iter().enumerate() {
            for (container, port, target) in leases.shared(family) {
                let of_port = own.entry((port.protocol, port.port)).or_default();
                let ends = of_port.entry(container.to_owned()).or_default();
                ends[at] = target.map(|address| (address, port.target_port));
            }
        }
        Self { own: Arc::new(own), numbers: Arc::clone(numbers) }
    }

    /// Where a port leads with these backends, for who asks by this family: to an address and port of a container, or
    /// to a node's address on the mesh. A node that has no number is not among them, nor a container that has not
    /// said where it is, or has no address of the family.
    #[must_use]
    pub fn slots(&self, port: Port, backends: &[Backend], family: Family) -> Vec<Slot> {
        backends.iter().filter_map(|backend| self.slot(port, backend, family)).collect()
    }

    pub(super) fn slot(&self, port: Port, backend: &Backend, family: Family) -> Option<Slot> {
        match backend {
            Backend::Here(container) => slot(self.own.get(&port)?.get(container)?, family),
            Backend::Far(_) if family == Family::V6 => None,
            Backend::Six(_) if family == Family::V4 => None,
            Backend::Far(address) | Backend::Both(address) | Backend::Six(address) => self
                .numbers
                .contains_key(address)
                .then_some(Slot { address: on_mesh(*address, family), port: port.1, far: true }),
        }
    }

    /// The host's own containers behind a port, whether they serve or not.
    pub(super) fn own(&self, port: Port, family: Family) -> Vec<Slot> {
        let ends = self.own.get(&port).into_iter().flat_map(BTreeMap::values);
        ends.filter_map(|ends| slot(ends, family)).collect()
    }
}

fn slot(ends: &Ends, family: Family) -> Option<Slot> {
    let [v4, v6] = ends;
    let (address, port) = if family == Family::V4 { *v4 } else { *v6 }?;
    Some(Slot { address, port, far: false })
}

/// What a connection to a published port is led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Of the container, or of the node on the mesh.
    pub address: IpAddr,
    /// Of the container, or the published one.
    pub port: u16,
    /// By the mesh.
    pub far: bool,
}

/// The addresses of slots that there are no more.
#[must_use]
pub fn withdrawn(before: &[Slot], now: &[Slot]) -> BTreeSet<IpAddr> {
    let left: BTreeSet<IpAddr> = now.iter().map(|slot| slot.address).collect();
    before.iter().map(|slot| slot.address).filter(|address| !left.contains(address)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::fence;

    fn at(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 0, last)
    }

    #[test]
    fn no_bit_of_a_mark_has_two_meanings() {
        assert_eq!(MARK & NUMBERS, 0);
        assert_eq!((MARK | NUMBERS) & fence::MARK, 0);
        // Masquerading of Podman and CNI, of Kubernetes, and all of Tailscale.
        assert_eq!((MARK | NUMBERS) & (0x2000 | 0x4000 | 0x8000 | 0x00ff_0000), 0);
    }

    #[test]
    fn nodes_have_a_twin_of_their_address() {
        assert_eq!(twin(at(7)), "fd73:686f:616c::a09:7".parse::<Ipv6Addr>().unwrap());
        assert_eq!(on_mesh(at(7), Family::V4), IpAddr::from(at(7)));
    }

    #[test]
    fn who_has_a_number_keeps_it() {
        let all = numbers(&Numbers::new(), [at(1), at(2)]);
        assert_eq!(all, Numbers::from([(at(1), 1), (at(2), 2)]));
        // Another pool: the same end, and so the next number.
        let twin = Ipv4Addr::new(172, 41, 0, 1);
        let wished = u16::try_from(u32::from(twin) & NUMBERS).unwrap();
        let more = numbers(&all, [at(2), twin]);
        assert_eq!(more, Numbers::from([(at(2), all[&at(2)]), (twin, wished)]));
        let clash = Ipv4Addr::from(u32::from(at(1)) | 1 << 31);
        let both = numbers(&all, [at(1), at(2), clash]);
        assert_eq!((both[&at(1)], both[&at(2)]), (all[&at(1)], all[&at(2)]));
        assert!(!all.values().any(|number| *number == both[&clash]));
        // None is zero, which is a packet without a mark.
        let round = Ipv4Addr::from(u32::from(at(0)) & !NUMBERS);
        assert_eq!(numbers(&Numbers::new(), [round]).get(&round), Some(&1));
    }

    #[test]
    fn there_are_as_many_as_there_are_numbers() {
        let many = (0..=NUMBERS + 7).map(|n| Ipv4Addr::from(u32::from(at(0)) + n));
        let numbers = numbers(&Numbers::new(), many.clone());
        assert_eq!(numbers.len(), NUMBERS as usize);
        let ingress =
            Ingress { peers: many.map(|peer| (peer, None)).collect(), ..Ingress::default() };
        assert_eq!(without_number(&ingress, &numbers), 8);
        let all: BTreeSet<u16> = numbers.into_values().collect();
        assert_eq!(all.len(), NUMBERS as usize);
    }

    #[test]
    fn what_is_withdrawn_is_what_no_slot_leads_to_any_more() {
        let slot = |last: u8, far: bool| Slot { address: at(last).into(), port: 53, far };
        let at = |last: u8| IpAddr::from(at(last));
        let (before, now) = ([slot(1, true), slot(1, true), slot(2, false)], [slot(1, true)]);
        assert_eq!(withdrawn(&before, &now), [at(2)].into());
        assert_eq!(withdrawn(&before, &[]), [at(1), at(2)].into());
        assert_eq!(withdrawn(&now, &before), BTreeSet::new());
    }

    #[test]
    fn who_is_on_another_node_is_led_to_by_what_he_has() {
        let numbers: Numbers = [(at(2), 2)].into();
        let ways = Ways::of(&Leases::default(), &Arc::new(numbers));
        let port = (Protocol::Tcp, 80);
        for (backend, expected) in [
            (Backend::Far(at(2)), [true, false]),
            (Backend::Both(at(2)), [true, true]),
            (Backend::Six(at(2)), [false, true]),
            (Backend::Six(at(3)), [false, false]),
        ] {
            let by = |family| !ways.slots(port, std::slice::from_ref(&backend), family).is_empty();
            assert_eq!(Family::ALL.map(by), expected, "{backend:?}");
        }
    }

    #[test]
    fn who_is_left_out_is_asked_by_nobody() {
        let tcp = (Protocol::Tcp, 80);
        let here = Backend::Here("c".to_owned());
        let backends = vec![here.clone(), Backend::Six(at(2)), Backend::Far(at(3))];
        let peers = [(at(2), None), (at(3), None)].into();
        let mut ingress = Ingress {
            home: Some(at(1)),
            peers,
            ports: vec![(tcp, backends)].into(),
            ..Ingress::default()
        };
        assert!(ingress.spans() && ingress.has_v6());
        ingress.leave_out(&[at(2)].into());
        assert!(!ingress.has_v6());
        assert_eq!(*ingress.ports[&tcp], [here.clone(), Backend::Far(at(3))]);
        ingress.leave_out(&[at(3)].into());
        assert_eq!(*ingress.ports[&tcp], [here]);
        assert!(!ingress.spans());
    }
}
