//! The system calls of a piece of code: what a loader does cannot be seen from what it leaves behind.

#![cfg(target_arch = "x86_64")]

/// One system call with its first six arguments and its result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) number: i64,
    pub(crate) arguments: [u64; 6],
    pub(crate) result: i64,
}

/// Runs the code in a forked process, where it may become another program, and returns the calls it made, in order.
pub(crate) fn system_calls_of(code: impl FnOnce()) -> Vec<Call> {
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
        }
        code();
        unsafe { libc::_exit(0) };
    }
    let mut calls = Vec::new();
    let mut entered = None;
    loop {
        let mut status = 0;
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0, "the traced code failed");
            return calls;
        }
        assert!(libc::WIFSTOPPED(status), "the traced code was killed: {status:#x}");
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        match libc::WSTOPSIG(status) {
            libc::SIGSTOP => unsafe {
                libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, libc::PTRACE_O_TRACESYSGOOD);
            },
            // The start of another program.
            libc::SIGTRAP => {}
            // A stop at a system call: on the way in and on the way out in turn.
            stop if stop == libc::SIGTRAP | 0x80 => {
                unsafe { libc::ptrace(libc::PTRACE_GETREGS, child, 0, &mut registers) };
                let libc::user_regs_struct { rdi, rsi, rdx, r10, r8, r9, orig_rax, rax, .. } = registers;
                entered = match entered {
                    None => Some((orig_rax as i64, [rdi, rsi, rdx, r10, r8, r9])),
                    Some((number, arguments)) => {
                        calls.push(Call { number, arguments, result: rax as i64 });
                        None
                    }
                };
            }
            signal => panic!("the traced code got signal {signal}"),
        }
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, child, 0, 0) };
    }
}
