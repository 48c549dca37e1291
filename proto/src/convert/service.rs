//! Services and deployments.

use shoal_types::object::{
    Deployment, DeploymentKind, DeploymentState, Endpoint, Meta, Service, VirtualIp,
};
use shoal_types::spec::{
    Affinity, EndpointMode, EndpointSpec, FailureAction, Locality, PortConfig, Protocol,
    PublishMode, ServiceMode, ServiceSpec, UpdateConfig, UpdateOrder,
};

use super::field;
use super::{InvalidMessage, by_value, choice, message};
use crate::v1 as pb;

message!(ServiceSpec {
    name: Same,
    labels: Same,
    task_template: Shared,
    mode: Message,
    update_config: OptionalMessage,
    rollback_config: OptionalMessage,
    endpoint_spec: OptionalMessage,
});

impl From<&ServiceMode> for pb::ServiceMode {
    fn from(mode: &ServiceMode) -> Self {
        use pb::service_mode::Mode;
        let mode = match *mode {
            ServiceMode::Replicated { replicas } => {
                Mode::Replicated(pb::ReplicatedMode { replicas })
            }
            ServiceMode::Global {} => Mode::Global(pb::Nothing {}),
            ServiceMode::ReplicatedJob { max_concurrent, total_completions } => {
                Mode::ReplicatedJob(pb::ReplicatedJobMode { max_concurrent, total_completions })
            }
            ServiceMode::GlobalJob {} => Mode::GlobalJob(pb::Nothing {}),
        };
        Self { mode: Some(mode) }
    }
}

impl TryFrom<pb::ServiceMode> for ServiceMode {
    type Error = InvalidMessage;

    fn try_from(wire: pb::ServiceMode) -> Result<Self, InvalidMessage> {
        use pb::service_mode::Mode;
        match wire.mode {
            Some(Mode::Replicated(pb::ReplicatedMode { replicas })) => {
                Ok(Self::Replicated { replicas })
            }
            Some(Mode::Global(pb::Nothing {})) => Ok(Self::Global {}),
            Some(Mode::ReplicatedJob(pb::ReplicatedJobMode {
                max_concurrent,
                total_completions,
            })) => Ok(Self::ReplicatedJob { max_concurrent, total_completions }),
            Some(Mode::GlobalJob(pb::Nothing {})) => Ok(Self::GlobalJob {}),
            None => Err(InvalidMessage::missing("mode")),
        }
    }
}

by_value!(ServiceMode => pb::ServiceMode);

message!(UpdateConfig {
    parallelism: Same,
    failure_action: DefaultChoice,
    max_failure_ratio: Same,
    order: DefaultChoice;
    delay => delay_nanos: Nanos,
    monitor => monitor_nanos: OptionalNanos,
});

choice!(FailureAction { Pause, Continue, Rollback });
choice!(UpdateOrder { StopFirst, StartFirst });

message!(EndpointSpec {
    mode: DefaultChoice,
    ports: List,
    affinity: OptionalChoice,
    locality: OptionalChoice,
});

choice!(Affinity { ClientIp });
choice!(Locality { PreferLocal });

choice!(EndpointMode { Vip, Dnsrr });

message!(PortConfig {
    name: Same,
    protocol: DefaultChoice,
    target_port: Port,
    published_port: Port,
    publish_mode: Choice,
    host_ip: OptionalText,
});

choice!(Protocol { Tcp, Udp, Sctp });
choice!(PublishMode { Ingress, Host });

message!(Meta { version: Same, spec_version: Same, created_at: Time, updated_at: Time });

message!(Service {
    id: Text,
    meta: Message,
    spec: Shared,
    previous_spec: OptionalShared,
    stack_id: OptionalText,
    deployment_id: Text,
    networks: SharedList,
    payloads: SparseShared,
    endpoint: DefaultMessage,
});

message!(Endpoint { spec: OptionalMessage, ports: List, virtual_ips: List });

message!(VirtualIp { network_id: Text, addr: Text });

message!(Deployment {
    id: Text,
    meta: Message,
    service_id: Text,
    service_version: Same,
    stack_version: Same,
    kind: Choice,
    state: Choice,
    completed_at: OptionalTime,
    message: Same,
});

choice!(DeploymentKind { Create, Update, Rollback });
choice!(DeploymentState { Updating, Completed, Paused, RolledBack, Superseded });
