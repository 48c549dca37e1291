//! TUN devices (Documentation/networking/tuntap.rst of the kernel).

use std::ffi::{CStr, c_short, c_uint};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::ioctl::{Opcode, opcode};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::check;

const TUNSETIFF: Opcode = opcode::write::<libc::c_int>(b'T', 202);
const TUNSETPERSIST: Opcode = opcode::write::<libc::c_int>(b'T', 203);
const TUNSETOFFLOAD: Opcode = opcode::write::<c_uint>(b'T', 208);

/// What the kernel may leave to whoever reads a TUN device: `TUN_F_*` of linux/if_tun.h.
pub mod offload {
    /// Checksums.
    pub const CHECKSUM: u32 = 0x01;
    /// Cutting large packets of TCP over IPv4.
    pub const TCP4: u32 = 0x02;
    /// The same over IPv6.
    pub const TCP6: u32 = 0x04;
    /// Cutting large packets of UDP over IPv4, since Linux 6.2.
    pub const UDP4: u32 = 0x20;
    /// The same over IPv6.
    pub const UDP6: u32 = 0x40;
}

/// Opens the TUN device of this name in the network namespace of the calling thread, and makes it if there is
/// none. It stays when it is closed. Reads and writes do not block, and begin with a `struct virtio_net_hdr`.
///
/// # Errors
/// The kernel's answer: `EBUSY` if somebody has it open or something else has the name.
pub fn open(name: &CStr) -> io::Result<OwnedFd> {
    let mut options = File::options();
    let options = options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let tun = OwnedFd::from(options.open("/dev/net/tun")?);
    let mut request = request(name)?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as c_short;
    // SAFETY: the kernel reads and writes the live, initialised `ifreq`, and nothing else.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF as _, &raw mut request) }.into())?;
    let on: libc::c_int = 1;
    // SAFETY: takes a number.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETPERSIST as _, on) }.into())?;
    Ok(tun)
}

/// Says what the kernel may leave to us, by [`offload`]; all else it does itself.
///
/// # Errors
/// The kernel's answer: `EINVAL` for what it does not know.
pub fn set_offload(tun: impl AsFd, what: u32) -> io::Result<()> {
    let (tun, what) = (tun.as_fd().as_raw_fd(), libc::c_ulong::from(what));
    // SAFETY: takes a number.
    check(unsafe { libc::ioctl(tun, TUNSETOFFLOAD as _, what) }.into()).map(drop)
}

/// The largest packet of an interface, in bytes, in the network namespace of the calling thread.
///
/// # Errors
/// The kernel's answer: `ENODEV` if there is none of this name.
pub fn mtu(name: &CStr) -> io::Result<u32> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = request(name)?;
    // SAFETY: the kernel reads and writes the live, initialised `ifreq`, and nothing else.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) }.into())?;
    // SAFETY: the kernel has written this field.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(io::Error::other)
}

/// Sets how many packets wait in an interface at most, in the network namespace of the calling thread; of a TUN device,
/// for whoever reads it.
///
/// # Errors
/// The kernel's answer: `ENODEV` if there is none of this name.
pub fn set_queue(name: &CStr, packets: u16) -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = request(name)?;
    // All fields that are numbers are one: `ifr_qlen` is this (linux/if.h).
    request.ifr_ifru.ifru_metric = packets.into();
    // SAFETY: the kernel reads the live, initialised `ifreq`, and nothing else.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN, &raw mut request) }.into())
        .map(drop)
}

fn request(name: &CStr) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero bytes are a valid `ifreq`, which is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = name.to_bytes();
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed() as libc::c_char;
    }
    Ok(request)
}
