//! The encrypted tunnel between nodes: one WireGuard interface per host, and a second one while its keys change.
//!
//! What is to be done is planned in `agent/planning/src/tunnel`; this crate looks and performs. The kernel's
//! WireGuard encrypts where there is one, which is tried; else a process of the agent's does
//! ([`device`]), which outlives the agent as supervisors do and is found again by its lock.
//!
//! The kernel is spoken to by `wireguard-control`, the process by the configuration protocol of WireGuard on a
//! socket in the run directory: the crate's own way to a process looks for sockets in one directory of the
//! whole machine, waits for answers without a bound, and starts whatever is called `wireguard-go` on `PATH`
//! when nobody answers.

pub mod device;
mod error;
mod kernel;
mod key;
mod link;
mod path;
mod process;
mod reach;
mod tunnels;
mod userspace;

#[cfg(any(test, feature = "fake"))]
pub mod contract;
#[cfg(any(test, feature = "fake"))]
mod fake;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use futures::future::BoxFuture;
use shoal_agent_planning::tunnel::{Action, Desired, Device, Observed, Side};
use shoal_types::object::{TunnelKey, TunnelKind};

pub use error::TunnelError;
#[cfg(any(test, feature = "fake"))]
pub use fake::FakeTunnel;
pub use path::uncut;
pub use reach::{Reached, reach};
pub use tunnels::Tunnels;

/// Where a tunnel's things are.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// Name of the interface.
    pub ifname: String,
    /// Which of the host's two it is: epochs of keys take turns with them.
    pub side: Side,
    /// For the private keys, which survive reboots.
    pub state_dir: PathBuf,
    /// For what does not: the lock and the socket of the process. Nobody but root may write here.
    pub run_dir: PathBuf,
    /// The program that has the sub-command `tunnel`.
    pub program: PathBuf,
    /// What is to encrypt; `None`: the kernel if it can.
    pub kind: Option<TunnelKind>,
}

/// A tunnel that is as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelState {
    /// By which others know this host.
    pub public_key: TunnelKey,
    /// What encrypts.
    pub kind: TunnelKind,
    /// UDP port on which it listens.
    pub port: u16,
    /// Name of the interface.
    pub ifname: String,
    /// What had to be done for it: nothing, if it was so already.
    pub done: Vec<Action>,
}

/// A tunnel as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What encrypts.
    pub kind: TunnelKind,
    /// What it says of itself and of its peers.
    pub device: Device,
}

/// A tunnel as it is, and what would be done for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Name of the interface.
    pub ifname: String,
    /// What it is.
    pub observed: Observed,
    /// The steps to what it should be.
    pub steps: Vec<Action>,
}

/// The key of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochKey {
    /// Which epoch.
    pub epoch: u64,
    /// By which others know this host in it.
    pub public_key: TunnelKey,
}

/// One interface of the tunnel of a host. Calls are carried out one after the other, and may be repeated.
pub trait Tunnel: Send + Sync {
    /// The key that it has; none before the first call of [`Tunnel::turn`] there ever was.
    fn key(&self) -> Option<EpochKey>;

    /// Gives it the key of an epoch, which is made if there is none. Any other key that it had is forgotten, and is that
    /// of the interface until the next call of [`Tunnel::ensure`].
    ///
    /// # Errors
    /// The key cannot be read or written; it is an epoch of the host's other interface.
    fn turn(&self, epoch: u64) -> BoxFuture<'_, Result<EpochKey, TunnelError>>;

    /// Leaves nothing of it, its key neither.
    ///
    /// # Errors
    /// As [`Tunnel::remove`]; the key cannot be removed.
    fn forget(&self) -> BoxFuture<'_, Result<(), TunnelError>>;

    /// Makes the tunnel what it should be, whatever has become of it.
    ///
    /// # Errors
    /// It has no key; what no tunnel can be, a port that is taken, a host on which nothing can encrypt, the kernel's
    /// refusals. What has been done until then stays.
    fn ensure(&self, desired: Desired) -> BoxFuture<'_, Result<TunnelState, TunnelError>>;

    /// What the tunnel is; `None` while there is none that works.
    ///
    /// # Errors
    /// It cannot be seen.
    fn observe(&self) -> BoxFuture<'_, Result<Option<Seen>, TunnelError>>;

    /// What there is beside what should be, and the steps from one to the other, of which none is taken.
    ///
    /// # Errors
    /// What no tunnel can be; it cannot be seen.
    fn compare(&self, desired: Desired) -> BoxFuture<'_, Result<Comparison, TunnelError>>;

    /// Which sizes of packets, in bytes, the interfaces take by which packets to these addresses of other hosts leave this
    /// one. Of one to which there is no way, nothing is said.
    ///
    /// # Errors
    /// It cannot be seen.
    fn wires(&self, to: BTreeSet<IpAddr>) -> BoxFuture<'_, Result<BTreeSet<u32>, TunnelError>>;

    /// Leaves nothing of it but its key: no process, no socket, no interface.
    ///
    /// # Errors
    /// The kernel's refusals.
    fn remove(&self) -> BoxFuture<'_, Result<(), TunnelError>>;
}
