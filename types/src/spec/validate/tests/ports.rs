//! Ports that cannot be published beside each other, or at all.

use super::*;

/// Addresses that ports are published at, whether they have any in common.
#[test]
fn ports_clash_where_their_addresses_meet() {
    for (one, other, expected) in [
        ("", "", true),
        ("", "127.0.0.1", true),
        ("", "fd00::1", true),
        ("0.0.0.0", "fd00::1", true),
        ("0.0.0.0", "10.0.0.1", true),
        ("::", "fd00::1", true),
        ("::", "10.0.0.1", false),
        ("::", "0.0.0.0", true),
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "10.0.0.2", false),
        ("fd00::1", "fd00::2", false),
    ] {
        let [one, other] = [one, other].map(|text| text.parse::<std::net::IpAddr>().ok());
        assert_eq!(PortConfig::meet(one, other), expected, "{one:?} {other:?}");
        assert_eq!(PortConfig::meet(other, one), expected, "{other:?} {one:?}");
        let at = |host_ip, target_port| PortConfig {
            name: String::new(),
            protocol: Protocol::Tcp,
            target_port,
            published_port: 80,
            publish_mode: PublishMode::Host,
            host_ip,
        };
        let spec = service(|s, _, _| {
            let ports = vec![at(one, 8080), at(other, 8081)];
            s.endpoint_spec = Some(EndpointSpec { ports, ..EndpointSpec::default() });
        });
        let found = violations(&spec);
        assert_eq!(found.len(), usize::from(expected), "{one:?} {other:?}: {found:?}");
    }
    let loopback = service(|s, _, _| {
        let host_ip = Some(std::net::Ipv6Addr::LOCALHOST.into());
        let port = PortConfig {
            name: String::new(),
            protocol: Protocol::Tcp,
            target_port: 80,
            published_port: 80,
            publish_mode: PublishMode::Host,
            host_ip,
        };
        s.endpoint_spec = Some(EndpointSpec { ports: vec![port], ..EndpointSpec::default() });
    });
    let found = violations(&loopback);
    assert!(found.len() == 1 && found[0].contains("publishing on ::1, from where"), "{found:?}");
}
