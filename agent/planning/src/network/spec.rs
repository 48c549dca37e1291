//! From what users write to what this node does.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use shoal_types::spec::{
    self, IpamConfig, MTU_OPTION, NetworkKind, NetworkSpec, PortConfig, PublishMode, Wire,
};
use thiserror::Error;

use super::{Family, NetworkConfig, Protocol, PublishedPort, SharedPort, SubnetConfig, pool};
use crate::tunnel;

/// Why a spec cannot be done on this node.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum UnsupportedSpec {
    #[error("network `{network}`: driver `{driver}` is not one this node has, expected `bridge`")]
    Driver { network: String, driver: String },
    #[error("network `{network}`: unknown driver option `{option}`, expected `{MTU_OPTION}`")]
    Option { network: String, option: String },
    #[error("network `{network}`: `{value}` is no valid {field}, expected {expected}")]
    Value { network: String, field: &'static str, value: String, expected: &'static str },
    #[error("network `{network}`: {what} is not supported by bridge networks")]
    Feature { network: String, what: &'static str },
    #[error("network `{network}`: {problems}")]
    Wire { network: String, problems: String },
    #[error("network `{network}` spans hosts, and managers have chosen no {family} subnet for it")]
    NoSubnet { network: String, family: Family },
    #[error("network `{network}`: a gateway, range or reservation needs a subnet beside it")]
    SubnetMissing { network: String },
    #[error(
        "port {target_port}/{protocol}: nothing can be published at {host_ip}, as IPv6 has no way back from \
         there; expected 127.0.0.1, or another address of the host"
    )]
    HostAddress { target_port: u16, protocol: Protocol, host_ip: IpAddr },
    #[error(
        "port {target_port}/{protocol} answers on every node, and managers have given it no number"
    )]
    NoNumber { target_port: u16, protocol: Protocol },
}

