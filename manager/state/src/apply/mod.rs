//! Applying commands: one file per family of objects. Every function checks first and writes
//! only when nothing can be refused any more.

mod address;
mod cluster;
mod connection;
mod credentials;
mod deployment;
mod network;
mod node;
mod payload;
mod port;
mod service;
mod sharing;
mod stack;
mod status;
mod task;
#[cfg(test)]
mod tests;
mod user;

use std::sync::Arc;

use shoal_types::object::{Cluster, Config, DeploymentKind, Meta, Secret, TunnelKeys};
use shoal_types::time::Timestamp;

use crate::cluster_state::{ClusterState, Writer};
use crate::command::{Command, Outcome};
use crate::rejected::Rejected;
use crate::stored::Stored;

/// Applies one command. `index` is that of its log entry (commands of one entry share it), `now`
/// the proposer's time. What was written is in [`ClusterState::take_events`] afterwards.
///
/// # Errors
/// The state refuses the command and is as it was, but for its applied index.
pub fn apply(
    state: &mut ClusterState,
    index: u64,
    now: Timestamp,
    command: Command,
) -> Result<Outcome, Rejected> {
    state.pass(index);
    let founding = matches!(command, Command::CreateCluster { .. });
    if state.cluster.is_none() && !founding {
        return Err(Rejected::NoCluster);
    }
    dispatch(&mut Writer { state, index, now }, command)
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn dispatch(w: &mut Writer<'_>, command: Command) -> Result<Outcome, Rejected> {
    use Command as C;
    match command {
        C::CreateCluster { id, spec, root_ca, join_tokens, networks, level } => {
            let meta = Meta::created(w.index, w.now);
            let (tunnel_keys, former_managers) = (TunnelKeys::default(), Vec::new());
            let cluster = Cluster {
                id,
                meta,
                spec,
                root_ca,
                join_tokens,
                level,
                tunnel_keys,
                former_managers,
            };
            cluster::create(w, cluster, networks)
        }
        C::RaiseLevel { level } => cluster::raise_level(w, level),
        C::SetTunnelEpochs { from, to, forced } => cluster::set_tunnel_epochs(w, from, to, forced),
        C::UpdateCluster { expected_spec_version, spec } => {
            cluster::update(w, expected_spec_version, spec)
        }
        C::RotateJoinToken { role, secret } => cluster::rotate_join_token(w, role, secret),
        C::CreateNode { id, spec, description } => node::create(w, id, spec, description),
        C::UpdateNode { id, expected, spec } => node::update(w, id, expected, spec),
        C::RemoveNode { id, force } => node::remove(w, id, force),
        C::ReportNode { id, description, status } => node::report(w, id, description, status),
        C::SetManagerStatus { id, status } => node::set_manager_status(w, id, status),
        C::CreateService { id, deployment_id, spec } => {
            service::create(w, id, deployment_id, spec, DeploymentKind::Create, None)
        }
        C::UpdateService { id, expected, deployment_id, spec, kind } => {
            service::update(w, id, expected, deployment_id, spec, kind, None)
        }
        C::RemoveService { id } => service::remove(w, id),
        C::CreateNetwork { id, spec } => network::create(w, id, spec, None),
        C::RemoveNetwork { id } => network::remove(w, id),
        C::ApplyStack { spec, ids, prune, expected, payloads } => {
            stack::apply(w, &spec, &ids, payloads, prune, expected)
        }
        C::RollBackStack { id, expected, to, ids, failed } => {
            stack::roll_back(w, id, expected, to, &ids, failed)
        }
        C::RemoveStack { id } => stack::remove(w, id),
        C::CreateTask {
            id,
            service_id,
            service_version,
            slot,
            node_id,
            desired,
            start_after,
            rejections,
            level,
        } => {
            let plan = task::Plan {
                service: service_id,
                version: service_version,
                slot,
                node_id,
                desired,
                start_after,
                rejections,
                level,
            };
            task::create(w, id, &plan)
        }
        C::AssignTask { id, node_id, partner } => task::assign(w, id, node_id, partner),
        C::ExplainTask { id, err } => task::explain(w, id, err),
        C::SetDesired { id, desired } => task::set_desired(w, id, desired),
        C::RemoveTask { id } => task::remove(w, id),
        C::OrphanTask { id } => task::orphan(w, id),
        C::ConnectTask { id, network_id, aliases, addresses } => {
            connection::connect(w, id, network_id, aliases, &addresses)
        }
        C::DisconnectTask { id, network_id, force } => {
            connection::disconnect(w, id, network_id, force)
        }
        C::UpdateTaskStatuses { node_id, statuses } => status::update(w, node_id, statuses),
        C::UpdateDeployment { id, state, message } => deployment::update(w, id, state, message),
        C::CreateUser { id, spec } => user::create(w, id, spec),
        C::UpdateUser { id, expected, spec } => user::update(w, id, expected, spec),
        C::RemoveUser { id } => user::remove(w, id),
        C::CreateSecret { id, spec, replace, deployments } => {
            payload::create::<Secret>(w, id, spec, replace, &deployments)
        }
        C::RemoveSecret { name, version } => payload::remove::<Secret>(w, name, version),
        C::CreateConfig { id, spec, replace, deployments } => {
            payload::create::<Config>(w, id, spec, replace, &deployments)
        }
        C::RemoveConfig { name, version } => payload::remove::<Config>(w, name, version),
        C::WithRegistryAuth { auths, command } => credentials::with(w, &auths, *command),
    }
}

impl Writer<'_> {
    /// The object that a command is about.
    fn get<T: Stored>(&self, id: T::Id) -> Result<Arc<T>, Rejected> {
        let found = T::table(self.state).get(&id).cloned();
        found.ok_or_else(|| Rejected::not_found(T::KIND, &id))
    }

    /// Checks that an id can be given to a new object.
    fn id_is_free<T: Stored>(&self, id: T::Id) -> Result<(), Rejected> {
        if T::table(self.state).contains_key(&id) {
            return Err(Rejected::IdTaken { kind: T::KIND, id: id.to_string() });
        }
        Ok(())
    }

    /// Checks that an update was made from the present spec.
    fn in_sequence<T: Stored>(&self, object: &T, expected: u64) -> Result<(), Rejected> {
        let current = object.meta().spec_version;
        if expected == current {
            return Ok(());
        }
        let (kind, id) = (T::KIND, object.id().to_string());
        Err(Rejected::OutOfSequence { kind, id, expected, current })
    }
}
