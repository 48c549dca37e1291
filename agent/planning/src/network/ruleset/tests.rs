use std::convert::Infallible;
use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::*;
use crate::network::ingress::{self, Backend};
use crate::network::leases::{Refusal, Rules};
use crate::network::{
    AttachRequest, NetworkConfig, Protocol, PublishedPort, SharedPort, SubnetConfig,
};

mod mend;

const GOLDEN: &str = include_str!("golden.nft");

fn network(id: &str, internal: bool) -> NetworkConfig {
    NetworkConfig { id: id.to_owned(), internal, ..NetworkConfig::default() }
}

fn port(host_ip: [u8; 4], protocol: Protocol, host_port: u16) -> PublishedPort {
    PublishedPort { host_ip: host_ip.into(), host_port, protocol, target_port: 80 }
}

fn attach(leases: &mut Leases, container: &str, network: &str) {
    let request = AttachRequest {
        container: container.to_owned(),
        network: network.to_owned(),
        ..AttachRequest::default()
    };
    leases.attach(&request, &Rules::default()).unwrap();
}

fn publish(leases: &mut Leases, container: &str, ports: &[PublishedPort]) {
    let free = |_: &PublishedPort| -> Result<(), Refusal<Infallible>> { Ok(()) };
    leases.publish(container, ports, &Rules::default(), free).unwrap();
}

fn sample() -> Leases {
    let mut leases = Leases::default();
    for (id, internal) in [("front", false), ("back", true)] {
        leases.ensure_network(&network(id, internal), &Rules::default(), &[]).unwrap();
    }
    let subnets = vec![SubnetConfig::from("10.0.5.0/24".parse::<IpNet>().unwrap())];
    let wide = NetworkConfig { subnets, routed: true, ..network("wide", false) };
    leases.ensure_network(&wide, &Rules::default(), &[]).unwrap();
    attach(&mut leases, "web", "front");
    attach(&mut leases, "web", "back");
    attach(&mut leases, "dns", "front");
    let request = AttachRequest {
        container: "far".to_owned(),
        network: "wide".to_owned(),
        address: Some([10, 0, 5, 7].into()),
        ..AttachRequest::default()
    };
    leases.attach(&request, &Rules::default()).unwrap();
    let shared = [(Protocol::Tcp, 80), (Protocol::Udp, 53)].map(|(protocol, port)| SharedPort {
        protocol,
        port,
        target_port: 8000 + port,
    });
    leases.share("far", &shared).unwrap();
    publish(&mut leases, "web", &[port([0, 0, 0, 0], Protocol::Tcp, 8080)]);
    let local = port([127, 0, 0, 1], Protocol::Udp, 53);
    publish(&mut leases, "dns", &[local, port([0, 0, 0, 0], Protocol::Sctp, 9)]);
    leases
}

fn host() -> HostFacts {
    let at = |third: u8, last: u8| IpAddr::from([10, 0, third, last]);
    let vips = Vips::from(vec![
        (at(5, 50), vec![at(5, 7), at(5, 9)]),
        (at(5, 51), vec![]),
        // Of a network that is not here.
        (at(6, 50), vec![at(6, 7)]),
    ]);
    let far = |last: u8| Ipv4Addr::new(10, 9, 0, last);
    let here = || Backend::Here("far".to_owned());
    let ports = [
        ((Protocol::Tcp, 80), vec![here(), Backend::Far(far(2)), Backend::Far(far(2))]),
        ((Protocol::Udp, 53), vec![here()]),
        ((Protocol::Tcp, 81), vec![]),
        // Somebody on this host has it.
        ((Protocol::Tcp, 82), vec![Backend::Far(far(3))]),
    ];
    let outside = Some([192, 0, 2, 2].into());
    let peers = [(far(2), outside), (far(3), None)].into();
    let numbers = ingress::numbers(&Numbers::new(), [far(2), far(3)]);
    HostFacts {
        prefix: "sh".to_owned(),
        vips,
        ingress: Arc::new(Ingress {
            home: Some(far(1)),
            peers,
            ports: ports.to_vec().into(),
            ..Ingress::default()
        }),
        numbers: Arc::new(numbers),
        contested: [(Protocol::Tcp, 82)].into(),
        mesh: true,
        ..HostFacts::default()
    }
}

