//! What is known of the deployments that are followed. Knows no clock and prints nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_types::id::{DeploymentId, NodeId, ServiceId, TaskId};
use shoal_types::object::{Deployment, DeploymentKind, DeploymentState, Node, Service, Task};
use shoal_types::spec::ServiceMode;
use shoal_types::task_state::{DesiredState, TaskState};

use super::reporter::{Line, Reporter};
use crate::client::{Event, EventAction, Object};
use crate::error::CommandError;
use crate::render::time;

/// For rounding: a task is made a moment after its delay was planned.
const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// How it all ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Converged,
    /// At least one deployment failed.
    Failed {
        why: Vec<String>,
        /// All that failed were rolled back.
        rolled_back: bool,
    },
    Superseded(Vec<String>),
    Gone(Vec<String>),
}

#[derive(Debug)]
struct Target {
    service: Service,
    /// The one that was asked for.
    deployment_id: DeploymentId,
    gone: bool,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    targets: BTreeMap<ServiceId, Target>,
    deployments: BTreeMap<DeploymentId, Deployment>,
    tasks: BTreeMap<TaskId, Task>,
    hosts: BTreeMap<NodeId, String>,
    told: BTreeSet<(TaskId, String)>,
}

impl Model {
    pub(super) fn new(services: &[Service]) -> Self {
        let target = |service: &Service| {
            let deployment_id = service.deployment_id;
            (service.id, Target { service: service.clone(), deployment_id, gone: false })
        };
        Self { targets: services.iter().map(target).collect(), ..Self::default() }
    }

    pub(super) fn service_ids(&self) -> Vec<String> {
        self.targets.keys().map(ToString::to_string).collect()
    }

    /// Those that were asked for, and those that came after them.
    pub(super) fn deployment_ids(&self) -> Vec<String> {
        let ids: BTreeSet<DeploymentId> = self
            .targets
            .values()
            .filter(|t| !t.gone)
            .flat_map(|t| [t.deployment_id, t.service.deployment_id])
            .collect();
        ids.iter().map(ToString::to_string).collect()
    }

    pub(super) fn hosts(&mut self, nodes: &[Node]) {
        self.hosts = nodes.iter().map(|n| (n.id, n.description.hostname.clone())).collect();
    }

    pub(super) fn service(&mut self, service: Service) {
        if let Some(target) = self.targets.get_mut(&service.id) {
            target.service = service;
        }
    }

    pub(super) fn removed(&mut self, id: &str) {
        for (_, target) in self.targets.iter_mut().filter(|(i, _)| i.to_string() == id) {
            target.gone = true;
        }
    }

    pub(super) fn deployment(&mut self, deployment: Deployment) {
        if self.targets.contains_key(&deployment.service_id) {
            self.deployments.insert(deployment.id, deployment);
        }
    }

    /// Takes the place of all tasks known so far.
    pub(super) fn tasks(&mut self, tasks: Vec<Task>) {
        self.tasks = tasks.into_iter().map(|t| (t.id, t)).collect();
    }

    pub(super) fn apply(&mut self, event: Event) {
        match (event.action, event.object) {
            (EventAction::Remove, Object::Service(s)) => self.removed(&s.id.to_string()),
            (_, Object::Service(s)) => self.service(*s),
            (EventAction::Remove, Object::Task(t)) => {
                self.tasks.remove(&t.id);
            }
            (_, Object::Task(t)) if self.targets.contains_key(&t.service_id) => {
                self.tasks.insert(t.id, *t);
            }
            (EventAction::Create | EventAction::Update, Object::Deployment(d)) => {
                self.deployment(*d);
            }
            _ => {}
        }
    }

