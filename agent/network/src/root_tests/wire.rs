//! Networks on the wire of an interface of the host. What a kernel does not have is passed over, and said, so it is not
//! shown there; the machine of `tests/vm/run.sh network` has all of it, and there that is a failure.

use shoal_agent_ground::testing::skip_without_root;
use shoal_types::spec::{IpvlanFlag, IpvlanMode, MacvlanMode, NetworkKind, Parent, Wire, WireMode};

use super::*;

const BRIDGE: WireMode = WireMode::Macvlan(MacvlanMode::Bridge);
const WIRE: &str = "198.51.100.0/24";

const MACVLAN: &[&str] = &["macvlan"];
const IPVLAN: &[&str] = &["ipvlan"];
const VLAN: &[&str] = &["vlan", "id", "9"];

/// Set where a kernel without any of these links is not the one that is meant.
const HAS_ALL: &str = "SHOAL_TEST_LINKS";

/// A host with a server outside, if its kernel can make links of these kinds. Else that is said.
fn lab(kinds: &[&[&str]]) -> Option<Lab> {
    if skip_without_root() {
        return None;
    }
    let lab = Lab::new();
    for kind in kinds {
        let begin = ["link", "add", "link", "up0", "name", "probe", "type"];
        if lab.host.try_run("ip", &[&begin, *kind].concat()).is_none() {
            eprintln!("SKIPPED: this kernel has no {}", kind[0]);
            assert!(std::env::var_os(HAS_ALL).is_none(), "this kernel is to have {}", kind[0]);
            return None;
        }
        lab.host.run("ip", &["link", "del", "probe"]);
    }
    lab.outside.serve(80);
    Some(lab)
}

/// A network on `parent`, with the outside as its gateway.
fn lan(id: &str, parent: &str, mode: WireMode) -> NetworkConfig {
    let parent = Parent::new(parent).unwrap();
    let subnet = SubnetConfig {
        gateway: Some(OUTSIDE.into()),
        ..SubnetConfig::from(WIRE.parse::<ipnet::IpNet>().unwrap())
    };
    NetworkConfig { subnets: vec![subnet], wire: Some(Wire { parent, mode, mtu: None }), ..net(id) }
}

/// The container's request for the address of the wire that ends in this number.
fn at(container: &str, network: &str, last: u8) -> AttachRequest {
    AttachRequest { address: Some(on_wire(last)), ..request(container, network) }
}

fn on_wire(last: u8) -> Ipv4Addr {
    let [a, b, c, _] = HOST.octets();
    Ipv4Addr::new(a, b, c, last)
}

/// A container on a wire, with a server on port 80.
async fn joined(driver: &BridgeNetworks, name: &str, network: &str, last: u8) -> Space {
    let space = Space::new(name);
    driver.attach(at(name, network, last), space.netns()).await.unwrap();
    space.serve(80);
    space
}

/// Two containers on a network, each with a server.
async fn two_on(driver: &BridgeNetworks, network: NetworkConfig, last: [u8; 2]) -> (Space, Space) {
    let id = network.id.clone();
    driver.ensure_network(network).await.unwrap();
    (joined(driver, "one", &id, last[0]).await, joined(driver, "two", &id, last[1]).await)
}

