//! Lists come in parts.

use futures::{Stream, StreamExt as _};
use prost::Message;
use tonic::Status;

use super::Result;
use crate::error::ClientError;

/// What all parts of one list may take, in bytes: some hundred thousand tasks.
const LIST_BYTES_MAX: usize = 256 << 20;

/// Hands over the parts of a list until it has ended.
pub(super) async fn each<R: Message>(
    parts: impl Stream<Item = Result<R, Status>>,
    take: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    each_of(LIST_BYTES_MAX, parts, take).await
}

async fn each_of<R: Message>(
    most: usize,
    parts: impl Stream<Item = Result<R, Status>>,
    mut take: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let mut parts = std::pin::pin!(parts);
    let mut left = most;
    while let Some(part) = parts.next().await {
        let part = part?;
        let Some(rest) = left.checked_sub(part.encoded_len()) else {
            return Err(ClientError::TooLong { most });
        };
        left = rest;
        take(part)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use shoal_proto::v1::{LogBatch, TaskLogLine};

    use super::*;

    fn part(sizes: &[usize]) -> LogBatch {
        let line = |size: &usize| TaskLogLine { line: vec![7; *size], ..Default::default() };
        LogBatch { lines: sizes.iter().map(line).collect() }
    }

    async fn listed(most: usize, parts: Vec<Result<LogBatch, Status>>) -> Result<Vec<usize>> {
        let mut all = Vec::new();
        each_of(most, futures::stream::iter(parts), |part| {
            all.extend(part.lines.iter().map(|line| line.line.len()));
            Ok(())
        })
        .await?;
        Ok(all)
    }

    #[tokio::test]
    async fn a_list_is_all_of_its_parts_or_an_error() {
        let parts = || vec![Ok(part(&[1, 2])), Ok(part(&[])), Ok(part(&[300]))];
        let bytes = part(&[1, 2]).encoded_len() + part(&[300]).encoded_len();
        assert_eq!(listed(bytes, parts()).await.unwrap(), [1, 2, 300]);
        assert_eq!(listed(bytes, Vec::new()).await.unwrap(), [0_usize; 0]);

        let error = listed(bytes - 1, parts()).await.unwrap_err();
        let text = format!("the list takes more than {} bytes", bytes - 1);
        assert!(error.to_string().contains(&text), "{error}");

        // What has come does not pass for the whole.
        let mut parts = parts();
        parts.push(Err(Status::unavailable("the manager is going away")));
        let error = listed(bytes, parts).await.unwrap_err();
        assert!(error.to_string().contains("going away"), "{error}");
    }
}
