//! Installing a seccomp filter.

use std::io;

use super::check;

/// One instruction, laid out as the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

impl Instruction {
    /// Bytes of one instruction.
    pub const SIZE: usize = 8;

    /// As bytes in the machine's order.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let ([c0, c1], [k0, k1, k2, k3]) = (self.code.to_ne_bytes(), self.k.to_ne_bytes());
        [c0, c1, self.jt, self.jf, k0, k1, k2, k3]
    }

    /// From bytes in the machine's order.
    #[must_use]
    pub fn from_bytes([c0, c1, jt, jf, k0, k1, k2, k3]: [u8; Self::SIZE]) -> Self {
        Self { code: u16::from_ne_bytes([c0, c1]), jt, jf, k: u32::from_ne_bytes([k0, k1, k2, k3]) }
    }
}

/// Puts this thread, and what it executes, behind a filter for good.
///
/// # Errors
/// `EACCES` without both `CAP_SYS_ADMIN` and no-new-privileges; `EINVAL` for a malformed program.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    let len =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    // `Instruction` has the layout of `sock_filter`: same fields, `repr(C)`.
    let prog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `prog` points to `len` initialised instructions that live through the call; the kernel
    // copies and verifies them and writes nothing back.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const prog)
    })?;
    Ok(())
}

/// Whether the kernel has seccomp filters and the actions that are used.
#[must_use]
pub fn available() -> bool {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads one u32 that lives through the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    result == 0
}
