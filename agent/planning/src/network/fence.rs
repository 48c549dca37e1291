//! Routing rules that let nothing pass a host that the nftables table has not seen.
//!
//! A packet filter that is gone accepts everything. So packets to and from bridges are routed only
//! with the mark that the table's chain `admit` puts on them; where the host forwards for nothing
//! but containers, everything that is forwarded needs it. The rules stand before those of others
//! and concern no packet that the host itself sends or receives: before what closes everything, the
//! host's own addresses are looked up, wherever its rule for them stands. A host with routing
//! domains of their own (VRF) has addresses elsewhere, too; there only bridges are closed. Bridges of
//! others ([`Guest`]) are let through beside the networks of containers, and not into them.
//!
//! What goes by the mesh ([`ingress`]) has a mark of its own and a table of its own. What comes
//! by it passes with that mark, which it has from the tables only; and as the kernel looks for the way back
//! with the mark that a packet has, the device may insist (`rp_filter`) that what comes by it would be answered
//! by it: without the tables nothing comes in there. Of IPv6, where there is no such check, nothing passes by it
//! without that mark.
//!
//! Each family has rules of its own. Where no network has IPv6, there are none of it; of IPv4 there are where any
//! network is, as the host forwards that then.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;

use super::guests::Guest;
use super::ingress;
use super::leases::Leases;
use super::{Family, NetworkState, Subnet};

/// The bit of a packet's mark that says that the table has seen it.
pub const MARK: u32 = 0x2000_0000;

/// Where the rules stand (ip-rule(8)): after the kernel's own rule for the local table, before what
/// others usually add. What stands there and says that it is of the kernel's making, as the fence does, is
/// the agent's, of whatever version.
pub const PRIORITIES: std::ops::RangeInclusive<u32> = 60..=69;
/// The rule to which those who may pass are sent; it does nothing.
pub const END: u32 = 69;

/// One routing rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FenceRule {
    /// The end of the fence.
    End,
    /// What is for the host itself arrives, also where its own rule for that comes later.
    Receive,
    /// Who has the mark passes.
    PassMarked,
    /// What has come by the mesh and may pass does.
    PassArrived(String),
    /// What is to go by the mesh does.
    ByMesh,
    /// What the host itself sends passes.
    PassOwn,
    /// Nothing else leaves a bridge.
    CloseBridge(String),
    /// Nothing else reaches a subnet.
    CloseSubnet(IpNet),
    /// What leaves a bridge of somebody else passes.
    PassFromGuest(String),
    /// What goes to such a bridge passes.
    PassToGuest(IpNet),
    /// Nothing that comes by an interface goes to another.
    CloseAll,
    /// What an agent of another version has left at this priority. It is never wanted; whatever it does,
    /// it goes before all others, the last of its kind first.
    Former(u32),
}

impl FenceRule {
    /// Its priority.
    #[must_use]
    pub fn priority(&self) -> u32 {
        match self {
            Self::Receive => 60,
            Self::PassMarked | Self::PassArrived(_) => 61,
            Self::ByMesh => 62,
            Self::PassOwn => 63,
            Self::CloseBridge(_) => 64,
            Self::CloseSubnet(_) => 65,
            Self::PassFromGuest(_) => 66,
            Self::PassToGuest(_) => 67,
            Self::CloseAll => 68,
            Self::End => END,
            Self::Former(priority) => *priority,
        }
    }
}

