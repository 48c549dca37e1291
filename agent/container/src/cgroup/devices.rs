//! Device rules as a program for version 2, which has no files for them.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::CgroupError;
use crate::sys::bpf::Instruction;

const LDX_W: u8 = 0x61;
const AND32_K: u8 = 0x54;
const RSH32_K: u8 = 0x74;
const MOV32_X: u8 = 0xbc;
const MOV64_K: u8 = 0xb7;
const JNE_K: u8 = 0x55;
const EXIT: u8 = 0x95;

/// Registers: the context, what is asked, and a scratch one. The answer is register 0.
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
}

/// Compiles rules. They must begin by denying everything and go on by allowing something, which is
/// the only order that means the same however it is read.
///
/// # Errors
/// [`CgroupError::DeviceRules`] for any other order.
pub fn compile(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Instruction>, CgroupError> {
    let all = |r: &LinuxDeviceCgroup| matches!(r.typ(), None | Some(LinuxDeviceType::A));
    let Some((first, rest)) = rules.split_first() else { return Err(CgroupError::DeviceRules) };
    if first.allow() || !all(first) || rest.iter().any(|r| !r.allow()) {
        return Err(CgroupError::DeviceRules);
    }
    let mut program = vec![
        op(LDX_W, KIND, CONTEXT, 0, 0),
        op(MOV32_X, ACCESS, KIND, 0, 0),
        op(AND32_K, KIND, 0, 0, 0xffff),
        op(RSH32_K, ACCESS, 0, 0, 16),
        op(LDX_W, MAJOR, CONTEXT, 4, 0),
        op(LDX_W, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rest {
        program.extend(allow(rule));
    }
    program.extend([op(MOV64_K, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    Ok(program)
}

/// Says yes and ends if the rule covers what is asked; else goes on after itself.
fn allow(rule: &LinuxDeviceCgroup) -> Vec<Instruction> {
    let mut tests = Vec::new();
    let number = |n: Option<i64>| n.and_then(|n| i32::try_from(n).ok()).filter(|n| *n >= 0);
    match rule.typ() {
        Some(LinuxDeviceType::B) => tests.push(op(JNE_K, KIND, 0, 0, 1)),
        Some(LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::P) => {
            tests.push(op(JNE_K, KIND, 0, 0, 2));
        }
        None | Some(LinuxDeviceType::A) => {}
    }
    let letters = rule.access().as_deref().unwrap_or("rwm");
    let bits = [('m', 1), ('r', 2), ('w', 4)];
    let allowed: i32 = bits.iter().filter(|(l, _)| letters.contains(*l)).map(|(_, b)| b).sum();
    if allowed != 7 {
        tests.push(op(MOV32_X, SCRATCH, ACCESS, 0, 0));
        tests.push(op(AND32_K, SCRATCH, 0, 0, 7 & !allowed));
        tests.push(op(JNE_K, SCRATCH, 0, 0, 0));
    }
    tests.extend(number(rule.major()).map(|n| op(JNE_K, MAJOR, 0, 0, n)));
    tests.extend(number(rule.minor()).map(|n| op(JNE_K, MINOR, 0, 0, n)));
    tests.extend([op(MOV64_K, 0, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
    let length = tests.len();
    for (i, instruction) in tests.iter_mut().enumerate() {
        if instruction.code == JNE_K {
            instruction.offset = i16::try_from(length - i - 1).unwrap_or(i16::MAX);
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use shoal_agent_planning::oci::defaults::device_rules;

    use super::*;

    /// What the kernel would do.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut r = [0u64; 11];
        let mut pc = 0usize;
        loop {
            let i = program[pc];
            pc += 1;
            let (d, s) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            match i.code {
                LDX_W => r[d] = u64::from(context[i.offset as usize / 4]),
                AND32_K => r[d] = u64::from(r[d] as u32 & i.immediate as u32),
                RSH32_K => r[d] = u64::from((r[d] as u32) >> i.immediate),
                MOV32_X => r[d] = u64::from(r[s] as u32),
                MOV64_K => r[d] = i.immediate as u64,
                JNE_K if r[d] != i.immediate as u64 => pc += i.offset as usize,
                JNE_K => {}
                EXIT => return r[0],
                code => panic!("unexpected instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn the_default_rules_allow_what_they_name() {
        let program = compile(&device_rules()).unwrap();
        let (block, char) = (1, 2);
        let (mknod, read, write) = (1, 2, 4);
        for (kind, access, major, minor, expected) in [
            (char, read | write, 1, 3, 1),
            (char, read | write, 1, 4, 0),
            (char, mknod, 1, 4, 1),
            (char, mknod | read, 1, 4, 0),
            (block, read, 254, 0, 0),
            (block, mknod, 254, 0, 1),
            (char, read, 136, 77, 1),
            (block, read, 136, 77, 0),
        ] {
            let got = run(&program, kind, access, major, minor);
            assert_eq!(got, expected, "kind {kind} access {access} {major}:{minor}");
        }
    }

    #[test]
    fn rules_in_another_order_are_refused() {
        let mut rules = device_rules();
        rules.reverse();
        assert!(compile(&rules).is_err());
        assert!(compile(&[]).is_err());
    }
}
