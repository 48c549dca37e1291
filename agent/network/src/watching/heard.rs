//! What messages of the kernel are about.
//!
//! By rtnetlink(7), and the notifications of nf_tables (linux/netfilter/nf_tables.h), whose numbers are
//! here because no library that we use has them.

use std::net::{IpAddr, Ipv6Addr};

use shoal_agent_planning::network::gates::USER_CHAIN;
use shoal_agent_planning::network::{Family, ingress, names};
use shoal_agent_planning::node::look::Look;
use shoal_agent_planning::tunnel;

use crate::conntrack::{attribute, messages};
use crate::ours::is_ours;

/// Types of messages of rtnetlink.
const LINKS: [u16; 2] = [16, 17];
const ADDRESSES: [u16; 2] = [20, 21];
const ROUTES: [u16; 2] = [24, 25];
const NEIGHBOURS: [u16; 2] = [28, 29];
const RULES: [u16; 2] = [32, 33];
const SETTINGS: [u16; 2] = [80, 81];
/// ifinfomsg, ifaddrmsg and rtmsg.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
/// Where rtmsg has the length of the destination's prefix.
const ROUTE_LENGTH: usize = 1;
const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const LINK_INFO_KIND: u16 = 1;
const ADDRESS: u16 = 1;
const ADDRESS_LABEL: u16 = 3;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_TABLE: u16 = 15;
/// ndmsg.
const NEIGHBOUR_HEADER: usize = 12;
/// Where it has the number of the link.
const NEIGHBOUR_LINK: usize = 4;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;
const NEIGHBOUR_DESTINATION: u16 = 1;

const SUBSYSTEM: u16 = 10;
/// New and deleted tables, chains, rules, sets and elements.
const IN_TABLES: [u16; 10] = [0, 2, 3, 5, 6, 8, 9, 11, 12, 14];
/// The end of a transaction.
const GENERATION: u16 = 15;
/// New and deleted chains and rules: those of others that judge what is forwarded.
const CHAINS: [u16; 2] = [3, 5];
const RULES_OF_CHAINS: [u16; 2] = [6, 8];
/// The attribute of a rule that names its chain.
const RULE_CHAIN: u16 = 2;
/// The attribute of each of the first that names the table.
const TABLE_NAME: u16 = 1;
/// The process whose transaction it was.
const GENERATION_PROCESS: u16 = 2;
/// nfgenmsg.
const FILTER_HEADER: usize = 4;

/// Understands what is heard.
pub(super) struct Hearing {
    prefix: String,
    table: String,
    /// The transaction that is being told of is about our tables, or about gates.
    touched: Look,
}

impl Hearing {
    pub(super) fn new(prefix: &str, table: &str) -> Self {
        Self { prefix: prefix.to_owned(), table: table.to_owned(), touched: Look::default() }
    }

    /// What a datagram of rtnetlink is about; `about` says it of a route, `at` of an address of IPv6, and `is_mesh`
    /// whether a link is the mesh's device, by its number, and `of_link` says it of a link of the host.
    pub(super) fn route(
        &self,
        datagram: &[u8],
        about: impl Fn(Route) -> Option<Look>,
        at: impl Fn(Ipv6Addr) -> Option<Look>,
        is_mesh: impl Fn(u32) -> bool,
        of_link: impl Fn(&str) -> Option<Look>,
    ) -> Look {
        let mut look = Look::default();
        for (kind, body) in messages(datagram) {
            let look_at = match kind {
                _ if LINKS.contains(&kind) => self.link(body, &of_link),
                _ if ADDRESSES.contains(&kind) && body.first() == Some(&AF_INET6) => {
                    v6_address(body).and_then(&at)
                }
                _ if ADDRESSES.contains(&kind) => self.address(body),
                _ if ROUTES.contains(&kind) && is_of_mesh(body) => Some(Look::remote()),
                _ if ROUTES.contains(&kind) => route(body, kind == ROUTES[0]).and_then(&about),
                _ if NEIGHBOURS.contains(&kind) => {
                    far_by(body).filter(|by| is_mesh(*by)).map(|_| Look::remote())
                }
                _ if RULES.contains(&kind) => Some(Look { rules: true, ..Look::default() }),
                _ if SETTINGS.contains(&kind) => Some(Look::settings()),
                _ => None,
            };
            look_at.into_iter().for_each(|part| look.merge(part));
        }
        look
    }

