//! What the systemd units promise: when the agent starts and that it always does, and that containers are
//! stopped in good order by a shutdown and by nothing else.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The words of every setting, `Section.Name`; a setting that stands there again adds to the first, as
/// systemd.syntax(7) has it for lists.
type Unit = BTreeMap<String, BTreeSet<String>>;

fn parse(text: &str) -> Unit {
    let mut unit = Unit::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else {
            assert!(!line.ends_with('\\'), "a line that goes on is read by nobody here: {line}");
            let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("what is {line:?}?"));
            let words = value.split_whitespace().map(str::to_owned);
            unit.entry(format!("{section}.{name}")).or_default().extend(words);
        }
    }
    unit
}

fn unit(name: &str) -> Unit {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    parse(&fs::read_to_string(dir.join(name)).expect("a unit"))
}

/// Settings that lack words which are wanted.
fn lacking(unit: &Unit, wanted: &[(&str, &str)]) -> Vec<String> {
    let lacks = |(name, words): &&(&str, &str)| {
        let has = unit.get(*name);
        !words.split_whitespace().all(|word| has.is_some_and(|has| has.contains(word)))
    };
    let found = wanted.iter().filter(lacks);
    found.map(|(name, words)| format!("{name}={words}, not {:?}", unit.get(*name))).collect()
}

const AGENT: [(&str, &str); 12] = [
    ("Unit.Wants", "network-online.target shoal-containers.service"),
    ("Unit.After", "network-online.target time-set.target time-sync.target remote-fs.target"),
    ("Unit.After", "docker.service containerd.service libvirtd.service"),
    ("Unit.RequiresMountsFor", "/var/lib/shoal"),
    ("Unit.StartLimitIntervalSec", "0"),
    ("Service.Type", "notify"),
    ("Service.NotifyAccess", "main"),
    ("Service.Restart", "always"),
    ("Service.KillMode", "process"),
    ("Service.Delegate", "yes"),
    ("Service.EnvironmentFile", "-/etc/default/shoal-agent"),
    ("Install.WantedBy", "multi-user.target"),
];

const CONTAINERS: [(&str, &str); 6] = [
    ("Unit.After", "shoal-agent.service"),
    ("Unit.RefuseManualStop", "yes"),
    ("Service.Type", "oneshot"),
    ("Service.RemainAfterExit", "yes"),
    ("Service.EnvironmentFile", "-/etc/default/shoal-agent"),
    ("Service.ExecStop", "@BINDIR@/shoal-agent stop-containers"),
];

#[test]
fn the_agent_always_runs_and_waits_for_what_it_needs() {
    let agent = unit("shoal-agent.service");
    assert_eq!(lacking(&agent, &AGENT), [""; 0]);
    // Whoever changes one of them takes something from containers, as the unit says.
    for name in ["CapabilityBoundingSet", "NoNewPrivileges", "PrivateTmp", "SystemCallFilter"] {
        assert!(!agent.contains_key(&format!("Service.{name}")), "{name}");
    }
}

/// Stopped in the reverse order of starting: so before the agent, and not with it.
#[test]
fn containers_are_stopped_by_a_shutdown_and_by_nothing_else() {
    let containers = unit("shoal-containers.service");
    assert_eq!(lacking(&containers, &CONTAINERS), [""; 0]);
    for name in ["PartOf", "BindsTo", "Requires", "StopWhenUnneeded"] {
        assert!(!containers.contains_key(&format!("Unit.{name}")), "{name} ends it with the agent");
    }
    // Else nothing would end it at a shutdown.
    assert!(!containers.contains_key("Unit.DefaultDependencies"));
    // Its own variables are those of the agent.
    let files = |unit: &Unit| unit["Service.EnvironmentFile"].clone();
    assert_eq!(files(&containers), files(&unit("shoal-agent.service")));
}

#[test]
fn what_a_unit_lacks_is_found() {
    let text = "# Restart=always\n[Unit]\nAfter=a.target\nAfter=b.target c.target\n[Service]\nType=simple\n";
    let unit = parse(text);
    let wanted = [
        ("Unit.After", "a.target c.target"),
        ("Unit.After", "d.target"),
        ("Service.Type", "notify"),
        ("Service.Restart", "always"),
    ];
    assert_eq!(lacking(&unit, &wanted).len(), 3);
}