impl fmt::Display for FenceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.priority())?;
        match self {
            Self::End => f.write_str("nop"),
            Self::Receive => f.write_str("lookup local"),
            Self::PassMarked => write!(f, "fwmark {MARK:#x}/{MARK:#x} goto {END}"),
            Self::PassArrived(device) => {
                let mark = ingress::MARK;
                write!(f, "iif {device} fwmark {mark:#x}/{mark:#x} goto {END}")
            }
            Self::ByMesh => {
                let mark = ingress::MARK;
                write!(f, "fwmark {mark:#x}/{mark:#x} lookup {}", ingress::NETWORK)
            }
            Self::PassOwn => write!(f, "iif lo goto {END}"),
            Self::CloseBridge(bridge) => write!(f, "iif {bridge} prohibit"),
            Self::CloseSubnet(subnet) => write!(f, "to {subnet} prohibit"),
            Self::PassFromGuest(bridge) => write!(f, "iif {bridge} goto {END}"),
            Self::PassToGuest(subnet) => write!(f, "to {subnet} goto {END}"),
            Self::CloseAll => f.write_str("not iif lo prohibit"),
            Self::Former(_) => f.write_str("of another version"),
        }
    }
}

/// What the fence has to know of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routing {
    /// It forwards only because the agent switched that on.
    pub forwards_for_us: bool,
    /// It has routing domains (a rule of kind `l3mdev`), whose addresses are in no table that the
    /// fence could look into.
    pub has_domains: bool,
    /// Bridges of others that it forwards for nevertheless.
    pub guests: BTreeSet<Guest>,
    /// The device of the mesh, if there is one.
    pub mesh: Option<String>,
}

/// The rules of one family for the networks of the book, in the order of their making: until the last is
/// there, none of them stops what has to pass.
#[must_use]
pub fn rules(leases: &Leases, routing: &Routing, family: Family) -> Vec<FenceRule> {
    // A bridge without IPv4 is closed to it all the same; of IPv6 it has none where no network has it.
    let networks = || {
        leases
            .networks()
            .filter(|network| family == Family::V4 || network.of_family(family).next().is_some())
    };
    if networks().next().is_none() && routing.mesh.is_none() {
        return Vec::new();
    }
    let of_family = |subnet: &&IpNet| Family::of(subnet.addr()) == family;
    let guests =
        || routing.guests.iter().filter(|guest| guest.subnets.iter().any(|net| of_family(&net)));
    let all = routing.forwards_for_us && !routing.has_domains;
    let mut rules = vec![FenceRule::End];
    rules.extend(all.then_some(FenceRule::Receive));
    rules.push(FenceRule::PassMarked);
    if let Some(device) = &routing.mesh {
        rules.push(FenceRule::PassArrived(device.clone()));
        rules.push(FenceRule::ByMesh);
    }
    if !all || guests().next().is_some() {
        rules.push(FenceRule::PassOwn);
        for network in networks() {
            rules.extend(closing(network, family));
        }
        rules.extend(
            routing.mesh.clone().filter(|_| family == Family::V6).map(FenceRule::CloseBridge),
        );
    }
    if all {
        for Guest { bridge, subnets } in guests() {
            rules.push(FenceRule::PassFromGuest(bridge.clone()));
            let subnets = subnets.iter().filter(of_family);
            rules.extend(subnets.map(|subnet| FenceRule::PassToGuest(subnet.trunc())));
        }
    }
    rules.extend(all.then_some(FenceRule::CloseAll));
    rules
}

fn closing(network: &NetworkState, family: Family) -> impl Iterator<Item = FenceRule> {
    let bridge = FenceRule::CloseBridge(network.bridge.clone());
    let subnet = |one: &Subnet| FenceRule::CloseSubnet(one.subnet.trunc());
    std::iter::once(bridge).chain(network.of_family(family).map(subnet))
}