#[test]
fn containers_are_on_the_wire_and_nowhere_else() {
    let Some(lab) = lab(&[MACVLAN]) else { return };
    lab.host.serve(81);
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let (bridged, at_bridge) = container(&driver, "bridged", &["front"]).await;
        assert!(wire_drivers().await.unwrap().contains(&NetworkKind::Macvlan));
        let state = driver.ensure_network(lan("lan", "up0", BRIDGE)).await.unwrap();
        assert_eq!(state.wire, Some(Place { link: "up0".to_owned(), made: None }));
        let (one, _two) = two_on(&driver, lan("lan", "up0", BRIDGE), [10, 11]).await;
        // Each is there as itself: nothing is translated on the way.
        assert_eq!(one.ask(on_wire(11), 80), on_wire(10).to_string());
        assert_eq!(one.ask(OUTSIDE, 80), on_wire(10).to_string());
        assert_eq!(lab.outside.ask(on_wire(10), 80), OUTSIDE.to_string());
        assert_eq!(lab.outside.ask(on_wire(11), 80), OUTSIDE.to_string());
        // The kernel keeps it from its own host, and by that from what is behind it.
        one.cannot_ask(HOST, 81);
        let mac = lab.host.run("cat", &["/sys/class/net/up0/address"]);
        let host = HOST.to_string();
        one.run("ip", &["neigh", "replace", &host, "lladdr", mac.trim(), "dev", "eth0"]);
        one.run("ip", &["route", "add", "172.16.0.0/12", "via", &host]);
        one.cannot_ask(at_bridge[0], 80);
        one.cannot_ask(HOST, 81);
        // Who is on a bridge comes there as the host does, and so not to its own host's containers.
        assert_eq!(bridged.ask(OUTSIDE, 80), HOST.to_string());
        bridged.cannot_ask(on_wire(10), 80);
    });
}

