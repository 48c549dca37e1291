use super::*;

const FULL: u32 = 1420;

fn end(last: u8) -> End {
    End {
        address: [10, 9, 0, last].into(),
        key: TunnelKey([last; 32]),
        endpoint: ([192, 0, 2, last], 51820).into(),
    }
}

fn ends(last: std::ops::Range<u8>) -> BTreeMap<NodeId, End> {
    last.map(|last| (NodeId::from(u128::from(last)), end(last))).collect()
}

fn passes(passes: u32) -> Option<Came> {
    Some(Came { passes, way: None })
}

/// Tries everything that is due and says what comes of it; what is news.
fn try_all(test: &mut SelfTest, now: Duration, came: Option<Came>) -> Vec<Verdict> {
    let due = test.due(now);
    let news = due.iter().filter_map(|(node, end)| test.learn(*node, *end, came, now, 0.0));
    news.map(|news| news.verdict).collect()
}

/// What comes of each try of one link, and what is then news; how long it is until the next one.
#[test]
fn what_two_tries_say_is_so() {
    use Verdict::{Cut, Narrow, Silent, Whole};
    let way = |way: u32| Some(Came { passes: FULL, way: Some(way) });
    let steps = [
        // Of one that works there is nothing to say.
        (passes(FULL), None, 600),
        (way(1500), None, 600),
        // It could not be tried.
        (None, None, 4),
        (passes(0), None, 2),
        // It was an accident.
        (passes(FULL), None, 600),
        (passes(0), None, 2),
        (passes(128), None, 2),
        (passes(128), Some(Narrow(128)), 8),
        (passes(0), None, 2),
        (passes(0), Some(Silent), 8),
        (passes(0), None, 16),
        (passes(0), None, 32),
        (passes(0), None, 60),
        (passes(0), None, 60),
        (passes(1216), None, 2),
        (passes(1216), Some(Narrow(1216)), 600),
        (passes(FULL), Some(Whole), 600),
        // By a way that loses some, or by several, no try finds the same size. What both have had passes.
        (passes(1300), None, 2),
        (passes(1290), Some(Narrow(1290)), 600),
        (passes(1400), None, 2),
        (passes(1390), Some(Narrow(1390)), 600),
        (passes(FULL), Some(Whole), 600),
        // What is encrypted is filled up to 16 bytes: 1400 - 60 is no multiple of them.
        (way(1400), Some(Cut(1328)), 600),
        (way(1400), None, 600),
        (way(1480), Some(Whole), 600),
        (way(9000), None, 600),
    ];
    let mut test = SelfTest::new(FULL);
    let mut now = Duration::ZERO;
    test.follow(&ends(2..3), now, || 0.0);
    for (n, (came, expected, wait)) in steps.into_iter().enumerate() {
        let due = test.due(now);
        assert_eq!(due, [(2.into(), end(2))], "step {n}");
        assert_eq!((test.due(now), test.next()), (vec![], None), "step {n}: it is under way");
        let news = test.learn(2.into(), end(2), came, now, 0.0);
        assert_eq!(news.map(|news| news.verdict), expected, "step {n}");
        now += Duration::from_secs(wait);
        assert_eq!(test.next(), Some(now), "step {n}");
    }
}

#[test]
fn packets_fit_what_passes() {
    let mut test = SelfTest::new(FULL);
    test.follow(&ends(2..6), Duration::ZERO, || 0.0);
    let came = BTreeMap::from([
        (2, Came { passes: FULL, way: None }),
        (3, Came { passes: 1300, way: Some(1500) }),
        (4, Came { passes: FULL, way: Some(1280) }),
        (5, Came { passes: 128, way: Some(1280) }),
    ]);
    let mut now = Duration::ZERO;
    for _ in 0..2 {
        for (node, end) in test.due(now) {
            let came = came[&end.address.octets()[3]];
            test.learn(node, end, Some(came), now, 0.0);
        }
        assert_eq!(test.is_settled(), now > Duration::ZERO);
        now += AGAIN;
    }
    assert_eq!(test.sizes(), [(3.into(), 1300), (4.into(), 1216)].into());
    // By IPv6 the header is larger.
    let far = End { endpoint: "[2001:db8::2]:9".parse().unwrap(), ..end(2) };
    let came = Came { passes: FULL, way: Some(1280) };
    assert_eq!(came.verdict(FULL, far.endpoint.ip()), Verdict::Cut(1200));
}