fn of(leases: &Leases) -> Ruleset {
    Ruleset::of(leases, &host())
}

#[test]
fn the_whole_table() {
    let text = of(&sample()).replace_text("shoal");
    assert_eq!(text, GOLDEN, "\n{text}");
}

#[test]
fn the_difference_is_what_changed() {
    let mut leases = sample();
    let before = of(&leases);
    leases.unpublish("dns");
    publish(&mut leases, "dns", &[port([127, 0, 0, 1], Protocol::Udp, 54)]);
    let after = of(&leases);
    let expect = "\
        delete element inet t published_at { 127.0.0.1 . udp . 53 }\n\
        delete element inet t published_any { sctp . 9 }\n\
        add element inet t published_at { 127.0.0.1 . udp . 54 : 172.20.0.3 . 80 }\n";
    assert_eq!(after.change(&before).text("t"), expect);
}

#[test]
fn a_port_that_moves_is_taken_away_before_it_is_given() {
    let mut leases = sample();
    let before = of(&leases);
    leases.unpublish("web");
    publish(&mut leases, "dns", &[port([0, 0, 0, 0], Protocol::Tcp, 8080)]);
    let text = of(&leases).change(&before).text("t");
    let taken = text.find("delete element inet t published_any").unwrap();
    assert!(taken < text.find("add element inet t published_any").unwrap(), "{text}");
}

#[test]
fn a_backend_that_goes_costs_its_service_alone() {
    let facts = |backends: &[u8]| {
        let of = |last: &u8| IpAddr::from([10, 0, 5, *last]);
        let backends: Vec<IpAddr> = backends.iter().map(of).collect();
        let vips = Vips::from(vec![(of(&50), backends), (of(&51), vec![of(&7)])]);
        HostFacts { vips, ..host() }
    };
    let change = |from: &[u8], to: &[u8]| {
        let (from, to) = (Ruleset::of(&sample(), &facts(from)), Ruleset::of(&sample(), &facts(to)));
        assert!(from.same_chains(&to));
        to.change(&from).text("t")
    };
    let expect = "\
        delete element inet t backends { 10.0.5.50 . 2, 10.0.5.50 . 3 }\n\
        add element inet t backends { 10.0.5.50 . 1 : 10.0.5.7 }\n";
    assert_eq!(change(&[7, 9], &[7]), expect);
    let expect = "\
        delete element inet t vips { \"shbqlb6jaxr9k\" . 10.0.5.50 }\n\
        delete element inet t backends { 10.0.5.50 . 1 }\n\
        add element inet t idle { 10.0.5.50 }\n";
    assert_eq!(change(&[7], &[]), expect);
}

/// Other nodes lead to it until they have heard.
#[test]
fn the_last_backend_of_a_node_is_led_to_by_others_while_it_is_there() {
    let facts = |backends: &[Backend]| {
        let ports = vec![((Protocol::Tcp, 80), backends.to_vec())].into();
        let ingress = Ingress { ports, ..Ingress::clone(&host().ingress) };
        HostFacts { ingress: Arc::new(ingress), ..host() }
    };
    let serves = Ruleset::of(&sample(), &facts(&[Backend::Here("far".to_owned())]));
    let stops = Ruleset::of(&sample(), &facts(&[]));
    let change = stops.change(&serves).text("t");
    assert!(change.contains("add element inet t idle_ports { tcp . 80 }"), "{change}");
    assert!(!change.contains("arrival"), "{change}");
    let mut gone = sample();
    gone.share("far", &[]).unwrap();
    let gone = Ruleset::of(&gone, &facts(&[]));
    assert!(gone.change(&stops).text("t").contains("delete element inet t arrivals"));
}

