//! The change feed over the wire.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_manager_state::{Action, ClusterState, Event, ObjectRef, permission};
use shoal_proto::v1 as pb;
use shoal_types::id::ServiceId;
use shoal_types::object::Service;
use shoal_types::spec::UserRole;
use shoal_types::time::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::asked::Asker;
use super::{Answers, ControlService};
use crate::auth::Standing;
use crate::clock;
use crate::cluster::Cluster;

/// Events on their way to one watcher. One may be as large as an object; the feed, which shares them with
/// the state, keeps the others.
const QUEUE: usize = 1;

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
    let until = request.until.map(Timestamp::from_nanos);
    // Says at once if what is asked for is forgotten.
    feed.since(after).map_err(|e| Status::out_of_range(e.to_string()))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let shown = Shown::new(&cluster.view(), asker);
        let started = pb::WatchStarted { index: after, incomplete };
        if let Err(status) = pump(&cluster, started, until, &kinds, shown, &sender).await {
            // Nobody is left to tell if this fails.
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Sends events until the watcher goes away or falls too far behind, or its time is over.
async fn pump(
    cluster: &Cluster,
    started: pb::WatchStarted,
    until: Option<Timestamp>,
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
            feed.since(after).map_err(|e| Status::out_of_range(e.to_string()))?;
        after = complete;
        for event in events {
            if until.is_some_and(|until| event.time >= until) {
                return Ok(());
            }
            if !shown.shows(&cluster.view(), &event.object) {
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
    /// Services of a deployer's stacks, also those that are gone: their tasks go after them.
    services: BTreeSet<ServiceId>,
}

impl Shown {
    fn new(view: &ClusterState, asker: Asker) -> Self {
        let own = |s: &&Arc<Service>| {
            asker.bound().is_some_and(|user| permission::sees_service(view, &user.spec, s))
        };
        let services = view.services().filter(own).map(|service| service.id).collect();
        Self { asker, services }
    }

    fn shows(&mut self, view: &ClusterState, object: &ObjectRef) -> bool {
        if let ObjectRef::User(user) = object {
            return match &self.asker.standing {
                Standing::User(own) => own.spec.role == UserRole::Admin || own.id == user.id,
                Standing::Node(_) | Standing::Unlisted => true,
            };
        }
        let Some(own) = self.asker.bound() else { return true };
        match object {
            ObjectRef::Stack(stack) => own.spec.stacks.contains(&stack.spec.name),
            ObjectRef::Service(service) => {
                if permission::sees_service(view, &own.spec, service) {
                    self.services.insert(service.id);
                }
                self.services.contains(&service.id)
            }
            ObjectRef::Task(task) => self.services.contains(&task.service_id),
            ObjectRef::Deployment(deployment) => self.services.contains(&deployment.service_id),
            ObjectRef::Cluster(_)
            | ObjectRef::Node(_)
            | ObjectRef::Network(_)
            | ObjectRef::User(_) => true,
        }
    }
}

fn to_wire(event: &Arc<Event>) -> pb::WatchEvent {
    use pb::watch_event::Object;
    let object = match &event.object {
        ObjectRef::Cluster(o) => Object::Cluster((&**o).into()),
        ObjectRef::Node(o) => Object::Node((&**o).into()),
        ObjectRef::Service(o) => Object::Service((&**o).into()),
        ObjectRef::Task(o) => Object::Task((&**o).into()),
        ObjectRef::Network(o) => Object::Network((&**o).into()),
        ObjectRef::Stack(o) => Object::Stack((&**o).into()),
        ObjectRef::Deployment(o) => Object::Deployment((&**o).into()),
        ObjectRef::User(o) => Object::User((&**o).into()),
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
    };
    kind as i32
}
