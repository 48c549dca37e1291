//! Processes that users start in containers.

use std::time::Duration;

use shoal_manager_planning::exec::{Refused, node_of};
use shoal_manager_planning::words;
use shoal_manager_state::ClusterState;
use shoal_proto::v1 as pb;
use shoal_types::id::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Answers, Broker, Forgotten, to_agent};

/// Messages on their way in each direction.
const QUEUE: usize = 32;

/// How long an agent may take to open its stream.
const PATIENCE: Duration = Duration::from_secs(10);

/// A user who waits for the agent: the agent's stream, and where the user's input goes.
pub(super) struct Waiter(oneshot::Sender<AgentSide>);

struct AgentSide {
    output: Streaming<pb::ExecStreamMessage>,
    input: mpsc::Sender<Result<pb::ExecInput, Status>>,
}

fn refusal(refused: &Refused) -> Status {
    let code = match refused {
        Refused::NotRunning { .. } => Code::FailedPrecondition,
        Refused::Unreachable { .. } => Code::Unavailable,
    };
    Status::new(code, refused.to_string())
}

/// The first message of a user's stream.
///
/// # Errors
/// It is another one.
pub async fn exec_start(from_user: &mut Streaming<pb::ExecInput>) -> Result<pb::ExecStart, Status> {
    match from_user.message().await?.and_then(|m| m.input) {
        Some(pb::exec_input::Input::Start(start)) => Ok(start),
        _ => Err(Status::invalid_argument("start: must be the first message")),
    }
}

impl Broker {
    /// Serves a user who runs a process in a container, after the first message of its stream.
    ///
    /// # Errors
    /// The task does not run; its node does not answer.
    pub async fn exec(
        &self,
        view: &ClusterState,
        mut start: pb::ExecStart,
        from_user: Streaming<pb::ExecInput>,
    ) -> Result<Answers<pb::ExecOutput>, Status> {
        if start.argv.is_empty() {
            return Err(Status::invalid_argument("start.argv: names no program"));
        }
        let task = view.resolve_task(&start.task).map_err(|e| crate::api::unresolved(&e))?;
        let node = node_of(view, task).map_err(|refused| refusal(&refused))?;
        start.task = task.id.to_string();
        let session = self
            .session_of(node)
            .ok_or_else(|| Status::unavailable("the task's node is not connected"))?;
        let (waiter, agent) = oneshot::channel();
        let exec_id = self.execs.add(node, Waiter(waiter));
        // Also when the user leaves and this future is dropped.
        let _forgotten = Forgotten { waiting: &self.execs, id: &exec_id };
        let ask = pb::StartExec { exec_id: exec_id.clone(), start: Some(start) };
        session.send(to_agent(pb::session_message::Message::StartExec(ask)))?;
        let agent = tokio::time::timeout(PATIENCE, agent).await.ok().and_then(Result::ok);
        let agent =
            agent.ok_or_else(|| Status::deadline_exceeded("the task's node does not answer"))?;
        let (to_user, answers) = mpsc::channel(QUEUE);
        tokio::spawn(pass_input(from_user, agent.input, to_user.clone()));
        tokio::spawn(pass_output(agent.output, to_user));
        Ok(Box::pin(ReceiverStream::new(answers)))
    }

    /// Takes the stream that an agent opened because it was asked to.
    ///
    /// # Errors
    /// The stream does not begin as it must, or nobody waits for it.
    pub async fn exec_stream(
        &self,
        node: NodeId,
        mut output: Streaming<pb::ExecStreamMessage>,
    ) -> Result<Answers<pb::ExecInput>, Status> {
        use pb::exec_stream_message::Message;
        let first = output.message().await?.and_then(|m| m.message);
        let Some(Message::Attach(attach)) = first else {
            return Err(Status::invalid_argument("attach: must be the first message"));
        };
        let Waiter(waiter) = self.execs.take(node, &attach.exec_id)?;
        let (input, to_agent) = mpsc::channel(QUEUE);
        waiter
            .send(AgentSide { output, input })
            .map_err(|_| Status::cancelled("the user has gone"))?;
        Ok(Box::pin(ReceiverStream::new(to_agent)))
    }
}

/// Passes the user's input on until one side is gone. Dropping `to` tells the agent.
async fn pass_input(
    mut from: Streaming<pb::ExecInput>,
    to: mpsc::Sender<Result<pb::ExecInput, Status>>,
    user: mpsc::Sender<Result<pb::ExecOutput, Status>>,
) {
    loop {
        let message = tokio::select! {
            // The process has ended, or the user does not listen any more.
            () = user.closed() => return,
            () = to.closed() => return,
            message = from.message() => message,
        };
        match message {
            Ok(Some(pb::ExecInput { input: Some(pb::exec_input::Input::Start(_)) })) => {
                let status = Status::invalid_argument("start: comes only once");
                let _ = user.send(Err(status)).await;
                return;
            }
            Ok(Some(message)) => {
                if to.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            // The user has nothing more to say, but may still listen.
            Ok(None) => {
                user.closed().await;
                return;
            }
            Err(_) => return,
        }
    }
}

/// Passes what the process says on until it has ended or one side is gone.
async fn pass_output(
    mut from: Streaming<pb::ExecStreamMessage>,
    to: mpsc::Sender<Result<pb::ExecOutput, Status>>,
) {
    use pb::exec_stream_message::Message;
    loop {
        let message = tokio::select! {
            () = to.closed() => return,
            message = from.message() => message,
        };
        let (answer, last) = match message.map(|m| m.map(|m| m.message)) {
            Ok(Some(Some(Message::Output(output)))) => {
                let last = matches!(output.output, Some(pb::exec_output::Output::Exit(_)));
                (Ok(output), last)
            }
            Ok(Some(Some(Message::Failed(failed)))) => {
                let message = words::text(&failed.message);
                (Err(Status::new(Code::from_i32(failed.code), message)), true)
            }
            Ok(Some(Some(Message::Attach(_)) | None)) => {
                (Err(Status::internal("the node sent a message that makes no sense")), true)
            }
            Ok(None) | Err(_) => (Err(Status::unavailable("the node was lost")), true),
        };
        if to.send(answer).await.is_err() || last {
            return;
        }
    }
}
