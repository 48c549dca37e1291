//! A socket to the kernel's packet filter that stays open.

use std::io;
use std::sync::{Mutex, PoisonError};

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::nft::TIMEOUT;

/// Speaks in the network namespace of the first who asks something. Who closes such a socket waits until what was taken
/// away from the tables is gone from the kernel's memory, some 15 ms after nothing leads there any more, whatever the
/// socket was for.
#[derive(Debug, Default)]
pub(super) struct KeptSocket(Mutex<Option<Socket>>);

impl KeptSocket {
    /// Asks, and hears the whole answer. Blocks. After a failure something may still come that answers what nobody waits
    /// for: the next has a new socket.
    ///
    /// # Errors
    /// There is no such socket, or those of `ask`.
    pub(super) fn with<T, E>(
        &self,
        ask: impl FnOnce(&Socket) -> Result<T, E>,
        no_socket: impl FnOnce(io::Error) -> E,
    ) -> Result<T, E> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = match slot.take() {
            Some(socket) => socket,
            None => open().map_err(no_socket)?,
        };
        let answer = ask(&socket)?;
        *slot = Some(socket);
        Ok(answer)
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
    Ok(socket)
}
