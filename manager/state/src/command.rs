//! Commands: everything that can be done to the cluster state.
//!
//! A command carries all that its effect depends on, ids and secrets included, so that every
//! manager that applies it comes to the same state. Specs inside were validated where they came
//! in; applying checks only what depends on the state (an old log must replay under newer rules).
//!
//! The enum is kept in logs: a variant is never taken away, its meaning never changes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use shoal_types::id::{
    ClusterId, ConfigId, DeploymentId, NetworkId, NodeId, SecretId, ServiceId, StackId, TaskId,
    UserId,
};
use shoal_types::level::Level;
use shoal_types::object::{
    DeploymentState, JoinTokens, ManagerStatus, NodeDescription, NodeStatus, RootCa, Slot,
    TaskStatus, TunnelEpochs,
};
use shoal_types::registry_auth::RegistryAuths;
use shoal_types::spec::{
    ClusterSpec, ConfigSpec, NetworkSpec, NodeRole, NodeSpec, SecretSpec, ServiceSpec, StackSpec,
    UserSpec,
};
use shoal_types::task_state::DesiredState;
use shoal_types::time::Timestamp;

/// One change of the cluster state. Applied alone, whole or not at all.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The first of all: makes the cluster and its predefined networks.
    CreateCluster {
        /// Its id.
        id: ClusterId,
        /// Its settings.
        spec: ClusterSpec,
        /// What signs certificates.
        root_ca: RootCa,
        /// What lets nodes in.
        join_tokens: JoinTokens,
        /// Ids of the networks that every cluster has.
        networks: PredefinedIds,
        /// What its first manager can do.
        level: Level,
    },
    /// Everything that a level brought may be asked for from now on. Rejected if a manager has not
    /// got that level, or the cluster has a higher one.
    RaiseLevel {
        /// Which.
        level: Level,
    },
    /// Replaces the cluster's settings.
    UpdateCluster {
        /// The spec version that the user has seen.
        expected_spec_version: u64,
        /// The new settings.
        spec: ClusterSpec,
    },
    /// An epoch of the tunnels' keys begins, or the one before it is over. Rejected if the cluster is elsewhere by now.
    SetTunnelEpochs {
        /// What the planner saw.
        from: TunnelEpochs,
        /// [`TunnelEpochs::begun`] or [`TunnelEpochs::ended`] of that.
        to: TunnelEpochs,
        /// What the settings had as `force_rotate` then.
        forced: u64,
    },
    /// Replaces the secret of one standing join token.
    RotateJoinToken {
        /// Which token.
        role: NodeRole,
        /// The new secret.
        secret: JoinSecret,
    },
    /// A node has joined.
    CreateNode {
        /// Its id.
        id: NodeId,
        /// What it is to be.
        spec: NodeSpec,
        /// What it said of itself when it joined.
        description: NodeDescription,
    },
    /// Replaces what people want of a node.
    UpdateNode {
        /// Which node.
        id: NodeId,
        /// The spec version that the user has seen.
        expected: u64,
        /// The new spec.
        spec: NodeSpec,
    },
    /// Forgets a node. Those of its tasks that have not ended become orphaned.
    RemoveNode {
        /// Which node.
        id: NodeId,
        /// Also when it is neither down nor drained, or is a manager that is not up. The last
        /// manager stays.
        force: bool,
    },
    /// A node's session began, changed or went silent.
    ReportNode {
        /// Which node.
        id: NodeId,
        /// What it says of itself; as before if absent.
        description: Option<NodeDescription>,
        /// What managers know of it. `since` is taken only if the state changes.
        status: NodeStatus,
    },
    /// Replaces a node's part in Raft.
    SetManagerStatus {
        /// Which node.
        id: NodeId,
        /// Its part; none if absent.
        status: Option<ManagerStatus>,
    },
    /// Makes a service and its first deployment.
    CreateService {
        /// Its id.
        id: ServiceId,
        /// Id of its first deployment.
        deployment_id: DeploymentId,
        /// What the user wants.
        spec: Arc<ServiceSpec>,
    },
    /// Replaces a service's spec and begins a deployment, even if the spec is the same.
    UpdateService {
        /// Which service.
        id: ServiceId,
        /// The spec version that the user has seen; not compared if absent.
        expected: Option<u64>,
        /// Id of the new deployment.
        deployment_id: DeploymentId,
        /// The new spec. Name and kind of mode cannot change.
        spec: Arc<ServiceSpec>,
        /// What led to it.
        kind: UpdateKind,
    },
    /// Removes a service and its deployments. Its tasks are to stop and be forgotten.
    RemoveService {
        /// Which service.
        id: ServiceId,
    },
    /// Makes a network.
    CreateNetwork {
        /// Its id.
        id: NetworkId,
        /// What the user wants.
        spec: NetworkSpec,
    },
    /// Removes a network that nothing uses.
    RemoveNetwork {
        /// Which network.
        id: NetworkId,
    },
    /// Makes the cluster's part of a stack what its spec says. Specs that are unchanged are not
    /// touched, but for services whose deployment has failed: those begin another one.
    ApplyStack {
        /// What the user wants.
        spec: Arc<StackSpec>,
        /// Ids for whatever has to be made.
        ids: StackIds,
        /// Whether members that left the spec are removed.
        prune: bool,
        /// The stack's spec version that the user has seen, 0 for none; not compared if absent.
        expected: Option<u64>,
        /// What is in its secrets and configs. Those that are missing stay as they are.
        payloads: StackPayloads,
    },
    /// Puts an earlier version of a stack back whole, as a version of its own: what the present
    /// version brought goes, what it took comes back. Rejected if the present version is not
    /// `expected`, if there is none `to` go back to, or if one of its parts cannot be put back.
    RollBackStack {
        /// Which stack.
        id: StackId,
        /// The stack's spec version that is left.
        expected: u64,
        /// The spec version that is put back; one of the history.
        to: u64,
        /// Ids for whatever has to be made.
        ids: StackIds,
        /// The deployment whose failure led to it; none if somebody asked for it. After a failure
        /// each service goes back to what it was before the version that failed, and one that was
        /// changed by itself since is left alone.
        failed: Option<DeploymentId>,
    },
    /// Removes a stack with its services and networks.
    RemoveStack {
        /// Which stack.
        id: StackId,
    },
    /// Makes a task. Its spec, endpoint and networks are copied from the service.
    CreateTask {
        /// Its id.
        id: TaskId,
        /// The service.
        service_id: ServiceId,
        /// The spec version of the service that this was planned from.
        service_version: u64,
        /// The slot it fills.
        slot: Slot,
        /// The node, if that is decided already: a global service's task.
        node_id: Option<NodeId>,
        /// [`DesiredState::Ready`] or [`DesiredState::Running`].
        desired: DesiredState,
        /// When a task that waits out a restart delay is to be told to run.
        start_after: Option<Timestamp>,
        /// How many tasks of the same spec in a row were rejected in the slot just before it. If
        /// there are any it is placed and prepared only when the delay is over.
        rejections: u64,
        /// What a node must be able to do to run it.
        level: Level,
    },
    /// Places a pending task, if the node still has room for it.
    AssignTask {
        /// Which task.
        id: TaskId,
        /// Where.
        node_id: NodeId,
        /// The task there whose network it is to share, if its service shares one. Rejected if that is none of
        /// its slot, or is not wanted any more.
        partner: Option<TaskId>,
    },
    /// Notes why a task is still pending.
    ExplainTask {
        /// Which task.
        id: TaskId,
        /// Why, for people.
        err: String,
    },
    /// Moves the desired state of a task up. A task that has no node yet and is to stop ends at
    /// once, as no agent ever will report on it.
    SetDesired {
        /// Which task.
        id: TaskId,
        /// The new desired state.
        desired: DesiredState,
    },
    /// Forgets a task that has ended or has never been on a node.
    RemoveTask {
        /// Which task.
        id: TaskId,
    },
    /// Gives up on a task whose node has been away for too long.
    OrphanTask {
        /// Which task.
        id: TaskId,
    },
    /// Connects one task to a further network, beside those that its service names. It is connected as long
    /// as it lives, and no other task of its slot is. Rejected if it has ended or is to stop, if it is
    /// connected there already, if one of its networks excludes others, and if its node cannot do that.
    ConnectTask {
        /// Which task.
        id: TaskId,
        /// To what.
        network_id: NetworkId,
        /// Further names of the task there.
        aliases: Vec<String>,
        /// Its addresses there, at most one of each family. Of a family without one, a free one is chosen.
        addresses: Vec<IpAddr>,
    },
    /// Disconnects a task from a network to which it was connected. Rejected if its service names the
    /// network.
    DisconnectTask {
        /// Which task.
        id: TaskId,
        /// From what.
        network_id: NetworkId,
        /// It is fine if the task is not connected there, or has ended.
        force: bool,
    },
    /// What an agent reports of its tasks. Reports on unknown or foreign tasks and reports that
    /// come too late are passed over.
    UpdateTaskStatuses {
        /// The node that reports.
        node_id: NodeId,
        /// Tasks and what has become of them.
        statuses: Vec<(TaskId, TaskStatus)>,
    },
    /// Notes how far a deployment is. One that has ended stays as it is.
    UpdateDeployment {
        /// Which deployment.
        id: DeploymentId,
        /// How far it is.
        state: DeploymentState,
        /// Why, for people.
        message: String,
    },
    /// Makes a user.
    CreateUser {
        /// Its id.
        id: UserId,
        /// What is wanted of it.
        spec: UserSpec,
    },
    /// Replaces what is wanted of a user. The last admin stays one.
    UpdateUser {
        /// Which user.
        id: UserId,
        /// The spec version that the writer has seen.
        expected: u64,
        /// The new spec.
        spec: UserSpec,
    },
    /// Forgets a user: its certificates open nothing any more. The last admin stays.
    RemoveUser {
        /// Which user.
        id: UserId,
    },
    /// Makes a secret, or another version of one. Services that follow the latest version begin a deployment.
    CreateSecret {
        /// Id of the version.
        id: SecretId,
        /// What the user wants.
        spec: SecretSpec,
        /// It is another version of one that there is; nothing is done if the latest one is the same. Else
        /// rejected if there is one of this name.
        replace: bool,
        /// Ids of the deployments that begin, by names of services. Rejected if one is missing.
        deployments: BTreeMap<String, DeploymentId>,
    },
    /// Forgets versions of a secret. Rejected if a service has one of them, or a task that is wanted.
    RemoveSecret {
        /// Its name.
        name: String,
        /// Which version; all of them if none is said.
        version: Option<u64>,
    },
    /// As [`Command::CreateSecret`].
    CreateConfig {
        /// Id of the version.
        id: ConfigId,
        /// What the user wants.
        spec: ConfigSpec,
        /// As of secrets.
        replace: bool,
        /// As of secrets.
        deployments: BTreeMap<String, DeploymentId>,
    },
    /// As [`Command::RemoveSecret`].
    RemoveConfig {
        /// Its name.
        name: String,
        /// Which version; all of them if none is said.
        version: Option<u64>,
    },
    /// Does what another command does, which makes or changes services, and keeps credentials for the
    /// registries of their images. Rejected as that command is, and if it is another one.
    WithRegistryAuth {
        /// By registry. Those that no image is from have no effect.
        auths: RegistryAuths,
        /// The other command.
        command: Box<Command>,
    },
}

