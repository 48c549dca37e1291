use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::network::ingress::Backend;
use crate::network::leases::Rules;
use crate::network::settings::{ACCEPT_REDIRECTS, accept_ra_of, forwarding_of, forwarding_v6_of};
use crate::network::{AttachRequest, NetworkConfig, Protocol, SubnetConfig};

mod harms;
mod kernel;

use self::harms::{Harm, do_harm, harm};
use self::kernel::Host;

const ETH: &str = "eth0";
/// The device of the mesh.
const DEVICE: &str = "shvx0";
/// A network that spans hosts.
const WIDE: &str = "wide";

fn leases(networks: &[(&str, bool)]) -> Leases {
    let mut leases = Leases::default();
    for (id, internal) in networks {
        let (id, internal) = ((*id).to_owned(), *internal);
        let ipv6 = id.ends_with('6');
        let mut config =
            NetworkConfig { id: id.clone(), internal, ipv6, ..NetworkConfig::default() };
        let mut request =
            AttachRequest { container: "web".to_owned(), network: id, ..AttachRequest::default() };
        if config.id.starts_with(WIDE) {
            let subnet = |text: &str| SubnetConfig::from(text.parse::<IpNet>().unwrap());
            (config.routed, config.subnets) = (true, vec![subnet("10.0.5.0/24")]);
            request.address = Some([10, 0, 5, 2].into());
            if config.ipv6 {
                config.subnets.push(subnet("fd00:5::/64"));
                request.address_v6 = Some("fd00:5::2".parse().unwrap());
            }
        }
        leases.ensure_network(&config, &Rules::default(), &[]).unwrap();
        leases.attach(&request, &Rules::default()).unwrap();
    }
    leases
}

fn far(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, last)
}

/// With ports that answer on every node, on `nodes` others.
fn meshed(wishes: &Wishes, nodes: u8) -> Wishes {
    let peers: BTreeMap<Ipv4Addr, _> = (2..2 + nodes).map(|node| (far(node), None)).collect();
    // With several, they are reached by IPv6.
    let backend = if nodes > 1 { Backend::Both } else { Backend::Far };
    let backends: Vec<Backend> = peers.keys().copied().map(backend).collect();
    let numbers = Arc::new(ingress::numbers(&Numbers::new(), peers.keys().copied()));
    let remote = wishes.remote.iter().copied().chain(peers.keys().copied().map(IpAddr::V4));
    let remote = remote.collect();
    let ports = vec![((Protocol::Tcp, 80), backends)].into();
    let ingress = Arc::new(Ingress { home: Some(far(1)), peers, ports, ..Ingress::default() });
    Wishes { ingress, numbers, remote, ..wishes.clone() }
}

fn wishes() -> Wishes {
    Wishes { prefix: "sh".to_owned(), forwards_for_others: false, ..Wishes::default() }
}

fn link(kind: LinkKind, up: bool) -> ObservedLink {
    ObservedLink { up, ..ObservedLink::plain(kind) }
}

const SETS: [&[(&str, bool)]; 9] = [
    &[],
    &[("front", false)],
    &[("closed", true)],
    &[("front", false), ("closed", true)],
    &[("front", false), (WIDE, false)],
    &[(WIDE, true)],
    &[("front", false), ("six6", false)],
    &[("six6", true)],
    &[("wide6", false), ("six6", false)],
];

/// Whether a network of the set spans hosts, and whether that has IPv6.
fn is_wide(set: &[(&str, bool)]) -> (bool, bool) {
    let wide = |id: &str| set.iter().any(|(one, _)| *one == id);
    (wide(WIDE) || wide("wide6"), wide("wide6"))
}