/// By a switch that sends frames back, a container on a wire comes to its host as anybody outside does: then it is the
/// host's rules that keep it from bridges.
#[test]
fn a_wire_that_leads_back_opens_no_bridge() {
    let Some(lab) = lab(&[MACVLAN]) else { return };
    lab.block_on(async || {
        // The outside is a bridge with a port to the host that sends back what came in by it.
        lab.outside.run("ip", &["link", "add", "sw", "type", "bridge"]);
        lab.outside.run("ip", &["link", "set", "up0", "master", "sw"]);
        lab.outside.run("bridge", &["link", "set", "dev", "up0", "hairpin", "on"]);
        lab.outside.run("ip", &["address", "flush", "dev", "up0"]);
        lab.outside.run("ip", &["address", "add", &format!("{OUTSIDE}/24"), "dev", "sw"]);
        lab.outside.run("ip", &["link", "set", "sw", "up"]);
        lab.host.serve(81);
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let (_bridged, at_bridge) = container(&driver, "bridged", &["front"]).await;
        driver.publish("bridged".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        let mode = WireMode::Macvlan(MacvlanMode::Vepa);
        let (one, _two) = two_on(&driver, lan("lan", "up0", mode), [10, 11]).await;
        assert_eq!(one.ask(on_wire(11), 80), on_wire(10).to_string(), "by the switch");
        assert_eq!(one.ask(HOST, 81), on_wire(10).to_string(), "as anybody there");
        assert_eq!(one.ask(HOST, 8080), on_wire(10).to_string(), "what is published");
        one.run("ip", &["route", "add", "172.16.0.0/12", "via", &HOST.to_string()]);
        one.cannot_ask(at_bridge[0], 80);
    });
}

#[test]
fn whom_a_container_reaches_on_its_host_is_what_the_mode_says() {
    let Some(lab) = lab(&[MACVLAN]) else { return };
    lab.block_on(async || {
        let driver = lab.driver();
        for (n, mode) in [MacvlanMode::Private, MacvlanMode::Vepa].into_iter().enumerate() {
            let id = format!("lan{n}");
            // Those of the mode before have servers that run on.
            let [first, second] = [10, 11].map(|last| last + 2 * u8::try_from(n).unwrap());
            let network = lan(&id, "up0", WireMode::Macvlan(mode));
            let (one, two) = two_on(&driver, network, [first, second]).await;
            assert_eq!(one.ask(OUTSIDE, 80), on_wire(first).to_string(), "{mode:?}");
            // A wire with one end sends nothing back.
            one.cannot_ask(on_wire(second), 80);
            for name in ["one", "two"] {
                driver.release(name.to_owned()).await.unwrap();
            }
            drop((one, two));
            driver.remove_network(id).await.unwrap();
        }
    });
}

#[test]
fn one_container_has_an_interface_for_itself() {
    let Some(lab) = lab(&[MACVLAN]) else { return };
    lab.block_on(async || {
        let driver = lab.driver();
        let alone = WireMode::Macvlan(MacvlanMode::Passthru);
        driver.ensure_network(lan("alone", "up0", alone)).await.unwrap();
        let one = joined(&driver, "one", "alone", 20).await;
        assert_eq!(one.ask(OUTSIDE, 80), on_wire(20).to_string());
        let two = Space::new("two");
        let refused = driver.attach(at("two", "alone", 21), two.netns()).await.unwrap_err();
        assert!(refused.is_refusal());
        assert_eq!(
            refused.to_string(),
            "network `alone` is on interface `up0` of this node, which container `one` has: with macvlan_mode \
             passthru one container has it for itself"
        );
    });
}

#[test]
fn what_is_on_a_wire_is_found_again_and_comes_back() {
    let Some(lab) = lab(&[MACVLAN]) else { return };
    lab.block_on(async || {
        let driver = lab.driver();
        let state = driver.ensure_network(lan("lan", "up0", BRIDGE)).await.unwrap();
        let one = joined(&driver, "one", "lan", 10).await;
        let before = driver.attachments("one");
        // A host of which nothing but a wire is used is as it was.
        assert!(lab.host.run("nft", &["list", "tables"]).is_empty());
        assert_eq!(lab.host.run("cat", &["/proc/sys/net/ipv4/ip_forward"]).trim(), "0");
        drop(driver);

        let driver = lab.driver();
        let keep = (["one".to_owned()].into(), ["lan".to_owned()].into());
        let repaired = driver.collect(keep.0, keep.1).await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");
        assert_eq!(driver.ensure_network(lan("lan", "up0", BRIDGE)).await.unwrap(), state);
        let again = driver.attach(at("one", "lan", 10), one.netns()).await.unwrap();
        assert_eq!(again, before[0]);
        assert_eq!(one.ask(OUTSIDE, 80), on_wire(10).to_string());
        assert_eq!(driver.compare().await.findings, []);

        // With the interface its ends go.
        lab.host.run("ip", &["link", "del", "up0"]);
        let lost = driver.repair().await.unwrap().lost_attachments;
        let key = ("one".to_owned(), "lan".to_owned());
        assert_eq!(lost, [key.clone()].into());
        let told = driver.compare().await.findings;
        let told: Vec<String> = told.iter().map(|one| one.subject.clone()).collect();
        assert!(told.iter().any(|one| one.contains("container one on up0")), "{told:?}");
        let refused = driver.attach(at("one", "lan", 10), one.netns()).await.unwrap_err();
        assert!(refused.to_string().contains("interface `up0`, which node "), "{refused}");
        lab.host.wire(&lab.outside, "up0", HOST, OUTSIDE);
        assert_eq!(driver.repair().await.unwrap().lost_attachments, [key].into());
        driver.attach(at("one", "lan", 10), one.netns()).await.unwrap();
        assert_eq!(one.ask(OUTSIDE, 80), on_wire(10).to_string());
        assert!(driver.repair().await.unwrap().is_clean());
        assert_eq!(driver.compare().await.findings, []);
    });
}

#[test]
fn a_container_that_is_disconnected_is_on_the_wire_no_more() {
    let Some(lab) = lab(&[MACVLAN]) else { return };
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        driver.ensure_network(lan("lan", "up0", BRIDGE)).await.unwrap();
        let (web, _) = container(&driver, "web", &["front"]).await;
        driver.attach(at("web", "lan", 10), web.netns()).await.unwrap();
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        assert_eq!(lab.outside.ask(on_wire(10), 80), OUTSIDE.to_string());
        let (container, network) = ("web".to_owned(), "lan".to_owned());
        driver.detach(container, network, Some(web.netns())).await.unwrap();
        assert_eq!(web.try_run("ip", &["link", "show", "eth1"]), None);
        assert!(!lab.outside.answers(on_wire(10), 80));
        assert_eq!(lab.outside.ask(HOST, 8080), OUTSIDE.to_string());
        driver.remove_network("lan".to_owned()).await.unwrap();

        // Where the wire is its only way out, nothing leads to it by the host.
        driver.ensure_network(lan("lan", "up0", BRIDGE)).await.unwrap();
        let two = joined(&driver, "two", "lan", 11).await;
        let refused = driver.publish("two".to_owned(), vec![tcp(8081, 80)]).await.unwrap_err();
        assert!(refused.is_refusal(), "{refused}");
        drop(two);
    });
}