    /// The deployment that decides about a target now: the one that was asked for, or the rollback
    /// that follows it.
    fn deciding<'a>(&'a self, target: &'a Target) -> Option<(&'a Deployment, bool)> {
        let asked = self.deployments.get(&target.deployment_id)?;
        let present = self.deployments.get(&target.service.deployment_id);
        match present {
            Some(present)
                if present.id != asked.id
                    && present.kind == DeploymentKind::Rollback
                    && asked.state == DeploymentState::RolledBack =>
            {
                Some((present, true))
            }
            _ => Some((asked, false)),
        }
    }

    /// `None` while something is still under way.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        let (mut why, mut gone, mut superseded) = (Vec::new(), Vec::new(), Vec::new());
        let mut rolled_back = true;
        for target in self.targets.values() {
            let name = target.service.spec.name.clone();
            if target.gone {
                gone.push(name);
                continue;
            }
            let (deployment, rollback) = self.deciding(target)?;
            let asked = self.deployments.get(&target.deployment_id)?;
            let words = |d: &Deployment| match d.message.as_str() {
                "" => name.clone(),
                message => format!("{name}: {message}"),
            };
            match deployment.state {
                DeploymentState::Updating => return None,
                DeploymentState::Completed if rollback => why.push(words(asked)),
                DeploymentState::Completed => {}
                DeploymentState::RolledBack => why.push(words(asked)),
                DeploymentState::Paused => {
                    why.push(words(deployment));
                    rolled_back = false;
                }
                DeploymentState::Superseded => superseded.push(name),
            }
        }
        Some(match () {
            () if !why.is_empty() => Outcome::Failed { why, rolled_back },
            () if !gone.is_empty() => Outcome::Gone(gone),
            () if !superseded.is_empty() => Outcome::Superseded(superseded),
            () => Outcome::Converged,
        })
    }

    /// Whether a task is one that the present spec of its service wants.
    fn is_current(&self, task: &Task) -> bool {
        self.targets.get(&task.service_id).is_some_and(|target| {
            task.spec_version >= target.service.meta.spec_version
                || task.spec == target.service.spec.task_template
        })
    }

    fn counts(&self, target: &Target) -> (u64, u64) {
        let of_service = |t: &&Task| t.service_id == target.service.id;
        let wanted = |t: &&Task| t.desired_state <= DesiredState::Running;
        let tasks = || self.tasks.values().filter(of_service).filter(wanted);
        let running = tasks()
            .filter(|t| t.status.state == TaskState::Running && self.is_current(t))
            .count() as u64;
        let desired = match target.service.spec.mode {
            ServiceMode::Replicated { replicas } => replicas,
            ServiceMode::ReplicatedJob { total_completions, .. } => total_completions.unwrap_or(1),
            ServiceMode::Global {} | ServiceMode::GlobalJob {} => tasks().count() as u64,
        };
        (running, desired)
    }

    /// Tells how each service fares, and what has happened to its tasks since.
    pub(super) fn report(&mut self, reporter: &mut Reporter) -> Result<(), CommandError> {
        let news: Vec<(TaskId, String)> = self
            .tasks
            .values()
            .filter(|t| self.is_current(t))
            .filter_map(|t| Some((t.id, self.words(t)?)))
            .filter(|item| !self.told.contains(item))
            .collect();
        for (id, words) in news {
            reporter.news(&words)?;
            self.told.insert((id, words));
        }
        for target in self.targets.values() {
            let (running, desired) = self.counts(target);
            let deciding = self.deciding(target);
            let state = match deciding.map(|(d, rollback)| (d.state, rollback)) {
                _ if target.gone => "removed",
                Some((DeploymentState::Updating, true)) => "rolling back",
                Some((DeploymentState::Updating, false)) if running >= desired => "verifying",
                None | Some((DeploymentState::Updating, false)) => "starting",
                Some((DeploymentState::Completed, true) | (DeploymentState::RolledBack, _)) => {
                    "rolled back"
                }
                Some((DeploymentState::Completed, false)) => "converged",
                Some((DeploymentState::Paused, _)) => "failed",
                Some((DeploymentState::Superseded, _)) => "superseded",
            };
            let name = target.service.spec.name.clone();
            reporter.service(&Line { name, running, desired, state })?;
        }
        Ok(())
    }

    /// What people should know of a task; `None` if all is well with it.
    fn words(&self, task: &Task) -> Option<String> {
        let name = task.name();
        let status = &task.status;
        if matches!(status.state, TaskState::New | TaskState::Pending) {
            let pause = task.start_after.filter(|_| task.rejections > 0);
            let pause = pause.map(|at| time::human(at.since(task.meta.created_at) + HALF_A_SECOND));
            let pause = pause.map(|p| format!(" (next try after {p})")).unwrap_or_default();
            let said = !status.err.is_empty();
            return said.then(|| format!("{name} waits{pause}: {}", status.err));
        }
        let bad =
            matches!(status.state, TaskState::Failed | TaskState::Rejected | TaskState::Orphaned);
        if !bad {
            return None;
        }
        let host = task.node_id.map(|id| {
            self.hosts.get(&id).filter(|h| !h.is_empty()).cloned().unwrap_or_else(|| id.to_string())
        });
        let host = host.map(|h| format!(" on {h}")).unwrap_or_default();
        let why = if status.err.is_empty() { &status.message } else { &status.err };
        Some(format!("{name} {}{host}: {why}", status.state))
    }

    /// The newest failed task: id, name, and what became of it.
    pub(super) fn last_failure(&self) -> Option<(String, String, String)> {
        let of_targets = self.tasks.values().filter(|t| self.targets.contains_key(&t.service_id));
        of_targets
            .filter(|t| matches!(t.status.state, TaskState::Failed | TaskState::Rejected))
            .max_by_key(|t| t.status.timestamp)
            .and_then(|t| Some((t.id.to_string(), t.name(), self.words(t)?)))
    }

    /// What is missing, in words.
    pub(super) fn unfinished(&self) -> Vec<String> {
        let under_way =
            |t: &&Target| !self.deciding(t).is_some_and(|(d, _)| d.state.is_final()) && !t.gone;
        self.targets
            .values()
            .filter(under_way)
            .map(|target| {
                let (running, desired) = self.counts(target);
                let waits = self
                    .tasks
                    .values()
                    .filter(|t| t.service_id == target.service.id && self.is_current(t))
                    .filter(|t| t.is_live())
                    .find_map(|t| self.words(t));
                let waits = waits.map(|w| format!(" ({w})")).unwrap_or_default();
                format!("{} runs {running} of {desired}{waits}", target.service.spec.name)
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
