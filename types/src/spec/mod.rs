//! What users want. Every struct can carry every field of Docker's model of the same object;
//! what shoal cannot do yet is refused at the door by [`unsupported`], never dropped.
//!
//! Serialised names are those of Docker's REST API. An absent option stays absent: defaults are
//! applied where they are used, so a spec reads back as it was sent.

mod cluster;
mod container;
mod json;
mod level;
mod mount;
mod network;
mod node;
mod payload;
mod service;
mod stack;
mod subnet;
pub mod unsupported;
mod user;
pub mod validate;
mod volume;
mod wire;

pub use cluster::{AddressPool, ClusterSpec, TunnelKeySpec};
pub use container::{
    AppArmor, ContainerSpec, CredentialSpec, DnsConfig, FileTarget, Healthcheck, OnChange,
    PayloadReference, PayloadTarget, Privileges, SeLinuxContext, Seccomp, Ulimit, is_own_sysctl,
};
pub use mount::{
    BindOptions, ImageOptions, Mount, MountKind, TmpfsOptions, VolumeMountOptions, refused_place,
};
pub use network::{Driver, Ipam, IpamConfig, NetworkKind, NetworkScope, NetworkSpec};
pub use node::{Availability, NodeRole, NodeSpec};
pub use payload::{ConfigSpec, SecretSpec};
pub use service::{
    Affinity, EndpointMode, EndpointSpec, FailureAction, Locality, NetworkAttachmentConfig,
    Placement, PlacementPreference, Platform, PluginPrivilege, PluginSpec, PortConfig, Protocol,
    PublishMode, RestartCondition, RestartPolicy, ServiceMode, ServiceSpec, TaskRuntime, TaskSpec,
    UpdateConfig, UpdateOrder,
};
pub use stack::StackSpec;
pub use subnet::{SubnetPlan, overlap};
pub use user::{UserRole, UserSpec};
pub use validate::{Violation, Violations};
pub use volume::VolumeSpec;
pub use wire::{
    IpvlanFlag, IpvlanMode, MTU_MAX, MTU_MIN, MTU_MIN_V6, MTU_OPTION, MacvlanMode, Parent, Wire,
    WireMode, WireProblem,
};

use std::collections::BTreeMap;

/// Free labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The label by which Docker's clients know what belongs to a stack: its name.
pub const NAMESPACE_LABEL: &str = "com.docker.stack.namespace";

/// Name and options of a pluggable driver option map.
pub type Options = BTreeMap<String, String>;
