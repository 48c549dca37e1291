//! What a task is, but for its container.

use shoal_types::spec::{
    NetworkAttachmentConfig, Placement, PlacementPreference, Platform, PluginPrivilege, PluginSpec,
    RestartCondition, RestartPolicy, TaskRuntime, TaskSpec,
};

use super::field;
use super::{InvalidMessage, by_value, choice, message};
use crate::v1 as pb;

message!(TaskSpec {
    runtime: Oneof,
    resources: OptionalMessage,
    restart_policy: OptionalMessage,
    placement: OptionalMessage,
    networks: List,
    network_of: Same,
    log_driver: OptionalMessage,
    force_update: Same,
});

impl From<&TaskRuntime> for pb::task_spec::Runtime {
    fn from(runtime: &TaskRuntime) -> Self {
        match runtime {
            TaskRuntime::Container(spec) => Self::Container(spec.into()),
            TaskRuntime::Plugin(spec) => Self::Plugin(spec.into()),
            TaskRuntime::Attachment { container_id } => {
                Self::Attachment(pb::NetworkAttachmentSpec { container_id: container_id.clone() })
            }
        }
    }
}

impl TryFrom<pb::task_spec::Runtime> for TaskRuntime {
    type Error = InvalidMessage;

    fn try_from(wire: pb::task_spec::Runtime) -> Result<Self, InvalidMessage> {
        use pb::task_spec::Runtime;
        match wire {
            Runtime::Container(spec) => spec
                .try_into()
                .map(Self::Container)
                .map_err(|e: InvalidMessage| e.under("container")),
            Runtime::Plugin(spec) => {
                spec.try_into().map(Self::Plugin).map_err(|e: InvalidMessage| e.under("plugin"))
            }
            Runtime::Attachment(pb::NetworkAttachmentSpec { container_id }) => {
                Ok(Self::Attachment { container_id })
            }
        }
    }
}

message!(PluginSpec {
    name: Same,
    remote: Same,
    plugin_privilege: List,
    disabled: Same,
    env: Same,
});

message!(PluginPrivilege { name: Same, description: Same, value: Same });

message!(RestartPolicy {
    condition: DefaultChoice,
    max_attempts: Same;
    delay => delay_nanos: OptionalNanos,
    window => window_nanos: OptionalNanos,
});

choice!(RestartCondition { None, OnFailure, Any });

message!(Placement { constraints: Same, preferences: List, max_replicas: Same, platforms: List });

impl From<&PlacementPreference> for pb::PlacementPreference {
    fn from(preference: &PlacementPreference) -> Self {
        use pb::placement_preference::Preference;
        let PlacementPreference::Spread { descriptor } = preference;
        Self { preference: Some(Preference::SpreadDescriptor(descriptor.clone())) }
    }
}

impl TryFrom<pb::PlacementPreference> for PlacementPreference {
    type Error = InvalidMessage;

    fn try_from(wire: pb::PlacementPreference) -> Result<Self, InvalidMessage> {
        use pb::placement_preference::Preference;
        match wire.preference {
            Some(Preference::SpreadDescriptor(descriptor)) => Ok(Self::Spread { descriptor }),
            None => Err(InvalidMessage::missing("preference")),
        }
    }
}

by_value!(PlacementPreference => pb::PlacementPreference);

message!(Platform { architecture: Same, os: Same });

message!(NetworkAttachmentConfig {
    target: Same,
    aliases: Same,
    driver_opts: Same,
    addresses: TextList,
});
