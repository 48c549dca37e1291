//! One session, from its first message to its end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use shoal_agent_planning::node::fencing;
use shoal_proto::parts::{PART_BYTES, Parts};
use shoal_proto::v1::dispatcher_client::DispatcherClient;
use shoal_proto::v1::session_message::Message;
use shoal_proto::v1::{
    AcknowledgeRequest, AssignmentsRequest, ClusterFacts, HeartbeatRequest, NodeRole,
    SessionMessage, SessionRequest, SessionStarted, TaskStatusUpdate, UpdateTaskStatusRequest,
};
use shoal_transport::{MANAGER_NAME, ManagerAddress, Role, client_channel};
use shoal_types::error_chain::chain;
use shoal_types::id::NodeId;
use shoal_types::object::{NodeDescription, TroubledLinks};
use shoal_types::text::cut;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;
use tonic::{Response, Status, Streaming};

use super::assembly::{Assembly, Taken};
use super::failure::{ASSIGNMENTS, Failure, heartbeat_patience, heartbeat_wait};
use super::item::Reader;
use super::sequence::{Sequence, Step};
use super::{
    Client, Member, SessionContext, Standing, Trouble, exec_stream, log_stream, question, renew_now,
};
use crate::worker::Mark;

/// For the first message of a session, connection included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// For a batch of statuses to become durable.
const STATUS_TIMEOUT: Duration = Duration::from_secs(30);
/// For saying how much of the assignment is applied.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Shortest time from one such call to the next.
const ACKNOWLEDGE_PAUSE: Duration = Duration::from_millis(100);
/// Log streams, exec streams and answers at a time, each.
const MAX_STREAMS: usize = 128;
/// The longest message, in bytes. What grows with the cluster comes in parts of [`PART_BYTES`]; a
/// single task is smaller than twice the 2 MiB of the command that brought its spec.
const MAX_MESSAGE: usize = 8 << 20;
/// COMPLETE assignments asked for in a row because a change was missing, before that is a failure.
const MAX_GAPS: u32 = 3;
/// Bytes of the reason that managers are told.
const TROUBLE_BYTES_MAX: usize = 1024;

/// Never returns but with why it ended. `began` says since when there was a session, if there was one.
pub(super) async fn session(
    context: &SessionContext,
    member: &Member,
    turn: u32,
    began: &mut Option<Instant>,
    trouble: &Trouble,
) -> Failure {
    match try_session(context, member, turn, began, trouble).await {
        Err(failure) => failure,
    }
}

async fn try_session(
    context: &SessionContext,
    member: &Member,
    turn: u32,
    began: &mut Option<Instant>,
    trouble: &Trouble,
) -> Result<Infallible, Failure> {
    let address = member.managers.pick(turn).ok_or(Failure::NoManager)?;
    let channel = client_channel(address.clone(), member.credentials.clone(), MANAGER_NAME);
    let mut client = DispatcherClient::new(channel.map_err(Failure::Credentials)?)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);

    let tunnel = context.workload.tunnel().await;
    let troubled = Some(context.workload.troubled_links());
    let troubled_links = troubled.filter(|links| *links != TroubledLinks::default());
    let description = NodeDescription { tunnel, troubled_links, ..(context.describe)().await };
    let description = Some(description.into());
    let identity = member.credentials.current();
    let identity = identity.identity();
    let (cluster, node) = (identity.cluster, identity.node());
    let obey = async |term| context.workload.obey(cluster, term).await.map_err(Failure::Obey);
    let obeyed = obey(0).await?;
    let open = async {
        let unable = trouble.borrow().clone();
        let request = SessionRequest { description, unable, term: obeyed };
        let stream = client.session(request).await.map_err(Failure::call("session"))?;
        let mut stream = stream.into_inner();
        let first = next("session", &mut stream).await?;
        Ok((stream, first))
    };
    let (stream, first) = in_time("session", OPEN_TIMEOUT, open).await?;
    let Some(Message::Started(started)) = first.message else {
        let why = "it does not begin with the session's id".to_owned();
        return Err(Failure::Message { call: "session", why });
    };
    let SessionStarted { session_id, heartbeat_period_nanos, term, level, cluster_level } = started;
    // Before anything of it is obeyed: a leader that was replaced meanwhile must not undo it.
    let obeyed = obey(term).await?;
    if !fencing::listens(obeyed, term) {
        return Err(Failure::Stale { term, obeyed });
    }
    *began = Some(Instant::now());
    tracing::info!(
        manager = %address, session = session_id, term, level, cluster_level, "session began"
    );
    let session = Opened { node, id: session_id.into(), term };
    context.standing.send_replace(Standing::Active);
    context.workload.report_everything();

    let _line = context.line.open(client.clone(), session.id.to_string());
    let period = Duration::from_nanos(heartbeat_period_nanos);
    let mut requests = Requests::new(context, member, client.clone(), address);
    tokio::select! {
        end = requests.serve(stream) => end,
        end = heartbeats(context, client.clone(), &session.id, period, trouble) => end,
        end = assignments(context, client.clone(), &session, trouble) => end,
        end = acknowledgements(context, client.clone(), &session.id) => end,
        end = statuses(context, client.clone(), &session.id) => end,
        // Only a session's beginning says what a host is.
        () = context.workload.tunnel_news(tunnel) => Err(Failure::News),
    }
}

