//! What agents of other versions have left on the host.

use shoal_agent_ground::testing::skip_without_root;

use super::*;

/// Rules of an agent that had them elsewhere, or others.
const FORMER: [&[&str]; 3] = [
    &["not", "iif", "lo", "pref", "62", "prohibit", "protocol", "kernel"],
    &["pref", "62", "to", "192.0.2.0/24", "blackhole", "protocol", "kernel"],
    &["pref", "68", "fwmark", "7", "lookup", "9", "protocol", "kernel"],
];

/// Somebody else's, who does not say that they are the kernel's; and the kernel's own elsewhere.
const OTHERS: [&[&str]; 2] = [
    &["pref", "62", "to", "192.0.2.128/25", "prohibit"],
    &["pref", "1000", "to", "192.0.2.128/25", "prohibit", "protocol", "kernel"],
];

#[test]
fn routing_rules_of_another_version_go_and_those_of_others_stay() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let add = |rules: &[&[&str]]| {
        for rule in rules {
            lab.host.run("ip", &[&["rule", "add"], *rule].concat());
        }
    };
    let rules = || lab.host.run("ip", &["rule"]);
    add(&OTHERS);
    let before = rules();
    add(&FORMER);
    assert_eq!(rules().lines().count(), before.lines().count() + FORMER.len());
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let with_network = rules();
        for text in ["62:\tnot from all iif lo", "blackhole", "fwmark 0x7"] {
            assert!(!with_network.contains(text), "{text} is still there: {with_network}");
        }
        // Also those of an older agent that was there in between.
        add(&FORMER);
        driver.repair().await.unwrap();
        assert_eq!(rules(), with_network);
        // Who leaves takes them along.
        drop(driver);
        add(&FORMER);
        lab.driver().cleanup_all().await.unwrap();
    });
    assert_eq!(rules(), before);
}
