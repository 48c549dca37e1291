//! Whether what was asked for has ended, and how. An end is what runs now: a service that went
//! back has ended when it runs again as before, not when that was decided.

use shoal_types::object::{Deployment, DeploymentKind, DeploymentState, StackRevision};

use super::super::outcome::Outcome;
use super::{Model, Target};

/// How it ended for one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Converged,
    Failed(String),
    RolledBack(String),
    RollbackFailed(String),
    Superseded(String),
    Removed,
}

impl Model {
    /// Why the stack left the version that was asked for and went back, if it did because something
    /// had failed.
    pub(super) fn stack_went_back(&self) -> Option<&str> {
        self.left().filter(|r| !r.by_hand)?.rolled_back.as_deref()
    }

    /// What the stack's history says of the version that was asked for.
    fn left(&self) -> Option<&StackRevision> {
        let whole = self.stack.as_ref()?;
        whole.latest.as_ref()?.history.iter().find(|r| r.spec_version == whole.version)
    }

    /// `None` while something is still under way, or not yet known.
    pub(in super::super) fn outcome(&self) -> Option<Outcome> {
        if self.stack.as_ref().is_some_and(|s| s.latest.is_none() && !s.gone) {
            return None;
        }
        let mut ends = Vec::new();
        for target in self.targets.values() {
            ends.push((target, self.end(target)?));
        }
        let tell = |pick: fn(&End) -> Option<&str>| -> Vec<String> {
            let said = ends.iter().filter_map(|(target, end)| Some((target, pick(end)?)));
            said.map(|(target, why)| named(&target.service.spec.name, why)).collect()
        };
        let undone = tell(|e| if let End::RollbackFailed(why) = e { Some(why) } else { None });
        let failed = tell(|e| if let End::Failed(why) = e { Some(why) } else { None });
        let newer = tell(|e| if let End::Superseded(why) = e { Some(why) } else { None });
        let gone = tell(|e| if let End::Removed = e { Some("") } else { None });
        let mut back = tell(|e| if let End::RolledBack(why) = e { Some(why) } else { None });
        if let Some(why) = self.stack_went_back() {
            back = vec![why.to_owned()];
        }
        // A service that keeps the new version beside one that went back is no rollback.
        let kept = self.stack_went_back().is_none()
            && ends.iter().any(|(t, end)| *end == End::Converged && self.was_changed(t));
        Some(match () {
            () if !undone.is_empty() => Outcome::RollbackFailed(undone),
            () if !failed.is_empty() => Outcome::Failed([failed, back].concat()),
            () if !back.is_empty() && kept => Outcome::Failed(back),
            () if !gone.is_empty() => Outcome::Removed(gone),
            () if !newer.is_empty() => Outcome::Superseded(newer),
            () if !back.is_empty() => Outcome::RolledBack(back),
            () if self.stack.as_ref().is_some_and(|s| s.gone) => {
                Outcome::Removed(vec!["the stack".to_owned()])
            }
            () => Outcome::Converged,
        })
    }

    pub(super) fn end(&self, target: &Target) -> Option<End> {
        let back = self.stack_went_back();
        if target.gone {
            // What only the version that failed had goes with it.
            let by_hand = self.left().filter(|r| r.by_hand).and_then(|r| r.rolled_back.clone());
            let end = back.map(|why| End::RolledBack(why.to_owned()));
            return end.or_else(|| by_hand.map(End::Superseded)).or(Some(End::Removed));
        }
        let present_id = target.service.deployment_id;
        let present = self.deployments.get(&present_id);
        let Some(asked) = self.deployments.get(&target.deployment_id) else {
            let lost = self.forgotten.contains(&target.deployment_id);
            return lost.then(|| End::Superseded(present.map(taken_over).unwrap_or_default()));
        };
        if present_id == asked.id {
            return match asked.state {
                DeploymentState::Completed => Some(End::Converged),
                DeploymentState::Paused if asked.kind == DeploymentKind::Rollback => {
                    Some(End::RollbackFailed(asked.message.clone()))
                }
                DeploymentState::Paused => Some(End::Failed(asked.message.clone())),
                // What took its place is about to be heard of.
                DeploymentState::Updating
                | DeploymentState::RolledBack
                | DeploymentState::Superseded => None,
            };
        }
        let present = present?;
        let ours = present.kind == DeploymentKind::Rollback
            && (asked.state == DeploymentState::RolledBack
                || (back.is_some() && present.stack_version.is_some()));
        if !ours {
            return Some(End::Superseded(taken_over(present)));
        }
        let why = match (asked.state, back) {
            (DeploymentState::RolledBack | DeploymentState::Paused, _) => &asked.message,
            (_, Some(why)) => why,
            _ => "",
        };
        match present.state {
            DeploymentState::Completed => Some(End::RolledBack(why.to_owned())),
            DeploymentState::Paused => {
                Some(End::RollbackFailed(format!("{} (after: {why})", present.message)))
            }
            DeploymentState::Updating
            | DeploymentState::RolledBack
            | DeploymentState::Superseded => None,
        }
    }

