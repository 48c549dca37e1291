//! Answering a manager's question about this node.

use std::sync::Arc;

use prost::Message as _;
use shoal_proto::v1::answer_message::Message;
use shoal_proto::v1::{AnswerAttach, AnswerMessage, AskNode, NodeAnswer};
use shoal_types::error_chain::chain;
use shoal_types::question::{
    Answer, Finding, NodeNetworks, NodeUsage, NodeVolume, PeerReach, Question, TaskUsage,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Client;
use super::workload::Workload;

/// Parts on their way to the manager.
const QUEUE: usize = 4;
/// Bytes of a list after which a part of it is sent; the last item may exceed it.
const PART_BYTES: usize = 256 << 10;

/// Opens the stream, finds the answer and sends it, until nobody waits for it any more. `refused` says
/// why there is none.
pub(super) async fn answer(
    mut client: Client,
    workload: Arc<dyn Workload>,
    request: AskNode,
    refused: Option<&'static str>,
) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let AskNode { question_id, question } = request;
    let attach = Message::Attach(AnswerAttach { question_id: question_id.clone() });
    let find = async move {
        // Fails only when the call has ended, and so has this.
        if send(&sender, attach).await.is_err() {
            return;
        }
        let answer = match (refused, question.map(Question::try_from)) {
            (Some(why), _) => Err(why.to_owned()),
            (None, Some(Ok(question))) => {
                workload.answer(question).await.map_err(|error| chain(&error).to_string())
            }
            // Asked by a later version.
            (None, Some(Err(_)) | None) => Err("it does not know the question".to_owned()),
        };
        let messages: Vec<Message> = match answer {
            Ok(answer) => parts(answer).into_iter().map(Message::Part).collect(),
            Err(why) => vec![Message::Failed(why)],
        };
        for message in messages {
            if send(&sender, message).await.is_err() {
                return;
            }
        }
    };
    let call = client.answer_question(ReceiverStream::new(receiver));
    tokio::pin!(call, find);
    // The manager may answer early, when nobody waits any more; else its answer ends it all.
    let ended = tokio::select! {
        ended = &mut call => ended,
        () = &mut find => call.await,
    };
    if let Err(status) = ended {
        tracing::debug!(question_id, %status, "an answer was not taken");
    }
}

async fn send(
    sender: &mpsc::Sender<AnswerMessage>,
    message: Message,
) -> Result<(), mpsc::error::SendError<AnswerMessage>> {
    sender.send(AnswerMessage { message: Some(message) }).await
}

/// An answer in messages of a bounded size.
fn parts(answer: Answer) -> Vec<NodeAnswer> {
    match answer {
        Answer::Volumes(volumes) => {
            let bytes = |v: &NodeVolume| shoal_proto::v1::NodeVolume::from(v).encoded_len();
            cut(volumes, bytes).into_iter().map(|part| Answer::Volumes(part).into()).collect()
        }
        Answer::Usage(usage) => {
            let bytes = |t: &TaskUsage| shoal_proto::v1::TaskUsage::from(t).encoded_len();
            let NodeUsage { node, cpus, tasks } = usage;
            let part = |tasks| Answer::Usage(NodeUsage { node, cpus, tasks }).into();
            cut(tasks, bytes).into_iter().map(part).collect()
        }
        Answer::Networks(mut networks) => {
            let bytes = |f: &Finding| shoal_proto::v1::Finding::from(f).encoded_len();
            let findings = cut(std::mem::take(&mut networks.findings), bytes);
            let bytes = |r: &PeerReach| shoal_proto::v1::PeerReach::from(r).encoded_len();
            let reached = cut(std::mem::take(&mut networks.reached), bytes);
            let (mtu, peers) = (networks.mtu, networks.peers);
            let part = || NodeNetworks { mtu, peers, ..NodeNetworks::default() };
            let findings = findings.into_iter().map(|findings| NodeNetworks { findings, ..part() });
            let reached = reached.into_iter().map(|reached| NodeNetworks { reached, ..part() });
            let all = std::iter::once(networks).chain(findings).chain(reached);
            all.map(|part| Answer::Networks(part).into()).collect()
        }
        whole @ (Answer::Pruned(_) | Answer::DiskUsage(_)) => vec![whole.into()],
    }
}

/// A list in parts of about [`PART_BYTES`]; at least one, which may be empty.
fn cut<T>(items: Vec<T>, bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut parts, mut part, mut length) = (Vec::new(), Vec::new(), 0);
    for item in items {
        length += bytes(&item);
        part.push(item);
        if length >= PART_BYTES {
            parts.push(std::mem::take(&mut part));
            length = 0;
        }
    }
    if !part.is_empty() || parts.is_empty() {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_by_bytes_and_lose_nothing() {
        let cases: [(&[usize], &[usize]); 6] = [
            (&[], &[0]),
            (&[1], &[1]),
            (&[PART_BYTES], &[1]),
            (&[PART_BYTES, 1], &[1, 1]),
            (&[1, PART_BYTES, PART_BYTES - 1, 1, 5], &[2, 2, 1]),
            (&[100; 5], &[5]),
        ];
        for (sizes, expected) in cases {
            let parts = cut(sizes.to_vec(), |size| *size);
            let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
            assert_eq!(lengths, expected, "{sizes:?}");
            assert_eq!(parts.concat(), sizes);
        }
    }
}