#[test]
fn what_leads_elsewhere_is_tried_anew_and_what_was_so_holds_meanwhile() {
    let mut test = SelfTest::new(FULL);
    let now = Duration::ZERO;
    test.follow(&ends(2..3), now, || 0.0);
    for now in [now, AGAIN] {
        try_all(&mut test, now, passes(1300));
    }
    let moved = End { endpoint: ([192, 0, 2, 99], 1).into(), ..end(2) };
    let now = Duration::from_secs(60);
    test.follow(&[(2.into(), moved)].into(), now, || 0.0);
    assert_eq!(test.sizes(), [(2.into(), 1300)].into());
    assert_eq!(test.due(now), [(2.into(), moved)]);
    // What was still under way to where it was says nothing.
    assert_eq!(test.learn(2.into(), end(2), passes(0), now, 0.0), None);
    assert_eq!(test.due(now), []);
    let news = test.learn(2.into(), moved, passes(FULL), now, 0.0);
    assert_eq!(news.map(|news| news.verdict), Some(Verdict::Whole));
    // Nothing is new where nothing is.
    test.follow(&[(2.into(), moved)].into(), now, || 0.0);
    assert_eq!(test.due(now), []);
    test.follow(&BTreeMap::new(), now, || 0.0);
    assert_eq!((test.sizes(), test.next()), (BTreeMap::new(), None));
}

/// What a thousand links cost: tries a second, when all are new, when all work and when none does.
#[test]
fn it_costs_little_however_many_there_are() {
    let ends: BTreeMap<NodeId, End> = (2..1002_u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            (NodeId::from(u128::from(n)), End { address: [10, 9, high, low].into(), ..end(2) })
        })
        .collect();
    let mut draws = (0..).map(|n| f64::from(n * 617 % 1000) / 1000.0);
    let mut test = SelfTest::new(FULL);
    test.follow(&ends, Duration::ZERO, || draws.next().unwrap());
    let mut tried = |test: &mut SelfTest, from: u64, seconds: u64, bytes: u32| {
        let mut most = 0;
        let mut all = 0;
        for second in from..from + seconds {
            let now = Duration::from_secs(second);
            let mut in_it = 0;
            loop {
                let due = test.due(now);
                if due.is_empty() {
                    break;
                }
                assert!(due.len() <= AT_ONCE);
                for (node, end) in due {
                    let draw = draws.next().unwrap();
                    test.learn(node, end, passes(bytes), now, draw);
                    in_it += 1;
                }
            }
            most = most.max(in_it);
            all += in_it;
        }
        (most, all)
    };
    let (most, all) = tried(&mut test, 0, 30, FULL);
    assert!(most <= 60 && all == 1000, "{most} {all}");
    let (most, all) = tried(&mut test, 30, 3600, FULL);
    assert!(most <= 20 && all <= 6000, "{most} {all}");
    tried(&mut test, 3630, 2000, 0);
    let (most, all) = tried(&mut test, 5630, 100, 0);
    assert!(most <= 40 && all <= 2000, "{most} {all}");
}

#[test]
fn links_that_not_everything_passes_are_listed_up_to_a_number() {
    let mut test = SelfTest::new(FULL);
    test.follow(&ends(2..30), Duration::ZERO, || 0.0);
    assert_eq!(test.troubled(), TroubledLinks::default());
    for now in [Duration::ZERO, AGAIN] {
        for (node, end) in test.due(now) {
            // Two of them are whole.
            let number = end.address.octets()[3];
            let bytes = if number < 4 { FULL } else { 1300 - u32::from(number) };
            test.learn(node, end, passes(bytes), now, 0.0);
        }
    }
    let TroubledLinks { count, links } = test.troubled();
    assert_eq!((count, links.len()), (26, TROUBLED_LINKS_MAX));
    let first = TroubledLink {
        node_id: 29.into(),
        endpoint: end(29).endpoint,
        passes_bytes: 1271,
        full_bytes: FULL,
    };
    assert_eq!(links[0], first);
    assert!(links.is_sorted_by_key(|link| link.passes_bytes));
}

