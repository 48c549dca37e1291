//! A call as it is kept, and one attempt to have it answered.

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, HeaderMap};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use shoal_manager_planning::forward::{Lead, Outcome, Passing, Then, lasts, then};
use shoal_transport::{ConnectInfo, is_undone, is_unsent, undone};
use shoal_types::error_chain::chain;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt as _;

use super::Forward;
use super::answer::{Led, moved};
use super::caller::{self, CALLER};
use super::pool::Origin;
use crate::raft::{Leader, LeaderState};

/// The largest message of a call that is kept, in bytes, and what gRPC puts before it.
const WHOLE_BYTES_MAX: usize = (4 << 20) + 5;

/// A call on its way to who answers it.
pub(super) struct Call {
    parts: Parts,
    body: Said,
}

enum Said {
    /// All of it.
    Whole(Bytes),
    /// What is still being said, until it was passed on.
    Flowing(Option<Body>),
}

impl Call {
    /// Reads what has to be kept of a call.
    ///
    /// # Errors
    /// `OUT_OF_RANGE`: it is too large. `CANCELLED`: its caller has hung up.
    pub(super) async fn of(passing: Passing, request: http::Request<Body>) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        let body = match passing {
            Passing::Never | Passing::Flowing => Said::Flowing(Some(body)),
            Passing::Whole { .. } => Said::Whole(whole(body).await?),
        };
        Ok(Self { parts, body })
    }

    /// It, once more; nothing if it cannot be said twice and was said.
    pub(super) fn request(&mut self) -> Option<http::Request<Body>> {
        let body = match &mut self.body {
            Said::Whole(bytes) => Body::new(Full::new(bytes.clone())),
            Said::Flowing(body) => body.take()?,
        };
        Some(http::Request::from_parts(self.parts.clone(), body))
    }
}

async fn whole(body: Body) -> Result<Bytes, Status> {
    match Limited::new(body, WHOLE_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::out_of_range(format!(
            "the request is larger than {} bytes, which is the most",
            WHOLE_BYTES_MAX - 5
        ))),
        Err(error) => Err(Status::cancelled(format!("the request has no end: {error}"))),
    }
}

/// What came of it. All but an answer say why there is none.
pub(super) enum Attempt {
    Answered(http::Response<Body>),
    Undone(Status),
    Unsent(Status),
    Broken(Status),
}

impl Attempt {
    /// Nothing is left to be said.
    pub(super) fn spent() -> Self {
        Self::Undone(Status::unavailable("another manager leads now: begin anew"))
    }

    /// An answer of this manager, which led when it was asked.
    pub(super) fn here(
        response: http::Response<Body>,
        path: &str,
        began: Lead<Leader>,
        leadership: &watch::Receiver<LeaderState>,
    ) -> Self {
        match Self::of(response) {
            Self::Answered(response) if lasts(path) => {
                let moved = moved(began, leadership.clone());
                Self::Answered(response.map(|inner| {
                    let broken = Status::unavailable("the answer has no end");
                    Body::new(Led::new(inner, Box::pin(moved), broken))
                }))
            }
            other => other,
        }
    }

    fn of(response: http::Response<Body>) -> Self {
        match Status::from_header_map(response.headers()) {
            Some(status) if is_undone(&status) => Self::Undone(status),
            _ => Self::Answered(response),
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Answered(_) => Outcome::Answered,
            // What the leader says of those who may not pass on calls.
            Self::Undone(status) if status.code() == Code::PermissionDenied => Outcome::Dismissed,
            Self::Undone(_) => Outcome::Undone,
            Self::Unsent(_) => Outcome::Unsent,
            Self::Broken(_) => Outcome::Broken,
        }
    }

    /// What the caller gets of an answer.
    pub(super) fn into_response(self) -> http::Response<Body> {
        match self {
            Self::Answered(response) => response,
            Self::Undone(status) | Self::Unsent(status) | Self::Broken(status) => {
                status.into_http()
            }
        }
    }

    /// What the caller hears where there is no answer.
    pub(super) fn into_failure(self, then: Then) -> Status {
        let why = match &self {
            Self::Answered(_) => "",
            Self::Undone(status) | Self::Unsent(status) | Self::Broken(status) => status.message(),
        };
        failure(then, why)
    }
}

/// What the caller hears where there is no answer.
fn failure(then: Then, why: &str) -> Status {
    match then {
        Then::Unknown => Status::unknown(format!("it is unknown whether it takes effect: {why}")),
        Then::Gone => Status::unavailable(why),
        Then::Undone | Then::Again | Then::Answer => undone(Status::unavailable(why)),
    }
}

/// What the caller hears when an answer breaks off.
pub(crate) fn broken(passing: Passing, why: &str) -> Status {
    failure(then(Outcome::Broken, passing, Duration::ZERO), why)
}

impl Forward {
    /// Has the leader answer.
    pub(super) async fn pass_on(
        &self,
        leader: &Leader,
        passing: Passing,
        call: &mut Call,
    ) -> Attempt {
        let info = call.parts.extensions.get::<ConnectInfo>();
        let origin = info.and_then(|info| Some((Origin::of(&info.peer)?, caller::write(info)?)));
        let Some((origin, header)) = origin else {
            return Attempt::Undone(Status::unauthenticated("nobody vouches for the caller"));
        };
        let channel = match self.pool.channel(origin, leader).await {
            Ok(channel) => channel,
            Err(status) => return Attempt::Unsent(status),
        };
        let Some(mut request) = call.request() else { return Attempt::spent() };
        *request.extensions_mut() = Extensions::new();
        request.headers_mut().insert(CALLER, header);
        let began = Lead::Other(leader.clone());
        let response = tokio::select! {
            response = channel.oneshot(request) => response,
            () = moved(began.clone(), self.leadership.clone()) => {
                let why = "another manager leads since it was asked";
                return Attempt::Broken(Status::unavailable(why));
            }
        };
        match response {
            Ok(response) => self.on_its_way(Attempt::of(response), passing, began),
            Err(error) => {
                let why = format!("the leader {}: {}", leader.address, chain(&error));
                match is_unsent(&error) {
                    true => Attempt::Unsent(Status::unavailable(why)),
                    false => Attempt::Broken(Status::unavailable(why)),
                }
            }
        }
    }

    fn on_its_way(&self, attempt: Attempt, passing: Passing, began: Lead<Leader>) -> Attempt {
        let Attempt::Answered(response) = attempt else { return attempt };
        if response.headers().contains_key(Status::GRPC_STATUS) {
            return Attempt::Answered(response);
        }
        let broken = broken(passing, "the connection to the leader broke");
        let moved = moved(began, self.leadership.clone());
        Attempt::Answered(response.map(|inner| Body::new(Led::new(inner, Box::pin(moved), broken))))
    }
}

/// How long the caller waits, if it says so: `grpc-timeout` of the gRPC protocol.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_patience_is_read() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100n", Some(Duration::from_nanos(100))),
            ("", None),
            ("S", None),
            ("-1S", None),
            ("+1S", None),
            ("123456789S", None),
            ("5", None),
            ("5s", None),
        ] {
            let headers =
                [(http::HeaderName::from_static("grpc-timeout"), text.parse().expect("text"))];
            assert_eq!(timeout(&HeaderMap::from_iter(headers)), expected, "{text:?}");
        }
    }
}
