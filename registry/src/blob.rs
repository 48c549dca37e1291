//! A blob as a stream that survives broken connections.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderMap};
use reqwest::{Response, StatusCode};
use shoal_types::image_ref::Digest;

use super::error::RegistryError;
use super::pace::Pace;
use super::{Ask, Session};

/// The bytes of a blob, in order, resumed where a connection broke. Nothing is verified here: who
/// reads it hashes it anyway.
pub struct BlobStream {
    session: Arc<Session>,
    what: String,
    path: String,
    size: u64,
    offset: u64,
    /// Bytes to drop because the registry does not do ranges.
    skip: u64,
    response: Option<Response>,
    failures: u32,
    pace: Pace,
}

impl BlobStream {
    pub(super) fn new(session: Arc<Session>, digest: Digest, size: u64) -> Self {
        Self {
            what: format!("blob {digest}"),
            path: format!("blobs/{digest}"),
            pace: Pace::new(session.config()),
            session,
            size,
            offset: 0,
            skip: 0,
            response: None,
            failures: 0,
        }
    }

    /// The next bytes, or nothing after the last.
    ///
    /// # Errors
    /// When the registry refuses, is too slow, or after as many failures in a row as configured.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        while self.offset < self.size {
            let (session, what, mut pace) =
                (Arc::clone(&self.session), self.what.clone(), self.pace.clone());
            let raw = |part: &Result<(u64, Bytes), _>| part.as_ref().map_or(0, |(raw, _)| *raw);
            // What is waited for may be given up at any time: its state is here.
            let part = pace.keep(session.registry(), &what, self.try_chunk(), raw).await;
            self.pace = pace;
            match part? {
                Some(Ok((_, bytes))) if !bytes.is_empty() => return Ok(Some(bytes)),
                Some(Err(error)) if error.is_passing() => {
                    self.response = None;
                    self.failures += 1;
                    if self.failures >= session.config().attempts {
                        return Err(error);
                    }
                    tracing::debug!(what, offset = self.offset, "resuming a transfer");
                    session.pause(self.failures, &error).await;
                }
                Some(Err(error)) => return Err(error),
                Some(Ok(_)) | None => {}
            }
        }
        Ok(None)
    }

    /// One chunk, empty if it was to be skipped, and how many bytes came.
    async fn try_chunk(&mut self) -> Result<(u64, Bytes), RegistryError> {
        let interrupted = |source| RegistryError::Interrupted {
            registry: self.session.registry().to_owned(),
            what: self.what.clone(),
            source,
        };
        let response = match &mut self.response {
            Some(response) => response,
            None => {
                let range = (self.offset > 0).then(|| format!("bytes={}-", self.offset));
                let ask = Ask { what: &self.what, accept: None, range, head: false };
                let response = self.session.ask(&self.path, &ask).await?;
                self.skip = to_skip(&response, self.offset).ok_or_else(|| interrupted(None))?;
                self.response.insert(response)
            }
        };
        let chunk = response
            .chunk()
            .await
            .map_err(|error| interrupted(Some(error.without_url())))?
            .ok_or_else(|| interrupted(None))?;
        let raw = chunk.len() as u64;
        let skipped = self.skip.min(raw);
        self.skip -= skipped;
        let chunk = chunk.slice(usize::try_from(skipped).unwrap_or(usize::MAX)..);
        if chunk.is_empty() {
            return Ok((raw, chunk));
        }
        self.offset += chunk.len() as u64;
        if self.failures > 0 {
            self.failures = 0;
            self.session.goes_on();
        }
        if self.offset > self.size {
            return Err(RegistryError::TooLarge { what: self.what.clone(), limit: self.size });
        }
        Ok((raw, chunk))
    }
}

/// How much of an answer we already have; nothing when it starts somewhere else.
fn to_skip(response: &Response, offset: u64) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some(offset);
    }
    (range_start(response.headers())? == offset).then_some(0)
}

/// The first number of `bytes <first>-<last>/<length>` (RFC 9110, section 14.4).
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