/// What holds of one family holds of the other; where there is none of it nothing says so.
#[test]
fn there_are_twins_for_ipv6_where_a_network_has_it() {
    assert!(!GOLDEN.contains("ip6 saddr") && !GOLDEN.contains("ipv6_addr"));
    let mut leases = sample();
    let config = NetworkConfig { ipv6: true, ..network("six", false) };
    leases.ensure_network(&config, &Rules::default(), &[]).unwrap();
    attach(&mut leases, "dual", "six");
    publish(&mut leases, "dual", &[port([0, 0, 0, 0], Protocol::Tcp, 8081)]);
    let facts = |backends: &[&str]| {
        let backends: Vec<IpAddr> = backends.iter().map(|one| one.parse().unwrap()).collect();
        let vips = Vips::from(vec![("fd00::50".parse::<IpAddr>().unwrap(), backends)]);
        HostFacts { v6: true, vips, forwards_v6_for_us: true, ..host() }
    };
    let ruleset = Ruleset::of(&leases, &facts(&[]));
    let text = ruleset.replace_text("t");
    for (word, twin) in [("ip ", "ip6 "), ("ipv4_addr", "ipv6_addr")] {
        for line in GOLDEN.lines().filter(|line| line.contains("@lan") || line.contains("@across"))
        {
            let [lan, across] = ["@lan", "@across"];
            let twin = line.replace(word, twin).replace(lan, "@lan6").replace(across, "@across6");
            let twin = twin.replace(" ip ", " ip6 ");
            assert!(text.contains(&twin), "{twin}");
        }
    }
    for line in [
        "published_any6 { tcp . 8081 : fd00::2 . 80 }",
        "subnets6 { fd00::/64 }",
        "meta nfproto ipv6 iifname != @bridges oifname != @bridges drop",
        "icmpv6 type { nd-router-advert, nd-redirect } drop",
        "far6 { fd73:686f:616c::a09:2, fd73:686f:616c::a09:3 }",
    ] {
        assert!(text.contains(line), "{line}");
    }
    assert!(!text.contains("meta nfproto ipv4 iifname != @bridges"), "it forwards IPv4 by itself");
    // A change of one costs its own elements; of a network across hosts that has none there is nothing.
    let changed = Ruleset::of(&leases, &facts(&["fd00::2"]));
    assert!(changed.same_chains(&ruleset));
    assert!(changed.change(&ruleset).is_empty());
    let without = Ruleset::of(&leases, &HostFacts { v6: false, ..host() });
    assert!(!without.same_chains(&ruleset));
    assert!(!without.replace_text("t").contains("fd00"));
}

