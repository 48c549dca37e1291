//! Questions to nodes: one agent is asked, or many at once, and whoever does not answer in time is
//! named beside the answers of the others.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use prost::Message as _;
use shoal_manager_planning::words;
use shoal_manager_state::ClusterState;
use shoal_proto::v1 as pb;
use shoal_types::id::NodeId;
use shoal_types::question::{Answer, Question, Silent};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{Broker, Forgotten, to_agent};

/// How long an agent may take to open its stream.
const ATTACH_PATIENCE: Duration = Duration::from_secs(5);
/// Nodes that are asked at the same time, for one user.
const ASKED_AT_ONCE: usize = 32;
/// Questions under way, for all users.
pub(super) const QUESTIONS_MAX: usize = 256;
/// Bytes of one node's answer: some ten thousand volumes.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Items of one node's answer, and of what is listed in them: one of two bytes takes a hundred times that
/// once it is read.
const ANSWER_ITEMS_MAX: usize = 50_000;
/// Bytes of all answers to one user, and of the reasons for which there are none.
const ANSWERS_BYTES_MAX: usize = 64 << 20;

/// Whoever waits for an answer.
pub(super) struct Asker {
    /// Used when the agent has opened its stream.
    begun: oneshot::Sender<()>,
    answer: oneshot::Sender<Result<Answered, NoAnswer>>,
}

/// An answer and its length in bytes.
type Answered = (Answer, usize);

/// What nodes answered, and who did not.
#[derive(Debug, Default)]
pub struct Answers {
    /// Answers by node.
    pub answers: BTreeMap<NodeId, Answer>,
    /// The other nodes that were asked.
    pub silent: Vec<Silent>,
}

/// How long the whole answer may take.
const fn patience(question: &Question) -> Duration {
    match question {
        // What takes longer is left out by the node.
        Question::DiskUsage => Duration::from_secs(90),
        Question::Volumes | Question::Usage(_) => Duration::from_secs(15),
        // Packets to other nodes are waited for.
        Question::Networks(_) => Duration::from_secs(60),
        // What is removed may be large.
        Question::RemoveVolume(_) | Question::Prune(_) => Duration::from_secs(600),
    }
}

/// Why there is no answer, for people.
pub(super) struct NoAnswer(String);

impl NoAnswer {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl Broker {
    /// Asks nodes, some at a time. What it costs in time is bounded by the patience
    /// that one node is given, for each [`ASKED_AT_ONCE`] nodes.
    pub async fn ask(
        &self,
        view: &ClusterState,
        questions: impl IntoIterator<Item = (NodeId, Question)>,
    ) -> Answers {
        let one = |(id, question)| async move { (id, self.ask_one(id, &question).await) };
        let asked = questions.into_iter().map(one);
        let mut asked = futures::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
        let (mut all, mut room) = (Answers::default(), ANSWERS_BYTES_MAX);
        while let Some((id, answered)) = asked.next().await {
            let answered = answered.and_then(|(answer, bytes)| {
                room = room.checked_sub(bytes).ok_or_else(|| {
                    NoAnswer::new("the answers of all nodes are too long: ask fewer at once")
                })?;
                Ok(answer)
            });
            match answered {
                Ok(answer) => drop(all.answers.insert(id, answer)),
                Err(NoAnswer(mut reason)) => {
                    match room.checked_sub(reason.len()) {
                        Some(left) => room = left,
                        None => "it said why, and others too much".clone_into(&mut reason),
                    }
                    let hostname = view.hostname(id);
                    all.silent.push(Silent { node_id: id, hostname, reason });
                }
            }
        }
        all.silent.sort_by(|a, b| (&a.hostname, a.node_id).cmp(&(&b.hostname, b.node_id)));
        all
    }

