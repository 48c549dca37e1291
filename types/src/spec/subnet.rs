//! What of a subnet is given to whom: the one place that reads it out of a spec.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::IpamConfig;

/// Whether two ranges have an address in common: then one contains the other.
#[must_use]
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// What of a network's subnet is given to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetPlan {
    /// The subnet.
    pub subnet: IpNet,
    /// Each node's own address: the one that the spec names, else the first one.
    pub gateway: IpAddr,
    /// The first and the last address that tasks and services may get.
    pub range: (IpAddr, IpAddr),
    /// Those that nobody gets, wherever they are in the subnet. The gateway is not among them unless it is
    /// named as one of them, too.
    pub reserved: BTreeSet<IpAddr>,
}

impl SubnetPlan {
    /// What of a subnet is given, by what a spec says of it, if it says anything. The address of the subnet itself
    /// and its last one are given to nobody, as routers take them for all or for any of those in it (RFC 1122
    /// 3.2.1.3, RFC 4291 2.6.1). `None` if nobody would get one,
    /// or a text of the spec is no address.
    #[must_use]
    pub fn of(subnet: IpNet, config: Option<&IpamConfig>) -> Option<Self> {
        let text = |of: fn(&IpamConfig) -> &str| config.map(of).filter(|text| !text.is_empty());
        let first = number(subnet.network()).checked_add(1)?;
        let last = number(subnet.broadcast()).checked_sub(1)?;
        let gateway = match text(|c| &c.gateway) {
            Some(gateway) => number(gateway.parse().ok().filter(|ip| is_host(&subnet, *ip))?),
            None => first,
        };
        // A gateway elsewhere leaves the first address to others.
        let mut range = (if gateway == first { first.checked_add(1)? } else { first }, last);
        if let Some(part) = text(|c| &c.ip_range) {
            let part: IpNet = part.parse().ok().filter(|part| subnet.contains(part))?;
            let ends = (number(part.network()), number(part.broadcast()));
            range = (range.0.max(ends.0), range.1.min(ends.1));
        }
        let named = config.into_iter().flat_map(|config| config.aux_addresses.values());
        let reserved: Option<BTreeSet<IpAddr>> = named
            .map(|text| text.parse().ok().filter(|address: &IpAddr| subnet.contains(address)))
            .collect();
        let like = |number| address(&subnet, number);
        let (gateway, reserved) = (like(gateway), reserved?);
        let (from, to) = range;
        let plan = Self { subnet, gateway, range: (like(from), like(to)), reserved };
        (from <= to && plan.count() > 0).then_some(plan)
    }

    /// How many addresses tasks and services may get.
    #[must_use]
    pub fn count(&self) -> u128 {
        let (first, last) = self.range;
        let never = self.never().into_iter().filter(|ip| first <= *ip && *ip <= last).count();
        let all = (number(last) - number(first)).saturating_add(1);
        all.saturating_sub(u128::try_from(never).unwrap_or(u128::MAX))
    }

    /// Whether a task or a service may get this address.
    #[must_use]
    pub fn gives(&self, address: IpAddr) -> bool {
        let (first, last) = self.range;
        first <= address && address <= last && self.may_name(address)
    }

    /// Whether a service may ask for this address: the range is for those that are chosen alone.
    #[must_use]
    pub fn may_name(&self, address: IpAddr) -> bool {
        is_host(&self.subnet, address)
            && !self.reserved.contains(&address)
            && address != self.gateway
    }

    /// Those that nobody gets, the gateway among them.
    #[must_use]
    pub fn never(&self) -> BTreeSet<IpAddr> {
        self.reserved.iter().copied().chain([self.gateway]).collect()
    }
}

