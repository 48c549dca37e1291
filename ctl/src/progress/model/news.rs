//! What people should hear of tasks: trouble at once, and what a task is doing while nothing moves.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_types::id::{NodeId, ServiceId, TaskId};
use shoal_types::object::Task;
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use super::{Model, Target};
use crate::render::time;

/// For rounding: a task is made a moment after its delay was planned.
const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// How long a service may be silent before it is told what its tasks are doing.
const SILENCE: Duration = Duration::from_secs(3);
/// How often that is told again, if it has changed.
const AGAIN: Duration = Duration::from_secs(10);
/// Tasks of a service whose doings are told.
const TOLD_MAX: usize = 3;

/// Something that happened to a task, or what it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct News {
    pub(in super::super) kind: &'static str,
    pub(in super::super) service: String,
    pub(in super::super) service_id: ServiceId,
    pub(in super::super) task: String,
    pub(in super::super) task_id: TaskId,
    /// Where it is; empty if nowhere yet.
    pub(in super::super) node: String,
    pub(in super::super) node_id: Option<NodeId>,
    pub(in super::super) state: TaskState,
    /// When it got there, by its node's clock.
    pub(in super::super) since: Timestamp,
    pub(in super::super) message: String,
    /// When a slot is tried again whose tasks were rejected, and how long that is after the last try.
    pub(in super::super) next_try: Option<(Timestamp, Duration)>,
}

impl News {
    /// `web.1 failed on h1: exit code 7`.
    pub(in super::super) fn words(&self) -> String {
        let Self { task, state, message, .. } = self;
        let pause = match self.next_try {
            Some((_, after)) => format!(" (next try after {})", time::human(after + HALF_A_SECOND)),
            None => String::new(),
        };
        let on = if self.node.is_empty() { String::new() } else { format!(" on {}", self.node) };
        match self.kind {
            "waiting" => format!("{task} waits{pause}: {message}"),
            "activity" if message.is_empty() => format!("{task} is {state}{on}"),
            "activity" => format!("{task} is {state}{on}: {message}"),
            _ => format!("{task} {state}{on}: {message}"),
        }
    }
}

/// When each service was last heard of, and what was told of its tasks.
#[derive(Debug, Default)]
pub(super) struct Activity {
    moved: BTreeMap<ServiceId, Duration>,
    told: BTreeMap<TaskId, (Duration, String)>,
}

impl Activity {
    pub(super) fn moved(&mut self, service: ServiceId, elapsed: Duration) {
        self.moved.insert(service, elapsed);
    }

    /// Something was told of a task, for whatever reason.
    pub(super) fn told(&mut self, news: &News, elapsed: Duration) {
        self.moved(news.service_id, elapsed);
        self.told.insert(news.task_id, (elapsed, news.words()));
    }

    /// Whether something is to be told now.
    fn is_due(&self, news: &News, elapsed: Duration) -> bool {
        let heard = self.moved.get(&news.service_id).copied().unwrap_or_default();
        elapsed.saturating_sub(heard) >= SILENCE
            && self.told.get(&news.task_id).is_none_or(|(at, words)| {
                *words != news.words() && elapsed.saturating_sub(*at) >= AGAIN
            })
    }
}

impl Model {
    fn news(&self, kind: &'static str, task: &Task, message: &str) -> News {
        let host = |id: NodeId| match self.hosts.get(&id) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => id.to_string(),
        };
        News {
            kind,
            service: task.service_name.to_string(),
            service_id: task.service_id,
            task: task.name(),
            task_id: task.id,
            node: task.node_id.map(host).unwrap_or_default(),
            node_id: task.node_id,
            state: task.status.state,
            since: task.status.timestamp,
            message: message.to_owned(),
            next_try: task
                .start_after
                .filter(|_| task.rejections > 0 && !task.status.state.is_placed())
                .map(|at| (at, at.since(task.meta.created_at))),
        }
    }

    /// What is wrong with a task; `None` if all is well with it.
    pub(super) fn trouble(&self, task: &Task) -> Option<News> {
        let status = &task.status;
        let why = if status.err.is_empty() { &status.message } else { &status.err };
        let kind = match status.state {
            TaskState::New | TaskState::Pending if !status.err.is_empty() => "waiting",
            TaskState::Failed => "failed",
            TaskState::Rejected => "rejected",
            TaskState::Orphaned => "orphaned",
            _ => return None,
        };
        Some(self.news(kind, task, why))
    }

    /// What a task is doing that is on its way.
    fn doing(&self, task: &Task) -> Option<News> {
        let status = &task.status;
        if !task.is_wanted() || status.state.has_run() {
            return None;
        }
        if let Some(waits) = self.trouble(task) {
            return Some(waits);
        }
        let words = match (status.message.as_str(), status.err.as_str()) {
            (message, "") => message.to_owned(),
            ("", err) => err.to_owned(),
            (message, err) => format!("{message}; last error: {err}"),
        };
        Some(self.news("activity", task, &words))
    }

    fn doings<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = News> + 'a {
        let own = |t: &&Task| t.service_id == target.service.id && self.is_current(t);
        self.tasks.values().filter(own).filter_map(|t| self.doing(t))
    }

    /// What is to be told because nothing else was for a while.
    pub(super) fn silent(&mut self, elapsed: Duration) -> Vec<News> {
        let under_way = self.targets.values().filter(|t| self.end(t).is_none());
        let due: Vec<News> = under_way
            .flat_map(|target| self.doings(target).take(TOLD_MAX))
            .filter(|news| self.activity.is_due(news, elapsed))
            .collect();
        for news in &due {
            self.activity.told.insert(news.task_id, (elapsed, news.words()));
        }
        due
    }

    /// What the tasks of a service wait for, in words; empty if they do not.
    pub(super) fn waiting(&self, target: &Target) -> String {
        let mut doings: Vec<String> = self.doings(target).map(|n| n.words()).collect();
        let more = doings.len().saturating_sub(TOLD_MAX);
        doings.truncate(TOLD_MAX);
        if more > 0 {
            doings.push(format!("and {more} more"));
        }
        doings.join("; ")
    }

    /// The newest failed task: id, name, and what became of it.
    pub(in super::super) fn last_failure(&self) -> Option<(String, String, String)> {
        let failed = |t: &&Task| {
            matches!(t.status.state, TaskState::Failed | TaskState::Rejected) && self.concerns(t)
        };
        let newest = self.tasks.values().filter(failed).max_by_key(|t| t.status.timestamp)?;
        Some((newest.id.to_string(), newest.name(), self.trouble(newest)?.words()))
    }
}
