use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|&name| name.to_owned()).collect()
}

/// Somebody in these networks.
fn within(networks: &[impl AsRef<str>]) -> Asker {
    let networks = networks.iter().map(|id| id.as_ref().to_owned()).collect();
    Asker { container: "c1".to_owned(), networks, ..Asker::default() }
}

fn network(id: &str, name: &str, subnet: &str) -> Change {
    let network = ZoneNetwork { name: name.to_owned(), subnets: vec![subnet.parse().unwrap()] };
    Change::Network { id: id.to_owned(), network }
}

fn task(owner: &str, slot: &str, network: &str, address: &str, serving: bool) -> Change {
    let aliases = names(&["web", "www"]);
    let task = TaskNames { service: "shop_web", slot, aliases: &aliases, serving };
    let claims = vec![Claim::of_task(&task, network, ip(address), false)];
    Change::Claims { owner: owner.to_owned(), claims }
}

fn shop() -> Zone {
    let mut zone = Zone::default();
    zone.take(network("n1", "shop_default", "10.0.1.0/24"));
    zone.take(network("n2", "other", "10.0.2.0/24"));
    zone.take(task("t1", "1", "n1", "10.0.1.2", true));
    zone.take(task("t2", "2", "n1", "10.0.1.3", true));
    zone.take(task("t3", "3", "n1", "10.0.1.4", false));
    let aliases = names(&["db"]);
    let db = TaskNames { service: "shop_db", slot: "1", aliases: &aliases, serving: true };
    let vip = Claim::of_service("shop_db", &aliases, "n2", ip("10.0.2.9"));
    let own = Claim::of_task(&db, "n2", ip("10.0.2.2"), true);
    zone.take(Change::Claims { owner: "s1".to_owned(), claims: vec![vip] });
    zone.take(Change::Claims { owner: "t4".to_owned(), claims: vec![own] });
    zone
}

#[test]
fn who_is_told_what_of_which_name() {
    let zone = shop();
    let addresses = |all: &[&str]| Known::Addresses(all.iter().map(|text| ip(text)).collect());
    let both = addresses(&["10.0.1.2", "10.0.1.3"]);
    let called = |name: &str| Known::Called(name.to_owned());
    let table: [(&[&str], &str, Known); 24] = [
        (&["n1"], "shop_web", both.clone()),
        (&["n1"], "web", both.clone()),
        (&["n1"], "WeB", both.clone()),
        (&["n1"], "www", both.clone()),
        (&["n1"], "tasks.shop_web", both.clone()),
        (&["n1"], "tasks.web", both.clone()),
        (&["n1"], "web.shop_default", both.clone()),
        (&["n1"], "tasks.web.Shop_Default", both.clone()),
        (&["n1"], "shop_web.2", addresses(&["10.0.1.3"])),
        // It is there, and nobody is to talk to it.
        (&["n1"], "shop_web.3", addresses(&[])),
        (&["n1"], "shop_web.4", Known::Foreign),
        (&["n1"], "example.com", Known::Foreign),
        (&["n1"], "nobody.shop_default", Known::Foreign),
        // Another network's.
        (&["n1"], "db", Known::Foreign),
        (&["n2"], "web", Known::Foreign),
        (&["n2"], "web.shop_default", Known::Foreign),
        (&[], "web", Known::Foreign),
        (&["n2", "n1"], "web", both),
        // The service's address, and the tasks behind it.
        (&["n2"], "db", addresses(&["10.0.2.9"])),
        (&["n2"], "tasks.db", addresses(&["10.0.2.2"])),
        (&["n1"], "3.1.0.10.in-addr.arpa", called("shop_web.2.shop_default")),
        (&["n1"], "77.1.0.10.in-addr.arpa", Known::Absent),
        (&["n1"], "2.2.0.10.in-addr.arpa", Known::Foreign),
        (&["n2"], "9.2.0.10.IN-ADDR.ARPA", called("shop_db.other")),
    ];
    for (networks, name, expected) in table {
        assert_eq!(zone.ask(&within(networks), name), expected, "{name} in {networks:?}");
    }
}

#[test]
fn the_first_network_on_which_somebody_serves_is_asked() {
    let mut zone = shop();
    zone.take(task("t9", "9", "n2", "10.0.2.7", false));
    let both = within(&["n2", "n1"]);
    assert_eq!(zone.ask(&both, "web"), zone.ask(&within(&["n1"]), "web"));
    zone.take(task("t9", "9", "n2", "10.0.2.7", true));
    assert_eq!(zone.ask(&both, "web"), Known::Addresses(vec![ip("10.0.2.7")]));
}