    /// Whether what was asked for has changed the service, or its stack's version did.
    fn was_changed(&self, target: &Target) -> bool {
        let asked = self.deployments.get(&target.deployment_id);
        self.stack
            .as_ref()
            .is_none_or(|s| asked.is_some_and(|d| d.stack_version == Some(s.version)))
    }

    /// The word for how a service fares.
    pub(super) fn state(&self, target: &Target) -> &'static str {
        match self.end(target) {
            Some(End::Converged) => "converged",
            Some(End::Failed(_)) => "failed",
            Some(End::RolledBack(_)) if target.gone => "removed",
            Some(End::RolledBack(_)) => "rolled-back",
            Some(End::RollbackFailed(_)) => "rollback-failed",
            Some(End::Superseded(_)) => "superseded",
            Some(End::Removed) => "removed",
            None => {
                let (running, desired) = self.counts(target);
                let present = self.deployments.get(&target.service.deployment_id);
                let asked = self.deployments.get(&target.deployment_id);
                let back = present.is_some_and(|d| d.kind == DeploymentKind::Rollback)
                    || asked.is_some_and(|d| d.state == DeploymentState::RolledBack);
                match () {
                    () if back => "rolling-back",
                    () if running >= desired => "verifying",
                    () => "starting",
                }
            }
        }
    }

    /// Why it fares so; empty if there is nothing to say.
    pub(super) fn reason(&self, target: &Target) -> String {
        match self.end(target) {
            Some(End::Failed(why) | End::RollbackFailed(why) | End::Superseded(why)) => why,
            Some(End::RolledBack(why)) if self.stack_went_back().is_none() => why,
            Some(End::RolledBack(_)) if target.gone => {
                "it came with the version that failed".into()
            }
            Some(End::RolledBack(_) | End::Converged | End::Removed) => String::new(),
            None => self.waiting(target),
        }
    }

    /// What is missing, in words.
    pub(in super::super) fn unfinished(&self) -> Vec<String> {
        let under_way = self.targets.values().filter(|t| self.end(t).is_none());
        under_way
            .map(|target| {
                let (running, desired) = self.counts(target);
                let waits = self.waiting(target);
                let waits = if waits.is_empty() { waits } else { format!(" ({waits})") };
                format!("{} runs {running} of {desired}{waits}", target.service.spec.name)
            })
            .collect()
    }
}

fn named(name: &str, why: &str) -> String {
    if why.is_empty() { name.to_owned() } else { format!("{name}: {why}") }
}

/// Which deployment took over, in words.
fn taken_over(present: &Deployment) -> String {
    let what = match present.kind {
        DeploymentKind::Rollback => "a rollback",
        DeploymentKind::Create | DeploymentKind::Update => "an update",
    };
    let of = match present.stack_version {
        Some(version) => format!(" (version {version} of the stack)"),
        None => String::new(),
    };
    let (version, at, id) = (present.service_version, present.meta.created_at, present.id);
    format!("{what} to version {version}{of}, begun {at}, deployment {id}")
}
