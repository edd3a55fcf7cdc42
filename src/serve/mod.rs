//! A fork server: one process opens libraries, and each request is done by a fork of it, which has them already.
//!
//! The server does nothing but wait: it accepts a connection, forks, and tells the client how the worker ended. The request
//! is read by the worker, so that whoever sends half of one, or none, waits with a worker of their own, for some seconds.

mod wire;
mod worker;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};

use crate::error::{Error, ErrorKind};
use crate::sys;
use worker::Worker;

const WORKERS: usize = 64;
const WORKERS_MAX: usize = 4096;
/// Clients that wait while there are as many workers as there may be.
const BACKLOG: i32 = 128;

/// A process that forks a worker for each request: the worker has all libraries that the process has opened, their
/// constructors have run, and it shares all their pages until it writes to them.
///
/// A worker begins with the client's standard input, output and error, in the client's directory, and in a session of its
/// own; its environment and everything else is the server's. It ends with its work: what is to run at exit does not run in it
/// (`_exit`), but what it has printed is written. It is killed when its time is over; it is asked to end (`SIGTERM`, and killed
/// two seconds later) when its client is gone, or the server stops; and it dies with the server.
///
/// Only processes of the same user, or root, are served, and only such a server is asked. Whoever may ask has the worker do
/// what the server's author lets them: give it no more rights than its clients have.
///
/// The server must have one thread when it forks: a lock that another one held would never be free in the worker. Open
/// libraries whose constructors start threads in the worker instead. All workers of a server have the same addresses: who
/// learns one there knows it in the others.
///
/// ```
/// use soload::Server;
/// # fn main() -> Result<(), soload::Error> {
/// # if soload::OpenOptions::new().files("libz.so.1").is_err() { return Ok(()) }
/// let path = std::env::temp_dir().join(format!("soload-doc-serve-{}", std::process::id()));
/// // SAFETY: zlib's constructors are sound.
/// let library = unsafe { soload::Library::new("libz.so.1") }?;
/// let mut server = Server::bind(&path)?;
/// # let (stop, stopper) = std::io::pipe().unwrap();
/// # // SAFETY: this process has one thread.
/// # let client = unsafe { libc::fork() };
/// # if client == 0 {
/// // Another process asks:
/// let status = Server::request(&path, &["soload"])?;
/// assert_eq!(status.code(), Some(81));
/// # std::process::exit(0);
/// # }
/// # drop(stopper);
/// # server.until(stop.into());
/// // Runs until it is stopped; the closure runs in the workers.
/// server.run(|arguments| {
///     let text = arguments[0].as_encoded_bytes();
///     // SAFETY: the type is that of zlib.h.
///     let crc32 = unsafe { library.get::<extern "C" fn(u64, *const u8, u32) -> u64>("crc32") }.unwrap();
///     crc32(0, text.as_ptr(), text.len() as u32) as u8
/// })?;
/// assert!(!path.exists());
/// # let mut status = 1;
/// # // SAFETY: a number of this process.
/// # assert_eq!((unsafe { libc::waitpid(client, &raw mut status, 0) }, status), (client, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    bound: Bound,
    workers: usize,
    time: Option<Duration>,
    stop: Option<OwnedFd>,
}

