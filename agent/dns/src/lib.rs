//! Names for the containers of a node.
//!
//! Each container has sockets on [`ADDRESS`] in its own network namespace, so who asks is known by the
//! socket. What is ours is answered from the zone (`shoal_agent_planning::zone`), everything else is asked
//! of the resolvers that are configured, from the host's namespace; an address in a question is never
//! asked anything.

pub mod answer;
mod forward;
mod keeper;
#[cfg(test)]
mod keeper_tests;
pub mod process;
#[cfg(test)]
mod root_tests;
mod server;
mod sockets;
#[cfg(test)]
mod tests;
mod words;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use serde::{Deserialize, Serialize};

pub use self::keeper::{Names, NamesError, Start, start};
pub use self::server::Server;
pub use self::sockets::{SocketError, Sockets, open};

/// Where containers ask, as with Docker.
pub const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);

/// A container that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Its id.
    pub container: String,
    /// The networks that it is in, in the order of its interfaces.
    pub networks: Vec<String>,
    /// Who is asked what is not ours.
    pub forwards: Forwards,
}

/// Who is asked what is not ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwards {
    /// Nobody: the container reaches nobody outside, and shall not do so through names either.
    Nobody,
    /// The host's resolvers.
    Host,
    /// These.
    To(Vec<SocketAddr>),
}