impl NetworkConfig {
    /// What a spec of a bridge network asks for.
    ///
    /// # Errors
    /// It asks for something that bridge networks cannot do, or a value is malformed.
    pub fn of_spec(id: impl Into<String>, spec: &NetworkSpec) -> Result<Self, UnsupportedSpec> {
        let network = || spec.name.clone();
        let feature = |asked: bool, what: &'static str| {
            let unsupported = UnsupportedSpec::Feature { network: network(), what };
            if asked { Err(unsupported) } else { Ok(()) }
        };
        if NetworkKind::of(&spec.driver) != Some(NetworkKind::Bridge) {
            let driver = spec.driver.name.clone();
            return Err(UnsupportedSpec::Driver { network: network(), driver });
        }
        feature(spec.ingress, "being the network of published ports")?;
        let mut config = Self {
            id: id.into(),
            name: network(),
            ipv6: spec.enable_ipv6,
            without_v4: !spec.has_ipv4(),
            internal: spec.internal,
            labels: spec.labels.clone(),
            ..Self::default()
        };
        for (option, value) in &spec.driver.options {
            if option != MTU_OPTION {
                let option = option.clone();
                return Err(UnsupportedSpec::Option { network: network(), option });
            }
            config.mtu = Some(parse(&network(), "mtu", value, "a number of bytes")?);
        }
        if let Some(ipam) = &spec.ipam {
            let custom = !matches!(ipam.driver.name.as_str(), "" | "default")
                || !ipam.driver.options.is_empty();
            feature(custom, "an address driver")?;
            for subnet in &ipam.config {
                config.take_subnet(subnet)?;
            }
        }
        Ok(config)
    }

    /// What a spec of a network that spans hosts asks for, with the subnets that managers have chosen.
    ///
    /// # Errors
    /// As [`of_spec`](Self::of_spec); there is no subnet among them of a family that the network has.
    pub fn of_overlay(
        id: impl Into<String>,
        spec: &NetworkSpec,
        subnets: &[IpNet],
    ) -> Result<Self, UnsupportedSpec> {
        let config = Self::of_managers(id, spec, subnets, gateway_of)?;
        let mut asked = tunnel::LARGEST;
        for (option, value) in &spec.driver.options {
            if option != MTU_OPTION {
                let (network, option) = (spec.name.clone(), option.clone());
                return Err(UnsupportedSpec::Option { network, option });
            }
            asked = parse(&spec.name, "mtu", value, "a number of bytes")?;
        }
        // A larger packet would not pass the tunnel, as a rule.
        let wide = (asked > tunnel::MTU).then_some(asked);
        Ok(Self { mtu: Some(asked.min(tunnel::MTU)), wide, routed: true, ..config })
    }

    /// What a spec of a network on a wire asks for, with the subnets that managers have chosen.
    ///
    /// # Errors
    /// As [`of_overlay`](Self::of_overlay); the options of its driver make no sense.
    pub fn of_wire(
        id: impl Into<String>,
        spec: &NetworkSpec,
        subnets: &[IpNet],
    ) -> Result<Self, UnsupportedSpec> {
        let config = Self::of_managers(id, spec, subnets, named_gateway)?;
        let network = || spec.name.clone();
        let wire = match Wire::of(&spec.driver) {
            Some(Ok(wire)) => wire,
            Some(Err(problems)) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let problems = problems.join("; ");
                return Err(UnsupportedSpec::Wire { network: network(), problems });
            }
            None => {
                let driver = spec.driver.name.clone();
                return Err(UnsupportedSpec::Driver { network: network(), driver });
            }
        };
        Ok(Self { mtu: wire.mtu, wire: Some(wire), ..config })
    }

    /// What a spec asks for of a network whose addresses managers choose, but for what its driver makes of it.
    fn of_managers(
        id: impl Into<String>,
        spec: &NetworkSpec,
        subnets: &[IpNet],
        gateway: fn(&NetworkSpec, &IpNet) -> Result<Option<IpAddr>, UnsupportedSpec>,
    ) -> Result<Self, UnsupportedSpec> {
        let network = || spec.name.clone();
        let families = Family::ALL.into_iter().filter(|family| has(spec, *family));
        for family in families {
            if !subnets.iter().any(|subnet| Family::of(subnet.addr()) == family) {
                return Err(UnsupportedSpec::NoSubnet { network: network(), family });
            }
        }
        let subnets = subnets.iter().filter(|subnet| has(spec, Family::of(subnet.addr())));
        let subnets = subnets.map(|subnet| {
            let gateway = gateway(spec, subnet)?;
            Ok(SubnetConfig { gateway, ..SubnetConfig::from(*subnet) })
        });
        Ok(Self {
            id: id.into(),
            name: network(),
            subnets: subnets.collect::<Result<_, _>>()?,
            ipv6: spec.enable_ipv6,
            without_v4: !spec.has_ipv4(),
            internal: spec.internal,
            labels: spec.labels.clone(),
            ..Self::default()
        })
    }

    fn take_subnet(&mut self, ipam: &IpamConfig) -> Result<(), UnsupportedSpec> {
        let network = || self.name.clone();
        if ipam.subnet.is_empty() {
            let more = !ipam.gateway.is_empty()
                || !ipam.ip_range.is_empty()
                || !ipam.aux_addresses.is_empty();
            let missing = UnsupportedSpec::SubnetMissing { network: network() };
            return if more { Err(missing) } else { Ok(()) };
        }
        let mut subnet =
            SubnetConfig::from(parse::<IpNet>(&network(), "subnet", &ipam.subnet, SUBNET)?);
        if !ipam.ip_range.is_empty() {
            subnet.ip_range = Some(parse(&network(), "ip range", &ipam.ip_range, SUBNET)?);
        }
        subnet.gateway = parse_gateway(&network(), ipam)?;
        for address in ipam.aux_addresses.values() {
            subnet.reserved.insert(parse(&network(), "auxiliary address", address, ADDRESS)?);
        }
        self.subnets.push(subnet);
        Ok(())
    }
}

/// Whether a network has a family of addresses.
fn has(spec: &NetworkSpec, family: Family) -> bool {
    match family {
        Family::V4 => spec.has_ipv4(),
        Family::V6 => spec.enable_ipv6,
    }
}

const SUBNET: &str = "a subnet";
const ADDRESS: &str = "an address";

fn parse_gateway(network: &str, ipam: &IpamConfig) -> Result<Option<IpAddr>, UnsupportedSpec> {
    if ipam.gateway.is_empty() {
        return Ok(None);
    }
    parse(network, "gateway", &ipam.gateway, ADDRESS).map(Some)
}

