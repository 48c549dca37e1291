//! Classic BPF: the instructions, and programs that bisect. See the kernel's
//! Documentation/networking/filter.rst and seccomp(2).

use std::collections::BTreeMap;

use super::{Condition, Test, Verdict};
use crate::sys::seccomp::Instruction;

pub(super) const LD_ABS: u16 = 0x20;
pub(super) const AND_K: u16 = 0x54;
pub(super) const JA: u16 = 0x05;
pub(super) const JEQ_K: u16 = 0x15;
pub(super) const JGE_K: u16 = 0x35;
pub(super) const RET_K: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// Skips the next instruction when the comparison holds.
fn skip_if(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 1, jf: 0, k }
}

fn jump(over: &[Instruction]) -> Instruction {
    op(JA, u32::try_from(over.len()).unwrap_or(u32::MAX))
}

/// Chooses the section by the calling binary's architecture.
pub(super) fn program(sections: &[(u32, Vec<Instruction>)], foreign: u32) -> Vec<Instruction> {
    let mut out = vec![op(LD_ABS, ARCH)];
    for (audit, section) in sections {
        out.push(skip_if(JEQ_K, *audit));
        out.push(jump(section));
        out.extend(section);
    }
    out.push(op(RET_K, foreign));
    out
}

/// Decides by number. Numbers above `last` return `unknown`, others without a verdict `default`.
pub(super) fn section(
    verdicts: &BTreeMap<u32, Verdict>,
    default: u32,
    last: u32,
    unknown: u32,
) -> Vec<Instruction> {
    // Ranges by their first number, neighbours of one verdict joined.
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    let mut push = |from: u32, verdict: Verdict| {
        let same = ranges.last().is_some_and(|(_, v)| *v == verdict);
        if !same || matches!(verdict, Verdict::Conditional(_)) {
            ranges.push((from, verdict));
        }
    };
    let mut next = 0;
    for (nr, verdict) in verdicts {
        if *nr > next {
            push(next, Verdict::Return(default));
        }
        push(*nr, verdict.clone());
        next = nr + 1;
    }
    if next <= last {
        push(next, Verdict::Return(default));
    }
    push(last.max(next.saturating_sub(1)) + 1, Verdict::Return(unknown));
    let mut out = vec![op(LD_ABS, NR)];
    out.extend(bisect(&ranges, default));
    out
}

fn bisect(ranges: &[(u32, Verdict)], default: u32) -> Vec<Instruction> {
    match ranges {
        [] => vec![op(RET_K, default)],
        [(_, verdict)] => leaf(verdict, default),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let low = bisect(low, default);
            let mut out = vec![Instruction { code: JGE_K, jt: 0, jf: 1, k: high[0].0 }, jump(&low)];
            out.extend(low);
            out.extend(bisect(high, default));
            out
        }
    }
}

fn leaf(verdict: &Verdict, default: u32) -> Vec<Instruction> {
    match verdict {
        Verdict::Return(k) => vec![op(RET_K, *k)],
        Verdict::Conditional(rules) => {
            let mut out = Vec::new();
            for (conditions, result) in rules {
                out.extend(rule(conditions, *result));
            }
            out.push(op(RET_K, default));
            out
        }
    }
}

/// Falls through to what comes next when a condition fails.
fn rule(conditions: &[Condition], result: u32) -> Vec<Instruction> {
    let mut out = vec![op(RET_K, result)];
    for condition in conditions.iter().rev() {
        out = guard(*condition, &out);
    }
    out
}

/// `then` when the condition holds, else the instruction after `then`.
fn guard(condition: Condition, then: &[Instruction]) -> Vec<Instruction> {
    let (mask, value, wanted) = match condition.test {
        Test::Equal(value) => (u64::MAX, value, true),
        Test::NotEqual(value) => (u64::MAX, value, false),
        Test::Masked { mask, value } => (mask, value, true),
    };
    // Both 32-bit halves, the low one first as memory has it on little-endian machines.
    let at = ARGS + condition.index * 8;
    let half = |shift: u32| ((mask >> shift) as u32, (value >> shift) as u32);
    let ((low_mask, low), (high_mask, high)) = (half(0), half(32));
    let mut out = Vec::new();
    if wanted {
        for (offset, mask, value) in [(at, low_mask, low), (at + 4, high_mask, high)] {
            out.extend([op(LD_ABS, offset), op(AND_K, mask), skip_if(JEQ_K, value)]);
            // Over the rest of this guard: patched below, when its length is known.
            out.push(op(JA, u32::MAX));
        }
    } else {
        let differs = Instruction { code: JEQ_K, jt: 0, jf: 0, k: 0 };
        out.extend([op(LD_ABS, at), Instruction { k: low, jf: 3, ..differs }]);
        out.extend([op(LD_ABS, at + 4), Instruction { k: high, jf: 1, ..differs }]);
        out.push(op(JA, u32::MAX));
    }
    let length = out.len() + then.len();
    for (i, instruction) in out.iter_mut().enumerate() {
        if instruction.code == JA {
            instruction.k = u32::try_from(length - i - 1).unwrap_or(u32::MAX);
        }
    }
    out.extend(then);
    out
}
