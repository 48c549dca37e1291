//! The change feed over the wire.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_manager_state::{Action, ClusterState, Event, ObjectRef, permission};
use shoal_proto::v1 as pb;
use shoal_types::id::{ServiceId, StackId};
use shoal_types::level::Level;
use shoal_types::object::{Service, Stack, StackRevision, User};
use shoal_types::spec::{StackSpec, UserRole};
use shoal_types::time::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::asked::Asker;
use super::payloads::{bare_config, bare_secret};
use super::{Answers, ControlService};
use crate::auth::Standing;
use crate::clock;
use crate::cluster::Cluster;

/// Events on their way to one watcher. One may be as large as an object; the feed, which shares them with
/// the state, keeps the others.
const QUEUE: usize = 1;

/// Events that one look at the feed brings: they are kept for the watcher until it has taken them.
const LOOK: usize = 64;

/// Watches of one caller: each keeps as much as an event or three.
pub(super) const WATCHES_MAX: usize = 64;

pub(super) fn watch(
    api: &ControlService,
    asker: Asker,
    request: &pb::WatchRequest,
) -> Result<Answers<pb::WatchResponse>, Status> {
    let mut kinds = BTreeSet::new();
    for (i, wire) in request.kinds.iter().enumerate() {
        match pb::ObjectKind::try_from(*wire) {
            Ok(kind) if kind != pb::ObjectKind::Unspecified => kinds.insert(kind as i32),
            _ => return Err(Status::invalid_argument(format!("kinds[{i}]: {wire} is no kind"))),
        };
    }
    let cluster = api.cluster.clone();
    let feed = cluster.feed();
    let (after, incomplete) = match (request.from_index, request.since) {
        (Some(_), Some(_)) => {
            return Err(Status::invalid_argument("since: does not go with from_index"));
        }
        (Some(index), None) => (index, false),
        (None, Some(since)) => feed.begins(Timestamp::from_nanos(since)),
        (None, None) => (*feed.newest().borrow(), false),
    };
    let span = Span {
        since: request.since.map(Timestamp::from_nanos),
        until: request.until.map(Timestamp::from_nanos),
    };
    let level = Level::new(request.level);
    // Says at once if what is asked for is forgotten.
    feed.since(after, 1).map_err(|e| Status::out_of_range(e.to_string()))?;
    let share = api.watches.take(&asker)?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let _share = share;
        let kept = match asker.bound() {
            Some(_) => cluster.feed().since(after, usize::MAX).map(|(all, _)| all),
            None => Ok(Vec::new()),
        };
        let shown = Shown::new(&cluster.view(), asker, level, &kept.unwrap_or_default());
        let started = pb::WatchStarted { index: after, incomplete };
        if let Err(status) = pump(&cluster, started, span, &kinds, shown, &sender).await {
            // Nobody is left to tell if this fails.
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Which events are asked for, by their time.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// Those before it are left out.
    since: Option<Timestamp>,
    /// Those of it and after it are left out.
    until: Option<Timestamp>,
}

/// Sends events until the watcher goes away or falls too far behind, or its time is over.
async fn pump(
    cluster: &Cluster,
    started: pb::WatchStarted,
    Span { since, until }: Span,
    kinds: &BTreeSet<i32>,
    mut shown: Shown,
    to: &mpsc::Sender<Result<pb::WatchResponse, Status>>,
) -> Result<(), Status> {
    use pb::watch_response::Message;
    let feed = cluster.feed();
    let answer = |message| Ok(pb::WatchResponse { message: Some(message) });
    let mut newest = feed.newest();
    let mut after = started.index;
    if to.send(answer(Message::Started(started))).await.is_err() {
        return Ok(());
    }
    loop {
        newest.borrow_and_update();
        // Before the look: what happens meanwhile is no longer asked for.
        let left = until.map(|until| until.since(clock::now()));
        let (events, complete) =
            feed.since(after, LOOK).map_err(|e| Status::out_of_range(e.to_string()))?;
        after = complete;
        let is_all = events.is_empty();
        for event in events {
            if until.is_some_and(|until| event.time >= until) {
                return Ok(());
            }
            let is_shown = shown.shows(&cluster.view(), &event.object);
            if !is_shown || since.is_some_and(|since| event.time < since) {
                continue;
            }
            let event = to_wire(&event);
            if !kinds.is_empty() && !kinds.contains(&kind_of(&event)) {
                continue;
            }
            if to.send(answer(Message::Event(event))).await.is_err() {
                return Ok(());
            }
        }
        if !is_all {
            continue;
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
        tokio::select! {
            () = to.closed() => return Ok(()),
            () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {}
            changed = newest.changed() => if changed.is_err() {
                return Err(Status::unavailable("the manager is going away"));
            },
        }
    }
}

/// Which events a watcher is shown: users are for admins, and deployers see what is of their stacks.
struct Shown {
    asker: Asker,
    /// What the watcher knows.
    level: Level,
    /// Services of a deployer's stacks, also those that are gone: their tasks go after them.
    services: BTreeSet<ServiceId>,
    /// A deployer's stacks that are gone, of which something is still to be told.
    gone: BTreeSet<StackId>,
}

impl Shown {
    /// What was before is told as it would have been then: with the stacks and services that are gone
    /// now, as the events of their removal have them.
    fn new(view: &ClusterState, asker: Asker, level: Level, past: &[Arc<Event>]) -> Self {
        let mut shown = Self { asker, level, services: BTreeSet::new(), gone: BTreeSet::new() };
        let Some(user) = shown.asker.bound().cloned() else { return shown };
        for event in past {
            if let ObjectRef::Stack(stack) = &event.object
                && user.spec.stacks.contains(&stack.spec.name)
            {
                shown.gone.insert(stack.id);
            }
        }
        let there = view.services().map(AsRef::as_ref);
        let were = past.iter().filter_map(|event| match &event.object {
            ObjectRef::Service(service) => Some(&**service),
            _ => None,
        });
        let own = |s: &&Service| shown.is_own(view, &user, s);
        shown.services = there.chain(were).filter(own).map(|service| service.id).collect();
        shown
    }

    fn is_own(&self, view: &ClusterState, user: &User, service: &Service) -> bool {
        permission::sees_service(view, &user.spec, service)
            || service.stack_id.is_some_and(|id| self.gone.contains(&id))
    }

    fn shows(&mut self, view: &ClusterState, object: &ObjectRef) -> bool {
        if let ObjectRef::User(user) = object {
            return match &self.asker.standing {
                Standing::User(own) => own.spec.role == UserRole::Admin || own.id == user.id,
                Standing::Node(_) | Standing::Unlisted => true,
            };
        }
        let is_payload = matches!(object, ObjectRef::Secret(_) | ObjectRef::Config(_));
        if is_payload && self.level < Level::PAYLOADS {
            return false;
        }
        let Some(own) = self.asker.bound() else { return true };
        match object {
            ObjectRef::Stack(stack) => own.spec.stacks.contains(&stack.spec.name),
            ObjectRef::Service(service) => {
                if self.is_own(view, own, service) {
                    self.services.insert(service.id);
                }
                self.services.contains(&service.id)
            }
            ObjectRef::Task(task) => self.services.contains(&task.service_id),
            ObjectRef::Deployment(deployment) => self.services.contains(&deployment.service_id),
            ObjectRef::Secret(one) => permission::sees_payload(view, &own.spec, &**one),
            ObjectRef::Config(one) => permission::sees_payload(view, &own.spec, &**one),
            ObjectRef::Cluster(_)
            | ObjectRef::Node(_)
            | ObjectRef::Network(_)
            | ObjectRef::User(_) => true,
        }
    }
}

/// A stack has all its earlier specs, ten times its own size: whoever watches it has seen them.
fn without_earlier_specs(stack: &Stack) -> Stack {
    let name = || StackSpec { name: stack.spec.name.clone(), ..StackSpec::default() };
    let only_name = Arc::new(name());
    let history = stack.history.iter();
    let history = history.map(|r| StackRevision { spec: Arc::clone(&only_name), ..r.clone() });
    Stack { history: history.collect(), ..stack.clone() }
}

fn to_wire(event: &Arc<Event>) -> pb::WatchEvent {
    use pb::watch_event::Object;
    let object = match &event.object {
        ObjectRef::Cluster(o) => Object::Cluster((&**o).into()),
        ObjectRef::Node(o) => Object::Node((&**o).into()),
        ObjectRef::Service(o) => Object::Service((&**o).into()),
        ObjectRef::Task(o) => Object::Task((&**o).into()),
        ObjectRef::Network(o) => Object::Network((&**o).into()),
        ObjectRef::Stack(o) => Object::Stack((&without_earlier_specs(o)).into()),
        ObjectRef::Deployment(o) => Object::Deployment((&**o).into()),
        ObjectRef::User(o) => Object::User((&**o).into()),
        ObjectRef::Secret(o) => Object::Secret(bare_secret(o)),
        ObjectRef::Config(o) => Object::Config(bare_config(o)),
    };
    let action = match event.action {
        Action::Create => pb::EventAction::Create,
        Action::Update => pb::EventAction::Update,
        Action::Remove => pb::EventAction::Remove,
    };
    pb::WatchEvent {
        index: event.index,
        action: action as i32,
        object: Some(object),
        time: event.time.as_nanos(),
    }
}

fn kind_of(event: &pb::WatchEvent) -> i32 {
    use pb::watch_event::Object;
    let kind = match &event.object {
        None => pb::ObjectKind::Unspecified,
        Some(Object::Cluster(_)) => pb::ObjectKind::Cluster,
        Some(Object::Node(_)) => pb::ObjectKind::Node,
        Some(Object::Service(_)) => pb::ObjectKind::Service,
        Some(Object::Task(_)) => pb::ObjectKind::Task,
        Some(Object::Network(_)) => pb::ObjectKind::Network,
        Some(Object::Stack(_)) => pb::ObjectKind::Stack,
        Some(Object::Deployment(_)) => pb::ObjectKind::Deployment,
        Some(Object::User(_)) => pb::ObjectKind::User,
        Some(Object::Secret(_)) => pb::ObjectKind::Secret,
        Some(Object::Config(_)) => pb::ObjectKind::Config,
    };
    kind as i32
}