/// The gateway that the user has named for a subnet. The first usable address is none that has to be named, and
/// earlier agents did not write it down: the network is the same.
fn gateway_of(spec: &NetworkSpec, subnet: &IpNet) -> Result<Option<IpAddr>, UnsupportedSpec> {
    let named = named_gateway(spec, subnet)?;
    Ok(named.filter(|gateway| pool::first_usable(subnet) != Some(*gateway)))
}

/// The gateway that the user has named for a subnet.
fn named_gateway(spec: &NetworkSpec, subnet: &IpNet) -> Result<Option<IpAddr>, UnsupportedSpec> {
    let configs = spec.ipam.iter().flat_map(|ipam| &ipam.config);
    let mut named = configs.filter(|one| one.subnet.parse::<IpNet>().ok().as_ref() == Some(subnet));
    named.next().map_or(Ok(None), |one| parse_gateway(&spec.name, one))
}

fn parse<T: std::str::FromStr>(
    network: &str,
    field: &'static str,
    value: &str,
    expected: &'static str,
) -> Result<T, UnsupportedSpec> {
    value.parse().map_err(|_| {
        let (network, value) = (network.to_owned(), value.to_owned());
        UnsupportedSpec::Value { network, field, value, expected }
    })
}

impl From<spec::Protocol> for Protocol {
    fn from(protocol: spec::Protocol) -> Self {
        match protocol {
            spec::Protocol::Tcp => Self::Tcp,
            spec::Protocol::Udp => Self::Udp,
            spec::Protocol::Sctp => Self::Sctp,
        }
    }
}

impl SharedPort {
    /// What a port of a service that answers on every node asks for; `None` for one in another mode.
    ///
    /// # Errors
    /// Managers have given it no number.
    pub fn of_spec(spec: &PortConfig) -> Result<Option<Self>, UnsupportedSpec> {
        if spec.publish_mode != PublishMode::Ingress {
            return Ok(None);
        }
        let (protocol, target_port) = (Protocol::from(spec.protocol), spec.target_port);
        match spec.published_port {
            0 => Err(UnsupportedSpec::NoNumber { target_port, protocol }),
            port => Ok(Some(Self { protocol, port, target_port })),
        }
    }
}

impl PublishedPort {
    /// What a port of a service with publish mode host asks for; `None` for one in another mode.
    ///
    /// # Errors
    /// The host address is the loopback of IPv6.
    pub fn of_spec(spec: &PortConfig) -> Result<Option<Self>, UnsupportedSpec> {
        if spec.publish_mode != PublishMode::Host {
            return Ok(None);
        }
        let (protocol, target_port) = (Protocol::from(spec.protocol), spec.target_port);
        let host_ip = spec.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        if host_ip.is_loopback() && host_ip.is_ipv6() {
            return Err(UnsupportedSpec::HostAddress { target_port, protocol, host_ip });
        }
        Ok(Some(Self { host_ip, host_port: spec.published_port, protocol, target_port }))
    }

