//! Networks.

use std::sync::Arc;

use shoal_manager_state::{ClusterState, Command};
use shoal_proto::v1 as pb;
use shoal_types::id::{IdSource as _, NetworkId};
use shoal_types::object::{AddressCount, Network};
use shoal_types::spec::NetworkSpec;
use tonic::Status;

use super::asked::Asker;
use super::error::{required, vanished};
use super::parts::in_parts;
use super::{Answers, ControlService, invalid, unresolved, violations};
use crate::clock::RandomIds;

pub(super) async fn list_networks(
    api: &ControlService,
    _: &Asker,
    _: pb::ListNetworksRequest,
) -> Result<Answers<pb::ListNetworksResponse>, Status> {
    let view = api.cluster.read().await?;
    let mut networks: Vec<Arc<Network>> = view.networks().cloned().collect();
    networks.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let networks = networks.into_iter().map(move |network| answer(&view, &network));
    Ok(in_parts(networks, |answers| pb::ListNetworksResponse {
        addresses: answers.iter().filter_map(|answer| answer.addresses.clone()).collect(),
        networks: answers.into_iter().filter_map(|answer| answer.network).collect(),
    }))
}

/// A network with how many of its addresses are in use.
fn answer(view: &ClusterState, network: &Network) -> pb::GetNetworkResponse {
    let addresses = view.addresses(network).map(|AddressCount { used, free }| {
        pb::NetworkAddresses { network_id: network.id.to_string(), used, free }
    });
    pb::GetNetworkResponse { network: Some(network.into()), addresses, members: None }
}

pub(super) async fn get_network(
    api: &ControlService,
    request: pb::GetNetworkRequest,
) -> Result<pb::GetNetworkResponse, Status> {
    let view = api.cluster.read().await?;
    let network = view.resolve_network(&request.reference).map_err(|e| unresolved(&e))?;
    let members = view.members_of(network).as_ref().map(Into::into);
    Ok(pb::GetNetworkResponse { members, ..answer(&view, network) })
}

pub(super) async fn create_network(
    api: &ControlService,
    request: pb::CreateNetworkRequest,
) -> Result<pb::CreateNetworkResponse, Status> {
    let spec: NetworkSpec = required(request.spec, "spec")?.try_into().map_err(|e| invalid(&e))?;
    spec.validate().map_err(|e| violations(&e))?;
    let id: NetworkId = RandomIds.next_id();
    api.cluster.propose(Command::CreateNetwork { id, spec }).await?;
    let view = api.written();
    let network = view.network(id).ok_or_else(|| vanished("network"))?;
    Ok(pb::CreateNetworkResponse { network: Some((&**network).into()) })
}

pub(super) async fn remove_network(
    api: &ControlService,
    request: pb::RemoveNetworkRequest,
) -> Result<pb::RemoveNetworkResponse, Status> {
    let view = api.cluster.read().await?;
    let id = view.resolve_network(&request.reference).map_err(|e| unresolved(&e))?.id;
    api.cluster.propose(Command::RemoveNetwork { id }).await?;
    Ok(pb::RemoveNetworkResponse { id: id.to_string() })
}
