//! What can go wrong between us and a registry.

use std::time::Duration;

use shoal_types::image_ref::Digest;

/// What can go wrong between us and a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The HTTP client cannot be made: no certificate roots, an unreadable CA file.
    #[error("cannot prepare the connection to registry {registry}")]
    Setup {
        /// Host and port.
        registry: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer: name resolution, connection, TLS, or silence.
    #[error("cannot reach registry {registry}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// What the HTTP client says.
        #[source]
        source: reqwest::Error,
    },
    /// The registry does not have it.
    #[error("registry {registry} does not have {what}{detail}")]
    NotFound {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
        /// What the registry says, as `: …`, or nothing.
        detail: String,
    },
    /// Docker's way of saying it: registries answer the same for what does not exist and for
    /// what one may not see.
    #[error(
        "access to {repository} on registry {registry} is denied: it does not exist, or it needs \
         {needs}{detail}"
    )]
    Denied {
        /// Host and port.
        registry: String,
        /// Path inside the registry.
        repository: String,
        /// `credentials` or `other credentials`.
        needs: &'static str,
        /// What the registry says, as `: …`, or nothing.
        detail: String,
    },
    /// The registry, or its token server, does not know the user or the password.
    #[error("registry {registry} does not accept this user and password{detail}")]
    LoginRefused {
        /// Host and port.
        registry: String,
        /// What the registry says, as `: …`, or nothing.
        detail: String,
    },
    /// Too many requests.
    #[error("registry {registry} limits the rate of requests{detail}")]
    RateLimited {
        /// Host and port.
        registry: String,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
        /// What the registry says, as `: …`, or nothing.
        detail: String,
    },
    /// Any other refusal.
    #[error("registry {registry} answered {status} for {what}{detail}")]
    Status {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
        /// What the registry says, as `: …`, or nothing.
        detail: String,
    },
    /// Whoever the registry sent us to refuses. What it says is not shown: it may be a service that
    /// the registry alone could not reach.
    #[error("registry {registry} leads to {url} for {what}, which answered {status}")]
    Elsewhere {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
        /// Where it leads, without the query.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The connection broke while something was read.
    #[error("the transfer of {what} from registry {registry} broke off")]
    Interrupted {
        /// Host and port.
        registry: String,
        /// What was being read.
        what: String,
        /// What the HTTP client says; nothing when the answer was simply too short.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// Bytes come, but so few that whoever waits for them might wait for days.
    #[error(
        "registry {registry} sent only {bytes} bytes of {what} in {window:?}, less than {rate} bytes \
         a second"
    )]
    TooSlow {
        /// Host and port.
        registry: String,
        /// What was being read.
        what: String,
        /// Bytes that came.
        bytes: u64,
        /// Time spent waiting for them.
        window: Duration,
        /// Bytes a second that are expected at least.
        rate: u64,
    },
    /// A transfer without an end.
    #[error("the transfer of {what} from registry {registry} took more than {limit:?}")]
    TooLong {
        /// Host and port.
        registry: String,
        /// What was being read.
        what: String,
        /// How long it may take.
        limit: Duration,
    },
    /// A document beyond its limit.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// What was being read.
        what: String,
        /// Bytes accepted.
        limit: u64,
    },
    /// The bytes are not those that were asked for.
    #[error("{what} has the digest {actual} instead of {expected}")]
    DigestMismatch {
        /// What was being read.
        what: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// An unencrypted address where encryption is required.
    #[error(
        "registry {registry} leads to {url}, which is not https; plain http is only used on behalf \
         of registries that are spoken to so themselves, with loopback addresses and registries \
         configured so"
    )]
    Insecure {
        /// Host and port.
        registry: String,
        /// Where it leads, without the query.
        url: String,
    },
    /// Something that is not the distribution protocol.
    #[error("registry {registry} does not speak the distribution protocol: {detail}")]
    Protocol {
        /// Host and port.
        registry: String,
        /// What is wrong.
        detail: String,
    },
}

impl RegistryError {
    /// Whether trying again at once may help. It does not where trying took long already.
    pub(super) fn is_passing(&self) -> bool {
        self.is_transient() && !matches!(self, Self::TooSlow { .. } | Self::TooLong { .. })
    }

    /// Whether the same request may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::RateLimited { .. }
            | Self::Interrupted { .. }
            | Self::TooSlow { .. }
            | Self::TooLong { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 408,
            Self::Elsewhere { status, .. } => *status >= 500 || [408, 429].contains(status),
            Self::Setup { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::LoginRefused { .. }
            | Self::TooLarge { .. }
            | Self::DigestMismatch { .. }
            | Self::Insecure { .. }
            | Self::Protocol { .. } => false,
        }
    }
}
