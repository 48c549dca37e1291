//! One line in the log, with target `audit`, for everything that was done or tried by those who may
//! change the cluster: who, as what, which method, what it was about, what came of it.

use shoal_proto::transport::{Identity, Peer};
use shoal_types::id::NodeId;
use tonic::Status;

use super::{Standing, is_audited, method};

/// Longest name of an object that is written, in bytes: it comes from the caller.
const OBJECT_BYTES_MAX: usize = 256;

/// A call that is written down when its outcome is known; and as `unknown` when it is dropped before
/// that, as a call is whose caller hangs up: what it had begun may still take effect.
#[derive(Debug)]
pub struct Entry {
    path: &'static str,
    who: String,
    role: &'static str,
    object: String,
    is_written: bool,
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
        let (who, role) = (|| standing.title(identity.id), standing.role_name());
        is_audited(path).then(|| Self::new(path, who(), role, object()))
    }

    /// What root of this host does by a local socket.
    #[must_use]
    pub fn local(path: &'static str, object: String) -> Self {
        Self::new(path, "root of this host".to_owned(), "root", object)
    }

    /// A host that wants to join.
    #[must_use]
    pub fn join(hostname: String) -> Self {
        const PATH: &str = "/shoal.v1.Ca/IssueNodeCertificate";
        Self::new(PATH, "a joining host".to_owned(), "joiner", hostname)
    }

    /// What a node does to itself: it drains itself and leaves.
    #[must_use]
    pub fn node(path: &'static str, node: NodeId) -> Self {
        let who = format!("node {node}");
        Self::new(path, who.clone(), "node", who)
    }

    fn new(path: &'static str, who: String, role: &'static str, object: String) -> Self {
        Self { path, who, role, object, is_written: false }
    }

    /// Says whom or what it turned out to be about.
    #[must_use]
    pub fn about(mut self, object: String) -> Self {
        self.object = object;
        self
    }

    /// Says who the caller has become by it.
    #[must_use]
    pub fn by(mut self, who: String) -> Self {
        self.who = who;
        self
    }

    /// Writes it down with what came of it.
    pub fn ended<T>(mut self, outcome: &Result<T, Status>) {
        match outcome {
            Ok(_) => self.write("ok", ""),
            Err(status) => self.write(code_name(status), status.message()),
        }
    }

    fn write(&mut self, outcome: &str, why: &str) {
        self.is_written = true;
        write(&self.who, self.role, self.path, &self.object, outcome, why);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.is_written {
            self.write("unknown", "the call was given up before its answer");
        }
    }
}

/// Writes down what came of a call, if it is one of those.
pub fn ended<T>(entry: Option<Entry>, outcome: &Result<T, Status>) {
    if let Some(entry) = entry {
        entry.ended(outcome);
    }
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