proptest! {
    #[test]
    fn whatever_happens_the_plan_mends_it_and_never_opens_what_is_closed(
        forwards in any::<bool>(),
        has_domains in any::<bool>(),
        asked in any::<bool>(),
        steps in prop::collection::vec(
            (0..SETS.len(), (0..3u8, 0..8u8), prop::collection::vec(harm(), 0..4), 0..40usize), 1..5,
        ),
    ) {
        let remote = (7..9).map(|n| IpAddr::from([10, 0, 5, n])).chain([[10, 0, 6, 7].into()]);
        let remote = remote.chain(["fd00:5::7", "fd00:6::7"].map(|at| at.parse().unwrap()));
        let remote = remote.collect();
        let narrow = Arc::new([([10, 0, 5, 7].into(), 1300)].into());
        let wishes = Wishes { forwards_for_others: asked, remote, narrow, ..wishes() };
        let mut host = Host { has_domains, ..Host::new(forwards) };
        let alone = wishes;
        for (set, (nodes, by_second), harms, cut) in steps {
            let leases = leases(SETS[set]);
            let mut wishes = meshed(&alone, nodes);
            // Keys change, and some of the others are reached by the other interface.
            let nth = |(n, _): &(usize, &IpAddr)| by_second & (1 << (n % 3)) != 0;
            let second = wishes.remote.iter().enumerate().filter(nth).map(|(_, at)| *at);
            wishes.second = second.collect();
            for harm in &harms {
                do_harm(&mut host, harm);
            }
            let foreign = |host: &Host| {
                let mut links = host.links.clone();
                links.retain(|name, _| !name.starts_with("sh"));
                links
            };
            let others = foreign(&host);
            // Cut off somewhere, and begun again.
            host.go(&leases, &wishes, cut).map_err(TestCaseError::fail)?;
            host.go(&leases, &wishes, usize::MAX).map_err(TestCaseError::fail)?;
            prop_assert_eq!(host.plan(&leases, &wishes), vec![]);
            prop_assert_eq!(foreign(&host), others);
            prop_assert!(host.is_closed(&leases));
            let v6 = leases.networks().any(NetworkState::has_v6) || host.device.is_some() && nodes > 1;
            // Whoever has no IPv6 has nothing of it.
            if !v6 && host.remote.is_some() {
                prop_assert!(host.rules_v6.is_empty());
                prop_assert!(asked || host.settings[&accept_ra_of(ETH)] != "2");
            }
            if let Some(remote) = &host.remote {
                let (wide, v6) = is_wide(SETS[set]);
                let all = if wide { 2 } else { 0 } + usize::from(v6) + usize::from(nodes);
                prop_assert_eq!(remote.len(), all);
                let fits = |address: &IpAddr| wishes.narrow.get(address).copied();
                let by = |address: &IpAddr| match wishes.second.contains(address) {
                    true => Side::Second,
                    false => Side::First,
                };
                let way = |address: &IpAddr| Way { by: by(address), largest: fits(address) };
                prop_assert!(remote.iter().all(|(address, has)| *has == way(address)));
            }
            let wanted = host.remote.is_some() && nodes > 0;
            prop_assert_eq!(host.device.is_some(), wanted);
            if let Some(device) = &host.device {
                let v6 = nodes > 1 || leases.networks().any(NetworkState::has_v6);
                prop_assert_eq!(device.default_routes.len(), if v6 { 2 } else { 1 });
                prop_assert!(device.up);
                prop_assert_eq!(device.addresses.len(), device.default_routes.len());
                prop_assert_eq!(device.far.len(), usize::from(nodes));
                for (peer, side) in device.far.values().flatten().flatten() {
                    let is_second = wishes.second.contains(&IpAddr::V4(*peer));
                    prop_assert_eq!(*side == Side::Second, is_second);
                }
                for (name, value) in of_mesh(DEVICE, v6) {
                    prop_assert_eq!(host.settings[&name].as_str(), value);
                }
                prop_assert!(host.rules.contains(&FenceRule::ByMesh));
                prop_assert_eq!(host.rules_v6.contains(&FenceRule::ByMesh), v6);
            }
        }
    }

    #[test]
    fn a_host_gets_back_what_it_was_wherever_it_is_cut_off(
        forwards in any::<bool>(),
        redirects in any::<bool>(),
        set in 0..SETS.len(),
        cuts in prop::collection::vec(0..30usize, 0..4),
    ) {
        let before = {
            let mut host = Host::new(forwards);
            let value = if redirects { "1" } else { "0" }.to_owned();
            host.settings.insert(ACCEPT_REDIRECTS.to_owned(), value);
            host
        };
        let mut host = before.clone();
        let meshed = meshed(&wishes(), 2);
        host.go(&leases(SETS[set]), &meshed, usize::MAX).map_err(TestCaseError::fail)?;
        for cut in cuts {
            host.go(&leases(&[]), &wishes(), cut).map_err(TestCaseError::fail)?;
        }
        host.go(&leases(&[]), &wishes(), usize::MAX).map_err(TestCaseError::fail)?;
        prop_assert_eq!(host, before);
    }
}

#[test]
fn nothing_is_forwarded_before_the_tables_are_in_place() {
    let host = Host::new(false);
    let actions = host.plan(&leases(SETS[1]), &wishes());
    let at = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted).unwrap();
    let remember = at(&|action| matches!(action, Action::Remember(_)));
    let fence = at(&|action| *action == Action::AddRule(Family::V4, FenceRule::CloseAll));
    let tables = at(&|action| *action == Action::PutTables);
    let up = at(&|action| matches!(action, Action::Link(links::Action::SetUp { .. })));
    let forward = at(&|action| matches!(action, Action::Set { name, .. } if name == IP_FORWARD));
    let order = [remember, fence, tables, up, forward];
    assert!(order.is_sorted(), "{actions:?}");
    assert!(actions[forward].opens() && actions[up].opens() && !actions[tables].opens());
}

