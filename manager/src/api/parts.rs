//! Lists in parts: what grows with the state never travels in one message.

use std::time::Duration;

use prost::Message;
use shoal_proto::parts::{PART_BYTES, Parts};
use shoal_proto::v1 as pb;
use shoal_types::question::Silent;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Answers;

/// How long a list is kept for a reader that takes it slowly: a state of its own time, which grows
/// apart from the present one.
const TIME_MAX: Duration = Duration::from_secs(300);

/// The elements of a list in their order, cut into messages by bytes. They are made as the reader
/// takes them, so that a list costs one part of memory beside the state that it is of.
pub(super) fn in_parts<M, I, R>(items: I, answer: fn(Vec<M>) -> R) -> Answers<R>
where
    M: Message + 'static,
    I: IntoIterator<Item = M>,
    I::IntoIter: Send + 'static,
    R: Send + 'static,
{
    sent(Parts::new(items, PART_BYTES).map(answer), TIME_MAX)
}

/// The same for what nodes have answered, with those that did not after it.
pub(super) fn with_silent<M, I, J, R>(
    items: I,
    answer: fn(Vec<M>) -> R,
    silent: J,
    rest: fn(Vec<pb::Silent>) -> R,
) -> Answers<R>
where
    M: Message + 'static,
    I: IntoIterator<Item = M>,
    I::IntoIter: Send + 'static,
    J: IntoIterator<Item = Silent>,
    J::IntoIter: Send + 'static,
    R: Send + 'static,
{
    let silent = silent.into_iter().map(pb::Silent::from);
    let first = Parts::new(items, PART_BYTES).map(answer);
    sent(first.chain(Parts::new(silent, PART_BYTES).map(rest)), TIME_MAX)
}

fn sent<R: Send + 'static>(
    parts: impl Iterator<Item = R> + Send + 'static,
    time: Duration,
) -> Answers<R> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let to = sender.clone();
        let all = async move {
            for part in parts {
                if to.send(Ok(part)).await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(time, all).await.is_err() {
            let text = format!("the list was not taken within {} s: ask again", time.as_secs());
            // A reader that is gone does not care.
            let _ = sender.send(Err(Status::deadline_exceeded(text))).await;
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use shoal_proto::v1::{LogBatch, TaskLogLine};
    use shoal_types::id::NodeId;
    use tokio_stream::StreamExt as _;
    use tonic::Code;

    use super::*;

    fn line(bytes: usize) -> TaskLogLine {
        TaskLogLine { line: vec![7; bytes], ..Default::default() }
    }

    fn batch(lines: Vec<TaskLogLine>) -> LogBatch {
        LogBatch { lines }
    }

    #[tokio::test]
    async fn a_list_comes_whole_in_order_and_in_messages_of_bounded_size() {
        let sizes: Vec<usize> = (0..4000).map(|n| n % 2000).chain([3 << 20, 1, 2]).collect();
        let items: Vec<TaskLogLine> = sizes.iter().map(|size| line(*size)).collect();
        let parts: Vec<LogBatch> = in_parts(items, batch).map(Result::unwrap).collect().await;
        for part in &parts {
            let bytes = part.encoded_len();
            assert!(bytes <= PART_BYTES || part.lines.len() == 1, "a part of {bytes} bytes");
        }
        assert_eq!(parts.len(), 6);
        let all = parts.iter().flat_map(|part| &part.lines).map(|line| line.line.len());
        assert_eq!(all.collect::<Vec<_>>(), sizes);
        assert!(in_parts(Vec::new(), batch).next().await.is_none());
    }

    #[tokio::test]
    async fn who_did_not_answer_comes_after_what_others_did() {
        let silent = |n: usize| Silent {
            node_id: NodeId::from(1),
            hostname: "h".repeat(n),
            reason: String::new(),
        };
        let parts = with_silent(
            vec![line(1), line(PART_BYTES)],
            |lines| (lines.len(), 0),
            [silent(1), silent(PART_BYTES), silent(2), silent(3)],
            |silent| (0, silent.len()),
        );
        let parts: Vec<(usize, usize)> = parts.map(Result::unwrap).collect().await;
        assert_eq!(parts, [(1, 0), (1, 0), (0, 1), (0, 1), (0, 2)]);
    }

    /// A reader that takes nothing costs some parts, and not for ever.
    #[tokio::test]
    async fn no_list_is_made_or_kept_for_who_does_not_take_it() {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let parts = (0..1000).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            batch(vec![line(PART_BYTES)])
        });
        let mut stream = sent(parts, Duration::from_secs(1));
        stream.next().await.unwrap().unwrap();
        let forgotten = async {
            while Arc::strong_count(&made) > 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), forgotten).await.expect("it is kept");
        assert!(made.load(Ordering::Relaxed) <= 3, "{made:?} parts");
        stream.next().await.unwrap().unwrap();
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.message(), "the list was not taken within 1 s: ask again");
        assert!(stream.next().await.is_none());
    }
}