/// A socket with a name, which goes with it.
#[derive(Debug)]
struct Bound {
    listener: UnixListener,
    path: PathBuf,
    /// Whose it is: workers have a copy of this.
    owner: u32,
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn failed<E: Into<io::Error>>(path: &Path, call: &'static str) -> impl Fn(E) -> Error {
    move |error| {
        let errno = error.into().raw_os_error().unwrap_or(libc::EIO);
        Error::new(path, ErrorKind::System { call, errno })
    }
}

fn refused(path: &Path, what: impl Into<String>) -> Error {
    Error::new(path, ErrorKind::Server { what: what.into() })
}

impl Server {
    /// A server that will listen at `path`, a socket that only this user can connect to. What a server that was killed has
    /// left there is replaced. The socket is removed when the server stops or is dropped.
    ///
    /// See [`Server`] for an example.
    ///
    /// # Errors
    /// [`ErrorKind::Server`]: another server listens there, or there is something that is no socket. [`ErrorKind::System`]:
    /// it cannot be made, such as in a directory that is not there.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, Error> {
        // Workers may change their directory, and so may the process.
        let path = std::path::absolute(path.as_ref()).map_err(failed(path.as_ref(), "getcwd"))?;
        let address = UnixAddr::new(&path).map_err(failed(&path, "bind (sun_path)"))?;
        // Of two that begin at once, one waits until the other listens.
        let _only_we = only_we(&path)?;
        match fs::symlink_metadata(&path) {
            Err(_) => {}
            Ok(there) if !there.file_type().is_socket() => {
                return Err(refused(&path, "expected a socket or nothing, found another kind of file"));
            }
            Ok(_) => match UnixStream::connect(&path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(&path).map_err(failed(&path, "unlink"))?;
                }
                _ => return Err(refused(&path, "another server listens there")),
            },
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed(&path, "socket"))?;
        // The name gets the permissions of the socket: there is no moment at which others could connect.
        fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed(&path, "fchmod"))?;
        let listener = UnixListener::from(fd);
        bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &address).map_err(failed(&path, "bind"))?;
        let bound = Bound { listener, path, owner: std::process::id() };
        let backlog = Backlog::new(BACKLOG).map_err(failed(&bound.path, "listen"))?;
        listen(&bound.listener, backlog).map_err(failed(&bound.path, "listen"))?;
        Ok(Self { bound, workers: WORKERS, time: None, stop: None })
    }

    /// Where it listens: an absolute path.
    ///
    /// ```
    /// let path = std::env::temp_dir().join(format!("soload-doc-path-{}", std::process::id()));
    /// assert_eq!(soload::Server::bind(&path)?.path(), path);
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.bound.path
    }

    /// How many workers there may be at once: 64, unless this is called; from 1 to 4096. Further clients wait.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("soload-doc-workers-{}", std::process::id()));
    /// soload::Server::bind(&path)?.workers(4).time(std::time::Duration::from_secs(60));
    /// # Ok::<(), soload::Error>(())
    /// ```
    pub fn workers(&mut self, most: usize) -> &mut Self {
        self.workers = most.clamp(1, WORKERS_MAX);
        self
    }

    /// How long a worker may take, its request included: as long as it wants, unless this is called.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("soload-doc-time-{}", std::process::id()));
    /// soload::Server::bind(&path)?.time(std::time::Duration::from_millis(500));
    /// # Ok::<(), soload::Error>(())
    /// ```
    pub fn time(&mut self, most: Duration) -> &mut Self {
        self.time = Some(most);
        self
    }

    /// Stops when `readable` is, or when its other end is closed: a pipe, or a `signalfd`.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("soload-doc-until-{}", std::process::id()));
    /// let (stop, other_end) = std::io::pipe().unwrap();
    /// let mut server = soload::Server::bind(&path)?;
    /// server.until(stop.into());
    /// drop(other_end);
    /// server.run(|_| 0)?;
    /// assert!(!path.exists());
    /// # Ok::<(), soload::Error>(())
    /// ```
    pub fn until(&mut self, readable: OwnedFd) -> &mut Self {
        self.stop = Some(readable);
        self
    }

    /// Serves until it is stopped ([`Server::until`]). `work` runs in the workers: it is given the arguments of the request,
    /// and answers what the worker exits with. Panics end a worker with 101.
    ///
    /// See [`Server`] for an example.
    ///
    /// # Errors
    /// [`ErrorKind::Server`]: the process has more than one thread. [`ErrorKind::System`]: the system has no such thing as
    /// it needs (Linux 5.3), or nothing of it left.
    pub fn run(self, work: impl FnMut(&[OsString]) -> u8) -> Result<(), Error> {
        let Self { bound, workers: most, time, stop } = self;
        let path = bound.path.clone();
        single(&path)?;
        sys::fork::descriptor_of(nix::unistd::Pid::this()).map_err(failed(&path, "pidfd_open"))?;
        let mut all: Vec<Worker> = Vec::new();
        let mut stopping = false;
        // No descriptor is left for a client: the next one is accepted when a worker has ended.
        let mut short = false;
        while !(stopping && all.is_empty()) {
            let accepting = !stopping && !short && all.len() < most;
            let ready = wait(&bound.listener, accepting, stop.as_ref().filter(|_| !stopping), &all)
                .map_err(failed(&path, "poll"))?;
            let now = Instant::now();
            let mut at = 0;
            all.retain_mut(|worker| {
                let seen = ready.workers[at];
                at += 1;
                if seen.ended && worker.has_ended() {
                    short = false;
                    return false;
                }
                if seen.left {
                    worker.client = None;
                    worker.ask_to_end("the client has gone");
                }
                worker.check_time(now);
                true
            });
            if ready.stop {
                stopping = true;
                all.iter_mut().for_each(|worker| worker.ask_to_end("the server was stopped"));
            } else if ready.connection {
                let client = match bound.listener.accept() {
                    Ok((client, _)) => client,
                    Err(error) => match error.raw_os_error() {
                        Some(libc::EAGAIN | libc::EINTR | libc::ECONNABORTED) => continue,
                        Some(libc::EMFILE | libc::ENFILE) if !all.is_empty() => {
                            short = true;
                            continue;
                        }
                        _ => return Err(failed(&path, "accept")(error)),
                    },
                };
                let started = same_user(&client).and_then(|()| {
                    single(&path).map_err(|error| error.kind().to_string())?;
                    Worker::fork(&client, time).map_err(|errno| format!("no worker can be made: {}", errno.desc()))
                });
                match started {
                    Ok(Some(worker)) => all.push(worker),
                    Ok(None) => {
                        // Other clients see that the server is gone when it is, whatever becomes of this worker.
                        drop((all, stop, bound));
                        worker::work(client, work)
                    }
                    Err(reason) => {
                        let _ = sys::socket::send(client.as_fd(), &wire::refused(&reason), &[]);
                    }
                }
            }
        }
        Ok(())
    }

    /// Has the server at `path` do something: its worker gets `arguments`, a mebibyte at most, with this process's standard
    /// input, output, error and current directory. Waits until it has ended, and answers how.
    ///
    /// See [`Server`] for an example.
    ///
    /// # Errors
    /// [`ErrorKind::Server`]: the server is another user's, or it says why there is no answer. [`ErrorKind::System`]: there is
    /// none.
    pub fn request<S: AsRef<OsStr>>(path: impl AsRef<Path>, arguments: &[S]) -> Result<ExitStatus, Error> {
        let path = path.as_ref();
        let request = wire::request(arguments).ok_or_else(|| {
            let most = wire::ARGUMENTS_MAX;
            refused(path, format!("arguments: expected at most {most} bytes, and no NUL among them"))
        })?;
        let mut server = UnixStream::connect(path).map_err(failed(path, "connect"))?;
        same_user(&server).map_err(|reason| refused(path, reason))?;
        let directory = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(".");
        let directory = directory.map_err(failed(path, "open of the current directory"))?;
        let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
        let given = [input.as_fd(), output.as_fd(), error.as_fd(), directory.as_fd()];
        let sent = sys::socket::send(server.as_fd(), &request, &given);
        // A server that refuses may not have read it all.
        sent.or_else(|errno| if errno == Errno::EPIPE { Ok(()) } else { Err(errno) })
            .map_err(failed(path, "sendmsg"))?;
        let gone = |_| refused(path, "the server has ended without an answer");
        let mut head = [0; wire::ANSWER];
        server.read_exact(&mut head).map_err(gone)?;
        match wire::answer(head) {
            Some(wire::Answer::Ended(status)) => Ok(ExitStatus::from_raw(status)),
            Some(wire::Answer::Refused(len)) => {
                let mut reason = vec![0; len];
                server.read_exact(&mut reason).map_err(gone)?;
                Err(refused(path, String::from_utf8_lossy(&reason)))
            }
            None => Err(refused(path, "expected an answer, found other bytes: it is no server of soload")),
        }
    }
}