#[test]
fn what_a_network_cannot_be_on_is_refused_by_name() {
    let Some(lab) = lab(&[]) else { return };
    lab.block_on(async || {
        let driver = lab.driver();
        let front = driver.ensure_network(net("front")).await.unwrap();
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // The second interface of a tunnel, which is there while keys change.
        lab.host.run("ip", &["link", "add", "shwg1", "type", "veth", "peer", "name", "x"]);
        let not_there = |parent: &str| format!("`{parent}`, which node {node} does not have;");
        let unfit =
            |parent: &str, what: &str| format!("`{parent}`, which is {what} on node {node}:");
        let (own, loopback) = ("the agent's own", "a loopback interface");
        let vlan = format!("{}.5", front.bridge);
        for (parent, expected) in [
            ("eth9", not_there("eth9")),
            ("eth9.5", not_there("eth9.5")),
            (&front.bridge, unfit(&front.bridge, own)),
            ("shwg1", unfit("shwg1", own)),
            // What a VLAN would be of.
            (&vlan, unfit(&front.bridge, own)),
            ("lo.5", unfit("lo", loopback)),
        ] {
            let refused = driver.ensure_network(lan("lan", parent, BRIDGE)).await.unwrap_err();
            assert!(refused.is_refusal());
            let text = refused.to_string();
            assert!(
                text.starts_with(&format!("network `lan` is on interface {expected}")),
                "{text}"
            );
        }
        assert_eq!(driver.networks(), ["front".to_owned()].into());
    });
}

#[test]
fn packets_that_an_interface_does_not_have_are_refused_by_name() {
    let Some(lab) = lab(&[MACVLAN]) else { return };
    lab.block_on(async || {
        let driver = lab.driver();
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        for (network, last, mtu, expected) in
            [("usual", 10, None, "1500"), ("small", 11, Some(1400), "1400"), ("large", 12, Some(1501), "")]
        {
            let config = NetworkConfig { mtu, ..lan(network, "up0", BRIDGE) };
            driver.ensure_network(config).await.unwrap();
            let space = Space::new(network);
            match driver.attach(at(network, network, last), space.netns()).await {
                Ok(_) => {
                    let has = space.run("cat", &["/sys/class/net/eth0/mtu"]);
                    assert_eq!(has.trim(), expected);
                }
                Err(refused) => {
                    assert!(refused.is_refusal());
                    assert_eq!(
                        refused.to_string(),
                        format!(
                            "network `{network}` has packets of 1501 bytes, and interface `up0` of node {node} has \
                             none above 1500: expected that or less"
                        )
                    );
                    assert_eq!(expected, "");
                }
            }
        }
    });
}

