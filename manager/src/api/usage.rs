//! What nodes and tasks use.

use std::collections::BTreeMap;

use shoal_manager_planning::usage::{asked, named};
use shoal_proto::v1 as pb;
use shoal_types::question::{Answer, Question};
use tonic::Status;

use super::asked::Asker;
use super::parts::with_silent;
use super::volumes::meant;
use super::{Answers, ControlService, unresolved};

pub(super) async fn get_usage(
    api: &ControlService,
    asker: &Asker,
    request: pb::GetUsageRequest,
) -> Result<Answers<pb::GetUsageResponse>, Status> {
    let view = api.cluster.read().await?;
    let nodes = meant(&view, &request.nodes)?;
    let user = asker.bound().map(|user| &user.spec);
    let asked = asked(&view, nodes, &request.references, request.without_tasks, user);
    let asked = asked.map_err(|e| unresolved(&e))?;
    let asked = asked.into_iter().map(|(node, question)| (node, Question::Usage(question)));
    let answers = api.ask(asker, &view, asked).await?;
    let mut told = BTreeMap::new();
    for (node, answer) in answers.answers {
        if let Answer::Usage(usage) = answer {
            told.insert(node, usage);
        }
    }
    let nodes = named(&view, told, user).into_iter().map(pb::PlacedUsage::from);
    Ok(with_silent(
        nodes,
        |nodes| pb::GetUsageResponse { nodes, silent: Vec::new() },
        answers.silent,
        |silent| pb::GetUsageResponse { nodes: Vec::new(), silent },
    ))
}
