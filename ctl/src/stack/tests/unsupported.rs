//! What a stack file can say and shoal cannot do stands in a document.

use std::collections::BTreeSet;

use shoal_types::spec::unsupported;

use super::super::refused::{self, Refused};
use super::super::schema::{ATTACHMENT, ENV_FILE, Key, MOUNT, PORT, ROOT, Rule, Shape};
use super::{problems, web};

/// Every key that is refused, or is only allowed to say what is the case anyway.
fn refused() -> Vec<(String, String)> {
    let mut all = Vec::new();
    of_keys(&mut all, "", ROOT);
    all
}

fn of_keys(all: &mut Vec<(String, String)>, above: &str, keys: &[Key]) {
    for key in keys {
        let path = format!("{above}{}", key.name);
        match key.rule {
            Rule::Is(shape) => of_shape(all, &path, &shape),
            Rule::Obsolete => all.push((path, "means nothing any more; a warning".to_owned())),
            Rule::Refused { reason, hint: "" } => all.push((path, reason.to_owned())),
            Rule::Refused { reason, hint } => all.push((path, format!("{reason}; {hint}"))),
            Rule::OnlyFalse { reason } => all.push((path, format!("{reason}, unless it is false"))),
        }
    }
}

fn of_shape(all: &mut Vec<(String, String)>, path: &str, shape: &Shape) {
    match shape {
        Shape::Object(keys) => of_keys(all, &format!("{path}."), keys),
        Shape::MapOf(shape) => of_shape(all, &format!("{path}.*"), shape),
        Shape::ListOf(shape) => of_shape(all, &format!("{path}[]"), shape),
        Shape::Ports => of_keys(all, &format!("{path}[]."), PORT),
        Shape::Mounts => of_keys(all, &format!("{path}[]."), MOUNT),
        Shape::Attachments => of_keys(all, &format!("{path}.*."), ATTACHMENT),
        Shape::EnvFiles => of_keys(all, &format!("{path}[]."), ENV_FILE),
        _ => {}
    }
}

/// The rows of a section of the document.
fn listed(section: &str) -> Vec<&'static str> {
    let document = include_str!("../../../../docs/unsupported.md");
    let section = document.split(&format!("\n## {section}\n")).nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    section.lines().filter(|line| line.starts_with("| `")).collect()
}

#[track_caller]
fn is_listed(section: &str, rows: &[String]) {
    assert_eq!(listed(section), rows, "docs/unsupported.md is to have:\n{}", rows.join("\n"));
}

#[test]
fn the_document_lists_exactly_the_keys_that_are_refused() {
    let rows: Vec<String> =
        refused().into_iter().map(|(key, why)| format!("| `{key}` | {why} |")).collect();
    is_listed("Stack files", &rows);
}

#[test]
fn the_document_lists_exactly_the_values_that_are_refused() {
    let row = |r: &&Refused| format!("| `{}` | {} | {} |", r.key, r.values, r.why());
    let rows: Vec<String> = refused::ALL.iter().map(row).collect();
    is_listed("Values", &rows);
}

/// Each row of the table of values refuses something, with its own text.
#[test]
fn every_value_that_is_listed_is_refused() {
    let files = [
        (refused::TAG, web("tty: !reset true")),
        (refused::JOB, web("deploy: {mode: global-job}")),
        (refused::HOST_GATEWAY, web("extra_hosts: ['me:host-gateway']")),
        (refused::OTHER_CONTAINER, web("network_mode: container:x")),
        (refused::PORT_RANGE, web("ports: [{target: 80, published: '80-90'}]")),
        (refused::SECURITY_OPTION, web("security_opt: ['seccomp:unconfined']")),
        (refused::TMPFS_OPTION, web("tmpfs: '/run:noexec'")),
        (refused::SELINUX_OPTION, web("volumes: ['/a:/b:Z']")),
        (refused::CONSISTENCY_OPTION, web("volumes: ['/a:/b:cached']")),
        (refused::PIPE, web("volumes: [{type: npipe, source: /a, target: /b}]")),
        (refused::MOUNT_TYPE, web("volumes: [{type: image, source: a, target: /b}]")),
        (refused::VOLUME_DRIVER, web("") + "volumes: {v: {driver: nfs}}\n"),
    ];
    let of_files = refused::ALL.iter().filter(|r| !r.key.starts_with("shoalctl "));
    assert_eq!(of_files.count(), files.len(), "a row has no file here");
    for (row, file) in files {
        let found = problems(&file);
        assert!(found.contains(&row.why()) && !found.contains('\n'), "{row:?}: {found}");
        let last = row.key.trim_end_matches("[]").rsplit('.').next().unwrap_or_default();
        assert!(found.contains(last) || row.key == "(any)", "{row:?}: {found}");
    }
}

