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
    let narrow = test.narrow();
    assert_eq!(narrow, [(3.into(), 1300), (4.into(), 1216)].into());
    let nets: BTreeSet<IpNet> =
        ["10.0.0.9/32", "fd00::9/128"].map(|net| net.parse().unwrap()).into();
    let four = NodeId::from(4);
    let fit = fitting(&narrow, |node| (*node == four).then_some(&nets));
    let expected = [("10.0.0.9", 1216), ("fd00::9", 1280)];
    assert_eq!(fit, expected.map(|(at, bytes)| (at.parse().unwrap(), bytes)).into());
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
    assert_eq!(test.narrow(), [(2.into(), 1300)].into());
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
    assert_eq!((test.narrow(), test.next()), (BTreeMap::new(), None));
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
