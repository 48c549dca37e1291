//! The way of a packet, with what the nodes on it say.

use shoal_manager_planning::trace::{Heard, Untraceable, plan};
use shoal_proto::v1 as pb;
use shoal_types::error_chain::chain;
use shoal_types::question::{Answer, Question};
use tonic::Status;

use super::asked::Asker;
use super::{ControlService, unresolved};

pub(super) async fn trace_network(
    api: &ControlService,
    asker: &Asker,
    request: pb::TraceNetworkRequest,
) -> Result<pb::TraceNetworkResponse, Status> {
    let view = api.cluster.read().await?;
    let way = plan(&view, &request.source, &request.destination);
    let way = way.map_err(|error| match error {
        Untraceable::Source(unknown) => unresolved(&unknown),
        Untraceable::Destination { .. } => Status::invalid_argument(chain(&error).to_string()),
        Untraceable::Unplaced { .. } => Status::failed_precondition(chain(&error).to_string()),
    })?;
    let asked = way.asked();
    let progress =
        asked.keys().filter_map(|node| Some((*node, api.sessions.of_node(*node)?.progress())));
    let progress = progress.collect();
    let asked = asked.into_iter().map(|(node, question)| (node, Question::Networks(question)));
    let answers = api.ask(asker, &view, asked).await?;
    let told = answers.answers.into_iter().filter_map(|(node, answer)| match answer {
        Answer::Networks(networks) => Some((node, networks)),
        _ => None,
    });
    let heard = Heard { answers: told.collect(), silent: answers.silent, progress };
    let steps = way.judged(&view, &heard);
    Ok(pb::TraceNetworkResponse { steps: steps.iter().map(pb::TraceStep::from).collect() })
}