/// A session that a manager has opened.
struct Opened {
    /// Whose it is.
    node: Option<NodeId>,
    id: Arc<str>,
    /// In which that manager leads.
    term: u64,
}

async fn in_time<T>(
    call: &'static str,
    after: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(after, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::Silent { call, after }),
    }
}

async fn unary<T>(
    call: &'static str,
    after: Duration,
    work: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    let work = async { work.await.map(Response::into_inner).map_err(Failure::call(call)) };
    in_time(call, after, work).await
}

async fn next<T>(call: &'static str, stream: &mut Streaming<T>) -> Result<T, Failure> {
    let message = stream.message().await.map_err(Failure::call(call))?;
    message.ok_or(Failure::Ended(call))
}

async fn heartbeats(
    context: &SessionContext,
    mut client: Client,
    session: &str,
    mut period: Duration,
    trouble: &Trouble,
) -> Result<Infallible, Failure> {
    let (mut trouble, mut tunnel) = (trouble.subscribe(), context.workload.tunnel_now());
    loop {
        let wait = heartbeat_wait(period, rand::rng().random());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // Managers are told at once; fails only when we are gone.
            _ = trouble.changed() => {}
            // Others wait for it while keys change.
            Ok(()) = tunnel.changed() => {}
        }
        let unable = trouble.borrow_and_update().clone();
        let request = HeartbeatRequest {
            session_id: session.to_owned(),
            unable,
            troubled_links: Some((&context.workload.troubled_links()).into()),
            tunnel: tunnel.borrow_and_update().as_ref().map(Into::into),
        };
        let call = client.heartbeat(request);
        let answer = unary("heartbeat", heartbeat_patience(period), call).await?;
        period = Duration::from_nanos(answer.period_nanos);
    }
}

/// Takes what is assigned. If that cannot be done, the session goes on: what runs is still looked
/// after, managers hear why, and it is tried again ever less often.
async fn assignments(
    context: &SessionContext,
    client: Client,
    session: &Opened,
    trouble: &Trouble,
) -> Result<Infallible, Failure> {
    let mut row: u32 = 0;
    loop {
        let mut taken = false;
        let failure = match follow(context, client.clone(), session, trouble, &mut taken).await {
            Err(failure) if failure.is_of_assignment() => failure,
            end => return end,
        };
        row = if taken { 1 } else { row.saturating_add(1) };
        let why = chain(&failure).to_string();
        let wait = failure.wait(row, rand::rng().random());
        tracing::error!(why, ?wait, "this node cannot take what is assigned to it");
        // Once may be an accident of the connection.
        if row > 1 {
            tell(trouble, &why);
        }
        tokio::time::sleep(wait).await;
    }
}

