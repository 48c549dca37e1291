//! What follows when a rollout has failed: it stops, or the service or its whole stack goes back.

use std::sync::Arc;

use shoal_manager_state::{Command, Rejected, StackIds, UpdateKind};
use shoal_types::id::IdSource;
use shoal_types::object::{Deployment, DeploymentKind, DeploymentState};
use shoal_types::spec::{FailureAction, ServiceSpec};

use super::Pass;
use crate::Plan;

impl Pass<'_> {
    /// Ends a deployment that has failed. A service that came with a version of its stack takes
    /// the whole stack back: one service of an older version among those of a newer one is what
    /// nobody has tried.
    pub(super) fn fail<I: IdSource>(
        &self,
        deployment: &Deployment,
        action: FailureAction,
        mut why: String,
        ids: &mut I,
        plan: &mut Plan,
    ) {
        if action == FailureAction::Rollback && deployment.kind != DeploymentKind::Rollback {
            match self.roll_back_stack(deployment, &why, ids, plan) {
                Ok(true) => return,
                Ok(false) => {}
                Err(refused) => why = format!("{why}; the stack cannot go back: {refused}"),
            }
            let previous = self.service.previous_spec.as_ref();
            if let Some(previous) = previous.filter(|_| deployment.kind == DeploymentKind::Update) {
                let hindrance = match self.missing_network(previous) {
                    None => self.roll_back(deployment, previous, &why, ids, plan),
                    Some(name) => Some(format!("network {name:?} does not exist")),
                };
                match hindrance {
                    None => return,
                    Some(hindrance) => why = format!("{why}; cannot roll back: {hindrance}"),
                }
            }
        }
        self.note(deployment, DeploymentState::Paused, why, plan);
    }

    /// Takes the stack back to the version before the one that this deployment came with, which all
    /// later ones have in them. False if it came with none, or there is no earlier version.
    ///
    /// # Errors
    /// Some part of the stack cannot be put back. That is found by trying: a part may depend on
    /// another, and the state alone knows the rules.
    fn roll_back_stack<I: IdSource>(
        &self,
        deployment: &Deployment,
        why: &str,
        ids: &mut I,
        plan: &mut Plan,
    ) -> Result<bool, Rejected> {
        let Some(stack) = self.service.stack_id.and_then(|id| self.view.stack(id)) else {
            return Ok(false);
        };
        let earlier = deployment.stack_version.and_then(|version| stack.good_before(version));
        let Some(revision) = earlier else { return Ok(false) };
        let spec = &revision.spec;
        let services = spec.services.keys();
        let back = Command::RollBackStack {
            id: stack.id,
            expected: stack.meta.spec_version,
            to: revision.spec_version,
            ids: StackIds {
                stack: stack.id,
                services: services
                    .map(|key| (key.clone(), (ids.next_id(), ids.next_id())))
                    .collect(),
                networks: spec.networks.keys().map(|key| (key.clone(), ids.next_id())).collect(),
            },
            failed: Some(deployment.id),
        };
        let mut trial = self.view.clone();
        let index = trial.applied_index() + 1;
        shoal_manager_state::apply(&mut trial, index, self.now, back.clone())?;
        // As with a service alone, the rollback itself ends the deployments that it cuts off.
        self.note(deployment, DeploymentState::Updating, why.to_owned(), plan);
        plan.push(back);
        Ok(true)
    }

    /// A network that the spec joins and that is gone.
    fn missing_network<'s>(&self, spec: &'s ServiceSpec) -> Option<&'s str> {
        let mut targets = spec.task_template.networks.iter().map(|n| n.target.as_str());
        targets.find(|target| self.view.network_target(target).is_none())
    }

    /// Takes the service back to what it was; or says why that cannot be: a network that it had left may
    /// have no address for it any more. That is found by trying, as with a stack.
    fn roll_back<I: IdSource>(
        &self,
        deployment: &Deployment,
        previous: &Arc<ServiceSpec>,
        why: &str,
        ids: &mut I,
        plan: &mut Plan,
    ) -> Option<String> {
        let back = Command::UpdateService {
            id: self.service.id,
            expected: Some(self.service.meta.spec_version),
            deployment_id: ids.next_id(),
            spec: Arc::clone(previous),
            kind: UpdateKind::Rollback,
        };
        let mut trial = self.view.clone();
        let index = trial.applied_index() + 1;
        if let Err(refused) = shoal_manager_state::apply(&mut trial, index, self.now, back.clone())
        {
            return Some(refused.to_string());
        }
        // The update itself ends the deployment as rolled back; were that a command of its own, a
        // leader that dies between the two would leave the failed spec in force for good.
        self.note(deployment, DeploymentState::Updating, why.to_owned(), plan);
        plan.push(back);
        None
    }
}
