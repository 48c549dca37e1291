//! The cluster.

use shoal_types::object::{Cluster, FormerManager, JoinTokens, RootCa, TunnelEpochs, TunnelKeys};
use shoal_types::spec::{AddressPool, ClusterSpec, TunnelKeySpec};

use super::field::{self, Kind};
use super::{InvalidMessage, by_value, message};
use crate::v1 as pb;

message!(ClusterSpec {
    name: Same,
    labels: Same,
    task_history_retention_limit: Same,
    address_pools: List,
    tunnel_keys: SparseMessage;
    heartbeat_period => heartbeat_period_nanos: Nanos,
    node_cert_expiry => node_cert_expiry_nanos: Nanos,
});

message!(TunnelKeySpec {
    force_rotate: Same;
    period => period_nanos: OptionalNanos,
});

message!(AddressPool { base: Text, size: PrefixLength });

message!(Cluster {
    id: Text,
    meta: Message,
    spec: Message,
    root_ca: Message,
    join_tokens: Message,
    level: Levels,
    tunnel_keys: SparseMessage,
    former_managers: List,
});

message!(FormerManager { since: Time; node => node_id: Text });

message!(TunnelKeys { epochs: DefaultMessage, since: Time, forced: Same });

message!(TunnelEpochs { present: Same, former: Same });

message!(RootCa { cert_pem: Same, key_pem: Same });

message!(JoinTokens { agent: Same, manager: Same });

impl From<&Cluster> for pb::ClusterView {
    /// All but the secrets.
    fn from(cluster: &Cluster) -> Self {
        let Cluster {
            id,
            meta,
            spec,
            root_ca,
            level,
            tunnel_keys,
            join_tokens: _,
            former_managers: _,
        } = cluster;
        Self {
            id: id.to_string(),
            meta: Some(meta.into()),
            spec: Some(spec.into()),
            root_cert_pem: root_ca.cert_pem.clone(),
            level: field::write::<field::Levels, _, _>(level),
            tunnel_keys: field::write::<field::SparseMessage, _, _>(tunnel_keys),
        }
    }
}

impl TryFrom<pb::ClusterView> for Cluster {
    type Error = InvalidMessage;

    /// For showing: the secrets are empty.
    fn try_from(wire: pb::ClusterView) -> Result<Self, InvalidMessage> {
        let pb::ClusterView { id, meta, spec, root_cert_pem, level, tunnel_keys } = wire;
        Ok(Self {
            id: field::Text::read("id", id)?,
            meta: field::Message::read("meta", meta)?,
            spec: field::Message::read("spec", spec)?,
            root_ca: RootCa { cert_pem: root_cert_pem, key_pem: String::new() },
            join_tokens: JoinTokens::default(),
            level: field::Levels::read("level", level)?,
            tunnel_keys: field::SparseMessage::read("tunnel_keys", tunnel_keys)?,
            former_managers: Vec::new(),
        })
    }
}

by_value!(Cluster => pb::ClusterView);