/// Notes why this node cannot take its assignment; empty if it can.
fn tell(trouble: &Trouble, why: &str) {
    let why = cut(why, TROUBLE_BYTES_MAX);
    trouble.send_if_modified(|known| {
        let new = *known != *why;
        if new {
            *known = why.into_owned();
        }
        new
    });
}

/// Follows streams of assignments; a new one whenever a message is missing. `taken` says whether a
/// whole assignment has come.
async fn follow(
    context: &SessionContext,
    mut client: Client,
    session: &Opened,
    trouble: &Trouble,
    taken: &mut bool,
) -> Result<Infallible, Failure> {
    const CALL: &str = ASSIGNMENTS;
    let (mut gaps, mut reader) = (0, Reader::default());
    loop {
        let session_id = session.id.to_string();
        let request = AssignmentsRequest { session_id, message_bytes_max: MAX_MESSAGE as u64 };
        let open = client.assignments(request);
        let mut stream = unary(CALL, OPEN_TIMEOUT, open).await?;
        let (mut sequence, mut assembly) = (Sequence::default(), Assembly::default());
        loop {
            let message = next(CALL, &mut stream).await?;
            if message.term != session.term {
                return Err(Failure::Stale { term: message.term, obeyed: session.term });
            }
            let sequence_number = message.results_in;
            let mark = || Mark {
                node: session.node,
                session: Arc::clone(&session.id),
                term: session.term,
                sequence: sequence_number,
            };
            let step = sequence.accept(message.kind, message.applies_to, message.results_in);
            let changes = reader.read_all(message.changes);
            match step {
                Step::Replace | Step::Change => {
                    if step == Step::Change {
                        gaps = 0;
                    }
                    match assembly.take(step == Step::Replace, changes, message.more) {
                        Taken::All(assignment) => {
                            context.workload.assign_all(assignment, mark());
                            *taken = true;
                            tell(trouble, "");
                        }
                        Taken::Changes(changes) => context.workload.change(changes, mark()),
                        Taken::Part => {}
                    }
                }
                Step::Gap if gaps < MAX_GAPS => {
                    gaps += 1;
                    tracing::warn!("a change of the assignment is missing, asking for all of it");
                    break;
                }
                Step::Gap | Step::Unknown => {
                    let why = format!("{step:?} in the chain of changes");
                    return Err(Failure::Message { call: CALL, why });
                }
            }
        }
    }
}

/// Tells how much of the assignment is on disk, soon after that has changed.
async fn acknowledgements(
    context: &SessionContext,
    mut client: Client,
    session: &str,
) -> Result<Infallible, Failure> {
    let mut told = 0;
    loop {
        let applied = context.workload.applied(session, told).await;
        let request = AcknowledgeRequest { session_id: session.to_owned(), applied };
        unary("acknowledge", ACKNOWLEDGE_TIMEOUT, client.acknowledge(request)).await?;
        told = applied;
        tokio::time::sleep(ACKNOWLEDGE_PAUSE).await;
    }
}

async fn statuses(
    context: &SessionContext,
    mut client: Client,
    session: &str,
) -> Result<Infallible, Failure> {
    loop {
        let batch = context.workload.next_statuses().await;
        let updates: Vec<TaskStatusUpdate> = batch.iter().map(Into::into).collect();
        for updates in Parts::new(updates, PART_BYTES) {
            let request = UpdateTaskStatusRequest { session_id: session.to_owned(), updates };
            unary("status", STATUS_TIMEOUT, client.update_task_status(request)).await?;
        }
    }
}

/// Carries out what the session stream asks for. Dropping it ends the streams that were opened.
struct Requests<'a> {
    context: &'a SessionContext,
    member: &'a Member,
    client: Client,
    address: ManagerAddress,
    tasks: JoinSet<()>,
    /// By the manager's name for them.
    logs: BTreeMap<String, AbortHandle>,
    execs: BTreeMap<String, Id>,
    questions: BTreeMap<String, Id>,
    renewal: Option<Id>,
}