/// Whether an address of a subnet can be an interface's: it is neither the subnet's own nor its last one.
fn is_host(subnet: &IpNet, address: IpAddr) -> bool {
    subnet.contains(&address) && address != subnet.network() && address != subnet.broadcast()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a subnet with this number. What does not fit into 32 bits is none of an IPv4 subnet.
#[expect(clippy::cast_possible_truncation, reason = "numbers of addresses of this subnet")]
fn address(subnet: &IpNet, number: u128) -> IpAddr {
    match subnet {
        IpNet::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Subnet, gateway, range, reserved; then the gateway, first, last and number of what is given.
    type Case = (&'static str, [&'static str; 2], &'static [&'static str], Option<Plan>);
    type Plan = (&'static str, &'static str, &'static str, u128);

    const CASES: [Case; 20] = [
        ("10.0.0.0/24", ["", ""], &[], Some(("10.0.0.1", "10.0.0.2", "10.0.0.254", 253))),
        ("10.0.0.0/30", ["", ""], &[], Some(("10.0.0.1", "10.0.0.2", "10.0.0.2", 1))),
        ("10.0.0.0/31", ["", ""], &[], None),
        ("10.0.0.0/30", ["10.0.0.2", ""], &[], Some(("10.0.0.2", "10.0.0.1", "10.0.0.2", 1))),
        ("10.0.0.0/24", ["10.0.0.1", ""], &[], Some(("10.0.0.1", "10.0.0.2", "10.0.0.254", 253))),
        (
            "10.0.0.0/24",
            ["10.0.0.254", ""],
            &[],
            Some(("10.0.0.254", "10.0.0.1", "10.0.0.254", 253)),
        ),
        ("10.0.0.0/24", ["10.0.0.0", ""], &[], None),
        ("10.0.0.0/24", ["10.0.0.255", ""], &[], None),
        ("10.0.0.0/24", ["10.0.1.1", ""], &[], None),
        ("10.0.0.0/24", ["x", ""], &[], None),
        (
            "10.0.0.0/24",
            ["", "10.0.0.128/25"],
            &[],
            Some(("10.0.0.1", "10.0.0.128", "10.0.0.254", 127)),
        ),
        (
            "10.0.0.0/24",
            ["", "10.0.0.0/28"],
            &["10.0.0.5", "10.0.0.99"],
            Some(("10.0.0.1", "10.0.0.2", "10.0.0.15", 13)),
        ),
        ("10.0.0.0/24", ["", "10.0.0.7/32"], &[], Some(("10.0.0.1", "10.0.0.7", "10.0.0.7", 1))),
        ("10.0.0.0/24", ["", "10.0.0.7/32"], &["10.0.0.7"], None),
        ("10.0.0.0/24", ["", "10.0.0.0/31"], &[], None),
        ("10.0.0.0/24", ["", "10.0.1.0/28"], &[], None),
        ("10.0.0.0/24", ["", ""], &["10.1.0.1"], None),
        (
            "fd00::/64",
            ["", ""],
            &[],
            Some(("fd00::1", "fd00::2", "fd00::ffff:ffff:ffff:fffe", (1 << 64) - 3)),
        ),
        (
            "fd00::/64",
            ["fd00::a", "fd00::/124"],
            &["fd00::b"],
            Some(("fd00::a", "fd00::1", "fd00::f", 13)),
        ),
        ("fd00::/64", ["10.0.0.1", ""], &[], None),
    ];

    #[test]
    fn what_is_given_of_a_subnet() {
        for (subnet, [gateway, ip_range], aux, expected) in CASES {
            let named = |(n, text): (usize, &&str)| (format!("h{n}"), (*text).to_owned());
            let config = IpamConfig {
                subnet: subnet.to_owned(),
                ip_range: ip_range.to_owned(),
                gateway: gateway.to_owned(),
                aux_addresses: aux.iter().enumerate().map(named).collect(),
            };
            let plan = SubnetPlan::of(subnet.parse().unwrap(), Some(&config));
            let said = plan.as_ref().map(|plan| {
                let (first, last) = plan.range;
                [plan.gateway, first, last].map(|address| address.to_string())
            });
            let wanted = expected.map(|(a, b, c, _)| [a, b, c].map(str::to_owned));
            assert_eq!(said, wanted, "{config:?}");
            let counts = (plan.as_ref().map(SubnetPlan::count), expected.map(|(.., n)| n));
            assert_eq!(counts.0, counts.1, "{config:?}");
        }
    }

    /// What is counted is what is given, address by address.
    #[test]
    fn each_that_is_given_is_counted() {
        let config = IpamConfig {
            ip_range: "10.0.0.0/25".to_owned(),
            gateway: "10.0.0.9".to_owned(),
            aux_addresses: [("a", "10.0.0.9"), ("b", "10.0.0.3"), ("c", "10.0.0.200")]
                .map(|(name, address)| (name.to_owned(), address.to_owned()))
                .into(),
            ..IpamConfig::default()
        };
        let subnet: IpNet = "10.0.0.0/24".parse().unwrap();
        let plan = SubnetPlan::of(subnet, Some(&config)).unwrap();
        let all = || (0..=255).map(|n| IpAddr::from([10, 0, 0, n]));
        assert_eq!(all().filter(|ip| plan.gives(*ip)).count() as u128, plan.count());
        assert_eq!(plan.count(), 125);
        let named = all().filter(|ip| plan.may_name(*ip)).count();
        assert_eq!(named, 251, "all but two ends, the gateway and two that are reserved");
        assert!(!plan.gives([10, 0, 1, 5].into()));
    }
}
