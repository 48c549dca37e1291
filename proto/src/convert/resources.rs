//! Resources and platforms.

use shoal_types::resources::{GenericResource, Limits, ResourceRequirements, Resources};

use super::field;
use super::{InvalidMessage, by_value, message};
use crate::v1 as pb;

message!(Limits { nano_cpus: Same, memory_bytes: Same, pids: Same });

message!(Resources { nano_cpus: Same, memory_bytes: Same, generic_resources: List });

message!(ResourceRequirements {
    limits: OptionalMessage,
    reservations: OptionalMessage,
    swap_bytes: Same,
    memory_swappiness: Same,
});

impl From<&GenericResource> for pb::GenericResource {
    fn from(resource: &GenericResource) -> Self {
        use pb::generic_resource::Value;
        let (kind, value) = match resource {
            GenericResource::Named { kind, value } => (kind, Value::Named(value.clone())),
            GenericResource::Discrete { kind, value } => (kind, Value::Discrete(*value)),
        };
        Self { kind: kind.clone(), value: Some(value) }
    }
}

impl TryFrom<pb::GenericResource> for GenericResource {
    type Error = InvalidMessage;

    fn try_from(wire: pb::GenericResource) -> Result<Self, InvalidMessage> {
        use pb::generic_resource::Value;
        let kind = wire.kind;
        match wire.value {
            Some(Value::Named(value)) => Ok(Self::Named { kind, value }),
            Some(Value::Discrete(value)) => Ok(Self::Discrete { kind, value }),
            None => Err(InvalidMessage::missing("value")),
        }
    }
}

by_value!(GenericResource => pb::GenericResource);