    /// A link of ours; or a bridge of somebody else, for whom the host may have to forward.
    fn link(&self, body: &[u8], of_link: impl Fn(&str) -> Option<Look>) -> Option<Look> {
        let body = body.get(LINK_HEADER..)?;
        let name = text(attribute(body, LINK_NAME)?)?;
        if names::is_ours(&self.prefix, name) {
            return Some(of_link(name).unwrap_or_else(|| Look::link(name)));
        }
        if let Some(look) = of_link(name) {
            return Some(look);
        }
        if tunnel::is_ours(&self.prefix, name) || name == ingress::ifname(&self.prefix) {
            return Some(Look::remote());
        }
        let kind = text(attribute(attribute(body, LINK_INFO)?, LINK_INFO_KIND)?)?;
        (kind == "bridge").then(addresses)
    }

    fn address(&self, body: &[u8]) -> Option<Look> {
        let label = attribute(body.get(ADDRESS_HEADER..)?, ADDRESS_LABEL).and_then(text);
        match label {
            Some(name) if names::is_ours(&self.prefix, name) => Some(Look::link(name)),
            Some(name) if name == ingress::ifname(&self.prefix) => Some(Look::remote()),
            _ => Some(addresses()),
        }
    }

    /// Whether a datagram of the packet filter ends a transaction of somebody else that touched our
    /// tables.
    pub(super) fn filter(&mut self, datagram: &[u8]) -> Look {
        let mut look = Look::default();
        for (kind, body) in messages(datagram).filter(|(kind, _)| kind >> 8 == SUBSYSTEM) {
            let body = body.get(FILTER_HEADER..).unwrap_or_default();
            if kind & 0xff == GENERATION {
                let process = attribute(body, GENERATION_PROCESS).and_then(|id| id.first_chunk());
                let ours = process.is_some_and(|id| is_ours(u32::from_be_bytes(*id)));
                let touched = std::mem::take(&mut self.touched);
                if !ours {
                    look.merge(touched);
                }
            } else if IN_TABLES.contains(&(kind & 0xff)) {
                let name = attribute(body, TABLE_NAME).and_then(text);
                self.touched.tables |= name == Some(self.table.as_str());
                self.touched.gates |= is_gate(kind & 0xff, body);
            }
        }
        look
    }
}

/// Whether a chain of others came or went, or changed its policy, or what is in that for others did.
fn is_gate(kind: u16, body: &[u8]) -> bool {
    let chain = || attribute(body, RULE_CHAIN).and_then(text);
    CHAINS.contains(&kind) || (RULES_OF_CHAINS.contains(&kind) && chain() == Some(USER_CHAIN))
}

fn addresses() -> Look {
    // Of bridges of others, too.
    Look { addresses: true, gates: true, ..Look::default() }
}

/// An address of IPv6 that came or went, which has no name of its link beside it.
fn v6_address(body: &[u8]) -> Option<Ipv6Addr> {
    let address = attribute(body.get(ADDRESS_HEADER..)?, ADDRESS)?;
    Some(Ipv6Addr::from(*address.first_chunk::<16>()?))
}

/// A route that came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    /// It came.
    pub(super) new: bool,
    /// Where it leads.
    pub(super) to: IpAddr,
    /// To this address alone.
    pub(super) whole: bool,
}

fn route(body: &[u8], new: bool) -> Option<Route> {
    let destination = attribute(body.get(ROUTE_HEADER..)?, ROUTE_DESTINATION)?;
    let to = match destination.len() {
        4 => IpAddr::from(*destination.first_chunk::<4>()?),
        16 => IpAddr::from(*destination.first_chunk::<16>()?),
        _ => return None,
    };
    let whole = body.get(ROUTE_LENGTH).copied() == Some(Family::of(to).bits());
    Some(Route { new, to, whole })
}

/// Whether a route is in the mesh's own table.
fn is_of_mesh(body: &[u8]) -> bool {
    let table = body.get(ROUTE_HEADER..).and_then(|body| attribute(body, ROUTE_TABLE));
    table
        .and_then(|table| table.first_chunk())
        .is_some_and(|table| u32::from_ne_bytes(*table) == ingress::NETWORK)
}

