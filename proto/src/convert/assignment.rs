//! What one node is told to hold.

use shoal_types::assignment::{
    AssignedTask, AssignmentChange, EndpointNetwork, IngressPort, Peer, PeerKeys, Rejection,
    ServiceVips, TaskEndpoint, VipNetwork,
};
use shoal_types::id::TaskId;

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
    payloads: SparseShared,
    partner: OptionalText,
    desired_state: Choice,
    level: Levels,
});

message!(TaskEndpoint {
    task_id: Text,
    service_id: Text,
    service_name: Same,
    slot: Message,
    node_id: Text,
    networks: List,
    ports: List,
    affinity: OptionalChoice,
    locality: OptionalChoice,
    serving: Same,
});

message!(IngressPort { protocol: Choice, published_port: Port });

message!(EndpointNetwork { network_id: Text, addresses: TextList, aliases: Same });

message!(ServiceVips {
    service_id: Text,
    service_name: Same,
    networks: List,
    affinity: OptionalChoice,
    locality: OptionalChoice,
});

message!(VipNetwork { network_id: Text, vip: Text, aliases: Same });

message!(Peer {
    node_id: Text,
    public_key: Text,
    addr: Text,
    port: Port,
    tunnel_address: OptionalText,
    keys: SparseMessage,
});

message!(PeerKeys { epoch: Same, other: OptionalMessage, cluster: OptionalMessage });

impl From<&AssignmentChange> for pb::AssignmentChange {
    fn from(change: &AssignmentChange) -> Self {
        use pb::AssignmentAction::{Reject, Remove, Update};
        use pb::assignment_change::Item;
        let task = |id: &TaskId| pb::AssignedTask { id: id.to_string(), ..Default::default() };
        let mut reason = String::new();
        let (action, item) = match change {
            AssignmentChange::UpdateTask(task) => (Update, Item::Task(task.into())),
            AssignmentChange::RemoveTask(id) => (Remove, Item::Task(task(id))),
            AssignmentChange::RejectTask(id, Rejection { why, desired_state }) => {
                reason.clone_from(why);
                let desired_state = field::write::<field::Choice, _, _>(desired_state);
                (Reject, Item::Task(pb::AssignedTask { desired_state, ..task(id) }))
            }
            AssignmentChange::UpdateNetwork(network) => {
                (Update, Item::Network((&**network).into()))
            }
            AssignmentChange::RemoveNetwork(id) => {
                let network = pb::Network { id: id.to_string(), ..Default::default() };
                (Remove, Item::Network(network))
            }
            AssignmentChange::UpdateSecret(secret) => (Update, Item::Secret((&**secret).into())),
            AssignmentChange::RemoveSecret(id) => {
                let secret = pb::Secret { id: id.to_string(), ..Default::default() };
                (Remove, Item::Secret(secret))
            }
            AssignmentChange::UpdateConfig(config) => (Update, Item::Config((&**config).into())),
            AssignmentChange::RemoveConfig(id) => {
                let config = pb::Config { id: id.to_string(), ..Default::default() };
                (Remove, Item::Config(config))
            }
            AssignmentChange::UpdateEndpoint(endpoint) => {
                (Update, Item::Endpoint((&**endpoint).into()))
            }
            AssignmentChange::RemoveEndpoint(id) => {
                let endpoint = pb::TaskEndpoint { task_id: id.to_string(), ..Default::default() };
                (Remove, Item::Endpoint(endpoint))
            }
            AssignmentChange::UpdateVips(vips) => (Update, Item::Vips((&**vips).into())),
            AssignmentChange::RemoveVips(id) => {
                let vips = pb::ServiceVips { service_id: id.to_string(), ..Default::default() };
                (Remove, Item::Vips(vips))
            }
            AssignmentChange::UpdatePeer(peer) => (Update, Item::Peer((&**peer).into())),
            AssignmentChange::RemovePeer(id) => {
                let peer = pb::Peer { node_id: id.to_string(), ..Default::default() };
                (Remove, Item::Peer(peer))
            }
        };
        Self { action: action.into(), reason, item: Some(item) }
    }
}

impl TryFrom<pb::AssignmentChange> for AssignmentChange {
    type Error = InvalidMessage;

    fn try_from(wire: pb::AssignmentChange) -> Result<Self, InvalidMessage> {
        use pb::AssignmentAction::{Reject, Remove, Unspecified, Update};
        use pb::assignment_change::Item;
        let pb::AssignmentChange { action, reason, item } = wire;
        let unknown = || InvalidMessage::new("action", format!("is {action}, which is unknown"));
        let action = pb::AssignmentAction::try_from(action).map_err(|_| unknown())?;
        match (item.ok_or_else(|| InvalidMessage::missing("item"))?, action) {
            (Item::Task(task), Update) => {
                field::Message::read("task", Some(task)).map(Self::UpdateTask)
            }
            (Item::Task(task), Remove) => {
                field::Text::read("task.id", task.id).map(Self::RemoveTask)
            }
            (Item::Task(task), Reject) => {
                let id = field::Text::read("task.id", task.id)?;
                let desired_state = field::Choice::read("task.desired_state", task.desired_state)?;
                Ok(Self::RejectTask(id, Rejection { why: reason, desired_state }))
            }
            (Item::Network(network), Update) => {
                field::Shared::read("network", Some(network)).map(Self::UpdateNetwork)
            }
            (Item::Network(network), Remove) => {
                field::Text::read("network.id", network.id).map(Self::RemoveNetwork)
            }
            (Item::Secret(secret), Update) => {
                field::Shared::read("secret", Some(secret)).map(Self::UpdateSecret)
            }
            (Item::Secret(secret), Remove) => {
                field::Text::read("secret.id", secret.id).map(Self::RemoveSecret)
            }
            (Item::Config(config), Update) => {
                field::Shared::read("config", Some(config)).map(Self::UpdateConfig)
            }
            (Item::Config(config), Remove) => {
                field::Text::read("config.id", config.id).map(Self::RemoveConfig)
            }
            (Item::Endpoint(endpoint), Update) => {
                field::Shared::read("endpoint", Some(endpoint)).map(Self::UpdateEndpoint)
            }
            (Item::Endpoint(endpoint), Remove) => {
                field::Text::read("endpoint.task_id", endpoint.task_id).map(Self::RemoveEndpoint)
            }
            (Item::Vips(vips), Update) => {
                field::Shared::read("vips", Some(vips)).map(Self::UpdateVips)
            }
            (Item::Vips(vips), Remove) => {
                field::Text::read("vips.service_id", vips.service_id).map(Self::RemoveVips)
            }
            (Item::Peer(peer), Update) => {
                field::Shared::read("peer", Some(peer)).map(Self::UpdatePeer)
            }
            (Item::Peer(peer), Remove) => {
                field::Text::read("peer.node_id", peer.node_id).map(Self::RemovePeer)
            }
            (
                Item::Network(_)
                | Item::Secret(_)
                | Item::Config(_)
                | Item::Endpoint(_)
                | Item::Vips(_)
                | Item::Peer(_),
                Reject,
            ) => Err(InvalidMessage::new("action", "is REJECT: expected it for tasks only")),
            (_, Unspecified) => Err(InvalidMessage::missing("action")),
        }
    }
}

by_value!(AssignmentChange => pb::AssignmentChange);
