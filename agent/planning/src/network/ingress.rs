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
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::leases::Leases;
use super::{Mac, Protocol};
use crate::tunnel;

/// UDP port of the mesh. Not the usual one of VXLAN, which others on the host may use, and not among those that
/// the kernel chooses for clients.
pub const PORT: u16 = 14_789;
/// Number of the mesh's network in the VXLAN header, and of its routing table. Nobody else's, by its odd number:
/// "sho" in ASCII.
pub const NETWORK: u32 = 0x0073_686f;
/// Bytes that a packet grows by: 14 of Ethernet, 8 of VXLAN, 8 of UDP, 20 of IPv4.
pub const OVERHEAD: u32 = 50;
/// The largest packet that goes by the mesh, in bytes.
pub const MTU: u32 = tunnel::MTU - OVERHEAD;
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
}

/// What a host knows of ports that answer on every node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ingress {
    /// Its own address in the tunnel. Without one it leads to its own containers alone.
    pub home: Option<Ipv4Addr>,
    /// Those of other nodes, with the address by which each is reached from outside.
    pub peers: BTreeMap<Ipv4Addr, Option<Ipv4Addr>>,
    /// Who serves at each port, one for each task; nobody where a port is kept for tasks that do not serve.
    pub ports: BTreeMap<Port, Vec<Backend>>,
}

impl Ingress {
    /// Whether packets can go by the mesh.
    #[must_use]
    pub fn spans(&self) -> bool {
        self.home.is_some() && !self.peers.is_empty() && !self.ports.is_empty()
    }

    /// Nobody is led to these nodes: there is no tunnel to them.
    pub fn leave_out(&mut self, nodes: &BTreeSet<Ipv4Addr>) {
        self.peers.retain(|address, _| !nodes.contains(address));
        for backends in self.ports.values_mut() {
            backends.retain(|one| !matches!(one, Backend::Far(address) if nodes.contains(address)));
        }
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

/// Where each port leads on this host: to an address and port of a container, or to a node's address in the
/// tunnel. A node that has no number is not among them, nor a container that has not said where it is.
#[must_use]
pub fn slots(leases: &Leases, ingress: &Ingress, numbers: &Numbers) -> BTreeMap<Port, Vec<Slot>> {
    let shared: BTreeMap<(&str, Port), (Ipv4Addr, u16)> = leases
        .shared()
        .filter_map(|(container, port, target)| {
            Some(((container, (port.protocol, port.port)), (target?, port.target_port)))
        })
        .collect();
    let of = |port: &Port, backend: &Backend| match backend {
        Backend::Here(container) => {
            let (address, port) = *shared.get(&(container.as_str(), *port))?;
            Some(Slot { address, port, far: false })
        }
        Backend::Far(address) => numbers.contains_key(address).then_some(Slot {
            address: *address,
            port: port.1,
            far: true,
        }),
    };
    let led = |(port, backends): (&Port, &Vec<Backend>)| {
        (*port, backends.iter().filter_map(|backend| of(port, backend)).collect())
    };
    ingress.ports.iter().map(led).collect()
}

/// The host's own containers behind each port, whether they serve or not.
pub(super) fn own(leases: &Leases) -> BTreeMap<Port, Vec<Slot>> {
    let mut own: BTreeMap<Port, Vec<Slot>> = BTreeMap::new();
    for (_, port, target) in leases.shared() {
        let Some(address) = target else { continue };
        let slot = Slot { address, port: port.target_port, far: false };
        own.entry((port.protocol, port.port)).or_default().push(slot);
    }
    own
}

/// What a connection to a published port is led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Of the container, or of the node in the tunnel.
    pub address: Ipv4Addr,
    /// Of the container, or the published one.
    pub port: u16,
    /// By the mesh.
    pub far: bool,
}

/// Which slots there are no more: their ports and addresses.
#[must_use]
pub fn withdrawn(
    before: &BTreeMap<Port, Vec<Slot>>,
    now: &BTreeMap<Port, Vec<Slot>>,
) -> BTreeSet<(Port, Ipv4Addr)> {
    let addresses = |all: &BTreeMap<Port, Vec<Slot>>| -> BTreeSet<(Port, Ipv4Addr)> {
        let of = |(port, slots): (&Port, &Vec<Slot>)| {
            let port = *port;
            slots.iter().map(move |slot| (port, slot.address)).collect::<Vec<_>>()
        };
        all.iter().flat_map(of).collect()
    };
    let left = addresses(now);
    addresses(before).into_iter().filter(|one| !left.contains(one)).collect()
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
        let udp = (Protocol::Udp, 53);
        let slot = |last: u8, far: bool| Slot { address: at(last), port: 53, far };
        let before = BTreeMap::from([(udp, vec![slot(1, true), slot(1, true), slot(2, false)])]);
        let now = BTreeMap::from([(udp, vec![slot(1, true)])]);
        assert_eq!(withdrawn(&before, &now), [(udp, at(2))].into());
        assert_eq!(withdrawn(&before, &BTreeMap::new()), [(udp, at(1)), (udp, at(2))].into());
        assert_eq!(withdrawn(&now, &before), BTreeSet::new());
    }

    #[test]
    fn who_is_left_out_is_asked_by_nobody() {
        let tcp = (Protocol::Tcp, 80);
        let here = Backend::Here("c".to_owned());
        let backends = vec![here.clone(), Backend::Far(at(2)), Backend::Far(at(3))];
        let peers = [(at(2), None), (at(3), None)].into();
        let mut ingress = Ingress { home: Some(at(1)), peers, ports: [(tcp, backends)].into() };
        assert!(ingress.spans());
        ingress.leave_out(&[at(2)].into());
        assert_eq!(ingress.ports[&tcp], [here.clone(), Backend::Far(at(3))]);
        ingress.leave_out(&[at(3)].into());
        assert_eq!(ingress.ports[&tcp], [here]);
        assert!(!ingress.spans());
    }
}
