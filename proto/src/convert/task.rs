//! Tasks.

use shoal_types::id::TaskId;
use shoal_types::object::{ContainerStatus, Slot, Task, TaskNetwork, TaskStatus};
use shoal_types::task_state::{DesiredState, TaskState};

use super::field::{self, Kind};
use super::{InvalidMessage, by_value, choice, message};
use crate::v1 as pb;

message!(Task {
    id: Text,
    meta: Message,
    service_id: Text,
    service_name: SharedText,
    service_labels: SharedSame,
    slot: Message,
    node_id: OptionalText,
    spec: Shared,
    spec_version: Same,
    endpoint: OptionalShared,
    networks: SharedList,
    payloads: SparseShared,
    partner: OptionalText,
    desired_state: Choice,
    start_after: OptionalTime,
    rejections: Same,
    level: Levels,
    status: Message,
});

impl From<&Slot> for pb::Slot {
    fn from(slot: &Slot) -> Self {
        let slot = match slot {
            Slot::Replica(n) => pb::slot::Slot::Replica(*n),
            Slot::Node(id) => pb::slot::Slot::NodeId(id.to_string()),
        };
        Self { slot: Some(slot) }
    }
}

impl TryFrom<pb::Slot> for Slot {
    type Error = InvalidMessage;

    fn try_from(wire: pb::Slot) -> Result<Self, InvalidMessage> {
        match wire.slot {
            Some(pb::slot::Slot::Replica(n)) => Ok(Self::Replica(n)),
            Some(pb::slot::Slot::NodeId(id)) => field::Text::read("node_id", id).map(Self::Node),
            None => Err(InvalidMessage::missing("slot")),
        }
    }
}

by_value!(Slot => pb::Slot);

message!(TaskNetwork {
    network_id: Text,
    aliases: Same,
    driver_opts: Same,
    addresses: TextList,
    connected: Same,
});

message!(TaskStatus {
    state: Choice,
    timestamp: Time,
    message: Same,
    err: Same,
    container_status: OptionalMessage,
    port_status: List,
});

message!(ContainerStatus {
    container_id: Same,
    pid: Same,
    exit_code: Same,
    signal: Same,
    oom_killed: Same,
});

choice!(TaskState {
    New,
    Pending,
    Assigned,
    Accepted,
    Preparing,
    Ready,
    Starting,
    Running,
    Draining,
    Complete,
    Shutdown,
    Failed,
    Rejected,
    Remove,
    Orphaned,
});

choice!(DesiredState { Ready, Running, Shutdown, Remove });

impl From<&(TaskId, TaskStatus)> for pb::TaskStatusUpdate {
    fn from((id, status): &(TaskId, TaskStatus)) -> Self {
        Self { task_id: id.to_string(), status: Some(status.into()) }
    }
}

impl TryFrom<pb::TaskStatusUpdate> for (TaskId, TaskStatus) {
    type Error = InvalidMessage;

    fn try_from(wire: pb::TaskStatusUpdate) -> Result<Self, InvalidMessage> {
        let id = field::Text::read("task_id", wire.task_id)?;
        Ok((id, field::Message::read("status", wire.status)?))
    }
}
