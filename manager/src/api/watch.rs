//! The change feed over the wire.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_manager_state::{Action, Event, ObjectRef};
use shoal_proto::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Answers, ControlService};
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
    let after = request.from_index.unwrap_or_else(|| *feed.newest().borrow());
    // Says at once if what is asked for is forgotten.
    feed.since(after).map_err(|e| Status::out_of_range(e.to_string()))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(status) = pump(&feed, after, &kinds, &sender).await {
            // Nobody is left to tell if this fails.
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Sends events until the watcher goes away or falls too far behind.
async fn pump(
    feed: &Feed,
    mut after: u64,
    kinds: &BTreeSet<i32>,
    to: &mpsc::Sender<Result<pb::WatchResponse, Status>>,
) -> Result<(), Status> {
    use pb::watch_response::Message;
    let answer = |message| Ok(pb::WatchResponse { message: Some(message) });
    let mut newest = feed.newest();
    let started = Message::Started(pb::WatchStarted { index: after });
    if to.send(answer(started)).await.is_err() {
        return Ok(());
    }
    loop {
        newest.borrow_and_update();
        let (events, complete) =
            feed.since(after).map_err(|e| Status::out_of_range(e.to_string()))?;
        after = complete;
        for event in events {
            let event = to_wire(&event);
            if !kinds.is_empty() && !kinds.contains(&kind_of(&event)) {
                continue;
            }
            if to.send(answer(Message::Event(event))).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            () = to.closed() => return Ok(()),
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
    pb::WatchEvent { index: event.index, action: action as i32, object: Some(object) }
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