#[test]
fn no_setting_is_changed_that_could_not_be_remembered() {
    for set in [SETS[1], SETS[6]] {
        let networks = leases(set);
        let mut host = Host::new(false);
        let Plan { actions, facts, .. } = plan(&networks, &wishes(), &host.observe());
        let before = host.settings.clone();
        let is_memory = |action: &Action| matches!(action, Action::Remember(_));
        let failed = actions.iter().position(is_memory).unwrap();
        for action in actions.iter().skip(failed + 1).filter(|action| !action.opens()) {
            host.perform(action, &networks, &facts);
        }
        let kept = before.iter().all(|(name, value)| host.settings.get(name) == Some(value));
        assert!(kept, "{:?}", host.settings);
    }
}

/// Its containers reach each other by way of the host, also those on the same one.
#[test]
fn a_network_across_hosts_is_forwarded_for_even_if_it_is_internal() {
    let mut host = Host::new(false);
    host.go(&leases(&[("closed", true), ("six6", true)]), &wishes(), usize::MAX).unwrap();
    let switches = |host: &Host| [IP_FORWARD, FORWARD_V6].map(|name| host.settings[name].clone());
    assert_eq!(switches(&host), ["0", "0"]);
    host.go(&leases(&[(WIDE, true), ("six6", true)]), &wishes(), usize::MAX).unwrap();
    assert_eq!(switches(&host), ["1", "0"]);
    host.go(&leases(&[("wide6", true)]), &wishes(), usize::MAX).unwrap();
    assert_eq!(switches(&host), ["1", "1"]);
}

#[test]
fn whoever_comes_later_is_forwarded_for_and_keeps_forwarding() {
    let mut host = Host::new(false);
    let networks = leases(SETS[1]);
    host.go(&networks, &wishes(), usize::MAX).unwrap();
    do_harm(&mut host, &Harm::Guest);
    let actions = host.plan(&networks, &wishes());
    let passes = FenceRule::PassFromGuest("docker0".to_owned());
    assert!(actions.contains(&Action::AddRule(Family::V4, passes)), "{actions:?}");
    assert!(actions.contains(&Action::PutTables), "{actions:?}");
    host.go(&networks, &wishes(), usize::MAX).unwrap();
    assert_eq!(host.plan(&networks, &wishes()), []);
    host.go(&leases(&[]), &wishes(), usize::MAX).unwrap();
    assert_eq!(host.settings[IP_FORWARD], "1", "Docker needs it");
    assert_eq!((&host.remembered, host.rules.len()), (&None, 0));
}

#[test]
fn a_host_that_forwards_for_others_is_closed_to_nobody() {
    let mut host = Host::new(false);
    let asked = Wishes { forwards_for_others: true, ..wishes() };
    host.go(&leases(SETS[1]), &asked, usize::MAX).unwrap();
    assert!(!host.rules.contains(&FenceRule::CloseAll));
    host.go(&leases(&[]), &asked, usize::MAX).unwrap();
    assert_eq!(host.settings[IP_FORWARD], "1");
}

#[test]
fn a_look_at_one_link_plans_for_it_alone() {
    let networks = leases(SETS[3]);
    let mut host = Host::new(true);
    host.go(&networks, &wishes(), usize::MAX).unwrap();
    let bridges: Vec<String> = networks.networks().map(|network| network.bridge.clone()).collect();
    for bridge in &bridges {
        host.perform_on_link(&links::Action::Remove { ifname: bridge.clone() });
    }
    let looked_at = LookAtLinks::Named([bridges[0].clone()].into());
    let links = ObservedLinks { looked_at, ..ObservedLinks::default() };
    let observed = Observed { links: Some(links), ..Observed::default() };
    let Plan { actions, missing_ports, .. } = plan(&networks, &wishes(), &observed);
    let names = |action: &Action| match action {
        Action::Link(links::Action::CreateBridge { ifname, .. }) => Some(ifname.clone()),
        _ => None,
    };
    let made: Vec<String> = actions.iter().filter_map(names).collect();
    assert_eq!(made, bridges[..1]);
    assert_eq!(missing_ports, BTreeSet::new());
    let first: Vec<String> =
        of_bridge(&bridges[0], false).into_iter().map(|(name, _)| name).collect();
    let set =
        actions.iter().filter(|a| matches!(a, Action::Set { name, .. } if first.contains(name)));
    assert_eq!(set.count(), 2, "{actions:?}");
}

