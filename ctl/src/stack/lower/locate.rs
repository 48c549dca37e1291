//! Where in the file a violation of a spec comes from.

use shoal_types::spec::Violation;

use crate::stack::node::{Node, Value};
use crate::stack::problem::{Pos, Problem};

/// Beginnings of paths in a service's spec, and the keys of the file that they come from.
const SERVICE: &[(&str, &str)] = &[
    ("name", ""),
    ("labels", "deploy.labels"),
    ("mode", "deploy.replicas"),
    ("update_config", "deploy.update_config"),
    ("endpoint_spec.ports", "ports"),
    ("endpoint_spec.mode", "deploy.endpoint_mode"),
    ("endpoint_spec.affinity", "deploy.endpoint_affinity"),
    ("endpoint_spec.locality", "deploy.endpoint_locality"),
    ("task_template.container.image", "image"),
    ("task_template.container.labels", "labels"),
    ("task_template.container.command", "entrypoint"),
    ("task_template.container.args", "command"),
    ("task_template.container.env", "environment"),
    ("task_template.container.hostname", "hostname"),
    ("task_template.container.dir", "working_dir"),
    ("task_template.container.user", "user"),
    ("task_template.container.stop_signal", "stop_signal"),
    ("task_template.container.drain_timeout", "deploy.drain_timeout"),
    ("task_template.container.healthcheck", "healthcheck"),
    ("task_template.container.mounts", "volumes"),
    ("task_template.container.capability_add", "cap_add"),
    ("task_template.container.capability_drop", "cap_drop"),
    ("task_template.container.sysctls", "sysctls"),
    ("task_template.container.ulimits", "ulimits"),
    ("task_template.container.oom_score_adj", "oom_score_adj"),
    ("task_template.container.hosts", "extra_hosts"),
    ("task_template.container.dns_config.nameservers", "dns"),
    ("task_template.container.dns_config.search", "dns_search"),
    ("task_template.container.dns_config.options", "dns_opt"),
    ("task_template.resources.limits.nano_cpus", "deploy.resources.limits.cpus"),
    ("task_template.resources.limits.memory_bytes", "deploy.resources.limits.memory"),
    ("task_template.resources.reservations.nano_cpus", "deploy.resources.reservations.cpus"),
    ("task_template.resources.reservations.memory_bytes", "deploy.resources.reservations.memory"),
    ("task_template.resources", "deploy.resources"),
    ("task_template.placement", "deploy.placement"),
    ("task_template.networks", "networks"),
    ("task_template.network_of", "network_mode"),
    ("task_template.restart_policy", "deploy.restart_policy"),
];

/// The path of a driver's options in a spec.
const OPTIONS: &str = "driver.options";

/// Turns a violation into a finding with its place.
pub(super) fn problem(root: &Node, violation: &Violation) -> Problem {
    let text = if violation.value.is_empty() {
        violation.problem.clone()
    } else {
        format!("{:?} {}", violation.value, violation.problem)
    };
    let Some((section, key, rest)) = split(root, &violation.path) else {
        let path = if violation.path == "name" { "name of the stack" } else { &violation.path };
        return Problem { at: None, path: path.to_owned(), text };
    };
    let rest = match section {
        "services" => from_service(rest),
        // A name that is not given is made from the key.
        _ if rest == "name" => "name".to_owned(),
        _ if rest.starts_with(OPTIONS) => rest.replacen(OPTIONS, "driver_opts", 1),
        _ => rest.to_owned(),
    };
    let path = if rest.is_empty() {
        format!("{section}.{key}")
    } else {
        format!("{section}.{key}.{rest}")
    };
    Problem { at: position(root, section, key, &rest), path, text }
}

/// Whether a violation only says once more what a finding said: it is about the same thing, about a
/// part of it, or about a list of which something was left out.
pub(super) fn is_consequence(violation: &Problem, found: &Problem) -> bool {
    let list = |path: &str| path.split('[').next().unwrap_or_default().to_owned();
    let is_below = |path: &str, above: &str| {
        path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let (violation, found) = (list(&violation.path), list(&found.path));
    is_below(&violation, &found) || is_below(&found, &violation)
}

/// Section, key and the rest of a path; keys may hold dots themselves.
fn split<'a>(root: &Node, path: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
    let (section, tail) = path.split_once('.')?;
    let keys = root.get(section).map_or(&[][..], Node::entries).iter().map(|e| e.key.as_str());
    let fits = |key: &&str| tail.strip_prefix(key).is_some_and(|t| t.starts_with('.'));
    let known = keys.filter(fits).map(str::len).max();
    let end = known.or_else(|| tail.find('.'))?;
    Some((section, &tail[..end], &tail[end + 1..]))
}

fn from_service(path: &str) -> String {
    for (from, to) in SERVICE {
        if let Some(rest) = path.strip_prefix(*from)
            && (rest.is_empty() || rest.starts_with(['.', '[']))
        {
            return format!("{to}{rest}");
        }
    }
    path.to_owned()
}

/// The deepest node on a path that exists; the key of the member if there is none at all.
fn position(root: &Node, section: &str, key: &str, rest: &str) -> Option<Pos> {
    let member = root.get(section)?.entry(key)?;
    let mut at = member.key_at;
    let mut node = &member.value;
    for part in rest.split(['.', '[']).map(|p| p.trim_end_matches(']')) {
        let next = match &node.value {
            Value::Map(_) => node.get(part),
            Value::Seq(items) => part.parse::<usize>().ok().and_then(|i| items.get(i)),
            Value::Null | Value::Scalar { .. } => None,
        };
        let Some(next) = next else { break };
        at = next.at;
        node = next;
    }
    Some(at)
}
