//! What one node is told to hold.

use shoal_types::assignment::{AssignedTask, AssignmentChange};

use super::field::{self, Kind};
use super::{InvalidMessage, by_value, message};
use crate::v1 as pb;

message!(AssignedTask {
    id: Text,
    service_id: Text,
    service_name: Same,
    service_labels: Same,
    slot: Message,
    node_id: Text,
    spec: Shared,
    ports: List,
    networks: List,
    desired_state: Choice,
});

impl From<&AssignmentChange> for pb::AssignmentChange {
    fn from(change: &AssignmentChange) -> Self {
        use pb::assignment_change::Change;
        let change = match change {
            AssignmentChange::UpdateTask(task) => Change::UpdateTask(task.into()),
            AssignmentChange::RemoveTask(id) => Change::RemoveTask(id.to_string()),
            AssignmentChange::UpdateNetwork(network) => Change::UpdateNetwork((&**network).into()),
            AssignmentChange::RemoveNetwork(id) => Change::RemoveNetwork(id.to_string()),
        };
        Self { change: Some(change) }
    }
}

impl TryFrom<pb::AssignmentChange> for AssignmentChange {
    type Error = InvalidMessage;

    fn try_from(wire: pb::AssignmentChange) -> Result<Self, InvalidMessage> {
        use pb::assignment_change::Change;
        match wire.change {
            Some(Change::UpdateTask(task)) => {
                field::Message::read("update_task", Some(task)).map(Self::UpdateTask)
            }
            Some(Change::RemoveTask(id)) => {
                field::Text::read("remove_task", id).map(Self::RemoveTask)
            }
            Some(Change::UpdateNetwork(network)) => {
                field::Shared::read("update_network", Some(network)).map(Self::UpdateNetwork)
            }
            Some(Change::RemoveNetwork(id)) => {
                field::Text::read("remove_network", id).map(Self::RemoveNetwork)
            }
            None => Err(InvalidMessage::missing("change")),
        }
    }
}

by_value!(AssignmentChange => pb::AssignmentChange);
