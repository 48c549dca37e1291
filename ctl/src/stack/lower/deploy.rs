//! How many tasks, where, and how they are replaced.

use shoal_types::resources::{Limits, ResourceRequirements, Resources};
use shoal_types::spec::{
    FailureAction, Placement, RestartCondition, RestartPolicy, ServiceMode, UpdateConfig,
    UpdateOrder,
};

use super::{Lower, cpus, size, text, texts, time, whole};
use crate::stack::node::Node;
use crate::stack::{refused, scalar};

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Replicated,
    Global,
    Job,
}

impl Lower<'_> {
    pub(super) fn mode(&mut self, deploy: &Node, path: &str) -> ServiceMode {
        const MODES: [(&str, Mode); 2] =
            [("replicated", Mode::Replicated), ("global", Mode::Global)];
        let mode = match deploy.get("mode") {
            None => Mode::Replicated,
            Some(node) => {
                let path = format!("{path}.mode");
                if matches!(node.as_text(), Some("replicated-job" | "global-job")) {
                    self.wrong(node.at, &path, refused::JOB.said(&node.kind()));
                    Mode::Job
                } else {
                    self.word(node, &path, &MODES).unwrap_or(Mode::Job)
                }
            }
        };
        let replicas = whole(deploy, "replicas");
        if let (Mode::Global, Some(entry)) = (mode, deploy.entry("replicas")) {
            let path = format!("{path}.replicas");
            self.wrong(entry.key_at, &path, "does not go with mode: global");
        }
        match mode {
            Mode::Global => ServiceMode::Global {},
            _ => ServiceMode::Replicated { replicas: replicas.unwrap_or(1) },
        }
    }

    pub(super) fn update_config(&mut self, deploy: &Node, path: &str) -> Option<UpdateConfig> {
        let node = deploy.get("update_config")?;
        let path = format!("{path}.update_config");
        let defaults = UpdateConfig::default();
        let action = node.get("failure_action").and_then(|n| {
            let words = [
                ("pause", FailureAction::Pause),
                ("continue", FailureAction::Continue),
                ("rollback", FailureAction::Rollback),
            ];
            self.word(n, &format!("{path}.failure_action"), &words)
        });
        let order = node.get("order").and_then(|n| {
            let words =
                [("stop-first", UpdateOrder::StopFirst), ("start-first", UpdateOrder::StartFirst)];
            self.word(n, &format!("{path}.order"), &words)
        });
        Some(UpdateConfig {
            parallelism: whole(node, "parallelism").unwrap_or(defaults.parallelism),
            delay: time(node, "delay").unwrap_or(defaults.delay),
            failure_action: action.unwrap_or(defaults.failure_action),
            monitor: time(node, "monitor"),
            max_failure_ratio: text(node, "max_failure_ratio").parse().unwrap_or(0.0),
            order: order.unwrap_or(defaults.order),
        })
    }

    /// `deploy.restart_policy`, or what `restart` means.
    pub(super) fn restart_policy(&mut self, service: &Node, path: &str) -> Option<RestartPolicy> {
        let policy = service.at_path(&["deploy", "restart_policy"]);
        let Some(restart) = service.get("restart") else {
            return policy.map(|node| self.declared_policy(node, path));
        };
        let path_of_restart = format!("{path}.restart");
        if policy.is_some() {
            let text = "cannot be combined with deploy.restart_policy: expected one of them";
            self.wrong(restart.at, &path_of_restart, text);
        }
        let (word, attempts) = match restart.as_text().unwrap_or_default().split_once(':') {
            Some((word, attempts)) => (word, Some(attempts)),
            None => (restart.as_text().unwrap_or_default(), None),
        };
        let condition = match (word, attempts) {
            ("no", None) => Some(RestartCondition::None),
            ("always" | "unless-stopped", None) => Some(RestartCondition::Any),
            ("on-failure", _) => Some(RestartCondition::OnFailure),
            _ => None,
        };
        let attempts = attempts.map_or(Ok(0), scalar::whole);
        if let (Some(condition), Ok(max_attempts)) = (condition, attempts) {
            return Some(RestartPolicy { condition, max_attempts, ..RestartPolicy::default() });
        }
        let known = "no, always, unless-stopped, on-failure or on-failure:ATTEMPTS";
        let text = format!("is {}: expected {known}", restart.kind());
        self.wrong(restart.at, &path_of_restart, text);
        None
    }

    fn declared_policy(&mut self, node: &Node, path: &str) -> RestartPolicy {
        const WORDS: [(&str, RestartCondition); 3] = [
            ("none", RestartCondition::None),
            ("on-failure", RestartCondition::OnFailure),
            ("any", RestartCondition::Any),
        ];
        let path = format!("{path}.deploy.restart_policy.condition");
        let condition = node.get("condition").and_then(|n| self.word(n, &path, &WORDS));
        RestartPolicy {
            condition: condition.unwrap_or_default(),
            delay: time(node, "delay"),
            max_attempts: whole(node, "max_attempts").unwrap_or(0),
            window: time(node, "window"),
        }
    }
}

pub(super) fn resources(deploy: &Node) -> Option<ResourceRequirements> {
    let node = deploy.get("resources")?;
    let limits = node.get("limits").map(|limits| Limits {
        nano_cpus: cpus(limits, "cpus").unwrap_or(0),
        memory_bytes: size(limits, "memory").unwrap_or(0),
        pids: whole(limits, "pids").unwrap_or(0),
    });
    let reservations = node.get("reservations").map(|reserved| Resources {
        nano_cpus: cpus(reserved, "cpus").unwrap_or(0),
        memory_bytes: size(reserved, "memory").unwrap_or(0),
        generic_resources: Vec::new(),
    });
    let any = limits.is_some() || reservations.is_some();
    any.then(|| ResourceRequirements { limits, reservations, ..ResourceRequirements::default() })
}

pub(super) fn placement(deploy: &Node) -> Option<Placement> {
    let node = deploy.get("placement")?;
    Some(Placement {
        constraints: texts(node.get("constraints")),
        max_replicas: whole(node, "max_replicas_per_node").unwrap_or(0),
        ..Placement::default()
    })
}