/// By which link frames for a hardware address are sent to another host, if that is what is said. Bridges tell of
/// many more, which are behind their ports.
fn far_by(body: &[u8]) -> Option<u32> {
    if body.first() != Some(&AF_BRIDGE) {
        return None;
    }
    attribute(body.get(NEIGHBOUR_HEADER..)?, NEIGHBOUR_DESTINATION)?;
    Some(u32::from_ne_bytes(*body.get(NEIGHBOUR_LINK..)?.first_chunk()?))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.strip_suffix(&[0])?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attributes(all: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in all {
            bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn message(kind: u16, header: usize, all: &[(u16, &[u8])]) -> Vec<u8> {
        let body = [vec![0; header], attributes(all)].concat();
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn hearing() -> Hearing {
        Hearing::new("sh", "shoal")
    }

    #[test]
    fn who_is_meant() {
        let ours = b"shb0123456789\0";
        let bridge = attributes(&[(LINK_INFO_KIND, b"bridge\0")]);
        let veth = attributes(&[(LINK_INFO_KIND, b"veth\0")]);
        let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        let of_v6 = |address: &str| {
            let mut bytes = message(20, 8, &[(ADDRESS, &v6(address))]);
            bytes[16] = AF_INET6;
            bytes
        };
        let table: [(Vec<u8>, Look); 13] = [
            // What a network is on, and what none is.
            (message(17, 16, &[(LINK_NAME, b"eth7\0")]), Look::link("shl7")),
            (message(16, 16, &[(LINK_NAME, b"eth8\0")]), Look::default()),
            (of_v6("fd00::1"), Look::link("shb6")),
            (of_v6("2001:db8::1"), Look::default()),
            (message(25, 12, &[(ROUTE_DESTINATION, &v6("fd00::"))]), Look::link("shb1")),
            (message(17, 16, &[(LINK_NAME, &ours[..])]), Look::link("shb0123456789")),
            (message(16, 16, &[(LINK_NAME, b"docker0\0"), (LINK_INFO, &bridge)]), addresses()),
            // What others do all day.
            (message(16, 16, &[(LINK_NAME, b"vethab12\0"), (LINK_INFO, &veth)]), Look::default()),
            (message(21, 8, &[(ADDRESS_LABEL, &ours[..])]), Look::link("shb0123456789")),
            (message(20, 8, &[(ADDRESS_LABEL, b"eth0\0")]), addresses()),
            (message(25, 12, &[(ROUTE_DESTINATION, &[172, 20, 0, 0])]), Look::link("shb1")),
            (message(24, 12, &[(ROUTE_DESTINATION, &[8, 8, 0, 0])]), Look::default()),
            (message(33, 12, &[]), Look { rules: true, ..Look::default() }),
        ];
        let about = |route: Route| {
            let ours = route.to.to_string().starts_with("172.") || route.to.is_ipv6();
            ours.then(|| Look::link("shb1"))
        };
        let of_link = |name: &str| (name == "eth7").then(|| Look::link("shl7"));
        let at = |address: Ipv6Addr| (address.segments()[0] == 0xfd00).then(|| Look::link("shb6"));
        for (bytes, expected) in table {
            let heard = hearing().route(&bytes, about, at, |_| false, of_link);
            assert_eq!(heard, expected, "{bytes:?}");
        }
    }

    #[test]
    fn only_the_own_device_of_vxlan_is_meant() {
        let to = attributes(&[(NEIGHBOUR_DESTINATION, &[10, 9, 0, 2])]);
        let entry = |family: u8, link: u8, attributes: &[u8]| {
            let mut bytes = message(28, 0, &[]);
            let link = u32::from(link).to_ne_bytes();
            bytes.extend([&[family, 0, 0, 0], &link[..], &[0; 4], attributes].concat());
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes
        };
        let heard =
            |bytes: &[u8]| hearing().route(bytes, |_| None, |_| None, |index| index == 7, |_| None);
        assert_eq!(heard(&entry(AF_BRIDGE, 7, &to)), Look::remote());
        assert_eq!(heard(&entry(AF_BRIDGE, 8, &to)), Look::default());
        assert_eq!(heard(&entry(AF_BRIDGE, 7, &[])), Look::default());
        assert_eq!(heard(&entry(2, 7, &to)), Look::default());
    }

    #[test]
    fn a_transaction_counts_when_it_ends_and_was_not_ours() {
        let of = |kind: u16| (SUBSYSTEM << 8) | kind;
        let flush = message(of(2), 4, &[(TABLE_NAME, b"shoal\0")]);
        let foreign = message(of(6), 4, &[(TABLE_NAME, b"docker\0")]);
        let end = |process: u32| message(of(GENERATION), 4, &[(2, &process.to_be_bytes())]);
        let mut hearing = hearing();
        assert!(!hearing.filter(&flush).tables);
        assert!(hearing.filter(&end(1)).tables);
        assert!(!hearing.filter(&[foreign, end(1)].concat()).tables);
        let _own = crate::ours::Own::begin(77);
        assert!(!hearing.filter(&[flush.clone(), end(77)].concat()).tables);
        assert!(hearing.filter(&[flush, end(78)].concat()).tables);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_stumble(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            hearing().route(&bytes, |_| None, |_| None, |_| true, |_| None);
            hearing().filter(&bytes);
        }
    }
}
