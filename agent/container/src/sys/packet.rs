//! Sockets for whole Ethernet frames (packet(7)): how the tests speak like an attacker.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::check;

/// A socket that sends and receives every frame of one interface, by its index, in the network
/// namespace of the calling thread.
///
/// # Errors
/// The kernel's answer.
pub fn packet_socket(ifindex: i32) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero bytes are a valid `sockaddr_ll`, which is plain data.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::c_ushort::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
    address.sll_ifindex = ifindex;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
    // SAFETY: the address is a live, initialised `sockaddr_ll` of the length given.
    check(libc::c_long::from(unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
    }))?;
    Ok(socket)
}
