//! What stands before a filter of the library's: most calls are let through or not by their number alone, and a search by
//! halves finds that in a few steps. The kernel walks a filter for every number there is when it is installed: through a
//! filter that asks for one call after the other, that takes as long as a tenth of a short command.

use std::collections::BTreeMap;
use std::mem::offset_of;

use libc::{BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, seccomp_data};
use seccompiler::sock_filter;

/// `AUDIT_ARCH_X86_64`
const ARCH: u32 = 0xc000_003e;
/// Numbers that are asked for one after the other at the end of the search.
const ROW: usize = 2;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is let through.
    Allowed,
    /// It fails with that error.
    Fails(i32),
    /// The filter behind says it.
    Asked,
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Goes on so many instructions further if it is true, and so many if not.
fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | test | BPF_K) as u16, jt, jf, k }
}

/// An instruction of no use that stands for a way to the filter behind.
fn on() -> sock_filter {
    statement(BPF_JMP | BPF_JA, 0)
}

fn ends(verdict: Verdict) -> sock_filter {
    let answer = match verdict {
        Verdict::Allowed => libc::SECCOMP_RET_ALLOW,
        Verdict::Fails(errno) => libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(),
        Verdict::Asked => return on(),
    };
    statement(BPF_RET | BPF_K, answer)
}

/// The search among `calls`, in ascending order; `other`: of what is not among them. `None`: it is too long to be jumped over.
fn search(calls: &[(u32, Verdict)], other: Verdict) -> Option<Vec<sock_filter>> {
    if calls.len() <= ROW {
        let found = calls.iter().flat_map(|(call, verdict)| [jump(BPF_JEQ, *call, 0, 1), ends(*verdict)]);
        return Some(found.chain([ends(other)]).collect());
    }
    let (below, from) = calls.split_at(calls.len() / 2);
    let (left, right) = (search(below, other)?, search(from, other)?);
    let first = jump(BPF_JGE, from.first()?.0, u8::try_from(left.len()).ok()?, 0);
    Some([first].into_iter().chain(left).chain(right).collect())
}

/// What says of each call what becomes of it, to be followed by the filter that is asked of some. Calls of another kind of
/// program (`other` architectures) are for that filter, too.
pub fn before(calls: &BTreeMap<i64, Verdict>, other: Verdict) -> Option<Vec<sock_filter>> {
    let load = |offset: usize| statement(BPF_LD | BPF_W | BPF_ABS, offset as u32);
    let numbers: Option<Vec<_>> =
        calls.iter().map(|(call, verdict)| Some((u32::try_from(*call).ok()?, *verdict))).collect();
    let mut program = vec![load(offset_of!(seccomp_data, arch)), jump(BPF_JEQ, ARCH, 1, 0), on()];
    program.push(load(offset_of!(seccomp_data, nr)));
    program.extend(search(&numbers?, other)?);
    let len = program.len();
    for (at, instruction) in program.iter_mut().enumerate().filter(|(_, i)| **i == on()) {
        instruction.k = u32::try_from(len - at - 1).ok()?;
    }
    Some(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program comes to for a call, and in how many steps; `None`: the filter behind is asked.
    fn run(program: &[sock_filter], arch: u32, call: u32) -> (Option<u32>, usize) {
        let (mut at, mut value, mut steps) = (0, 0, 0);
        while let Some(i) = program.get(at) {
            steps += 1;
            at += 1;
            let code = u32::from(i.code);
            at += match code {
                _ if code == BPF_LD | BPF_W | BPF_ABS => {
                    value = if i.k == 4 { arch } else { call };
                    0
                }
                _ if code == BPF_JMP | BPF_JA => i.k as usize,
                _ if code == BPF_JMP | BPF_JEQ | BPF_K => usize::from(if value == i.k { i.jt } else { i.jf }),
                _ if code == BPF_JMP | BPF_JGE | BPF_K => usize::from(if value >= i.k { i.jt } else { i.jf }),
                _ => return (Some(i.k), steps),
            };
        }
        (None, steps)
    }

    #[test]
    fn every_call_gets_its_own_verdict_in_a_few_steps() {
        let verdicts = [Verdict::Allowed, Verdict::Asked, Verdict::Fails(libc::ENOSYS)];
        for count in [0, 1, 2, 3, 7, 57, 58, 90] {
            let calls: BTreeMap<i64, Verdict> = (0..count).map(|i| (i * 5 + i % 3, verdicts[i as usize % 3])).collect();
            let program = before(&calls, Verdict::Fails(libc::EPERM)).expect("it is short");
            for call in 0..600 {
                let wanted = match calls.get(&i64::from(call)) {
                    Some(Verdict::Allowed) => Some(libc::SECCOMP_RET_ALLOW),
                    Some(Verdict::Asked) => None,
                    Some(Verdict::Fails(errno)) => Some(libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()),
                    None => Some(libc::SECCOMP_RET_ERRNO | 1),
                };
                let (verdict, steps) = run(&program, ARCH, call);
                assert_eq!(verdict, wanted, "{call} of {count}");
                assert!(steps <= 15, "{steps} steps for {call} of {count}");
            }
            assert_eq!(run(&program, ARCH, 1 << 30 | 1).0, Some(libc::SECCOMP_RET_ERRNO | 1), "x32");
            assert_eq!(run(&program, 0x4000_0003, 0).0, None, "another architecture");
        }
    }
}