/// A VLAN is made for the first network on it, and goes with the last one; that of the host's owner stays.
#[test]
fn a_vlan_comes_with_its_first_network_and_goes_with_the_last() {
    let Some(lab) = lab(&[MACVLAN, VLAN]) else { return };
    lab.block_on(async || {
        for (name, kind) in
            [("v9", ["id", "9"].as_slice()), ("q7", &["protocol", "802.1ad", "id", "7"])]
        {
            let begin = ["link", "add", "link", "up0", "name", name, "type", "vlan"];
            lab.host.run("ip", &[&begin, kind].concat());
        }
        let tagged = ["link", "add", "link", "up0", "name", "up0.5", "type", "vlan", "id", "5"];
        lab.outside.run("ip", &tagged);
        lab.outside.run("ip", &["address", "add", "10.5.0.2/24", "dev", "up0.5"]);
        lab.outside.run("ip", &["link", "set", "up0.5", "up"]);
        let five = |id: &str| {
            let subnets = vec![SubnetConfig::from("10.5.0.0/24".parse::<ipnet::IpNet>().unwrap())];
            NetworkConfig { subnets, ..lan(id, "up0.5", BRIDGE) }
        };
        let driver = lab.driver();
        let state = driver.ensure_network(five("a")).await.unwrap();
        driver.ensure_network(five("b")).await.unwrap();
        let place = state.wire.unwrap();
        assert_eq!(links_of(&lab.host), std::slice::from_ref(&place.link));
        let one = Space::new("one");
        let wanted = AttachRequest { address: Some([10, 5, 0, 10].into()), ..request("one", "a") };
        driver.attach(wanted.clone(), one.netns()).await.unwrap();
        assert_eq!(one.ask(Ipv4Addr::new(10, 5, 0, 2), 80), "10.5.0.10");
        one.cannot_ask(OUTSIDE, 80);
        // The host is not on it.
        let addresses = lab.host.run("ip", &["-o", "address", "show", "dev", &place.link]);
        assert_eq!(addresses, "");
        // Somebody deletes it: it comes back, and the container with it.
        lab.host.run("ip", &["link", "del", &place.link]);
        driver.repair().await.unwrap();
        let lost = driver.repair().await.unwrap().lost_attachments;
        assert_eq!(lost.len(), 1);
        driver.attach(wanted, one.netns()).await.unwrap();
        assert_eq!(one.ask(Ipv4Addr::new(10, 5, 0, 2), 80), "10.5.0.10");
        driver.release("one".to_owned()).await.unwrap();
        driver.remove_network("a".to_owned()).await.unwrap();
        assert_eq!(links_of(&lab.host), [place.link]);
        driver.remove_network("b".to_owned()).await.unwrap();
        assert_eq!(links_of(&lab.host), Vec::<String>::new());
        // The one that the host has of a number is used, whatever it is called.
        let state = driver.ensure_network(lan("nine", "up0.9", BRIDGE)).await.unwrap();
        assert_eq!(state.wire, Some(Place { link: "v9".to_owned(), made: None }));
        driver.remove_network("nine".to_owned()).await.unwrap();
        lab.host.run("ip", &["link", "show", "v9"]);
        // One that carries VLANs is another, whatever its number.
        let state = driver.ensure_network(lan("seven", "up0.7", BRIDGE)).await.unwrap();
        assert!(state.wire.unwrap().made.is_some());
    });
}

#[test]
fn containers_share_the_hardware_address_of_an_interface() {
    for mode in [IpvlanMode::L2, IpvlanMode::L3, IpvlanMode::L3s] {
        for flag in [IpvlanFlag::Bridge, IpvlanFlag::Private] {
            let Some(lab) = lab(&[IPVLAN]) else { return };
            shares_hardware_address(&lab, mode, flag);
        }
    }
}

fn shares_hardware_address(lab: &Lab, mode: IpvlanMode, flag: IpvlanFlag) {
    lab.block_on(async || {
        let driver = lab.driver();
        assert!(wire_drivers().await.unwrap().contains(&NetworkKind::Ipvlan));
        let mode_and_flag = WireMode::Ipvlan(mode, flag);
        if mode_and_flag.is_routed() {
            // Nobody answers there who is asked for as a neighbour.
            for last in [10, 11] {
                let to = format!("{}/32", on_wire(last));
                lab.outside.run("ip", &["route", "add", &to, "via", &HOST.to_string()]);
            }
        }
        let network = lan("lan", "up0", mode_and_flag);
        let (one, _two) = two_on(&driver, network, [10, 11]).await;
        assert_eq!(one.ask(OUTSIDE, 80), on_wire(10).to_string(), "{mode:?}");
        assert_eq!(lab.outside.ask(on_wire(11), 80), OUTSIDE.to_string(), "{mode:?}");
        if flag == IpvlanFlag::Private {
            one.cannot_ask(on_wire(11), 80);
            return;
        }
        assert_eq!(one.ask(on_wire(11), 80), on_wire(10).to_string(), "{mode:?}");
        let again = driver.attach(at("one", "lan", 10), one.netns()).await.unwrap();
        assert_eq!(driver.attachments("one"), [again]);
        // All on an interface have one mode: the kernel changes it for all with the last one that comes.
        let other = IpvlanFlag::Vepa;
        driver.ensure_network(lan("other", "up0", WireMode::Ipvlan(mode, other))).await.unwrap();
        let refused = driver.attach(at("x", "other", 12), Space::new("x").netns()).await;
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("which network `lan` is on with another driver or mode"),
            "{refused}"
        );
        // What the host has beside the wire is not reached, though in two modes it routes.
        driver.ensure_network(net("front")).await.unwrap();
        let (_bridged, at_bridge) = container(&driver, "bridged", &["front"]).await;
        one.run("ip", &["route", "add", "172.16.0.0/12", "dev", "eth0"]);
        one.cannot_ask(at_bridge[0], 80);
    });
}

