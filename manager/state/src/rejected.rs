//! Why the state refuses a command. A rejected command has changed nothing.

mod addresses;
mod code;
mod connection;
mod payload;
mod sharing;

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use shoal_types::id::{DeploymentId, NodeId, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{DeploymentState, Slot, TunnelEpochs};
use shoal_types::resources::Resources;
use shoal_types::spec::{Protocol, PublishMode};
use shoal_types::task_state::{DesiredState, TaskState};

pub use self::addresses::{AddressProblem, SubnetHolder};
pub use self::connection::ConnectionRefused;
pub use self::payload::PayloadRefused;
pub use self::sharing::SharingRefused;
use crate::event::ObjectKind;

/// Why the state refuses a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Credentials came with a command that makes or changes no service.
    #[error("credentials for registries go only with commands that make or change services")]
    CredentialsForNothing,
    /// There is no cluster yet.
    #[error("there is no cluster yet: it has to be initialised first")]
    NoCluster,
    /// There is a cluster already.
    #[error("there is a cluster already: {id}")]
    ClusterExists {
        /// Its id.
        id: String,
    },
    /// A command asks for more than all managers can do. It is refused before it is logged.
    #[error(
        "this needs feature level {needed}{}, and the cluster has {has}: upgrade its managers to a \
         version that has it, then raise the cluster with shoalctl cluster upgrade",
        brought(*.needed)
    )]
    TooNew {
        /// What it needs.
        needed: Level,
        /// What the cluster has.
        has: Level,
    },
    /// What is to be asked for from now on is more than a manager can do.
    #[error(
        "manager {name} ({id}) has feature level {has}: expected {wanted} of every manager before \
         the cluster has it, so upgrade that one first"
    )]
    ManagerTooOld {
        /// The manager's node.
        id: NodeId,
        /// Its host's name.
        name: String,
        /// What it can do.
        has: Level,
        /// What was asked for.
        wanted: Level,
    },
    /// A level is never lowered: what it brought may be in use.
    #[error("the cluster has feature level {current}, and cannot go back to {wanted}")]
    LevelBelow {
        /// What was asked for.
        wanted: Level,
        /// What the cluster has.
        current: Level,
    },
    /// Keys of the tunnels go from one epoch to the next, one step at a time: what was asked for, and what there is.
    #[error("the tunnels' keys cannot go to {0:?}: they are at {1:?}")]
    TunnelEpochs(TunnelEpochs, TunnelEpochs),
    /// A task needs more than a node can do.
    #[error("node {node} is too old: it has feature level {has}, and the task needs {needed}")]
    NodeTooOld {
        /// The node.
        node: NodeId,
        /// What it can do.
        has: Level,
        /// What the task needs.
        needed: Level,
    },
    /// There is no such object.
    #[error("{kind} {id} does not exist")]
    NotFound {
        /// What was looked for.
        kind: ObjectKind,
        /// Its id.
        id: String,
    },
    /// The id for a new object is in use.
    #[error("{kind} {id} exists already")]
    IdTaken {
        /// What was to be made.
        kind: ObjectKind,
        /// The id.
        id: String,
    },
    /// The name for a new object is in use.
    #[error("{kind} name {name:?} is in use by {kind} {holder}")]
    NameTaken {
        /// What was to be made.
        kind: ObjectKind,
        /// The name.
        name: String,
        /// Id of the object that has it.
        holder: String,
    },
    /// Somebody else has updated the object meanwhile.
    #[error(
        "update of {kind} {id} is out of sequence: it was made from version {expected}, \
         the present one is {current}"
    )]
    OutOfSequence {
        /// What was to be updated.
        kind: ObjectKind,
        /// Its id; the name of a stack that does not exist.
        id: String,
        /// The spec version that the update was made from.
        expected: u64,
        /// The present spec version; 0 if the object does not exist.
        current: u64,
    },
    /// A service cannot be renamed.
    #[error("service {name:?} cannot be renamed to {wanted:?}")]
    NameImmutable {
        /// Its name.
        name: String,
        /// The refused name.
        wanted: String,
    },
    /// A service cannot change the kind of its mode.
    #[error("service {service:?} is {mode} and cannot become {wanted}")]
    ModeImmutable {
        /// Its name.
        service: String,
        /// Its mode.
        mode: &'static str,
        /// The refused mode.
        wanted: &'static str,
    },
    /// A service names a network that does not exist.
    #[error("service {service:?} joins network {network:?}, which does not exist")]
    UnknownNetwork {
        /// Name of the service.
        service: String,
        /// The network as the service names it.
        network: String,
    },
    /// A service names one network twice, by name and by id.
    #[error("service {service:?} joins network {network:?} twice")]
    NetworkTwice {
        /// Name of the service.
        service: String,
        /// Name of the network.
        network: String,
    },
    /// A service joins `host` or `none` together with another network.
    #[error("service {service:?} joins network {network:?}, which excludes all others")]
    ExclusiveNetwork {
        /// Name of the service.
        service: String,
        /// Name of the network.
        network: String,
    },
    /// A service publishes ports, and its tasks are on a wire.
    #[error(
        "service {service:?} publishes ports, and its way out is network {network:?} with driver {driver}, where its tasks \
         are reached at their own addresses and nothing is published: expected no ports, or a network with driver overlay \
         or bridge before that one"
    )]
    PortsOnWire {
        /// Name of the service.
        service: String,
        /// Name of the network.
        network: String,
        /// Its driver.
        driver: String,
    },
    /// A network has neither family of addresses.
    #[error("network {network:?} has neither IPv4 nor IPv6: expected one of them")]
    NetworkWithoutAddresses {
        /// Name of the network.
        network: String,
    },
    /// A service publishes a port at an address of IPv6, and its tasks have none that leads out.
    #[error(
        "service {service:?} publishes a port at {host_ip}, and none of its networks has IPv6 and leads out: expected one with \
         enable_ipv6, or an address of IPv4"
    )]
    NoWayInByV6 {
        /// Name of the service.
        service: String,
        /// The address.
        host_ip: IpAddr,
    },
    /// A service publishes a port at an address of IPv4, and its tasks have none that leads out, but one of IPv6.
    #[error(
        "service {service:?} publishes a port at {host_ip}, and none of its networks has IPv4 and leads out: expected one \
         with it, or an address of IPv6"
    )]
    NoWayInByV4 {
        /// Name of the service.
        service: String,
        /// The address.
        host_ip: IpAddr,
    },
    /// A node's kernel does not have what a network needs.
    #[error("node {node} has no network driver {driver}, which its kernel lacks")]
    NoDriver {
        /// The node.
        node: NodeId,
        /// The driver.
        driver: String,
    },
    /// A service joins the node's own network by its id. What is forbidden there is told from the
    /// spec alone, so the spec has to say it by name.
    #[error(
        "service {service:?} joins the host's network as {network:?}: expected its name, \"host\""
    )]
    HostNetworkById {
        /// Name of the service.
        service: String,
        /// What the spec calls it.
        network: String,
    },
    /// The network came with the cluster.
    #[error("network {name:?} is predefined and cannot be removed")]
    PredefinedNetwork {
        /// Its name.
        name: String,
    },
    /// Something uses the network.
    #[error("network {name:?} is in use by {user_kind} {user}")]
    NetworkInUse {
        /// Its name.
        name: String,
        /// What uses it: a service or a task.
        user_kind: ObjectKind,
        /// Name of the first user found.
        user: String,
    },
    /// A network cannot be changed but for its labels.
    #[error(
        "network {name:?} differs in more than labels from the one that exists: \
         remove it first, or give the new one another name"
    )]
    NetworkImmutable {
        /// Its name.
        name: String,
    },
    /// The subnet of a network that spans nodes is no subnet, or has no address for anybody.
    #[error(
        "network {network:?} cannot have {subnet:?}: expected ADDRESS/LENGTH with an address beside \
         that of the nodes"
    )]
    SubnetUnusable {
        /// Name of the network.
        network: String,
        /// What its spec says.
        subnet: String,
    },
    /// Somebody else has addresses of the subnet: a packet says where it goes, and not on which network.
    #[error("network {network:?} cannot have {subnet}: {holder}")]
    SubnetTaken {
        /// Name of the network that was to be made.
        network: String,
        /// The subnet.
        subnet: IpNet,
        /// Who has it.
        holder: SubnetHolder,
    },
    /// All subnets of the address pools are given away.
    #[error(
        "network {network:?} gets no subnet: all {count} of the cluster's address pools are in use; name \
         one, or remove a network"
    )]
    PoolsExhausted {
        /// Name of the network that was to be made.
        network: String,
        /// How many there are.
        count: u64,
    },
    /// All addresses of a network are given away.
    #[error("network {network:?} has no free address for {user}: all {count} are in use")]
    NoFreeAddress {
        /// Name of the network.
        network: String,
        /// Who was to get one.
        user: String,
        /// How many there are.
        count: u64,
    },
    /// Somebody names an address that a task cannot have.
    #[error("{user} cannot have {address} on network {network:?}: {problem}")]
    AddressUnusable {
        /// The service or task that is to have it, in words.
        user: String,
        /// The address.
        address: IpAddr,
        /// Name of the network.
        network: String,
        /// Why.
        problem: AddressProblem,
    },
    /// The address that a service names is still another task's.
    #[error(
        "a task of service {service:?} cannot have {address} before the task that has it has ended"
    )]
    AddressAwaited {
        /// Name of the service.
        service: String,
        /// The address.
        address: IpAddr,
    },
    /// A task cannot be connected to a network, or disconnected.
    #[error(transparent)]
    Connection(#[from] ConnectionRefused),
    /// A service or a task cannot share the network of another one.
    #[error(transparent)]
    Sharing(#[from] SharingRefused),
    /// A secret or config.
    #[error(transparent)]
    Payload(#[from] PayloadRefused),
    /// Another service has a port that only one can have.
    #[error(
        "service {service:?} cannot publish port {port}/{} {}: service {holder:?} has it {}",
        protocol.as_str(), place(*.mode), place(*.held)
    )]
    PortInUse {
        /// Name of the service.
        service: String,
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// Where it was to answer.
        mode: PublishMode,
        /// Name of the service that has it.
        holder: String,
        /// Where it answers.
        held: PublishMode,
    },
    /// All ports that are given to those who ask for any are taken.
    #[error(
        "service {service:?} gets no {} port: all from {} to {} are in use; say which one it is to have",
        protocol.as_str(), range.start(), range.end()
    )]
    NoFreePort {
        /// Name of the service.
        service: String,
        /// The protocol.
        protocol: Protocol,
        /// Those that there are.
        range: RangeInclusive<u16>,
    },
    /// A stack command brings no id for a part of its spec.
    #[error("the command brings no id for {kind} {key:?} of the stack")]
    StackIdMissing {
        /// What the part is.
        kind: ObjectKind,
        /// Its key in the spec.
        key: String,
    },
    /// A stack has no such version to go back to.
    #[error("stack {stack:?} has no earlier version {version}: expected one of its history")]
    NoRevision {
        /// Name of the stack.
        stack: String,
        /// The version that was asked for.
        version: u64,
    },
    /// Two parts of one stack have the same full name.
    #[error("stack {stack:?} names two {kind}s {name:?}")]
    StackNameTwice {
        /// Name of the stack.
        stack: String,
        /// What the parts are.
        kind: ObjectKind,
        /// Their name.
        name: String,
    },
    /// The node is still there.
    #[error("node {id} is neither down nor drained: drain it, stop its agent, or use force")]
    NodeInUse {
        /// Its id.
        id: NodeId,
    },
    /// The node is a manager.
    #[error("node {id} is a manager: demote it first, or stop it and use force")]
    NodeIsManager {
        /// Its id.
        id: NodeId,
    },
    /// The cluster would be left without a manager.
    #[error("node {id} is the only manager: it can be neither demoted nor removed")]
    LastManager {
        /// Its id.
        id: NodeId,
    },
    /// The task was planned from a spec that is not the present one.
    #[error(
        "task {task} was planned from version {planned} of service {service}, \
         the present one is {current}"
    )]
    StaleTask {
        /// The task that was to be made.
        task: TaskId,
        /// Its service.
        service: ServiceId,
        /// The spec version that it was planned from.
        planned: u64,
        /// The present spec version.
        current: u64,
    },
    /// The task was planned as the first try of its spec, and meanwhile a try was rejected: the next
    /// one has to wait.
    #[error(
        "task {task} was planned before task {before} of its slot was rejected: the next try has \
         to wait"
    )]
    TriedAtOnce {
        /// The task that was to be made.
        task: TaskId,
        /// The rejected one.
        before: TaskId,
    },
    /// The slot does not fit the service's mode, or the node does not fit the slot.
    #[error("slot {slot} does not fit {mode} service {service}")]
    SlotMismatch {
        /// The service.
        service: ServiceId,
        /// Its mode.
        mode: &'static str,
        /// The refused slot.
        slot: Slot,
    },
    /// A task cannot begin with this desired state.
    #[error("task {task} cannot begin with desired state {desired}: expected ready or running")]
    DesiredAtStart {
        /// The task that was to be made.
        task: TaskId,
        /// The refused state.
        desired: DesiredState,
    },
    /// Desired states only climb.
    #[error("desired state of task {task} is {current} and cannot go back to {wanted}")]
    DesiredBackwards {
        /// The task.
        task: TaskId,
        /// Its desired state.
        current: DesiredState,
        /// The refused state.
        wanted: DesiredState,
    },
    /// The task is past the point where this can be done.
    #[error("task {task} is {state}, desired {desired}: expected a pending one that is wanted")]
    TaskNotPending {
        /// The task.
        task: TaskId,
        /// Its state.
        state: TaskState,
        /// Its desired state.
        desired: DesiredState,
    },
    /// The task may still run somewhere.
    #[error("task {task} is {state} and cannot be removed before it has ended")]
    TaskNotEnded {
        /// The task.
        task: TaskId,
        /// Its state.
        state: TaskState,
    },
    /// The task belongs on another node.
    #[error("task {task} belongs on node {wanted} and cannot be assigned to {node}")]
    WrongNode {
        /// The task.
        task: TaskId,
        /// Where it belongs.
        wanted: NodeId,
        /// The refused node.
        node: NodeId,
    },
    /// The node takes no tasks.
    #[error("node {node} takes no tasks: it is {state} with availability {availability}")]
    NodeTakesNoTasks {
        /// The node.
        node: NodeId,
        /// Its state.
        state: &'static str,
        /// Its availability.
        availability: &'static str,
    },
    /// The node has no room.
    #[error(
        "node {node} has no room for task {task}: {} billionths of a CPU and {} bytes of memory \
         are free, {} and {} wanted",
        free.nano_cpus, free.memory_bytes, wanted.nano_cpus, wanted.memory_bytes
    )]
    NoRoom {
        /// The task.
        task: TaskId,
        /// The node.
        node: NodeId,
        /// What is free there.
        free: Box<Resources>,
        /// What the task reserves.
        wanted: Box<Resources>,
    },
    /// A port of the node is taken.
    #[error("port {port}/{} of node {node} is taken by task {holder}", protocol.as_str())]
    PortTaken {
        /// The node.
        node: NodeId,
        /// Number of the port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// The task that has it.
        holder: TaskId,
    },
    /// Another task of the slot may still be running.
    #[error("task {task} cannot run yet: task {holder} of the same slot has not ended on its node")]
    SlotTaken {
        /// The task.
        task: TaskId,
        /// The other one.
        holder: TaskId,
    },
    /// The first user has to be able to make others.
    #[error("user {name:?} is the first one and has to be an admin without an end")]
    FirstUser {
        /// The user's name.
        name: String,
    },
    /// Without an admin nobody could make one again.
    #[error("user {name:?} is the last admin without an end: make another one first")]
    LastAdmin {
        /// The user's name.
        name: String,
    },
    /// The deployment has ended.
    #[error("deployment {id} has ended as {} and cannot become {}", current.as_str(), wanted.as_str())]
    DeploymentEnded {
        /// The deployment.
        id: DeploymentId,
        /// How it ended.
        current: DeploymentState,
        /// The refused state.
        wanted: DeploymentState,
    },
}

/// What a refusal means to whoever sent the command. Named after gRPC's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RejectedCode {
    /// There is no such object.
    NotFound,
    /// There is such an object already.
    AlreadyExists,
    /// The state has to be changed first.
    FailedPrecondition,
    /// Somebody else was faster: look again and repeat.
    Aborted,
    /// The command makes no sense in any state.
    InvalidArgument,
}

impl Rejected {
    /// A [`Rejected::NotFound`].
    pub(crate) fn not_found(kind: ObjectKind, id: &impl ToString) -> Self {
        Self::NotFound { kind, id: id.to_string() }
    }
}

const fn place(mode: PublishMode) -> &'static str {
    match mode {
        PublishMode::Ingress => "on every node",
        PublishMode::Host => "on the nodes of its tasks",
    }
}

fn brought(level: Level) -> String {
    level.brought().map_or_else(String::new, |what| format!(" ({what})"))
}
