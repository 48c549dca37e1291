//! Names for the containers of a node.
//!
//! Each container has sockets on [`ADDRESS`] in its own network namespace, so who asks is known by the
//! socket. What is ours is answered from the zone (`shoal_agent_planning::zone`), everything else is asked
//! of the resolvers that are configured, from the host's namespace; an address in a question is never
//! asked anything.

pub mod answer;
#[cfg(test)]
mod contract;
mod driver;
#[cfg(any(test, feature = "fake"))]
mod fake;
mod forward;
mod keeper;
#[cfg(test)]
mod keeper_tests;
mod line;
pub mod process;
#[cfg(test)]
mod root_tests;
mod server;
mod sockets;
#[cfg(test)]
mod tests;
mod together;
mod words;

use std::net::{Ipv4Addr, SocketAddrV4};

use shoal_agent_planning::zone::DNS_PORT;
pub use shoal_agent_planning::zone::{Asker, Forwards};

pub use self::driver::{NamesDriver, NodeNames};
#[cfg(any(test, feature = "fake"))]
pub use self::fake::FakeNames;
pub use self::keeper::{Names, NamesError, Start, start};
pub use self::server::Server;
pub use self::sockets::{SocketError, Sockets, open};

/// Where containers ask, as with Docker.
pub const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), DNS_PORT);