#[test]
fn what_keeps_a_bridge_closed_that_cannot_be_removed_stays() {
    let networks = leases(SETS[3]);
    let mut host = Host::new(true);
    host.go(&networks, &wishes(), usize::MAX).unwrap();
    let bridges: Vec<String> = networks.networks().map(|network| network.bridge.clone()).collect();
    let (rules, none) = (host.rules.clone(), leases(&[]));
    // A look at one of two bridges, as when its network is removed, is none at the other.
    let looked_at = LookAtLinks::Named([bridges[0].clone()].into());
    let look = Look { rules: true, links: looked_at.clone(), ..Look::default() };
    let found = [(bridges[0].clone(), host.links[&bridges[0]].clone())].into();
    let links = Some(ObservedLinks { looked_at, found, ..ObservedLinks::default() });
    let plan = plan(&none, &wishes(), &Observed { links, ..host.observe() });
    let lacks = lacks(&look, &plan, &plan.facts);
    assert_eq!(lacks.links, LookAtLinks::All, "{:?}", plan.actions);
    // Whatever of the rest is refused, the tables and rules outlive the bridges.
    let Plan { actions, facts, .. } = super::plan(&none, &wishes(), &host.observe());
    let removes = |action: &Action| matches!(action, Action::Link(links::Action::Remove { .. }));
    let refused = actions.iter().position(removes).unwrap();
    for action in actions[..refused].iter().chain(actions[refused..].iter().filter(|a| !a.opens()))
    {
        if !removes(action) {
            host.perform(action, &none, &facts);
        }
    }
    assert_eq!(host.rules, rules);
    assert!(matches!(host.tables, Tables::Hold(_)), "{actions:?}");
}

#[test]
fn nothing_is_let_in_without_a_look_at_what_judges_it() {
    let networks = leases(SETS[1]);
    let mut host = Host::new(true);
    host.go(&networks, &wishes(), usize::MAX).unwrap();
    let bridge = networks.networks().next().unwrap().bridge.clone();
    do_harm(&mut host, &Harm::Down(0));
    let look = Look::link(bridge);
    let unseen = Observed { fence: None, ..host.observe() };
    let plan = plan(&networks, &wishes(), &unseen);
    let expect = Look { rules: true, tables: true, ..Look::default() };
    assert_eq!(lacks(&look, &plan, &plan.facts), expect, "{:?}", plan.actions);
    let seen = Look { rules: true, tables: true, ..look };
    assert!(lacks(&seen, &plan, &plan.facts).is_empty());
}

/// A look that fails takes nothing away: what other nodes are led by stays, and so does what is remembered.
#[test]
fn a_mesh_that_was_not_looked_at_stays_as_it_is() {
    let (networks, meshed) = (leases(&[]), meshed(&wishes(), 2));
    let mut host = Host::new(false);
    host.go(&networks, &meshed, usize::MAX).unwrap();
    let unseen = |was_meshed| Observed { mesh: None, was_meshed, ..host.observe() };
    let Plan { actions, facts, .. } = plan(&networks, &meshed, &unseen(true));
    assert_eq!((actions, facts.mesh), (vec![], true));
    // Where there was none, or is none to be, there is none.
    assert!(!plan(&networks, &meshed, &unseen(false)).facts.mesh);
    assert!(!plan(&networks, &wishes(), &unseen(true)).facts.mesh);
}

/// What judges what leaves by it may have gone with the one before.
#[test]
fn a_device_that_is_made_anew_is_judged_anew() {
    let (networks, meshed) = (leases(SETS[1]), meshed(&wishes(), 2));
    let mut host = Host::new(false);
    host.go(&networks, &meshed, usize::MAX).unwrap();
    host.device.as_mut().unwrap().arp = true;
    let Plan { actions, .. } = plan(&networks, &meshed, &host.observe());
    assert!(actions.contains(&Action::PutTables), "{actions:?}");
    host.go(&networks, &meshed, usize::MAX).unwrap();
    assert!(host.judged);
    assert_eq!(plan(&networks, &meshed, &host.observe()).actions, []);
}

#[test]
fn a_kernel_that_cannot_say_to_whom_a_packet_goes_has_no_mesh() {
    let (networks, meshed) = (leases(SETS[1]), meshed(&wishes(), 2));
    let mut host = Host::new(false);
    host.go(&networks, &meshed, usize::MAX).unwrap();
    let without = Observed { without_egress: true, was_meshed: true, ..host.observe() };
    let Plan { actions, facts, .. } = plan(&networks, &meshed, &without);
    let gone = Action::Link(links::Action::Remove { ifname: DEVICE.to_owned() });
    assert!(!facts.mesh && actions.contains(&gone), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::Mesh(_))), "{actions:?}");
    let text = Ruleset::of(&networks, &facts).replace_text("t");
    assert!(!text.contains("10.9.0.2 :") && !text.contains("chain steer"), "{text}");
    let unseen = Observed { mesh: None, ..without };
    assert!(!plan(&networks, &meshed, &unseen).facts.mesh);
}