/// What led to a service's new spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateKind {
    /// Somebody wants something else. An unfinished deployment becomes superseded.
    Update,
    /// The previous spec is put back. An unfinished deployment becomes rolled back.
    Rollback,
}

/// Ids of the networks that every cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PredefinedIds {
    /// Network `bridge`, which tasks join that name no network.
    pub bridge: NetworkId,
    /// Network `host`: the node's own.
    pub host: NetworkId,
    /// Network `none`: loopback alone.
    pub none: NetworkId,
}

/// Ids for whatever applying a stack has to make. What exists already keeps its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackIds {
    /// For the stack.
    pub stack: StackId,
    /// For each service of the spec, by its key there: an id, and one for its next deployment.
    pub services: BTreeMap<String, (ServiceId, DeploymentId)>,
    /// For each network of the spec, by its key there.
    pub networks: BTreeMap<String, NetworkId>,
}

/// What is in the secrets and configs of a stack, by their keys in its spec, with ids for versions that have to be
/// made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StackPayloads {
    /// Its secrets.
    pub secrets: BTreeMap<String, (SecretId, SecretSpec)>,
    /// Its configs.
    pub configs: BTreeMap<String, (ConfigId, ConfigSpec)>,
}

/// The secret part of a join token, 25 base-36 characters. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret(pub String);

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

/// What came of a command that was not rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Something was written.
    Applied,
    /// All was as wanted already; nothing was written.
    Unchanged,
    /// A stack was applied.
    Stack(StackOutcome),
}

/// What applying a stack did, by full names of services and networks, and of secrets and configs with what they
/// are, each list in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackOutcome {
    /// The stack.
    pub id: StackId,
    /// Made.
    pub created: Vec<String>,
    /// Given a new spec.
    pub updated: Vec<String>,
    /// As wanted already.
    pub unchanged: Vec<String>,
    /// Removed, as they left the spec and pruning was asked for.
    pub removed: Vec<String>,
    /// Left the spec and stay: pruning was not asked for, or a network is still in use.
    pub kept: Vec<String>,
    /// The stack's spec version now.
    pub spec_version: u64,
    /// The deployments of the spec's services that are in force now.
    pub deployments: BTreeMap<String, DeploymentId>,
}
