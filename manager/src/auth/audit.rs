//! One line in the log, with target `audit`, for everything that was done or tried by those who may
//! change the cluster: who, as what, which method, what it was about, what came of it.

use shoal_transport::{Identity, Peer};
use shoal_types::id::NodeId;
use tonic::Status;

use super::{Standing, is_audited, method};

/// Longest name of an object, or of who asks, that is written, in bytes: it comes from the caller.
const NAME_BYTES_MAX: usize = 256;

/// Longest reason that is written, in bytes: it may repeat what the caller said, several times.
const WHY_BYTES_MAX: usize = 1024;

/// Stands for what was cut off.
const CUT: &str = "...";

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

/// Whatever is in its texts, a line is one line of bounded length that does nothing to a terminal.
fn write(who: &str, role: &str, path: &str, object: &str, outcome: &str, why: &str) {
    let method = method(path);
    let (who, object) = (&*fit(who, NAME_BYTES_MAX), &*fit(object, NAME_BYTES_MAX));
    let why = &*fit(why, WHY_BYTES_MAX);
    tracing::info!(target: "audit", who, role, method, object, outcome, why);
}

/// A text, or its beginning with a mark, with a replacement for what acts on terminals or readers.
fn fit(text: &str, bytes_max: usize) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let whole = text.len() <= bytes_max;
    let end = if whole { text.len() } else { text.floor_char_boundary(bytes_max - CUT.len()) };
    let kept = text.get(..end).unwrap_or_default();
    let mut fit = kept.replace(acts, "\u{fffd}");
    if !whole {
        fit.push_str(CUT);
    }
    fit
}

fn code_name(status: &Status) -> &'static str {
    use tonic::Code;
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => "refused",
        Code::Unknown | Code::DeadlineExceeded | Code::Cancelled => "unknown",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What one entry becomes in the formats of the manager's log.
    fn written(object: &str, why: &str) -> [String; 2] {
        [false, true].map(|json| {
            let log = Log::default();
            let to = log.clone();
            let format = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone());
            let outcome = Err::<(), _>(Status::not_found(why));
            let write = || {
                Entry::local("/shoal.v1.Control/RemoveUser", object.to_owned()).ended(&outcome);
            };
            if json {
                tracing::subscriber::with_default(format.json().finish(), write);
            } else {
                tracing::subscriber::with_default(format.finish(), write);
            }
            String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("UTF-8")
        })
    }

    #[test]
    fn an_audit_line_is_one_line_of_bounded_length() {
        let forged = "x\n2026-01-01T00:00:00Z INFO audit: who=\"user root\" outcome=\"ok\"";
        let terminal = "\r\u{8}\u{1b}[2J\u{9b}31m\u{202e}\u{2028}\0";
        let long = "ä\n".repeat(1 << 20);
        for hostile in [forged, terminal, &long] {
            for text in written(&format!("service {hostile}"), hostile) {
                let line = text.strip_suffix('\n').expect("a line");
                let bad = |c: char| c.is_control() || c == '\u{2028}' || c == '\u{202e}';
                assert!(!line.contains(bad), "{line:?}");
                assert!(line.len() < 8192, "{} bytes", line.len());
            }
        }
        let [text, json] = written("service web", "there is none");
        assert!(text.contains(r#"object="service web" outcome="failed" why="there is none""#));
        assert!(json.contains(r#""why":"there is none""#), "{json}");
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcäefgh", 7), "abc...");
    }
}