/// Nobody speaks IPv4 on a network without it, and nothing of it leads there.
#[test]
fn where_there_is_no_ipv4_nobody_speaks_it() {
    let mut leases = Leases::default();
    let config = NetworkConfig { ipv6: true, without_v4: true, ..network("six", false) };
    leases.ensure_network(&config, &Rules::default(), &[]).unwrap();
    attach(&mut leases, "web", "six");
    publish(&mut leases, "web", &[port([0, 0, 0, 0], Protocol::Tcp, 8081)]);
    let shared = SharedPort { protocol: Protocol::Tcp, port: 80, target_port: 8000 };
    leases.share("web", &[shared]).unwrap();
    let attached = leases.attachments("web").remove(0);
    let ports = vec![((Protocol::Tcp, 80), vec![Backend::Here("web".to_owned())])].into();
    let ingress = Arc::new(Ingress { ports, ..Ingress::default() });
    let facts = HostFacts { v6: true, ingress, prefix: "sh".to_owned(), ..HostFacts::default() };
    let text = Ruleset::of(&leases, &facts).replace_text("t");
    let port = &attached.host_ifname;
    for line in [
        format!("strict {{ \"{port}\" }}"),
        "published_any6 { tcp . 8081 : fd00::2 . 80 }".to_owned(),
        "idle_ports { tcp . 80 }".to_owned(),
        "ingress6 { tcp . 80 }".to_owned(),
        format!("{}", attached.mac),
        format!("{}", leases.networks().next().unwrap().mac()),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
    for word in ["published_any {", "held_addresses {", " own {", "subnets {", " ingress {"] {
        let elements = format!("add element inet t {word}");
        assert!(!text.contains(&elements), "{word} in {text}");
    }
}

#[test]
fn planning_twice_changes_nothing() {
    let leases = sample();
    assert!(of(&leases).change(&of(&leases)).is_empty());
}

#[test]
fn a_listing_is_compared_by_its_elements() {
    let ruleset = of(&sample());
    let mut listed: Value = serde_json::from_str(include_str!("listed.json")).unwrap();
    assert!(ruleset.matches(&listed));
    assert!(!Ruleset::default().matches(&listed));
    let full = frame(&listed);
    let objects = listed["nftables"].as_array_mut().unwrap();
    objects.retain(|object| object["map"]["name"] != "published_any");
    assert!(!ruleset.matches(&listed));
    assert_ne!(frame(&listed), full);
}

#[test]
fn what_is_other_of_a_table_is_named() {
    let ruleset = of(&sample());
    let listed: Value = serde_json::from_str(include_str!("listed.json")).unwrap();
    let made = frame(&listed);
    assert_eq!(ruleset.differences(&listed, Some(&made)), []);
    let mut other = listed.clone();
    let objects = other["nftables"].as_array_mut().unwrap();
    let rules = |chain: &str| {
        let of = |o: &&Value| o["rule"]["chain"] == chain && o["rule"]["family"] == "inet";
        made.iter().filter(of).count()
    };
    let (in_forward, in_input) = (rules("forward"), rules("input"));
    let forward = objects.iter().position(|o| o["rule"]["chain"] == "forward");
    objects.remove(forward.unwrap());
    objects.retain(|o| o["chain"]["name"] != "input" && o["rule"]["chain"] != "input");
    objects.retain(|object| object["set"]["name"] != "internal");
    let any = |o: &&mut Value| o["map"]["name"] == "published_any";
    let any = objects.iter_mut().find(any).unwrap();
    any["map"]["elem"][0][1]["concat"][1] = 81.into();
    let told: Vec<String> = ruleset
        .differences(&other, Some(&made))
        .into_iter()
        .map(|d| format!("{}: {} / {}", d.subject, d.expected, d.found))
        .collect();
    assert_eq!(told.len(), 5, "{told:#?}");
    assert_eq!(told[0], "nftables set inet internal: present / missing");
    assert!(told[1].starts_with("element ") && told[1].ends_with("present / missing"), "{told:#?}");
    assert!(
        told[2].contains("sctp . 9 : 172.20.0.3 . 81 of nftables set inet published_any: absent"),
        "{told:#?}"
    );
    let chain =
        |name, was: usize, is: &str| format!("nftables chain inet {name}: {was} rules / {is}");
    assert_eq!(told[3], chain("forward", in_forward, &format!("{} rules", in_forward - 1)));
    assert_eq!(told[4], chain("input", in_input, "missing"));
}

#[test]
fn a_host_that_forwards_for_containers_alone_forwards_nothing_else() {
    let closed = HostFacts { forwards_for_us: true, ..host() };
    let (open, closed) = (of(&sample()), Ruleset::of(&sample(), &closed));
    assert!(!open.same_chains(&closed));
    let rule = "    iifname @guests accept
    oifname @guests accept
    meta nfproto ipv4 iifname != @bridges oifname != @bridges drop\n";
    let text = closed.replace_text("shoal");
    assert_eq!(text.replace(rule, ""), GOLDEN);
    assert_ne!(text, GOLDEN);
    // Bridges of others are elements: nobody who comes replaces the table.
    let guests = BTreeSet::from(["docker0".to_owned()]);
    let facts = HostFacts { forwards_for_us: true, guests, ..host() };
    let with_guests = Ruleset::of(&sample(), &facts);
    let change = with_guests.change(&closed).text("shoal");
    assert_eq!(change, "add element inet shoal guests { \"docker0\" }\n");
    assert_eq!(Ruleset::of(&sample(), &HostFacts { forwards_for_us: false, ..facts }), open);
}

#[test]
fn a_kernel_that_cannot_judge_frames_gets_the_rest() {
    let text = of(&sample()).without_frames().replace_text("shoal");
    assert!(!text.contains("bridge shoal"), "{text}");
    assert!(GOLDEN.contains("table bridge shoal"));
}

#[test]
fn a_kernel_that_cannot_judge_one_device_gets_the_rest() {
    let whole = of(&sample());
    let text = whole.clone().without_egress().replace_text("shoal");
    assert!(!text.contains("netdev") && text.contains("chain steer"), "{text}");
    assert!(whole.clone().without_egress().same_as(&whole));
    assert!(!whole.same_as(&whole.clone().without_egress()));
    assert!(GOLDEN.contains("table netdev shoal"));
    // Where there is no mesh its table is taken away.
    let without = Ruleset::of(&sample(), &HostFacts { mesh: false, ..host() });
    assert!(!without.same_chains(&whole));
    let text = without.replace_text("shoal");
    assert!(text.contains("delete table netdev shoal") && !text.contains("chain egress"), "{text}");
    assert!(!text.contains("mesh ip"), "{text}");
}

/// Each port costs its own elements; without a mesh only containers of this host are led to.
#[test]
fn ports_that_answer_on_every_node() {
    let change = |from: &HostFacts, to: &HostFacts| {
        let (from, to) = (Ruleset::of(&sample(), from), Ruleset::of(&sample(), to));
        assert!(from.same_chains(&to));
        to.change(&from).text("t")
    };
    let with = |change: &dyn Fn(&mut HostFacts)| {
        let mut facts = host();
        change(&mut facts);
        facts
    };
    let fewer = with(&|facts| {
        let ingress = Arc::make_mut(&mut facts.ingress);
        let backends = ingress.ports.get_mut(&(Protocol::Tcp, 80)).unwrap();
        *backends = backends[..2].into();
    });
    let expect = "\
        delete element inet t ingress_slots { tcp . 80 . 4, tcp . 80 . 5, tcp . 80 . 6 }\n\
        add element inet t ingress_slots { tcp . 80 . 2 : 10.0.5.7 . 8080, tcp . 80 . 3 : 10.9.0.2 . 80 }\n";
    assert_eq!(change(&host(), &fewer), expect);
    let free = with(&|facts| facts.contested.clear());
    let expect = "\
        add element inet t ingress { tcp . 82 }\n\
        add element inet t ingress_slots { tcp . 82 . 1 : 10.9.0.3 . 82 }\n\
        add element inet t led { tcp . 82 }\n";
    assert_eq!(change(&host(), &free), expect);
    // A container that is gone is led to by nobody here, whatever managers say.
    let mut leases = sample();
    leases.unpublish("far");
    let text = Ruleset::of(&leases, &host()).change(&of(&sample())).text("t");
    assert!(text.contains("add element inet t idle_ports { udp . 53 }"), "{text}");
    assert!(text.contains("delete element inet t arrivals { tcp . 80, udp . 53 }"), "{text}");
    let alone = Ruleset::of(&sample(), &HostFacts { mesh: false, ..host() }).replace_text("t");
    assert!(
        alone.contains("ingress_slots { tcp . 80 . 1 : 10.0.5.7 . 8080, udp . 53 . 1"),
        "{alone}"
    );
    assert!(alone.contains("add element inet t ingress { tcp . 80,"), "{alone}");
    // Who has no network and no mesh has no table.
    let facts = HostFacts { mesh: false, ..host() };
    assert!(Ruleset::of(&Leases::default(), &facts).is_empty());
    assert!(!Ruleset::of(&Leases::default(), &host()).is_empty());
}

#[test]
fn addresses_on_no_wire_are_published_to_every_wire() {
    let facts = HostFacts { on_no_wire: BTreeSet::from([[192, 0, 2, 7].into()]), ..host() };
    let text = Ruleset::of(&sample(), &facts).change(&of(&sample())).text("t");
    assert_eq!(text, "add element inet t anywhere { 192.0.2.7 }\n");
    let facts = HostFacts { mesh: false, ..facts };
    assert!(Ruleset::of(&Leases::default(), &facts).is_empty());
}
