//! Answers on their way: of the leader through another manager, or of a leader itself. They end when another
//! one leads, or when the connection to the leader breaks.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use shoal_manager_planning::forward::{Course, Lead, course};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

use crate::auth::last;
use crate::raft::{Leader, LeaderState};

/// For how long nobody may lead before what a leader said is not waited for any more.
const DOUBT_MAX: Duration = Duration::from_secs(5);

/// Who leads, as the decisions want it.
pub(super) fn lead(state: &LeaderState) -> Lead<Leader> {
    match state {
        LeaderState::Leader { term } => Lead::Own(*term),
        LeaderState::Follower(leader) => Lead::Other(leader.clone()),
        LeaderState::Unknown => Lead::Nobody,
    }
}

/// Resolves when an answer that began under `began` is not waited for any more.
pub(super) async fn moved(began: Lead<Leader>, leadership: watch::Receiver<LeaderState>) {
    moved_within(DOUBT_MAX, began, leadership).await;
}

async fn moved_within(
    doubt: Duration,
    began: Lead<Leader>,
    mut leadership: watch::Receiver<LeaderState>,
) {
    loop {
        let now = lead(&leadership.borrow_and_update());
        match course(&began, &now) {
            Course::Over => return,
            Course::On => {
                if leadership.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
            Course::Doubtful => match tokio::time::timeout(doubt, leadership.changed()).await {
                Ok(Ok(())) => {}
                // This manager stops, and its connections with it.
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => return,
            },
        }
    }
}

/// An answer, with what is said when it ends before its time.
pub(super) struct Led {
    inner: Body,
    moved: BoxFuture<'static, ()>,
    /// What the caller hears when the connection to the leader breaks.
    broken: Option<Status>,
    over: bool,
}

impl Led {
    pub(super) fn new(inner: Body, moved: BoxFuture<'static, ()>, broken: Status) -> Self {
        Self { inner, moved, broken: Some(broken), over: false }
    }

    fn end(&mut self, status: &Status) -> Frame<bytes::Bytes> {
        self.over = true;
        last(status)
    }
}

impl http_body::Body for Led {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => {
                let status = this.broken.take().unwrap_or(error);
                Poll::Ready(Some(Ok(this.end(&status))))
            }
            Poll::Ready(frame) => {
                this.over = frame.is_none();
                Poll::Ready(frame)
            }
            Poll::Pending if this.moved.as_mut().poll(cx).is_ready() => {
                let status = Status::unavailable("another manager leads now: begin anew");
                Poll::Ready(Some(Ok(this.end(&status))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use shoal_types::id::NodeId;
    use tokio_stream::StreamExt as _;

    use super::*;

    const DOUBT: Duration = Duration::from_millis(400);

    fn follower(id: u64) -> LeaderState {
        let address = format!("10.0.0.{id}:1");
        LeaderState::Follower(Leader { id, node: NodeId::from(u128::from(id)), address })
    }

    /// The code of the trailers by which an answer ends.
    async fn ended(mut answer: Led) -> tonic::Code {
        loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await;
            let frame = frame.expect("no end without trailers").expect("no error");
            if let Some(trailers) = frame.trailers_ref() {
                return Status::from_header_map(trailers).expect("a status").code();
            }
        }
    }

    #[tokio::test]
    async fn an_answer_ends_when_another_manager_leads() {
        let (state, leadership) = watch::channel(follower(1));
        let silent = || {
            let stream = tokio_stream::pending::<Result<Frame<bytes::Bytes>, Status>>();
            Body::new(http_body_util::StreamBody::new(stream))
        };
        let answer = |began: &LeaderState| {
            let moved = Box::pin(moved_within(DOUBT, lead(began), leadership.clone()));
            Led::new(silent(), moved, Status::unknown("broken"))
        };
        let (one, two) = (answer(&follower(1)), answer(&follower(1)));
        let (one, mut two) = (tokio::spawn(ended(one)), tokio::spawn(ended(two)));
        state.send_replace(LeaderState::Unknown);
        tokio::time::sleep(DOUBT / 2).await;
        state.send_replace(follower(1));
        tokio::time::sleep(2 * DOUBT).await;
        assert!(!one.is_finished(), "the same one leads again");
        state.send_replace(follower(2));
        assert_eq!(one.await.expect("ended"), tonic::Code::Unavailable);
        assert_eq!((&mut two).await.expect("ended"), tonic::Code::Unavailable);

        let lost = tokio::spawn(ended(answer(&follower(2))));
        state.send_replace(LeaderState::Unknown);
        assert_eq!(lost.await.expect("ended"), tonic::Code::Unavailable, "nobody leads");

        let error = tokio_stream::once(Err(Status::internal("the connection")));
        let broken = Body::new(http_body_util::StreamBody::new(
            error.chain(tokio_stream::pending::<Result<Frame<bytes::Bytes>, Status>>()),
        ));
        let never = Box::pin(std::future::pending());
        let answer = Led::new(broken, never, Status::unknown("broken"));
        assert_eq!(ended(answer).await, tonic::Code::Unknown);
    }
}
