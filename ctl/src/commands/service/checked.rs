//! What is wrong with a spec that flags made, in the words of the flags.

use shoal_types::spec::{ServiceSpec, Violation};

use crate::commands::Result;
use crate::error::CommandError;

/// Which command's flags a spec was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Create,
    Update,
}

/// Beginnings of paths in a spec, and what sets it in `service create`. Those with a `+` are called
/// `…-add` in `service update`.
const FLAGS: &[(&str, &str)] = &[
    ("name", "--name"),
    ("labels", "--label+"),
    ("mode", "--replicas"),
    ("update_config.parallelism", "--update-parallelism"),
    ("update_config.delay", "--update-delay"),
    ("update_config.monitor", "--update-monitor"),
    ("update_config.max_failure_ratio", "--update-max-failure-ratio"),
    ("endpoint_spec.ports", "--publish+"),
    ("endpoint_spec.mode", "--endpoint-mode"),
    ("endpoint_spec.affinity", "--endpoint-affinity"),
    ("endpoint_spec.locality", "--endpoint-locality"),
    ("task_template.container.image", "IMAGE"),
    ("task_template.container.labels", "--container-label+"),
    ("task_template.container.command", "--entrypoint"),
    ("task_template.container.args", "--args"),
    ("task_template.container.env", "--env+"),
    ("task_template.container.hostname", "--hostname"),
    ("task_template.container.dir", "--workdir"),
    ("task_template.container.user", "--user"),
    ("task_template.container.stop_signal", "--stop-signal"),
    ("task_template.container.stop_grace_period", "--stop-grace-period"),
    ("task_template.container.drain_timeout", "--drain-timeout"),
    ("task_template.container.healthcheck.test", "--health-cmd"),
    ("task_template.container.healthcheck.interval", "--health-interval"),
    ("task_template.container.healthcheck.timeout", "--health-timeout"),
    ("task_template.container.healthcheck.start_period", "--health-start-period"),
    ("task_template.container.healthcheck.start_interval", "--health-start-interval"),
    ("task_template.container.healthcheck.retries", "--health-retries"),
    ("task_template.container.mounts", "--mount+"),
    ("task_template.container.secrets", "--secret+"),
    ("task_template.container.configs", "--config+"),
    ("task_template.container.capability_add", "--cap-add"),
    ("task_template.container.capability_drop", "--cap-drop"),
    ("task_template.container.sysctls", "--sysctl+"),
    ("task_template.container.ulimits", "--ulimit+"),
    ("task_template.container.oom_score_adj", "--oom-score-adj"),
    ("task_template.container.hosts", "--host+"),
    ("task_template.container.dns_config.nameservers", "--dns+"),
    ("task_template.container.dns_config.search", "--dns-search+"),
    ("task_template.container.dns_config.options", "--dns-option+"),
    ("task_template.resources.limits.nano_cpus", "--limit-cpu"),
    ("task_template.resources.limits.memory_bytes", "--limit-memory"),
    ("task_template.resources.limits.pids", "--limit-pids"),
    ("task_template.resources.reservations.nano_cpus", "--reserve-cpu"),
    ("task_template.resources.reservations.memory_bytes", "--reserve-memory"),
    ("task_template.placement.constraints", "--constraint+"),
    ("task_template.placement.max_replicas", "--replicas-max-per-node"),
    ("task_template.networks", "--network+"),
    ("task_template.network_of", "--network+"),
    ("task_template.restart_policy.delay", "--restart-delay"),
    ("task_template.restart_policy.max_attempts", "--restart-max-attempts"),
    ("task_template.restart_policy.window", "--restart-window"),
];

/// Checks a spec before anybody is asked to take it.
///
/// # Errors
/// Everything that is wrong with it, one a line, each with the flag that it was said with.
pub(super) fn check(spec: &ServiceSpec, by: By) -> Result {
    let Err(violations) = spec.validate() else { return Ok(()) };
    let lines: Vec<String> = violations.0.iter().map(|violation| said(violation, by)).collect();
    Err(CommandError::failed(lines.join("\n")))
}

fn said(violation: &Violation, by: By) -> String {
    let Violation { path, value, problem } = violation;
    let flag = flag(path, by).unwrap_or_else(|| path.clone());
    if value.is_empty() {
        return format!("{flag}: {problem}");
    }
    format!("{flag}: {value:?} {problem}")
}

fn flag(path: &str, by: By) -> Option<String> {
    let is_below = |above: &str| {
        path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let (_, flag) = FLAGS.iter().find(|(above, _)| is_below(above))?;
    Some(match (flag.strip_suffix('+'), by) {
        (Some(flag), By::Create) => flag.to_owned(),
        (Some(flag), By::Update) => format!("{flag}-add"),
        (None, By::Update) if *flag == "IMAGE" => "--image".to_owned(),
        (None, _) => (*flag).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_flag_that_is_named_is_one() {
        let cli = Cli::command();
        for (by, name) in [(By::Create, "create"), (By::Update, "update")] {
            let service = cli.find_subcommand("service").unwrap();
            let command = service.find_subcommand(name).unwrap();
            let known: Vec<String> = command
                .get_arguments()
                .filter_map(|a| Some(format!("--{}", a.get_long()?)))
                .collect();
            for (path, _) in FLAGS {
                let flag = flag(path, by).unwrap();
                // The name of a service is no flag of its update.
                let is_one = known.contains(&flag) || flag == "IMAGE" || path == &"name";
                assert!(is_one, "{path}: service {name} has no {flag}");
            }
        }
    }

    #[test]
    fn a_violation_names_the_flag_that_was_typed() {
        let violation = Violation {
            path: "task_template.placement.constraints[0]".to_owned(),
            value: "node.role=worker".to_owned(),
            problem: "has no operator".to_owned(),
        };
        let expected = "--constraint: \"node.role=worker\" has no operator";
        assert_eq!(said(&violation, By::Create), expected);
        assert!(said(&violation, By::Update).starts_with("--constraint-add: "));
    }
}