impl<'a> Requests<'a> {
    fn new(
        context: &'a SessionContext,
        member: &'a Member,
        client: Client,
        address: ManagerAddress,
    ) -> Self {
        let (logs, execs, questions) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let tasks = JoinSet::new();
        Self { context, member, client, address, tasks, logs, execs, questions, renewal: None }
    }

    async fn serve(
        &mut self,
        mut stream: Streaming<SessionMessage>,
    ) -> Result<Infallible, Failure> {
        loop {
            tokio::select! {
                message = next("session", &mut stream) => self.handle(message?.message),
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.ended(match ended {
                        Ok((id, ())) => id,
                        Err(error) => error.id(),
                    });
                }
            }
        }
    }

    fn ended(&mut self, id: Id) {
        self.logs.retain(|_, task| task.id() != id);
        self.execs.retain(|_, task| *task != id);
        self.questions.retain(|_, task| *task != id);
        if self.renewal == Some(id) {
            self.renewal = None;
        }
    }

    fn handle(&mut self, message: Option<Message>) {
        let (client, workload) = (self.client.clone(), self.context.workload.clone());
        match message {
            Some(Message::Facts(facts)) => self.learn(&facts),
            Some(Message::StartLogs(request)) => {
                let name = request.subscription_id.clone();
                if self.logs.contains_key(&name) {
                    return;
                }
                let refused = (self.logs.len() >= MAX_STREAMS)
                    .then_some("this node sends too many logs already");
                let work = log_stream::publish(client, workload, request, refused);
                let task = self.tasks.spawn(work);
                self.logs.insert(name, task);
            }
            Some(Message::StopLogs(request)) => {
                if let Some(task) = self.logs.remove(&request.subscription_id) {
                    task.abort();
                }
            }
            Some(Message::StartExec(request)) => {
                let name = request.exec_id.clone();
                if self.execs.contains_key(&name) {
                    return;
                }
                let refused = (self.execs.len() >= MAX_STREAMS)
                    .then_some("this node runs too many processes for users already");
                let work = exec_stream::serve(client, workload, request, refused);
                let task = self.tasks.spawn(work);
                self.execs.insert(name, task.id());
            }
            Some(Message::Ask(request)) => {
                let name = request.question_id.clone();
                if self.questions.contains_key(&name) {
                    return;
                }
                let refused = (self.questions.len() >= MAX_STREAMS)
                    .then_some("it answers too many questions already");
                let work = question::answer(client, workload, request, refused);
                let task = self.tasks.spawn(work);
                self.questions.insert(name, task.id());
            }
            // A second start says nothing new; later versions may say more than we know.
            Some(Message::Started(_)) | None => {}
        }
    }

    fn learn(&mut self, facts: &ClusterFacts) {
        let told: Vec<String> = facts.managers.iter().map(|peer| peer.addr.clone()).collect();
        if let Err(error) = self.member.managers.learn(&told, &self.address) {
            tracing::warn!(error = %chain(&error), "cannot keep the managers' addresses");
        }
        let wanted = match facts.role() {
            NodeRole::Manager => Role::Manager,
            NodeRole::Agent => Role::Agent,
            NodeRole::Unspecified => return,
        };
        self.member.role.send_if_modified(|role| role.replace(wanted) != Some(wanted));
        let current = self.member.credentials.current().identity().role;
        if wanted != current && self.renewal.is_none() {
            let member = self.member.clone();
            let task = self.tasks.spawn(async move {
                match renew_now(&member).await {
                    Ok(()) => tracing::info!(role = wanted.noun(), "this node has a new role"),
                    Err(error) => tracing::warn!(error, "cannot take the new role for now"),
                }
            });
            self.renewal = Some(task.id());
        }
    }
}