/// What comes of each try of a link that may take more than others; which size is sent there then, whether that is news,
/// and how long it is until the next one.
#[test]
fn larger_packets_than_usual_are_sent_once_they_were_seen_to_pass_and_as_long_as_they_are() {
    use Verdict::{Cut, Narrow, Silent, Whole};
    const WIDE: u32 = 8920;
    let way = |passes: u32, way: u32| Some(Came { passes, way: Some(way) });
    let steps = [
        (None, None, None, 4),
        (passes(WIDE), Some(WIDE), None, 30),
        (way(WIDE, 9000), Some(WIDE), None, 30),
        // The first time that they are not.
        (passes(0), None, None, 2),
        (passes(WIDE), Some(WIDE), None, 30),
        (passes(1440), None, None, 2),
        (passes(1440), Some(1440), Some(Narrow(1440)), 600),
        (passes(WIDE), Some(WIDE), Some(Whole), 30),
        (passes(4000), None, None, 2),
        (passes(3900), Some(3900), Some(Narrow(3900)), 30),
        // It is cut outside, which costs more than it is worth.
        (way(WIDE, 1500), Some(1440), Some(Cut(1440)), 600),
        (way(3900, 1500), Some(1440), None, 600),
        (passes(1300), None, None, 2),
        (passes(1300), Some(1300), Some(Narrow(1300)), 600),
        (passes(0), Some(1300), None, 2),
        (passes(0), None, Some(Silent), 8),
        (passes(WIDE), Some(WIDE), Some(Whole), 30),
    ];
    let mut test = SelfTest::new(FULL);
    let mut now = Duration::ZERO;
    test.follow(&ends(2..3), now, || 0.0);
    test.resize(WIDE, now, || 0.0);
    for (n, (came, size, expected, wait)) in steps.into_iter().enumerate() {
        assert_eq!(test.due(now), [(2.into(), end(2))], "step {n}");
        let news = test.learn(2.into(), end(2), came, now, 0.0);
        assert_eq!(news.map(|news| news.verdict), expected, "step {n}");
        assert_eq!(test.sizes().get(&2.into()).copied(), size, "step {n}");
        let trouble = matches!(expected, Some(Narrow(1300) | Silent));
        assert_eq!(news.is_some_and(|news| news.is_trouble), trouble, "step {n}");
        if let Some(link) = test.troubled().links.first() {
            assert_eq!(link.full_bytes, FULL, "step {n}");
        }
        now += Duration::from_secs(wait);
        assert_eq!(test.next(), Some(now), "step {n}");
    }
    assert_eq!(test.troubled(), TroubledLinks::default());
    // With another key it is the same host, elsewhere it is another one.
    let other_key = End { key: TunnelKey([9; 32]), ..end(2) };
    test.follow(&[(2.into(), other_key)].into(), now, || 0.0);
    assert_eq!(test.sizes(), [(2.into(), WIDE)].into());
    let moved = End { endpoint: ([192, 0, 2, 99], 1).into(), ..end(2) };
    test.follow(&[(2.into(), moved)].into(), now, || 0.0);
    assert_eq!(test.sizes(), BTreeMap::new());
}

/// What was found out while the tunnel took another size; which size is sent there when it takes more, and when it takes
/// what is usual, before anything is tried anew.
#[test]
fn what_is_less_than_usual_holds_whatever_the_tunnel_takes() {
    for (from, to, bytes, expected) in [
        (FULL, 8920, FULL, None),
        (FULL, 8920, 1300, Some(1300)),
        (8920, FULL, 8920, None),
        (8920, FULL, 1440, None),
        (8920, FULL, 1300, Some(1300)),
        (4000, 8920, 4000, None),
    ] {
        let mut test = SelfTest::new(from);
        test.follow(&ends(2..3), Duration::ZERO, || 0.0);
        for now in [Duration::ZERO, AGAIN] {
            try_all(&mut test, now, passes(bytes));
        }
        let now = Duration::from_secs(10);
        test.resize(to, now, || 0.0);
        assert_eq!(test.sizes().get(&2.into()).copied(), expected, "{from} {to} {bytes}");
        assert_eq!((test.next(), test.is_settled()), (Some(now), expected.is_some()));
        try_all(&mut test, now, passes(to));
        assert_eq!(test.sizes().get(&2.into()).copied(), Some(to).filter(|to| *to > FULL));
    }
}
