//! Whether nodes' networks are as they should be, which nodes themselves know.

use shoal_manager_planning::verify::{asked, named};
use shoal_proto::v1 as pb;
use shoal_types::question::{Answer, Question};
use tonic::Status;

use super::asked::Asker;
use super::parts::with_silent;
use super::{Answers, ControlService, unresolved};

pub(super) async fn verify_networks(
    api: &ControlService,
    asker: &Asker,
    request: pb::VerifyNetworksRequest,
) -> Result<Answers<pb::VerifyNetworksResponse>, Status> {
    let view = api.cluster.read().await?;
    let mut networks = Vec::new();
    for reference in &request.networks {
        let network = view.resolve_network(reference).map_err(|e| unresolved(&e))?;
        networks.push(network.id);
    }
    let asked = asked(&view, &networks, request.peers_max);
    let asked = asked.into_iter().map(|(node, question)| (node, Question::Networks(question)));
    let answers = api.ask(asker, &view, asked).await?;
    let told = answers.answers.into_iter().filter_map(|(node, answer)| match answer {
        Answer::Networks(networks) => Some((node, networks)),
        _ => None,
    });
    let nodes = named(&view, told.collect()).into_iter().map(pb::PlacedNetworks::from);
    Ok(with_silent(
        nodes,
        |nodes| pb::VerifyNetworksResponse { nodes, silent: Vec::new() },
        answers.silent,
        |silent| pb::VerifyNetworksResponse { nodes: Vec::new(), silent },
    ))
}