/// What to take away and what to add so that `present` becomes `wanted`. What closes goes first and
/// comes last.
#[must_use]
pub fn change(
    present: &BTreeSet<FenceRule>,
    wanted: &[FenceRule],
) -> (Vec<FenceRule>, Vec<FenceRule>) {
    let gone = present.iter().rev().filter(|rule| !wanted.contains(rule)).cloned().collect();
    let new = wanted.iter().filter(|rule| !present.contains(rule)).cloned().collect();
    (gone, new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkConfig;
    use crate::network::leases::Rules;

    fn rules(leases: &Leases, routing: &Routing) -> Vec<FenceRule> {
        super::rules(leases, routing, Family::V4)
    }

    fn leases(ids: &[&str]) -> Leases {
        let mut leases = Leases::default();
        for id in ids {
            let (ipv6, without_v4) = (id.ends_with('6'), id.starts_with("only"));
            let id = (*id).to_owned();
            let config = NetworkConfig { id, ipv6, without_v4, ..NetworkConfig::default() };
            leases.ensure_network(&config, &Rules::default(), &[]).unwrap();
        }
        leases
    }

    fn routing(forwards_for_us: bool) -> Routing {
        Routing { forwards_for_us, ..Routing::default() }
    }

    #[test]
    fn a_host_without_networks_has_no_fence() {
        for forwards_for_us in [true, false] {
            assert_eq!(rules(&leases(&[]), &routing(forwards_for_us)), []);
        }
    }

    #[test]
    fn who_forwards_for_us_alone_forwards_nothing_else() {
        let text: Vec<String> =
            rules(&leases(&["a", "b"]), &routing(true)).iter().map(ToString::to_string).collect();
        let expect = [
            "69: nop",
            "60: lookup local",
            "61: fwmark 0x20000000/0x20000000 goto 69",
            "68: not iif lo prohibit",
        ];
        assert_eq!(text, expect);
    }

    #[test]
    fn what_goes_by_the_mesh_has_a_mark_and_a_table_of_its_own() {
        let mesh = Some("shvx0".to_owned());
        for ids in [&[][..], &["a"]] {
            let routing = Routing { mesh: mesh.clone(), ..routing(true) };
            let rules = rules(&leases(ids), &routing);
            let text: Vec<String> = rules.iter().map(ToString::to_string).collect();
            let expect = [
                "69: nop",
                "60: lookup local",
                "61: fwmark 0x20000000/0x20000000 goto 69",
                "61: iif shvx0 fwmark 0x10000000/0x10000000 goto 69",
                "62: fwmark 0x10000000/0x10000000 lookup 7563375",
                "68: not iif lo prohibit",
            ];
            assert_eq!(text, expect);
        }
    }

    #[test]
    fn forwarding_of_others_is_left_alone() {
        let text: Vec<String> =
            rules(&leases(&["a"]), &routing(false)).iter().map(ToString::to_string).collect();
        let bridge = leases(&["a"]).networks().next().unwrap().bridge.clone();
        let expect = [
            "69: nop",
            "61: fwmark 0x20000000/0x20000000 goto 69",
            "63: iif lo goto 69",
            &format!("64: iif {bridge} prohibit"),
            "65: to 172.20.0.0/24 prohibit",
        ];
        assert_eq!(text, expect);
        // Addresses of routing domains would be closed with everything else.
        let domains = Routing { has_domains: true, guests: [docker()].into(), ..routing(true) };
        assert_eq!(rules(&leases(&["a"]), &domains), rules(&leases(&["a"]), &routing(false)));
    }

    #[test]
    fn there_is_a_fence_of_ipv6_where_networks_have_it() {
        let of = |ids: &[&str], routing: &Routing| -> Vec<String> {
            let rules = super::rules(&leases(ids), routing, Family::V6);
            rules.iter().map(ToString::to_string).collect()
        };
        assert_eq!(of(&["a"], &routing(true)), [""; 0]);
        let expect = [
            "69: nop",
            "60: lookup local",
            "61: fwmark 0x20000000/0x20000000 goto 69",
            "68: not iif lo prohibit",
        ];
        assert_eq!(of(&["a", "b6"], &routing(true)), expect);
        let bridge = leases(&["b6"]).networks().next().unwrap().bridge.clone();
        let expect = [
            "69: nop",
            "61: fwmark 0x20000000/0x20000000 goto 69",
            "63: iif lo goto 69",
            &format!("64: iif {bridge} prohibit"),
            "65: to fd00::/64 prohibit",
        ];
        assert_eq!(of(&["a", "b6"], &routing(false)), expect);
        // A guest of IPv4 has no subnet to pass to.
        let guests = Routing { guests: [docker()].into(), ..routing(true) };
        assert_eq!(of(&["b6"], &guests), of(&["b6"], &routing(true)));
        let mesh = Routing { mesh: Some("shvx0".to_owned()), ..routing(false) };
        assert!(of(&[], &mesh).contains(&"64: iif shvx0 prohibit".to_owned()));
    }

    /// The host forwards IPv4 for containers whatever they have, so nobody else may have use of that.
    #[test]
    fn there_is_a_fence_of_ipv4_also_where_no_network_has_it() {
        let only = leases(&["only6"]);
        assert_eq!(rules(&only, &routing(true)), rules(&leases(&["a"]), &routing(true)));
        let bridge = only.networks().next().unwrap().bridge.clone();
        let text: Vec<String> =
            rules(&only, &routing(false)).iter().map(ToString::to_string).collect();
        let expect = [
            "69: nop",
            "61: fwmark 0x20000000/0x20000000 goto 69",
            "63: iif lo goto 69",
            &format!("64: iif {bridge} prohibit"),
        ];
        assert_eq!(text, expect);
    }

    fn docker() -> Guest {
        let subnets = ["172.17.0.1/16".parse().unwrap()].into();
        Guest { bridge: "docker0".to_owned(), subnets }
    }

    #[test]
    fn bridges_of_others_pass_beside_ours_and_not_into_them() {
        let routing = Routing { guests: [docker()].into(), ..routing(true) };
        let mut rules = rules(&leases(&["a"]), &routing);
        let bridge = leases(&["a"]).networks().next().unwrap().bridge.clone();
        rules.sort_by_key(FenceRule::priority);
        let text: Vec<String> = rules.iter().map(ToString::to_string).collect();
        let expect = [
            "60: lookup local",
            "61: fwmark 0x20000000/0x20000000 goto 69",
            "63: iif lo goto 69",
            &format!("64: iif {bridge} prohibit"),
            "65: to 172.20.0.0/24 prohibit",
            "66: iif docker0 goto 69",
            "67: to 172.17.0.0/16 goto 69",
            "68: not iif lo prohibit",
            "69: nop",
        ];
        assert_eq!(text, expect);
    }

    #[test]
    fn what_closes_is_never_alone() {
        let closes = |rule: &FenceRule| {
            matches!(
                rule,
                FenceRule::CloseBridge(_) | FenceRule::CloseSubnet(_) | FenceRule::CloseAll
            )
        };
        let late = |rule: &FenceRule| {
            let guest = matches!(rule, FenceRule::PassFromGuest(_) | FenceRule::PassToGuest(_));
            closes(rule) || guest
        };
        for forwards_for_us in [true, false] {
            let guests = BTreeSet::from([docker()]);
            let mesh = Some("shvx0".to_owned());
            let routing = Routing { guests, mesh, ..routing(forwards_for_us) };
            let all = rules(&leases(&["a", "b"]), &routing);
            let (_, new) = change(&BTreeSet::new(), &all);
            let first = new.iter().position(closes).unwrap();
            assert!(new[first..].iter().all(late), "{new:?}");
            let (gone, new) = change(&all.iter().cloned().collect(), &[]);
            assert_eq!(new, []);
            let last = gone.iter().rposition(closes).unwrap();
            assert!(gone[..=last].iter().all(late), "{gone:?}");
            let (gone, new) = change(&all.iter().cloned().collect(), &all);
            assert_eq!((gone, new), (vec![], vec![]));
            // What another version closed goes before what it let pass, and all of it before ours.
            let former = [FenceRule::Former(61), FenceRule::Former(62)];
            let (gone, _) = change(&all.iter().chain(&former).cloned().collect(), &[]);
            assert_eq!(gone[..2], [FenceRule::Former(62), FenceRule::Former(61)]);
            let (gone, new) = change(&all.iter().chain(&former).cloned().collect(), &all);
            assert_eq!((gone.len(), new), (2, vec![]));
        }
    }
}
