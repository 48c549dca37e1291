//! What can go wrong with the tunnel of a host.

use std::io;
use std::path::PathBuf;

use shoal_agent_planning::tunnel::Refusal;
use shoal_agent_planning::tunnel::uapi::AnswerError;
use thiserror::Error;

/// Why a call of a [`Tunnel`](super::Tunnel) failed.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TunnelError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("tunnel {ifname} has no key yet")]
    NoKey { ifname: String },
    #[error("the keys of epoch {epoch} are not those of interface {ifname}")]
    OtherSide { ifname: String, epoch: u64 },
    #[error("cannot look for keys of the tunnel in {}", path.display())]
    Keys { path: PathBuf, source: io::Error },
    #[error("cannot change setting {path}")]
    Setting { path: String, source: io::Error },
    #[error("interface name `{ifname}` is not 1 to 15 bytes without slash and space")]
    Ifname { ifname: String },
    #[error(transparent)]
    Key(#[from] shoal_durable::FileError),
    #[error(
        "udp port {port} is in use by something else on this host: end it, or choose another port for the \
         tunnel (--data-path-port)"
    )]
    PortInUse { port: u16 },
    #[error(
        "the kernel has no WireGuard: load its module (`modprobe wireguard`), use a kernel that has one \
         (Linux 5.6 and later), or let a process encrypt"
    )]
    NoKernel,
    #[error(
        "the kernel has neither WireGuard nor TUN devices that a process could use: load a module \
         (`modprobe wireguard` or `modprobe tun`); in a container, give it /dev/net/tun"
    )]
    NoTun { source: io::Error },
    #[error(
        "interface {ifname} is used by another process: two agents on a host need different interface \
         names and run directories"
    )]
    Busy { ifname: String },
    #[error("may not {what}: it takes root with CAP_NET_ADMIN")]
    NotPermitted { what: String },
    #[error("{what}")]
    Link { what: String, source: io::Error },
    #[error("{what} of the process of tunnel {ifname}")]
    Process { what: &'static str, ifname: String, source: io::Error },
    #[error("the process of tunnel {ifname} {reason}")]
    ProcessSays { ifname: String, reason: String },
    #[error("the device of tunnel {ifname} does not do as it is told")]
    Device { ifname: String, source: AnswerError },
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("tunnel {ifname} does not stay as it is made: something else changes it ({left})")]
    Unsettled { ifname: String, left: String },
    #[error("start the thread of tunnel {ifname}")]
    Thread { ifname: String, source: io::Error },
    #[error("the thread of tunnel {ifname} ended early")]
    Gone { ifname: String },
}

impl TunnelError {
    /// Whether asking again without a change by the user is pointless.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Ifname { .. })
    }
}