/// What a stack file says and what a spec has, where the one ends in the other: none of the two begins to
/// work alone. Of those in [`OF_SPECS`] a stack file has no key of its own.
const TIED: &[(&str, &str)] = &[
    ("services.*.deploy.mode", "service: mode"),
    ("services.*.deploy.rollback_config", "service: rollback_config"),
    ("services.*.logging", "service: task_template.log_driver"),
    (
        "services.*.deploy.resources.reservations.generic_resources",
        "service: task_template.resources.reservations.generic_resources",
    ),
    ("services.*.memswap_limit", "service: task_template.resources.swap_bytes"),
    ("services.*.mem_swappiness", "service: task_template.resources.memory_swappiness"),
    ("services.*.networks.*.driver_opts", "service: task_template.networks[].driver_opts"),
    ("services.*.deploy.placement.preferences", "service: task_template.placement.preferences"),
    ("services.*.init", "service: task_template.container.init"),
    ("services.*.isolation", "service: task_template.container.isolation"),
    ("services.*.group_add", "service: task_template.container.groups"),
    ("services.*.credential_spec", "service: task_template.container.privileges.credential_spec"),
    ("services.*.security_opt[]", "service: task_template.container.privileges.selinux_context"),
    ("services.*.security_opt[]", "service: task_template.container.privileges.seccomp"),
    ("services.*.security_opt[]", "service: task_template.container.privileges.app_armor"),
    ("services.*.volumes[].type", "service: task_template.container.mounts[].type"),
    (
        "services.*.volumes[].volume.subpath",
        "service: task_template.container.mounts[].volume_options.subpath",
    ),
    (
        "volumes.*.driver",
        "service: task_template.container.mounts[].volume_options.driver_config.name",
    ),
    ("services.*.tmpfs[]", "service: task_template.container.mounts[].tmpfs_options.options"),
    (
        "services.*.volumes[].bind.recursive",
        "service: task_template.container.mounts[].bind_options",
    ),
    ("networks.*.ipam.options", "network: ipam.driver.options"),
    ("secrets.*.driver", "secret: driver"),
    ("secrets.*.template_driver", "secret: templating"),
    ("configs.*.template_driver", "config: templating"),
];

/// What a stack file says with a key that works, so that the table of specs itself refuses the value; and
/// what only the API can say.
const OF_SPECS: &[&str] = &[
    "service: endpoint_spec.ports[].host_ip",
    "service: task_template.runtime",
    "network: driver.options",
    "service: task_template.container.env[]",
    "service: task_template.container.mounts[].source",
    "service: task_template.container.mounts[].target",
    "service: task_template.container.mounts[].bind_options.propagation",
    "network: driver",
    "network: scope",
    "network: ingress",
    "network: config_only",
    "network: config_from",
    "network: ipam.driver",
    "service: task_template.container.secrets[].target",
    "service: task_template.container.configs[].target",
];

#[test]
fn what_a_stack_file_is_refused_for_a_spec_is_too() {
    let keys = refused().into_iter().map(|(key, _)| key);
    let keys: BTreeSet<String> =
        keys.chain(refused::ALL.iter().map(|r| r.key.to_owned())).collect();
    for (key, field) in TIED {
        assert!(keys.contains(*key), "{key} is refused no more; {field} still is, or is it not?");
    }
    let tied = TIED.iter().map(|(_, field)| *field).chain(OF_SPECS.iter().copied());
    let mut tied: Vec<String> = tied.map(str::to_owned).collect();
    let mut fields: Vec<String> = unsupported::all().into_iter().map(|(field, _)| field).collect();
    tied.sort_unstable();
    fields.sort_unstable();
    assert_eq!(tied, fields, "left: known here; right: refused in specs");
}