/// Both families, each with its own way out.
#[test]
fn both_families_are_on_a_wire() {
    let Some(lab) = lab(&[MACVLAN]) else { return };
    lab.outside.run("ip", &["address", "add", "fd00:5::2/64", "dev", "up0", "nodad"]);
    lab.outside.run("ip", &["address", "add", "fd00:6::2/128", "dev", "lo"]);
    lab.block_on(async || {
        let driver = lab.driver();
        let mut config = lan("lan", "up0", BRIDGE);
        config.ipv6 = true;
        config.subnets.push(SubnetConfig {
            gateway: Some("fd00:5::2".parse().unwrap()),
            ..SubnetConfig::from("fd00:5::/64".parse::<ipnet::IpNet>().unwrap())
        });
        driver.ensure_network(config).await.unwrap();
        let one = Space::new("one");
        let address_v6 = Some("fd00:5::10".parse().unwrap());
        let wanted = AttachRequest { address_v6, ..at("one", "lan", 10) };
        driver.attach(wanted, one.netns()).await.unwrap();
        let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap();
        assert_eq!(one.ask(v6("fd00:5::2"), 80), "fd00:5::10");
        assert_eq!(one.ask(v6("fd00:6::2"), 80), "fd00:5::10", "by the gateway");
        assert_eq!(one.ask(OUTSIDE, 80), on_wire(10).to_string());
    });
}

#[test]
fn ipv6_is_alone_on_a_wire() {
    let Some(lab) = lab(&[MACVLAN]) else { return };
    lab.outside.run("ip", &["address", "add", "fd00:5::2/64", "dev", "up0", "nodad"]);
    lab.block_on(async || {
        let driver = lab.driver();
        let subnets = vec![SubnetConfig::from("fd00:5::/64".parse::<ipnet::IpNet>().unwrap())];
        let config = NetworkConfig { ipv6: true, without_v4: true, ..lan("lan", "up0", BRIDGE) };
        driver.ensure_network(NetworkConfig { subnets, ..config }).await.unwrap();
        let join = async |name: &str, address: &str| {
            let space = Space::new(name);
            let wanted = AttachRequest { address_v6: address.parse().ok(), ..request(name, "lan") };
            driver.attach(wanted, space.netns()).await.unwrap();
            space.serve(80);
            space
        };
        let (one, _two) = (join("one", "fd00:5::10").await, join("two", "fd00:5::11").await);
        let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap();
        assert_eq!(one.ask(v6("fd00:5::2"), 80), "fd00:5::10");
        assert_eq!(one.ask(v6("fd00:5::11"), 80), "fd00:5::10");
        assert_eq!(one.run("ip", &["-4", "-o", "address", "show", "dev", "eth0"]), "");
        assert_eq!(driver.compare().await.findings, []);
    });
}

/// A namespace goes some time after its processes.
#[test]
fn an_address_that_is_just_given_back_is_waited_for() {
    let Some(lab) = lab(&[MACVLAN]) else { return };
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(lan("lan", "up0", BRIDGE)).await.unwrap();
        let (one, two) = (Space::new("one"), Space::new("two"));
        driver.attach(at("one", "lan", 10), one.netns()).await.unwrap();
        driver.release("one".to_owned()).await.unwrap();
        let mut attached = driver.attach(at("two", "lan", 10), two.netns());
        let while_taken = std::time::Duration::from_millis(300);
        let early = tokio::time::timeout(while_taken, &mut attached).await;
        assert!(early.is_err(), "{early:?}");
        drop(one);
        attached.await.unwrap();
        assert_eq!(two.ask(OUTSIDE, 80), on_wire(10).to_string());
    });
}
