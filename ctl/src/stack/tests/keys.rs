//! Every key that the compose specification gives a service: it works, or it is refused by name.

use super::{load_all, problems, web};
use crate::stack::schema::{Rule, SERVICE};

/// Keys that work, with a value that must show in the spec.
const WORKS: &[(&str, &str)] = &[
    ("cap_add", "[NET_ADMIN]"),
    ("cap_drop", "[CHOWN]"),
    ("command", "run it"),
    ("configs", "[a]"),
    ("deploy", "{replicas: 3}"),
    ("dns", "10.0.0.53"),
    ("dns_opt", "['ndots:2']"),
    ("dns_search", "local"),
    ("entrypoint", "[/run]"),
    ("env_file", "web.env"),
    ("environment", "{A: b}"),
    ("extra_hosts", "['db:10.0.0.9']"),
    ("healthcheck", "{test: [CMD, true]}"),
    ("hostname", "h"),
    ("image", "other"),
    ("labels", "{a: b}"),
    ("network_mode", "host"),
    ("networks", "{default: {}}"),
    ("oom_score_adj", "5"),
    ("ports", "['80:80']"),
    ("read_only", "true"),
    ("restart", "on-failure"),
    ("secrets", "[a]"),
    ("security_opt", "['no-new-privileges:true']"),
    ("shm_size", "1m"),
    ("stdin_open", "true"),
    ("stop_grace_period", "1m"),
    ("stop_signal", "SIGINT"),
    ("sysctls", "{net.core.somaxconn: 9}"),
    ("tmpfs", "/run"),
    ("tty", "true"),
    ("ulimits", "{nofile: 9}"),
    ("user", "u"),
    ("volumes", "['/a:/b']"),
    ("working_dir", "/w"),
];

/// Keys that are refused, with a value of a right form.
const REFUSED: &[(&str, &str)] = &[
    ("annotations", "{a: b}"),
    ("attach", "false"),
    ("blkio_config", "{weight: 300}"),
    ("build", "."),
    ("cgroup", "host"),
    ("cgroup_parent", "x"),
    ("container_name", "x"),
    ("cpu_count", "2"),
    ("cpu_percent", "50"),
    ("cpu_period", "1000"),
    ("cpu_quota", "1000"),
    ("cpu_rt_period", "1000"),
    ("cpu_rt_runtime", "1000"),
    ("cpu_shares", "10"),
    ("cpus", "0.5"),
    ("cpuset", "0,1"),
    ("credential_spec", "{file: a}"),
    ("depends_on", "[db]"),
    ("develop", "{watch: []}"),
    ("device_cgroup_rules", "['c 1:3 mr']"),
    ("devices", "['/dev/null:/dev/x']"),
    ("domainname", "x"),
    ("expose", "[80]"),
    ("extends", "{service: a}"),
    ("external_links", "[a]"),
    ("gpus", "all"),
    ("group_add", "[mail]"),
    ("init", "true"),
    ("ipc", "host"),
    ("isolation", "hyperv"),
    ("label_file", "a"),
    ("links", "[a]"),
    ("logging", "{driver: none}"),
    ("mac_address", "02:42:ac:11:65:43"),
    ("mem_limit", "1g"),
    ("mem_reservation", "1g"),
    ("mem_swappiness", "10"),
    ("memswap_limit", "1g"),
    ("models", "[m]"),
    ("oom_kill_disable", "true"),
    ("pid", "host"),
    ("pids_limit", "9"),
    ("platform", "linux/amd64"),
    ("post_start", "[{command: a}]"),
    ("pre_stop", "[{command: a}]"),
    ("privileged", "true"),
    ("profiles", "[a]"),
    ("provider", "{type: x}"),
    ("pull_policy", "always"),
    ("pull_refresh_after", "1h"),
    ("runtime", "runc"),
    ("scale", "2"),
    ("storage_opt", "{size: 1G}"),
    ("use_api_socket", "true"),
    ("userns_mode", "host"),
    ("uts", "host"),
    ("volume_driver", "local"),
    ("volumes_from", "[a]"),
];

fn with(key: &str, value: &str) -> String {
    match key {
        "image" => format!("services:\n  web:\n    image: {value}\n"),
        "configs" | "secrets" => {
            format!("{}{key}: {{a: {{external: true}}}}\n", web(&format!("{key}: {value}")))
        }
        _ => web(&format!("{key}: {value}")),
    }
}

#[test]
fn the_table_has_every_key_and_no_other() {
    let mut listed: Vec<&str> = WORKS.iter().chain(REFUSED).map(|(key, _)| *key).collect();
    let mut known: Vec<&str> = SERVICE.iter().map(|key| key.name).collect();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);
    let mut both = listed.clone();
    both.dedup();
    assert_eq!(both, listed, "a key is listed twice");
}

#[test]
fn what_works_ends_in_the_spec() {
    let plain = load_all(&[&web("")]).unwrap().spec;
    for (key, value) in WORKS {
        let loaded = load_all(&[&with(key, value)]).unwrap_or_else(|e| panic!("{key}: {e}"));
        // The network that a service joins unasked.
        if *key != "networks" {
            assert_ne!(loaded.spec, plain, "{key} changes nothing");
        }
    }
}

#[test]
fn what_does_not_is_refused_at_its_place_with_a_reason() {
    for (key, value) in REFUSED {
        let found = problems(&with(key, value));
        let place = format!("f.yaml:4:5: services.web.{key}: ");
        let reason = found.strip_prefix(&place).unwrap_or_else(|| panic!("{key}: {found:?}"));
        assert!(!reason.contains('\n') && !reason.contains("unknown"), "{key}: {found}");
        assert!(reason.len() > 10, "{key}: {found}");
    }
}

#[test]
fn what_asks_for_nothing_is_not_refused() {
    for key in SERVICE.iter().filter(|key| matches!(key.rule, Rule::OnlyFalse { .. })) {
        let name = key.name;
        assert_eq!(problems(&with(name, "false")), "", "{name}: false is the case anyway");
    }
}
