//! Forks of a process that has one thread, and the end of what was forked.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid};

/// How many threads the process has.
pub(crate) fn threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

/// A copy of this process, which must have no other thread: a lock that one held would never be free in the copy.
pub(crate) fn fork() -> nix::Result<ForkResult> {
    flush();
    match threads() {
        // SAFETY: there is no other thread, so that the child finds everything as it is here, and may run what it likes.
        Ok(1) => unsafe { nix::unistd::fork() },
        _ => Err(Errno::EDEADLK),
    }
}

/// A descriptor that is readable when the child has ended.
pub(crate) fn descriptor_of(child: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0) };
    // SAFETY: made for us just now.
    Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Ends the process. What was printed is written, but nothing runs that is to run at exit: it is there for the process that
/// this one was forked from.
pub(crate) fn end(code: u8) -> ! {
    flush();
    // SAFETY: ends the process.
    unsafe { libc::_exit(code.into()) }
}

/// Writes what this process has printed, so that it is not printed twice.
fn flush() {
    let _ = io::stdout().flush();
    // SAFETY: null means all streams.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}
