//! The change feed over the wire.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_manager_state::{Action, Event, ObjectRef};
use shoal_proto::v1 as pb;
use shoal_types::time::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Answers, ControlService};
use crate::clock;
use crate::feed::Feed;

/// Events on their way to one watcher.
const QUEUE: usize = 256;

pub(super) fn watch(
    api: &ControlService,
    request: &pb::WatchRequest,
) -> Result<Answers<pb::WatchResponse>, Status> {
    let mut kinds = BTreeSet::new();
    for (i, wire) in request.kinds.iter().enumerate() {
        match pb::ObjectKind::try_from(*wire) {
            Ok(kind) if kind != pb::ObjectKind::Unspecified => kinds.insert(kind as i32),
            _ => return Err(Status::invalid_argument(format!("kinds[{i}]: {wire} is no kind"))),
        };
    }
    let feed = api.cluster.feed().clone();
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
        let started = pb::WatchStarted { index: after, incomplete };
        if let Err(status) = pump(&feed, started, until, &kinds, &sender).await {
            // Nobody is left to tell if this fails.
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Sends events until the watcher goes away or falls too far behind, or its time is over.
async fn pump(
    feed: &Feed,
    started: pb::WatchStarted,
    until: Option<Timestamp>,
    kinds: &BTreeSet<i32>,
    to: &mpsc::Sender<Result<pb::WatchResponse, Status>>,
) -> Result<(), Status> {
    use pb::watch_response::Message;
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
    };
    kind as i32
}