/// The directory of a socket, locked against whoever else would make one there. Others can lock it too, and for ever: so it
/// is tried for a second.
fn only_we(path: &Path) -> Result<Flock<File>, Error> {
    let mut directory = File::open(path.parent().unwrap_or(path)).map_err(failed(path, "open of the directory"))?;
    let end = Instant::now() + Duration::from_secs(1);
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EAGAIN | Errno::EINTR)) if Instant::now() < end => directory = again,
            Err((_, errno)) => return Err(failed(path, "flock of the directory")(errno)),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What there is to do.
struct Ready {
    stop: bool,
    connection: bool,
    workers: Vec<Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    ended: bool,
    /// Its client has gone.
    left: bool,
}

/// Waits for a connection if `accepting`, for the end, and for what becomes of the workers and their clients.
fn wait(listener: &UnixListener, accepting: bool, stop: Option<&OwnedFd>, workers: &[Worker]) -> nix::Result<Ready> {
    fn look(fd: BorrowedFd<'_>, events: PollFlags) -> PollFd<'_> {
        PollFd::new(fd, events)
    }
    let (readable, nothing) = (PollFlags::POLLIN, PollFlags::empty());
    let mut all = Vec::with_capacity(2 + 2 * workers.len());
    // Of who is not looked at, the listener stands for: nothing is asked of it.
    all.push(look(listener.as_fd(), if accepting { readable } else { nothing }));
    all.push(stop.map_or(look(listener.as_fd(), nothing), |stop| look(stop.as_fd(), readable)));
    for worker in workers {
        all.push(look(worker.end.as_fd(), readable));
        // That the other end was closed is told without being asked for.
        all.push(look(worker.client.as_ref().map_or(listener.as_fd(), AsFd::as_fd), nothing));
    }
    let next = workers.iter().filter_map(|worker| worker.until).min();
    let time = match next {
        None => PollTimeout::NONE,
        // Rounded up, so as not to wake too early.
        Some(next) => {
            let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
    };
    match poll(&mut all, time) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
    }
    let is_ready = |at: usize| all[at].revents().is_some_and(|events| !events.is_empty());
    let seen = workers.iter().enumerate();
    let seen = seen.map(|(index, worker)| Seen {
        ended: is_ready(2 + 2 * index),
        left: worker.client.is_some() && is_ready(3 + 2 * index),
    });
    Ok(Ready { stop: stop.is_some() && is_ready(1), connection: accepting && is_ready(0), workers: seen.collect() })
}

fn single(path: &Path) -> Result<(), Error> {
    match sys::fork::threads().map_err(failed(path, "reading /proc/self/task"))? {
        1 => Ok(()),
        count => {
            Err(refused(path, format!("expected a process of one thread, found {count}: a fork has only one of them")))
        }
    }
}

fn same_user(other: &UnixStream) -> Result<(), String> {
    let own = sys::effective_user();
    let peer = getsockopt(other, sockopt::PeerCredentials).map_err(|errno| format!("SO_PEERCRED: {}", errno.desc()))?;
    match peer.uid() {
        uid if uid == own || uid == 0 => Ok(()),
        uid => Err(format!("user of the other end: expected {own}, found {uid}")),
    }
}
