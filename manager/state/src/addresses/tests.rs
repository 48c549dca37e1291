use super::*;

fn subnets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ranges(texts: &[&str]) -> Vec<Range> {
    subnets(texts).iter().filter_map(Range::whole).collect()
}

fn held(addresses: &[&str]) -> Addresses {
    let mut all = Addresses::default();
    for address in addresses {
        let address = number(address.parse().unwrap());
        assert!(all.held.take(address, address));
    }
    all
}

/// Texts of subnets or addresses.
type Texts = &'static [&'static str];

#[test]
fn the_first_free_address_at_or_after_a_place_is_given() {
    let two: Texts = &["10.0.0.0/29", "10.0.1.0/29"];
    let cases: [(Texts, Texts, u128, Option<&str>); 13] = [
        (&["10.0.0.0/29"], &[], 0, Some("10.0.0.2/29")),
        (&["10.0.0.0/29"], &[], 4, Some("10.0.0.6/29")),
        (&["10.0.0.0/29"], &[], 5, Some("10.0.0.2/29")),
        (&["10.0.0.0/29"], &["10.0.0.2", "10.0.0.3"], 0, Some("10.0.0.4/29")),
        (&["10.0.0.0/29"], &["10.0.0.6"], 4, Some("10.0.0.2/29")),
        (&["10.0.0.0/29"], &["10.0.0.4", "10.0.0.5", "10.0.0.6"], 2, Some("10.0.0.2/29")),
        (&["10.0.0.0/30"], &["10.0.0.2"], 7, None),
        (&["10.0.0.0/31"], &[], 7, None),
        (&[], &[], 7, None),
        (two, &[], 5, Some("10.0.1.2/29")),
        (two, &["10.0.1.6"], 9, Some("10.0.0.2/29")),
        (two, &["10.0.0.5", "10.0.0.6"], 3, Some("10.0.1.2/29")),
        (&["fd00::/64"], &["fd00::2"], 0, Some("fd00::3/64")),
    ];
    for (networks, taken, seed, expected) in cases {
        let found = held(taken).free(&ranges(networks), seed);
        let expected = expected.map(|text| text.parse::<IpNet>().unwrap());
        assert_eq!(found, expected, "{networks:?} without {taken:?} from {seed}");
    }
}

/// Each address is given once, and none but those that are for tasks and services.
#[test]
fn all_are_given_and_no_other() {
    for prefix in 22..=32u8 {
        let subnet: IpNet = format!("10.1.0.0/{prefix}").parse().unwrap();
        let mut all = Addresses::default();
        let mut given = Vec::new();
        let mut seed = 1;
        let range: Vec<Range> = Range::whole(&subnet).into_iter().collect();
        while let Some(address) = all.free(&range, seed) {
            assert_eq!(address.trunc(), subnet, "{address}");
            assert!(all.held.take(number(address.addr()), number(address.addr())), "{address}");
            given.push(address);
            seed = seed * 48_271 % 2_147_483_647;
        }
        let expected = (1usize << (32 - prefix)).saturating_sub(3);
        assert_eq!(given.len(), expected, "{subnet}");
        let ends = [subnet.network(), subnet.broadcast(), [10, 1, 0, 1].into()];
        assert!(given.iter().all(|address| !ends.contains(&address.addr())), "{subnet}");
    }
}

#[test]
fn the_first_free_subnet_of_a_range_of_ipv6_is_given() {
    let range: Ipv6Net = "fd12:3456:789a::/48".parse().unwrap();
    let cases: [(Texts, Texts, Option<&str>); 5] = [
        (&[], &[], Some("fd12:3456:789a::/64")),
        (&["fd12:3456:789a::/64"], &[], Some("fd12:3456:789a:1::/64")),
        (&["fd12:3456:789a::/50"], &[], Some("fd12:3456:789a:4000::/64")),
        (&["fd12:3456:789a::/64"], &["fd12:3456:789a:1::7"], Some("fd12:3456:789a:2::/64")),
        (&["fd12:3456::/32"], &[], None),
    ];
    for (given, taken, expected) in cases {
        let mut all = held(taken);
        for (first, last) in subnets(given).iter().map(ends) {
            assert!(all.given.take(first, last));
        }
        let expected = expected.map(|text| text.parse::<IpNet>().unwrap());
        assert_eq!(all.free_subnet_6(range), expected, "{given:?} and {taken:?}");
    }
}

#[test]
fn the_first_free_subnet_of_the_pools_is_given() {
    let pools = [("10.0.0.0/30", 31), ("10.1.0.0/22", 24)]
        .map(|(base, size)| AddressPool { base: base.parse().unwrap(), size });
    let cases: [(Texts, Texts, Option<&str>); 9] = [
        (&[], &[], Some("10.0.0.0/31")),
        (&["10.0.0.0/31"], &[], Some("10.0.0.2/31")),
        (&["10.0.0.0/8"], &[], None),
        (&["10.0.0.0/30"], &[], Some("10.1.0.0/24")),
        (&["10.0.0.0/30", "10.1.0.128/25"], &[], Some("10.1.1.0/24")),
        (&["10.0.0.0/30", "10.1.0.0/24", "10.1.2.0/24"], &[], Some("10.1.1.0/24")),
        (&["10.0.0.0/30", "10.1.0.0/23", "10.1.3.7/32"], &[], Some("10.1.2.0/24")),
        (&["10.0.0.0/30"], &["10.1.0.9", "10.1.1.9"], Some("10.1.2.0/24")),
        (&["10.0.0.0/30", "10.1.0.0/23"], &["10.1.2.1", "10.1.3.255"], None),
    ];
    for (given, taken, expected) in cases {
        let mut all = held(taken);
        for (first, last) in subnets(given).iter().map(ends) {
            assert!(all.given.take(first, last));
        }
        let expected = expected.map(|text| text.parse::<IpNet>().unwrap());
        assert_eq!(all.free_subnet(&pools), expected, "{given:?} and {taken:?}");
    }
    let odd = ["10.0.0.0/24"].map(|base| AddressPool { base: base.parse().unwrap(), size: 8 });
    assert_eq!(Addresses::default().free_subnet(&odd), None, "larger than the pool");
}
