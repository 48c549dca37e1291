//! Packets that have come in parts (ip(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use super::check;

/// The control message that says so: the size of the largest part.
pub const LARGEST_PART: i32 = libc::IP_RECVFRAGSIZE;

/// Has a socket of IPv4 say of each packet that it receives whether it has come in parts.
///
/// # Errors
/// The kernel's answer.
pub fn tell_of_parts(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the value is a live `int` of the length given, which is what the option reads.
    check(libc::c_long::from(unsafe {
        libc::setsockopt(
            socket,
            libc::IPPROTO_IP,
            libc::IP_RECVFRAGSIZE,
            (&raw const on).cast(),
            length,
        )
    }))?;
    Ok(())
}
