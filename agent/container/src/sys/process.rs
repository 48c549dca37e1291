//! Processes: forking, executing, namespaces, signal dispositions.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::thread::UnshareFlags;

use super::check;

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// In the new process.
    Child,
    /// In the old one, with the new one's id.
    Parent(i32),
}

/// The kernel's `struct clone_args` up to `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The kernel's highest signal number.
const SIGNALS: libc::c_int = 64;

/// Forks a process that has only one thread, straight into a control group of version 2 if one is
/// given.
///
/// # Errors
/// The kernel's answer, and `EDEADLK` when the process has more threads: a child of such a process
/// could wait forever for a lock that another thread held.
pub fn fork_single_threaded(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    let pid = match cgroup {
        // SAFETY: the only thread calls, so no lock is held by another one and the child may run any
        // code, allocation included.
        None => check(libc::c_long::from(unsafe { libc::fork() }))?,
        Some(fd) => {
            let args = CloneArgs {
                flags: CLONE_INTO_CGROUP,
                exit_signal: u64::try_from(libc::SIGCHLD).unwrap_or_default(),
                cgroup: u64::try_from(fd.as_raw_fd()).unwrap_or_default(),
                ..CloneArgs::default()
            };
            // SAFETY: without CLONE_VM and a stack of its own this is fork; `args` has the layout
            // and the size the kernel is told, and the caller has only one thread, as above.
            check(unsafe {
                libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>())
            })?
        }
    };
    Ok(match i32::try_from(pid).unwrap_or_default() {
        0 => Fork::Child,
        pid => Fork::Parent(pid),
    })
}

/// Ends the process without running destructors or exit handlers, as a forked child must.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(code) }
}

/// Enters new namespaces with the calling thread, which must be the only one.
///
/// # Errors
/// The kernel's answer.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: descriptors stay shared (CLONE_FILES is never passed by callers of this crate), which
    // is the one flag that would break Rust's ownership of them.
    unsafe { rustix::thread::unshare_unsafe(flags.difference(UnshareFlags::FILES)) }?;
    Ok(())
}

/// Executes a program in place of this one. Returns only when that failed.
pub fn execve(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer and point to strings that live through the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Gives every signal its default meaning and unblocks all: what a fresh program expects. Rust's
/// start-up code, for one, has left SIGPIPE ignored.
pub fn reset_signals() {
    // The kernel's `struct sigaction`: handler SIG_DFL, no flags, no restorer, an empty mask.
    let default = [0u64; 4];
    for signal in 1..=SIGNALS {
        // Not through the C library, which keeps two signals to itself and would leave them ignored
        // if somebody above us ignores them.
        // SAFETY: the kernel reads one live `struct sigaction` whose mask has the size it is told,
        // installs no handler, and writes nothing back; numbers that cannot be changed are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: all-zero bytes are a valid `sigset_t`, made into the empty set before it is read; the
    // old mask is not asked for.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Ignores signals, by number.
pub fn ignore_signals(signals: &[i32]) {
    for signal in signals {
        // SAFETY: SIG_IGN installs no handler; a number that cannot be changed is refused.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// Sends a signal by number, real-time ones included.
///
/// # Errors
/// The kernel's answer; `EINVAL` for numbers that are none.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open through the call, and a null `siginfo` means an ordinary kill.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// Closes every descriptor of this process but those that are given. For a process that is going to
/// use no other one and to end by [`exit_now`], which runs no destructor, or by [`execve`].
///
/// # Errors
/// The kernel's answer.
pub fn close_others(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<libc::c_uint> =
        kept.iter().filter_map(|fd| fd.as_raw_fd().try_into().ok()).collect();
    kept.sort_unstable();
    kept.dedup();
    let mut first = 0;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = fd + 1;
    }
    close_range(first, libc::c_uint::MAX, 0)
}

/// Makes every descriptor from `first` on one that does not outlive an `exec`.
///
/// # Errors
/// The kernel's answer, such as `ENOSYS` and `EINVAL` before Linux 5.11.
pub fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    close_range(first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// The same for one descriptor, by number; fine if it is closed.
///
/// # Errors
/// The kernel's answer.
pub fn close_on_exec(fd: i32) -> io::Result<()> {
    // SAFETY: changes a flag of a descriptor, or nothing when the number is none.
    match check(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })) {
        Err(e) if e.raw_os_error() != Some(libc::EBADF) => Err(e),
        _ => Ok(()),
    }
}

fn close_range(first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: no memory is involved. Where descriptors are closed, the caller has promised that no
    // owner of one of them is used or dropped any more.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })?;
    Ok(())
}
