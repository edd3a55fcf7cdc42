//! One worker: a fork of the server, from its request to its end.

use std::any::Any;
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fchdir, getppid, setsid};

use super::wire;
use crate::sys;

/// How long a client may take to say what it wants.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long a worker that was asked to end has for it.
const GRACE: Duration = Duration::from_secs(2);
/// What Rust's programs exit with after a panic.
const PANICKED: u8 = 101;

/// A worker, as the server sees it. Whoever drops it before it has ended leaves it to itself.
pub(super) struct Worker {
    id: Pid,
    /// Readable when it has ended.
    pub(super) end: OwnedFd,
    /// Nobody, once the client has gone.
    pub(super) client: Option<UnixStream>,
    /// When it will be killed.
    pub(super) until: Option<Instant>,
    /// Why it will be.
    reason: String,
}

impl Worker {
    /// Forks one. In the worker itself, this is `None`.
    pub(super) fn fork(client: &UnixStream, time: Option<Duration>) -> nix::Result<Option<Self>> {
        let server = Pid::this();
        let id = match sys::fork::fork()? {
            ForkResult::Child => {
                begin(server);
                return Ok(None);
            }
            ForkResult::Parent { child } => child,
        };
        let parts = sys::fork::descriptor_of(id).and_then(|end| {
            let client =
                client.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
            Ok((end, client))
        });
        match parts {
            Ok((end, client)) => {
                let until = time.and_then(|time| Instant::now().checked_add(time));
                let reason = time.map(|time| format!("the worker was killed after {} s", time.as_secs_f64()));
                Ok(Some(Self { id, end, client: Some(client), until, reason: reason.unwrap_or_default() }))
            }
            Err(errno) => {
                let _ = kill(id, Signal::SIGKILL);
                let _ = waitpid(id, None);
                Err(errno)
            }
        }
    }

    fn signal(&self, signal: Signal) {
        // It leads a group of its own, unless it has just been forked.
        let _ = killpg(self.id, signal);
        let _ = kill(self.id, signal);
    }

    /// Asks it to end, and the processes that it has started.
    pub(super) fn ask_to_end(&mut self, why: &str) {
        self.signal(Signal::SIGTERM);
        let soon = Instant::now() + GRACE;
        if self.until.is_none_or(|until| until > soon) {
            (self.until, self.reason) = (Some(soon), why.into());
        }
    }

    /// Kills it, if its time is over.
    pub(super) fn check_time(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            self.signal(Signal::SIGKILL);
            self.until = None;
        }
    }

    /// Whether it has ended. The client is told how.
    pub(super) fn has_ended(&self) -> bool {
        let killed = self.until.is_none() && !self.reason.is_empty();
        let answer = match waitpid(self.id, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => wire::ended((code & 0xff) << 8),
            Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)) if killed => wire::refused(&self.reason),
            Ok(WaitStatus::Signaled(_, signal, core)) => wire::ended(signal as i32 | if core { 0x80 } else { 0 }),
            Ok(_) | Err(Errno::EINTR) => return false,
            Err(errno) => wire::refused(&format!("how the worker ended is not to be told: {}", errno.desc())),
        };
        if let Some(client) = &self.client {
            // Whoever is gone does not want to know.
            let _ = sys::socket::send(client.as_fd(), &answer, &[]);
        }
        true
    }
}

/// The first that a worker does: it leaves the server's terminal, and ends with the server.
fn begin(server: Pid) {
    // Without a terminal of its own it may read and write that of the client.
    let _ = setsid();
    let _ = set_pdeathsig(Signal::SIGKILL);
    if getppid() != server {
        sys::fork::end(PANICKED);
    }
}

/// What a worker does: reads the request, takes over what came with it, works, and ends.
pub(super) fn work(mut client: UnixStream, mut work: impl FnMut(&[OsString]) -> u8) -> ! {
    let arguments = match request(&mut client).and_then(|(arguments, given)| take_over(&given).map(|()| arguments)) {
        Ok(arguments) => arguments,
        Err(reason) => {
            let _ = sys::socket::send(client.as_fd(), &wire::refused(&reason), &[]);
            sys::fork::end(PANICKED)
        }
    };
    drop(client);
    // What it has promised to keep whole ends with the process.
    let code = catch_unwind(AssertUnwindSafe(|| work(&arguments)));
    sys::fork::end(code.unwrap_or_else(|panic: Box<dyn Any + Send>| {
        // Its message is on standard error already.
        std::mem::forget(panic);
        PANICKED
    }))
}

type Given = [OwnedFd; wire::DESCRIPTORS];

fn request(client: &mut UnixStream) -> Result<(Vec<OsString>, Given), String> {
    let failed = |error: std::io::Error| format!("the request was not received: {error}");
    client.set_read_timeout(Some(REQUEST_TIME)).map_err(failed)?;
    let mut head = [0; wire::HEAD];
    let arrived = sys::socket::receive(client.as_fd(), &mut head).map_err(|errno| failed(errno.into()))?;
    if arrived.read != head.len() || arrived.cut {
        return Err(format!("expected a request of at least {} bytes, found {}", head.len(), arrived.read));
    }
    let mut bytes = vec![0; wire::head(&head)?];
    let given = Given::try_from(arrived.fds)
        .map_err(|fds| format!("expected {} descriptors, found {}", wire::DESCRIPTORS, fds.len()))?;
    client.read_exact(&mut bytes).map_err(failed)?;
    Ok((wire::arguments(&bytes)?, given))
}

fn take_over([input, output, error, directory]: &Given) -> Result<(), String> {
    fchdir(directory)
        .and_then(|()| dup2_stdin(input))
        .and_then(|()| dup2_stdout(output))
        .and_then(|()| dup2_stderr(error))
        .map_err(|errno| format!("what came with the request cannot be taken over: {}", errno.desc()))
}
