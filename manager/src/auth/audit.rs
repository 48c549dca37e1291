//! One line in the log, with target `audit`, for everything that was done or tried by those who may
//! change the cluster: who, as what, which method, what it was about, what came of it.

use shoal_proto::transport::{Identity, Peer};
use tonic::Status;

use super::{Standing, is_audited, method};

/// Longest name of an object that is written, in bytes: it comes from the caller.
const OBJECT_BYTES_MAX: usize = 256;

/// A call that is written down when its outcome is known.
#[derive(Debug)]
pub struct Entry {
    path: &'static str,
    who: String,
    role: &'static str,
    object: String,
}

impl Entry {
    /// A call by a member; `None` if calls of its method are not written down.
    #[must_use]
    pub fn of(
        path: &'static str,
        identity: &Identity,
        standing: &Standing,
        object: impl FnOnce() -> String,
    ) -> Option<Self> {
        is_audited(path).then(|| Self {
            path,
            who: standing.title(identity.id),
            role: standing.role_name(),
            object: object(),
        })
    }
}

/// Writes down what came of a call, if it is one of those.
pub fn ended<T>(entry: Option<Entry>, outcome: &Result<T, Status>) {
    let Some(entry) = entry else { return };
    let (code, why) = match outcome {
        Ok(_) => ("ok", ""),
        Err(status) => (code_name(status), status.message()),
    };
    write(&entry.who, entry.role, entry.path, &entry.object, code, why);
}

/// Writes down a call that was refused before it was decoded.
pub(super) fn refused(peer: Option<&Peer>, path: &str, status: &Status) {
    let (who, role) = match peer {
        Some(Peer::Trusted(identity)) => (identity.id.to_string(), identity.role.noun()),
        Some(Peer::Joiner(_)) => ("a joining host".to_owned(), "joiner"),
        Some(Peer::Refused(_)) | None => ("a stranger".to_owned(), "none"),
    };
    write(&who, role, path, "", code_name(status), status.message());
}

/// Writes down what root of this host did by a local socket.
pub fn local(path: &str, object: &str, outcome: Result<(), &Status>) {
    let (code, why) = outcome.map_or_else(|s| (code_name(s), s.message()), |()| ("ok", ""));
    write("root of this host", "root", path, object, code, why);
}

/// Writes down a host that joined, or was not let in.
pub fn join(hostname: &str, outcome: Result<&str, &Status>) {
    const PATH: &str = "/shoal.v1.Ca/IssueNodeCertificate";
    let (who, code, why) = match outcome {
        Ok(node) => (format!("node {node}"), "ok", ""),
        Err(status) => ("a joining host".to_owned(), code_name(status), status.message()),
    };
    write(&who, "joiner", PATH, hostname, code, why);
}

/// Writes down a node that leaves.
pub fn leave(node: &str, outcome: Result<(), &Status>) {
    let (code, why) = outcome.map_or_else(|s| (code_name(s), s.message()), |()| ("ok", ""));
    let who = format!("node {node}");
    write(&who, "node", "/shoal.v1.Dispatcher/Leave", &who, code, why);
}

fn write(who: &str, role: &str, path: &str, object: &str, outcome: &str, why: &str) {
    let end = object.floor_char_boundary(OBJECT_BYTES_MAX);
    let (method, object) = (method(path), object.get(..end).unwrap_or_default());
    tracing::info!(target: "audit", who, role, method, object, outcome, why);
}

fn code_name(status: &Status) -> &'static str {
    use tonic::Code;
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => "refused",
        Code::Unknown | Code::DeadlineExceeded | Code::Cancelled => "unknown",
        _ => "failed",
    }
}
