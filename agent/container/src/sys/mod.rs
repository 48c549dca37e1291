//! System calls that no safe crate offers: the only `unsafe` code of the agent.
//!
//! Everything else goes through `rustix`. Each function says what makes it sound.

#![allow(unsafe_code)]

pub mod bpf;
pub mod memory;
pub mod mount;
pub mod net;
#[cfg(any(test, feature = "testing"))]
pub mod packet;
pub mod parts;
pub mod process;
pub mod seccomp;
pub mod tun;

/// The kernel's answer to a raw call: -1 means look at errno.
fn check(result: libc::c_long) -> std::io::Result<libc::c_long> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}