#[test]
fn what_an_address_is_called_leads_back_to_it() {
    let zone = shop();
    let n1 = within(&["n1"]);
    let Known::Called(name) = zone.ask(&n1, "2.1.0.10.in-addr.arpa") else { panic!("not called") };
    assert_eq!(zone.ask(&n1, &name), Known::Addresses(vec![ip("10.0.1.2")]));
}

#[test]
fn a_containers_own_name_leads_to_itself_and_is_told_to_nobody_else() {
    let zone = shop();
    let own = |container: &str, hostname: &str| {
        let (container, hostname) = (container.to_owned(), hostname.to_owned());
        zone.ask(&Asker { container, hostname, ..within(&["n1"]) }, "Front")
    };
    // It need not be ready to be asked for its own name.
    assert_eq!(own("t3", "front"), Known::Addresses(vec![ip("10.0.1.4")]));
    assert_eq!(own("t3", "back"), Known::Foreign);
    assert_eq!(own("c1", "front"), Known::Foreign, "it has no address");
    assert_eq!(zone.ask(&Asker::default(), ""), Known::Foreign);
}

#[test]
fn short_names_are_those_within_the_stack() {
    let table = [
        ("shop_web", "shop", Some("web")),
        ("shop_web_1", "shop", Some("web_1")),
        ("shopping_web", "shop", None),
        ("web", "shop", None),
        ("shop_", "shop", None),
    ];
    for (service, stack, expected) in table {
        assert_eq!(short_name(service, stack), expected, "{service} in {stack}");
    }
}

fn change() -> impl Strategy<Value = Change> {
    let id = (0..3u8).prop_map(|n| format!("n{n}"));
    let claim =
        (id.clone(), 0..6u8, 0..4u8, any::<bool>()).prop_map(|(id, last, name, serving)| {
            let name = format!("s{name}");
            let names = BTreeSet::from([name.clone(), name.to_uppercase()]);
            let address = IpAddr::from([10, 0, 0, last]);
            Claim { network: id, address, called: name, names, serving }
        });
    // Nobody is twice on a network.
    let claims = proptest::collection::vec(claim, 0..4).prop_map(|claims| {
        let by_network: BTreeMap<String, Claim> =
            claims.into_iter().map(|claim| (claim.network.clone(), claim)).collect();
        by_network.into_values().collect::<Vec<Claim>>()
    });
    prop_oneof![
        4 => (0..4u8, claims)
            .prop_map(|(n, claims)| Change::Claims { owner: format!("o{n}"), claims }),
        1 => id.clone().prop_map(|id| network(&id, &format!("name-{id}"), "10.0.0.0/24")),
        1 => id.prop_map(|id| Change::NoNetwork { id }),
    ]
}

fn zone(changes: &[Change]) -> Zone {
    let mut zone = Zone::default();
    changes.iter().cloned().for_each(|change| zone.take(change));
    zone
}

proptest! {
    /// However it came about, a zone is what was said last.
    #[test]
    fn what_was_said_before_leaves_nothing(changes in proptest::collection::vec(change(), 0..20)) {
        let zone = zone(&changes);
        let mut again = Zone::default();
        Zone::default().difference(&zone).into_iter().for_each(|change| again.take(change));
        prop_assert_eq!(&again, &zone);
        prop_assert!(zone.difference(&again).is_empty());
    }

    #[test]
    fn a_difference_leads_there(
        one in proptest::collection::vec(change(), 0..12),
        other in proptest::collection::vec(change(), 0..12),
    ) {
        let (mut one, other) = (zone(&one), zone(&other));
        one.difference(&other).into_iter().for_each(|change| one.take(change));
        prop_assert_eq!(one, other);
    }

    /// An answer is an address that somebody claims under that name and serves at, on a network of the asker.
    #[test]
    fn answers_are_claims(
        changes in proptest::collection::vec(change(), 0..20),
        networks in proptest::collection::vec((0..3u8).prop_map(|n| format!("n{n}")), 0..3),
        name in (0..4u8).prop_map(|n| format!("s{n}")),
    ) {
        let zone = zone(&changes);
        let claims = || zone.owners.values().flatten()
            .filter(|claim| networks.contains(&claim.network) && claim.names.contains(&name));
        match zone.ask(&within(&networks), &name) {
            Known::Addresses(all) if all.is_empty() => {
                prop_assert!(claims().next().is_some() && claims().all(|claim| !claim.serving));
            }
            Known::Addresses(all) => {
                let serves = |at| claims().any(|claim| claim.serving && claim.address == at);
                prop_assert!(all.into_iter().all(serves));
            }
            other => {
                prop_assert_eq!(other, Known::Foreign);
                prop_assert!(claims().next().is_none());
            }
        }
    }
}
