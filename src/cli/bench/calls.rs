//! How many system calls a worker makes while it opens: the kernel stops it at each (`ptrace`), which needs no privilege.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::worker::MARK;

/// Runs a worker that marks where it begins and ends; the calls between the marks. `None` if it never came to the end.
///
/// Calls of threads that the library starts are not counted.
pub(super) fn count(command: &Path, arguments: &[OsString], seconds: u32) -> io::Result<Option<u64>> {
    let mut worker = Command::new(command);
    worker.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let prepare = move || {
        // The alarm goes on over the start of the program: a worker that hangs ends by it.
        nix::unistd::alarm::set(seconds);
        Ok(ptrace::traceme()?)
    };
    // SAFETY: two system calls, in the new process.
    unsafe { worker.pre_exec(prepare) };
    let mut process = worker.spawn()?;
    let counted = follow(Pid::from_raw(process.id() as i32));
    if counted.is_err() {
        process.kill()?;
        process.wait()?;
    }
    Ok(counted?)
}

/// Lets it go from stop to stop until it ends.
fn follow(worker: Pid) -> nix::Result<Option<u64>> {
    let (mut calls, mut marks) = (0, 0);
    let mut begun = false;
    loop {
        let signal = match waitpid(worker, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Ok((marks == 2).then_some(calls)),
            WaitStatus::PtraceSyscall(_) => {
                let info = ptrace::syscall_info(worker)?;
                if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    // SAFETY: the kernel says that it is the entry to a call.
                    let call = unsafe { info.u.entry };
                    if call.nr as i64 == libc::SYS_close && call.args[0] as i32 == MARK {
                        marks += 1;
                    } else if marks == 1 {
                        calls += 1;
                    }
                }
                None
            }
            // The start of the program.
            WaitStatus::Stopped(_, Signal::SIGTRAP) if !begun => {
                begun = true;
                ptrace::setoptions(worker, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL)?;
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        ptrace::syscall(worker, signal)?;
    }
}
