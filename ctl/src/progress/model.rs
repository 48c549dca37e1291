//! What is known of the deployments that are followed. Knows no clock and prints nothing.

mod news;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_client::{Event, EventAction, Object};
use shoal_types::id::{DeploymentId, NodeId, ServiceId, StackId, TaskId};
use shoal_types::object::{Deployment, Node, Service, Stack, Task};
use shoal_types::spec::ServiceMode;
use shoal_types::task_state::TaskState;

use super::outcome::ServiceReport;
use super::reporter::{Line, Reporter};
use crate::error::CommandError;

pub(super) use news::News;

/// What is followed.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    /// Each with the deployment that was asked for as its present one.
    pub(crate) services: Vec<Service>,
    /// The stack that they were applied with, and its spec version then.
    pub(crate) stack: Option<(StackId, u64)>,
}

#[derive(Debug)]
struct Target {
    service: Service,
    /// The one that was asked for.
    deployment_id: DeploymentId,
    gone: bool,
}

/// A stack that is followed.
#[derive(Debug)]
struct Whole {
    id: StackId,
    /// The version that was asked for.
    version: u64,
    latest: Option<Stack>,
    gone: bool,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    targets: BTreeMap<ServiceId, Target>,
    stack: Option<Whole>,
    deployments: BTreeMap<DeploymentId, Deployment>,
    /// Deployments that nobody remembers any more.
    forgotten: BTreeSet<DeploymentId>,
    tasks: BTreeMap<TaskId, Task>,
    /// Tasks that had ended before anything was asked for: history, no news.
    past: Option<BTreeSet<TaskId>>,
    hosts: BTreeMap<NodeId, String>,
    told: BTreeSet<(TaskId, String)>,
    activity: news::Activity,
}

impl Model {
    pub(super) fn new(followed: &Followed) -> Self {
        let mut model = Self::default();
        for service in &followed.services {
            model.follow(service.clone());
        }
        model.stack =
            followed.stack.map(|(id, version)| Whole { id, version, latest: None, gone: false });
        model
    }

    fn follow(&mut self, service: Service) {
        let deployment_id = service.deployment_id;
        self.targets.insert(service.id, Target { service, deployment_id, gone: false });
    }

    pub(super) fn service_ids(&self) -> Vec<String> {
        self.targets.keys().map(ToString::to_string).collect()
    }

    pub(super) fn stack_id(&self) -> Option<StackId> {
        self.stack.as_ref().map(|stack| stack.id)
    }

    /// Those that were asked for, and those that came after them.
    pub(super) fn deployment_ids(&self) -> BTreeSet<DeploymentId> {
        self.targets
            .values()
            .filter(|t| !t.gone)
            .flat_map(|t| [t.deployment_id, t.service.deployment_id])
            .collect()
    }

    pub(super) fn hosts(&mut self, nodes: &[Node]) {
        self.hosts = nodes.iter().map(|n| (n.id, n.description.hostname.clone())).collect();
    }

    /// A service as it is. One that came with the stack's going back is followed from now on.
    pub(super) fn service(&mut self, service: Service) {
        if let Some(target) = self.targets.get_mut(&service.id) {
            target.service = service;
            target.gone = false;
        } else if self.stack_went_back().is_some() && service.stack_id == self.stack_id() {
            self.follow(service);
        }
    }

    pub(super) fn removed(&mut self, id: &str) {
        for (_, target) in self.targets.iter_mut().filter(|(i, _)| i.to_string() == id) {
            target.gone = true;
        }
    }

    /// The stack as it is; none if it is gone.
    pub(super) fn stack(&mut self, stack: Option<Stack>) {
        if let Some(whole) = &mut self.stack {
            whole.gone = stack.is_none();
            whole.latest = stack.or(whole.latest.take());
        }
    }

    pub(super) fn deployment(&mut self, deployment: Deployment) {
        if self.targets.contains_key(&deployment.service_id) {
            self.deployments.insert(deployment.id, deployment);
        }
    }

    pub(super) fn forgotten(&mut self, id: DeploymentId) {
        self.forgotten.insert(id);
    }

    /// Takes the place of all tasks known so far.
    pub(super) fn tasks(&mut self, tasks: Vec<Task>) {
        self.tasks = tasks.into_iter().map(|t| (t.id, t)).collect();
        if self.past.is_none() {
            let past = self.tasks.values().filter(|t| !t.is_live() && !self.is_new(t));
            self.past = Some(past.map(|t| t.id).collect());
        }
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
            (action, Object::Stack(s)) if self.stack_id() == Some(s.id) => {
                self.stack((action != EventAction::Remove).then_some(*s));
            }
            _ => {}
        }
    }

    /// Whether a task was made for the deployment that was asked for, or for one after it.
    fn is_new(&self, task: &Task) -> bool {
        self.targets.get(&task.service_id).is_some_and(|target| {
            let asked = self.deployments.get(&target.deployment_id);
            asked.is_some_and(|d| task.meta.created_at >= d.meta.created_at)
        })
    }

    /// Whether a task is one that the present spec of its service wants.
    fn is_current(&self, task: &Task) -> bool {
        self.targets.get(&task.service_id).is_some_and(|target| {
            task.spec_version >= target.service.meta.spec_version
                || task.spec == target.service.spec.task_template
        })
    }

    /// Whether what becomes of a task is news to whoever follows: not if it had ended before, and
    /// not if it is of a spec that is on its way out anyway.
    fn concerns(&self, task: &Task) -> bool {
        let past = self.past.as_ref().is_some_and(|past| past.contains(&task.id));
        !past && (self.is_new(task) || self.is_current(task))
    }

    fn counts(&self, target: &Target) -> (u64, u64) {
        let of_service = |t: &&Task| t.service_id == target.service.id;
        let wanted = |t: &&Task| !t.desired_state.is_stop();
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

    /// Tells how each service fares, and what has happened to its tasks since. `elapsed` is how
    /// long it has been followed.
    pub(super) fn report(
        &mut self,
        reporter: &mut Reporter,
        elapsed: Duration,
    ) -> Result<(), CommandError> {
        let news: Vec<News> = self
            .tasks
            .values()
            .filter(|t| self.concerns(t))
            .filter_map(|t| self.trouble(t))
            .filter(|news| !self.told.contains(&(news.task_id, news.message.clone())))
            .collect();
        for item in news {
            reporter.news(&item)?;
            self.activity.told(&item, elapsed);
            self.told.insert((item.task_id, item.message));
        }
        for target in self.targets.values() {
            let (running, desired) = self.counts(target);
            let name = target.service.spec.name.clone();
            let state = self.state(target);
            let line = Line { name, id: target.service.id.to_string(), running, desired, state };
            if reporter.service(&line)? {
                self.activity.moved(target.service.id, elapsed);
            }
        }
        for item in self.silent(elapsed) {
            reporter.news(&item)?;
        }
        Ok(())
    }

    /// What has become of every service, by name.
    pub(super) fn reports(&self) -> Vec<ServiceReport> {
        let report = |target: &Target| {
            let (running, desired) = self.counts(target);
            ServiceReport {
                service: target.service.spec.name.clone(),
                service_id: target.service.id.to_string(),
                state: self.state(target),
                running,
                desired,
                message: self.reason(target),
            }
        };
        let mut reports: Vec<ServiceReport> = self.targets.values().map(report).collect();
        reports.sort_by(|a, b| a.service.cmp(&b.service));
        reports
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