    /// What the managers are told about a port that is published.
    #[must_use]
    pub fn to_spec(self, name: String) -> PortConfig {
        PortConfig {
            name,
            protocol: match self.protocol {
                Protocol::Tcp => spec::Protocol::Tcp,
                Protocol::Udp => spec::Protocol::Udp,
                Protocol::Sctp => spec::Protocol::Sctp,
            },
            target_port: self.target_port,
            published_port: self.host_port,
            publish_mode: PublishMode::Host,
            host_ip: Some(self.host_ip).filter(|at| at.is_ipv6() || !at.is_unspecified()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_types::spec::{Driver, Ipam};

    fn spec(change: impl FnOnce(&mut NetworkSpec)) -> NetworkSpec {
        let mut spec = NetworkSpec { name: "n".to_owned(), ..NetworkSpec::default() };
        change(&mut spec);
        spec
    }

    fn ipam(change: impl FnOnce(&mut IpamConfig)) -> NetworkSpec {
        let mut subnet = IpamConfig::default();
        change(&mut subnet);
        spec(|spec| spec.ipam = Some(Ipam { driver: Driver::default(), config: vec![subnet] }))
    }

    #[test]
    fn everything_a_bridge_network_can_say() {
        let mut all = ipam(|subnet| {
            subnet.subnet = "10.1.0.0/16".to_owned();
            subnet.ip_range = "10.1.4.0/24".to_owned();
            subnet.gateway = "10.1.0.254".to_owned();
            subnet.aux_addresses.insert("router".to_owned(), "10.1.4.7".to_owned());
        });
        all.internal = true;
        all.labels.insert("a".to_owned(), "b".to_owned());
        all.driver.options.insert(MTU_OPTION.to_owned(), "1400".to_owned());
        all.enable_ipv6 = true;
        let more = IpamConfig { subnet: "fd00:1::/64".to_owned(), ..IpamConfig::default() };
        all.ipam.as_mut().unwrap().config.push(more);
        let config = NetworkConfig::of_spec("id", &all).unwrap();
        let first = SubnetConfig {
            subnet: "10.1.0.0/16".parse().unwrap(),
            gateway: Some([10, 1, 0, 254].into()),
            ip_range: Some("10.1.4.0/24".parse().unwrap()),
            reserved: [[10, 1, 4, 7].into()].into(),
        };
        let second = SubnetConfig::from("fd00:1::/64".parse::<IpNet>().unwrap());
        let expect = NetworkConfig {
            id: "id".to_owned(),
            name: "n".to_owned(),
            subnets: vec![first, second],
            ipv6: true,
            without_v4: false,
            internal: true,
            mtu: Some(1400),
            wide: None,
            labels: [("a".to_owned(), "b".to_owned())].into(),
            routed: false,
            wire: None,
        };
        assert_eq!(config, expect);
    }

    #[test]
    fn what_is_refused() {
        let check = |spec: NetworkSpec, expect: &str| {
            let error = NetworkConfig::of_spec("id", &spec).unwrap_err();
            assert_eq!(error.to_string(), format!("network `n`: {expect}"));
        };
        check(
            spec(|spec| spec.driver.name = "macvlan".to_owned()),
            "driver `macvlan` is not one this node has, expected `bridge`",
        );
        check(
            spec(|spec| {
                spec.driver.options.insert("x".to_owned(), "1".to_owned());
            }),
            "unknown driver option `x`, expected `com.docker.network.driver.mtu`",
        );
        check(
            ipam(|subnet| subnet.subnet = "fd00".to_owned()),
            "`fd00` is no valid subnet, expected a subnet",
        );
        check(
            ipam(|subnet| {
                subnet.subnet = "10.1.0.0/16".to_owned();
                subnet.gateway = "x".to_owned();
            }),
            "`x` is no valid gateway, expected an address",
        );
        check(
            ipam(|subnet| subnet.gateway = "10.1.0.1".to_owned()),
            "a gateway, range or reservation needs a subnet beside it",
        );
    }

    #[test]
    fn a_network_that_spans_hosts_has_the_subnet_that_managers_chose() {
        let subnets: [IpNet; 2] = ["fd00::/64".parse().unwrap(), "10.0.3.0/24".parse().unwrap()];
        let of = |option: Option<(&str, &str)>| {
            let spec = spec(|spec| {
                spec.internal = true;
                spec.driver.options = option
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into_iter()
                    .collect();
            });
            NetworkConfig::of_overlay("id", &spec, &subnets)
        };
        let config = of(None).unwrap();
        let v4 = SubnetConfig::from("10.0.3.0/24".parse::<IpNet>().unwrap());
        assert_eq!(config.subnets, std::slice::from_ref(&v4));
        assert!(config.routed && config.internal);
        assert_eq!((config.mtu, config.wide), (Some(1420), Some(8920)));
        assert_eq!(of(Some((MTU_OPTION, "1280"))).unwrap().mtu, Some(1280));
        for (asked, wide) in [("9000", Some(9000)), ("1421", Some(1421)), ("1420", None)] {
            let config = of(Some((MTU_OPTION, asked))).unwrap();
            assert_eq!((config.mtu, config.wide), (Some(1420), wide), "{asked}");
        }
        assert_eq!(of(Some((MTU_OPTION, "1280"))).unwrap().wide, None);
        let error = of(Some(("encrypted", ""))).unwrap_err().to_string();
        assert!(error.contains("unknown driver option `encrypted`"), "{error}");
        let error = NetworkConfig::of_overlay("id", &spec(|_| {}), &subnets[..1]).unwrap_err();
        assert!(error.to_string().contains("no IPv4 subnet"), "{error}");
        // With IPv6, and with a gateway that the user has named.
        let mut both = ipam(|subnet| {
            subnet.subnet = "fd00::/64".to_owned();
            subnet.gateway = "fd00::9".to_owned();
        });
        both.enable_ipv6 = true;
        let config = NetworkConfig::of_overlay("id", &both, &subnets).unwrap();
        let v6 = SubnetConfig {
            gateway: Some("fd00::9".parse().unwrap()),
            ..SubnetConfig::from(subnets[0])
        };
        assert_eq!((config.subnets, config.ipv6), (vec![v6, v4], true));
        let mut first = both.clone();
        first.ipam.as_mut().unwrap().config[0].gateway = "fd00::1".to_owned();
        let config = NetworkConfig::of_overlay("id", &first, &subnets).unwrap();
        assert_eq!(config.subnets[0].gateway, None);
        let error = NetworkConfig::of_overlay("id", &both, &subnets[1..]).unwrap_err();
        assert!(error.to_string().contains("no IPv6 subnet"), "{error}");
        // Without IPv4.
        first.enable_ipv4 = Some(false);
        let config = NetworkConfig::of_overlay("id", &first, &subnets[..1]).unwrap();
        assert_eq!(config.subnets, [SubnetConfig::from(subnets[0])]);
        assert!(config.ipv6 && config.without_v4);
    }

    #[test]
    fn a_bridge_network_has_the_families_that_its_spec_says() {
        for (enable_ipv4, enable_ipv6, expected) in [
            (None, false, (false, false)),
            (Some(true), false, (false, false)),
            (None, true, (true, false)),
            (Some(false), true, (true, true)),
        ] {
            let spec =
                spec(|spec| (spec.enable_ipv4, spec.enable_ipv6) = (enable_ipv4, enable_ipv6));
            let config = NetworkConfig::of_spec("id", &spec).unwrap();
            assert_eq!((config.ipv6, config.without_v4), expected, "{enable_ipv4:?}");
        }
    }

    #[test]
    fn ports_there_and_back() {
        let spec = PortConfig {
            name: "dns".to_owned(),
            protocol: spec::Protocol::Udp,
            target_port: 53,
            published_port: 5353,
            publish_mode: PublishMode::Host,
            host_ip: Some([127, 0, 0, 1].into()),
        };
        let port = PublishedPort::of_spec(&spec).unwrap().unwrap();
        assert_eq!(port.to_string(), "127.0.0.1:5353->53/udp");
        assert_eq!(port.to_spec("dns".to_owned()), spec);
        let everywhere = PortConfig { host_ip: None, ..spec.clone() };
        let port = PublishedPort::of_spec(&everywhere).unwrap().unwrap();
        assert_eq!(port.to_spec("dns".to_owned()), everywhere);
        let v6 = PortConfig { host_ip: Some("::1".parse().unwrap()), ..spec.clone() };
        let error = PublishedPort::of_spec(&v6).unwrap_err().to_string();
        assert!(error.starts_with("port 53/udp: nothing can be published at ::1, as"), "{error}");
        for text in ["fd00::7", "::"] {
            let v6 = PortConfig { host_ip: Some(text.parse().unwrap()), ..spec.clone() };
            let port = PublishedPort::of_spec(&v6).unwrap().unwrap();
            assert_eq!(port.to_string(), format!("[{text}]:5353->53/udp"));
            assert_eq!(port.to_spec("dns".to_owned()), v6);
        }
        let mesh = PortConfig { publish_mode: PublishMode::Ingress, ..spec };
        assert_eq!(PublishedPort::of_spec(&mesh), Ok(None));
        let shared = SharedPort::of_spec(&mesh).unwrap().unwrap();
        assert_eq!(shared.to_string(), "5353->53/udp");
        assert_eq!(SharedPort::of_spec(&everywhere), Ok(None));
        let open = PortConfig { published_port: 0, ..mesh };
        assert!(matches!(SharedPort::of_spec(&open), Err(UnsupportedSpec::NoNumber { .. })));
    }
}