    async fn ask_one(&self, node: NodeId, question: &Question) -> Result<Answered, NoAnswer> {
        let away = || NoAnswer::new("it cannot be reached");
        let turn = timeout(ATTACH_PATIENCE, self.questions_free.acquire()).await;
        let turn =
            turn.map_err(|_| NoAnswer::new("too many questions are under way: ask again"))?;
        let _turn = turn.map_err(|_| away())?;
        let session = self.session_of(node).ok_or_else(away)?;
        let ((begun, has_begun), (answer, answered)) = (oneshot::channel(), oneshot::channel());
        let question_id = self.questions.add(node, Asker { begun, answer });
        // Also when the user leaves and this future is dropped.
        let _forgotten = Forgotten { waiting: &self.questions, id: &question_id };
        let ask = pb::AskNode { question_id: question_id.clone(), question: Some(question.into()) };
        session
            .send(to_agent(pb::session_message::Message::Ask(ask)))
            .map_err(|_| NoAnswer::new("it does not take what it is told"))?;
        let late = |what: &str, limit: Duration| {
            NoAnswer::new(format!("{what} within {} s", limit.as_secs()))
        };
        let answer = async {
            let limit = ATTACH_PATIENCE;
            let begun = timeout(limit, has_begun).await;
            // Only this drops the other end before it is used.
            begun.map_err(|_| late("it did not answer", limit))?.map_err(|_| away())?;
            let limit = patience(question);
            let answered = timeout(limit, answered).await;
            let answered = answered.map_err(|_| late("it did not answer wholly", limit))?;
            answered.unwrap_or_else(|_| Err(NoAnswer::new("it was lost while it answered")))
        };
        tokio::select! {
            answer = answer => answer,
            () = session.ended.cancelled() => Err(away()),
        }
    }

    /// Takes an agent's answer and hands it to whoever has asked.
    ///
    /// # Errors
    /// The stream does not begin as it must, or nobody waits for it.
    pub async fn answer_question(
        &self,
        node: NodeId,
        mut messages: Streaming<pb::AnswerMessage>,
    ) -> Result<(), Status> {
        use pb::answer_message::Message;
        let first = messages.message().await?.and_then(|m| m.message);
        let Some(Message::Attach(attach)) = first else {
            return Err(Status::invalid_argument("attach: must be the first message"));
        };
        let Asker { begun, mut answer } = self.questions.take(node, &attach.question_id)?;
        let gone = |()| Status::cancelled("nobody waits for this answer any more");
        begun.send(()).map_err(gone)?;
        let whole = tokio::select! {
            whole = whole(messages) => whole,
            () = answer.closed() => return Err(gone(())),
        };
        answer.send(whole).map_err(|_| gone(()))
    }
}

async fn whole(mut parts: Streaming<pb::AnswerMessage>) -> Result<Answered, NoAnswer> {
    use pb::answer_message::Message;
    let strange = |why: String| NoAnswer::new(format!("its answer cannot be understood: {why}"));
    let (mut answer, mut bytes, mut items): (Option<Answer>, usize, usize) = (None, 0, 0);
    loop {
        let message = match parts.message().await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(_) => return Err(NoAnswer::new("it was lost while it answered")),
        };
        bytes += message.encoded_len();
        if bytes > ANSWER_BYTES_MAX {
            let most = ANSWER_BYTES_MAX >> 20;
            return Err(NoAnswer::new(format!("its answer is longer than {most} MiB")));
        }
        let part = match message.message {
            Some(Message::Part(part)) => part,
            Some(Message::Failed(why)) => return Err(NoAnswer::new(words::text(&why))),
            Some(Message::Attach(_)) | None => return Err(strange("expected a part".to_owned())),
        };
        let part = Answer::try_from(part).map_err(|e| strange(e.to_string()))?;
        items += part.items();
        if items > ANSWER_ITEMS_MAX {
            return Err(NoAnswer::new(format!(
                "its answer has more than {ANSWER_ITEMS_MAX} items"
            )));
        }
        answer = Some(match answer {
            None => part,
            Some(before) => before.followed_by(part).map_err(|e| strange(e.to_string()))?,
        });
    }
    answer.map(|answer| (answer, bytes)).ok_or_else(|| strange("it is empty".to_owned()))
}
