//! From an OCI seccomp section to the BPF program the kernel runs before every system call.
//!
//! libcontainer can only do this through a C library, and not at all for exec; besides, it would
//! compile the profile anew in every container. The agent compiles once and hands out bytes.
//!
//! The program finds the system call's number by bisection, so its cost grows with the logarithm of
//! the list. Numbers above everything this table knows get ENOSYS where the profile would say EPERM:
//! C libraries then fall back to older calls instead of giving up.

mod aarch64;
mod bpf;
mod i386;
#[cfg(test)]
mod tests;
mod x86_64;

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

pub use crate::sys::seccomp::Instruction;

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The program would run on a machine it has no table for.
    #[error("seccomp: no table of system calls for {arch}")]
    Architecture {
        /// As Rust names it.
        arch: &'static str,
    },
    /// Something this compiler does not do.
    #[error("seccomp: {what} is not supported")]
    Unsupported {
        /// What.
        what: String,
    },
    /// The kernel's limit of instructions.
    #[error("seccomp: program of {instructions} instructions is longer than {max}")]
    TooLong {
        /// How many there are.
        instructions: usize,
        /// How many there may be.
        max: usize,
    },
}

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The kernel's BPF_MAXINSNS.
const MAX_INSTRUCTIONS: usize = 4096;

/// A kind of binary: what the kernel calls it, and its system calls.
struct Machine {
    oci: Arch,
    audit: u32,
    syscalls: &'static [(&'static str, u32)],
}

const X86_64: Machine =
    Machine { oci: Arch::ScmpArchX86_64, audit: 0xC000_003E, syscalls: x86_64::SYSCALLS };
const I386: Machine =
    Machine { oci: Arch::ScmpArchX86, audit: 0x4000_0003, syscalls: i386::SYSCALLS };
const AARCH64: Machine =
    Machine { oci: Arch::ScmpArchAarch64, audit: 0xC000_00B7, syscalls: aarch64::SYSCALLS };

/// The machines whose binaries this one can run.
fn machines() -> Result<&'static [Machine], SeccompError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(&[X86_64, I386]),
        "aarch64" => Ok(&[AARCH64]),
        arch => Err(SeccompError::Architecture { arch }),
    }
}

/// What happens to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Always the same.
    Return(u32),
    /// The first rule whose conditions all hold decides, else the default.
    Conditional(Vec<(Vec<Condition>, u32)>),
}

/// A comparison of one 64-bit argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    index: u32,
    test: Test,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Masked { mask: u64, value: u64 },
}

/// Compiles a profile for this machine.
///
/// # Errors
/// [`SeccompError`] when the profile asks for what cannot be done; nothing is left out silently,
/// except names of system calls that this machine does not have.
pub fn compile(profile: &LinuxSeccomp) -> Result<Vec<Instruction>, SeccompError> {
    if profile.flags().as_ref().is_some_and(|f| !f.is_empty()) {
        return Err(SeccompError::Unsupported { what: "flags".to_owned() });
    }
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let wanted = profile.architectures();
    let mut sections = Vec::new();
    for machine in machines()? {
        let listed = |archs: &Vec<Arch>| {
            archs.contains(&machine.oci) || archs.contains(&Arch::ScmpArchNative)
        };
        // An empty list means the native machine, which comes first.
        let native = sections.is_empty();
        if wanted.as_ref().map_or(native, listed) {
            sections.push((machine.audit, section(machine, profile, default)?));
        }
    }
    let program = bpf::program(&sections, RET_KILL_PROCESS);
    if program.len() > MAX_INSTRUCTIONS {
        let (instructions, max) = (program.len(), MAX_INSTRUCTIONS);
        return Err(SeccompError::TooLong { instructions, max });
    }
    Ok(program)
}

fn section(
    machine: &Machine,
    profile: &LinuxSeccomp,
    default: u32,
) -> Result<Vec<Instruction>, SeccompError> {
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    for rule in profile.syscalls().iter().flatten() {
        let result = action(rule.action(), rule.errno_ret())?;
        let conditions = conditions(rule)?;
        for name in rule.names() {
            let Some((_, nr)) = machine.syscalls.iter().find(|(n, _)| n == name) else { continue };
            add(&mut verdicts, *nr, &conditions, result);
        }
    }
    let unknown = match default == (RET_ERRNO | EPERM) {
        true => RET_ERRNO | ENOSYS,
        false => default,
    };
    let last = machine.syscalls.iter().map(|(_, nr)| *nr).max().unwrap_or(0);
    Ok(bpf::section(&verdicts, default, last, unknown))
}

/// An unconditional rule decides alone, wherever it stands; otherwise rules are asked in order.
fn add(verdicts: &mut BTreeMap<u32, Verdict>, nr: u32, conditions: &[Condition], result: u32) {
    match (verdicts.get_mut(&nr), conditions.is_empty()) {
        (Some(Verdict::Return(_)), _) => {}
        (_, true) => {
            verdicts.insert(nr, Verdict::Return(result));
        }
        (Some(Verdict::Conditional(rules)), false) => rules.push((conditions.to_vec(), result)),
        (None, false) => {
            verdicts.insert(nr, Verdict::Conditional(vec![(conditions.to_vec(), result)]));
        }
    }
}

fn conditions(rule: &LinuxSyscall) -> Result<Vec<Condition>, SeccompError> {
    rule.args().iter().flatten().map(condition).collect()
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition, SeccompError> {
    let test = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => Test::Equal(arg.value()),
        LinuxSeccompOperator::ScmpCmpNe => Test::NotEqual(arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            Test::Masked { mask: arg.value(), value: arg.value_two().unwrap_or(0) }
        }
        other => return Err(SeccompError::Unsupported { what: format!("comparison {other:?}") }),
    };
    match u32::try_from(arg.index()) {
        Ok(index @ 0..=5) => Ok(Condition { index, test }),
        _ => Err(SeccompError::Unsupported { what: format!("argument {}", arg.index()) }),
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    match action {
        LinuxSeccompAction::ScmpActAllow => Ok(RET_ALLOW),
        LinuxSeccompAction::ScmpActErrno => Ok(RET_ERRNO | errno.unwrap_or(EPERM) & 0xffff),
        LinuxSeccompAction::ScmpActKillProcess => Ok(RET_KILL_PROCESS),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            Ok(RET_KILL_THREAD)
        }
        LinuxSeccompAction::ScmpActTrap => Ok(RET_TRAP),
        LinuxSeccompAction::ScmpActLog => Ok(RET_LOG),
        other => Err(SeccompError::Unsupported { what: format!("action {other:?}") }),
    }
}
