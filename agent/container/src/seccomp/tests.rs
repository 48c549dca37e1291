use shoal_agent_planning::oci::{capabilities, seccomp};

use super::bpf::{AND_K, JA, JEQ_K, JGE_K, LD_ABS, RET_K};
use super::*;

/// What the kernel would do: an interpreter of the few instructions in use.
fn run(program: &[Instruction], audit: u32, nr: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(nr.to_le_bytes());
    data.extend(audit.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    args.iter().for_each(|a| data.extend(a.to_le_bytes()));
    let (mut pc, mut acc) = (0usize, 0u32);
    loop {
        let i = program[pc];
        pc += 1;
        let branch = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            LD_ABS => {
                let at = i.k as usize;
                acc = u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
            }
            AND_K => acc &= i.k,
            JA => pc += i.k as usize,
            JEQ_K => pc += branch(acc == i.k),
            JGE_K => pc += branch(acc >= i.k),
            RET_K => return i.k,
            code => panic!("unexpected instruction {code:#x}"),
        }
    }
}

fn program(add: &[&str]) -> Vec<Instruction> {
    let add: Vec<String> = add.iter().map(ToString::to_string).collect();
    compile(&seccomp::profile(&capabilities::effective(&add, &[]).unwrap())).unwrap()
}

fn nr(machine: &Machine, name: &str) -> u32 {
    machine.syscalls.iter().find(|(n, _)| *n == name).unwrap().1
}

/// Every system call of every machine against the profile read naively.
#[test]
fn the_program_says_what_the_profile_says() {
    for add in [&[][..], &["SYS_ADMIN"], &["ALL"]] {
        let program = program(add);
        let names: Vec<String> = add.iter().map(ToString::to_string).collect();
        let profile = seccomp::profile(&capabilities::effective(&names, &[]).unwrap());
        for machine in machines().unwrap() {
            for (name, nr) in machine.syscalls {
                let rules: Vec<_> = profile
                    .syscalls()
                    .iter()
                    .flatten()
                    .filter(|r| r.names().iter().any(|n| n == name))
                    .collect();
                let plain = rules.iter().find(|r| r.args().is_none());
                let expected = match (plain, rules.is_empty()) {
                    (Some(r), _) => action(r.action(), r.errno_ret()).unwrap(),
                    (None, true) => RET_ERRNO | EPERM,
                    (None, false) => continue,
                };
                let got = run(&program, machine.audit, *nr, [0; 6]);
                assert_eq!(got, expected, "{name} on {:?} with {add:?}", machine.oci);
            }
        }
        assert!(program.len() < 1500, "{} instructions", program.len());
    }
}

#[test]
fn arguments_decide_where_the_profile_says_so() {
    let machine = &machines().unwrap()[0];
    let (audit, program) = (machine.audit, program(&[]));
    let with = |name, arg| run(&program, audit, nr(machine, name), [arg, 0, 0, 0, 0, 0]);
    let eperm = RET_ERRNO | EPERM;
    let table = [
        ("personality", 0, RET_ALLOW),
        ("personality", 0x2_0008, RET_ALLOW),
        ("personality", 0xffff_ffff, RET_ALLOW),
        ("personality", 0x4_0000, eperm),
        ("personality", 1 << 32, eperm),
        ("socket", 2, RET_ALLOW),
        ("socket", 40, eperm),
        ("socket", 1 << 32 | 40, RET_ALLOW),
        ("clone", 0x11, RET_ALLOW),
        ("clone", 0x1000_0000, eperm),
        ("clone", 0x2_0000, eperm),
        ("clone3", 0, RET_ERRNO | ENOSYS),
    ];
    for (name, arg, expected) in table {
        assert_eq!(with(name, arg), expected, "{name} {arg:#x}");
    }
}

#[test]
fn what_is_unknown_is_refused() {
    let program = program(&[]);
    let machine = &machines().unwrap()[0];
    assert_eq!(run(&program, machine.audit, 4000, [0; 6]), RET_ERRNO | ENOSYS);
    assert_eq!(run(&program, 0x1234, 0, [0; 6]), RET_KILL_PROCESS);
    // x32 binaries: the same architecture with a high bit in the number.
    assert_eq!(run(&program, machine.audit, 0x4000_0000, [0; 6]), RET_ERRNO | ENOSYS);
}

#[test]
fn bytes_round_trip() {
    for i in program(&[]) {
        assert_eq!(Instruction::from_bytes(i.to_bytes()), i);
    }
}
