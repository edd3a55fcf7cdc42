//! A snapshot in memory: a sealed file without a name, handed from one process to others.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::manifest::Hash;
use super::opened::Opened;
use super::refusal::Refusal;
use crate::addr::Vaddr;
use crate::error::{Error, ErrorKind};
use crate::sys;

/// What is handed over needs no secret: nobody can change it.
const SECRET: Hash = *b"soload snapshot handed over, 1\0\0";

/// What goes with its descriptor over a socket.
const MESSAGE: &[u8; 16] = b"soload snapshot\0";

const SEALS: SealFlag =
    SealFlag::F_SEAL_WRITE.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// The relocated pages of a library and of all it needs, in memory, for processes that are given them.
///
/// It is a memory file that nobody can change any more, root included. Its descriptor is inherited by a child
/// ([`Snapshot::from_fd`]) or sent over a socket ([`Snapshot::send`]); the other process opens the library with
/// [`crate::OpenOptions::snapshot`]. The addresses travel with it.
///
/// ```
/// # fn main() -> Result<(), soload::Error> {
/// use std::os::fd::AsFd;
/// # if soload::OpenOptions::new().files("libz.so.1").is_err() { return Ok(()) }
/// let snapshot = soload::Snapshot::create("libz.so.1")?;
/// // In the other process, from the descriptor it was given:
/// let snapshot = soload::Snapshot::from_fd(snapshot.as_fd().try_clone_to_owned().unwrap())?;
/// // SAFETY: zlib's constructors are sound.
/// let library = unsafe { soload::OpenOptions::new().snapshot(&snapshot).open("libz.so.1") }?;
/// assert_eq!(library.snapshot(), soload::SnapshotUse::Used { made: false });
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Snapshot(pub(crate) Arc<Opened>);

impl Snapshot {
    /// The snapshot that a descriptor stands for, its seals, header and list of words checked.
    ///
    /// # Errors
    /// [`ErrorKind::Snapshot`]: it is not sealed against every change, or damaged.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        let checked = check(&fd).and_then(|()| {
            let file = File::from(fd);
            let unread = |error| Refusal::snapshot(format_args!("cannot be read: {error}"));
            let len = file.metadata().map_err(unread)?.len();
            Opened::read(file, len, &SECRET)
        });
        checked.map(|opened| Self(Arc::new(opened))).map_err(|refusal| Error::new("snapshot", refusal.kind()))
    }

    /// Sends it over a connected Unix socket, of a stream or of packets: 16 bytes and a descriptor. The other process calls
    /// [`Snapshot::receive`].
    ///
    /// ```
    /// # if soload::OpenOptions::new().files("libz.so.1").is_err() { return }
    /// use std::os::unix::net::UnixStream;
    /// let (parent, worker) = UnixStream::pair().unwrap();
    /// let snapshot = soload::Snapshot::create("libz.so.1").unwrap();
    /// snapshot.send(&parent).unwrap();
    /// // In the worker, which was started with the other end:
    /// let received = soload::Snapshot::receive(&worker).unwrap();
    /// // SAFETY: zlib's constructors are sound.
    /// let library = unsafe { soload::OpenOptions::new().snapshot(&received).open("libz.so.1") }.unwrap();
    /// assert_eq!(library.snapshot(), soload::SnapshotUse::Used { made: false });
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::System`]: `socket` is no such socket, nobody is at its other end any more, or it does not wait (`EAGAIN`).
    pub fn send(&self, socket: impl AsFd) -> Result<(), Error> {
        sys::socket::send(socket.as_fd(), MESSAGE, &[self.as_fd()])
            .map_err(|errno| Error::new("snapshot", ErrorKind::System { call: "sendmsg", errno: errno as i32 }))
    }

    /// Receives one that another process sends by [`Snapshot::send`], and checks it as [`Snapshot::from_fd`] does. What was
    /// sent after it is left on the socket.
    ///
    /// Waits for it as long as the socket does: forever, unless a time was set, as by
    /// [`UnixStream::set_read_timeout`](std::os::unix::net::UnixStream::set_read_timeout). Whoever can send a snapshot decides
    /// what this process runs: know who is at the other end (`SO_PEERCRED`), or have made the socket yourself.
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// let (hostile, worker) = UnixStream::pair().unwrap();
    /// drop(hostile);
    /// let error = soload::Snapshot::receive(&worker).unwrap_err();
    /// assert_eq!(error.to_string(), "snapshot: snapshot refused: expected a message of 16 bytes, found the end of the stream");
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Snapshot`]: what has come is no such message, or no such descriptor; all descriptors that came with it
    /// are closed. [`ErrorKind::System`]: nothing can be received from `socket`, or nothing has come in time (`EAGAIN`).
    pub fn receive(socket: impl AsFd) -> Result<Self, Error> {
        let mut message = [0; MESSAGE.len()];
        let arrived = sys::socket::receive(socket.as_fd(), &mut message)
            .map_err(|errno| Error::new("snapshot", ErrorKind::System { call: "recvmsg", errno: errno as i32 }))?;
        let refused = |why: String| Err(Error::new("snapshot", Refusal::Snapshot(why).kind()));
        let (read, count) = (arrived.read, arrived.fds.len());
        let found = match read {
            0 => "the end of the stream".into(),
            _ if arrived.cut => "more than that".into(),
            read if read < message.len() => format!("{read}"),
            _ if message != *MESSAGE => "others".into(),
            _ => String::new(),
        };
        if !found.is_empty() {
            return refused(format!("expected a message of {} bytes, found {found}", message.len()));
        }
        match <[OwnedFd; 1]>::try_from(arrived.fds) {
            Ok([fd]) => Self::from_fd(fd),
            Err(_) => refused(format!("expected a message with 1 descriptor, found {count}")),
        }
    }

    /// Seals `bytes` in memory.
    pub(crate) fn seal(bytes: &[u8]) -> Result<Self, ErrorKind> {
        let failed = |call| move |errno: nix::Error| ErrorKind::System { call, errno: errno as i32 };
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        // Where the kernel knows that no file in memory need be executable, it is told so.
        let never_executed = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
        let made = memfd_create(c"soload-snapshot", flags | never_executed);
        let fd = made.or_else(|_| memfd_create(c"soload-snapshot", flags)).map_err(failed("memfd_create"))?;
        let mut file = File::from(fd);
        file.write_all(bytes).map_err(|error| ErrorKind::System {
            call: "write of a snapshot",
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS)).map_err(failed("fcntl(F_ADD_SEALS)"))?;
        let opened = Opened::read(file, bytes.len() as u64, &SECRET).map_err(Refusal::kind)?;
        Ok(Self(Arc::new(opened)))
    }

    /// What snapshots in memory are sealed with.
    pub(crate) fn secret() -> Hash {
        SECRET
    }

    /// The files of the libraries that it has pages of.
    ///
    /// ```
    /// # if soload::OpenOptions::new().files("libz.so.1").is_err() { return }
    /// let snapshot = soload::Snapshot::create("libz.so.1").unwrap();
    /// assert_eq!(snapshot.libraries().len(), 1);
    /// ```
    #[must_use]
    pub fn libraries(&self) -> Vec<PathBuf> {
        self.0.libraries()
    }

    /// The pages of `library`, by the addresses in its file, that each process writes itself while it loads: words on them
    /// refer to the host, to thread-local storage, or to what an IFUNC resolver answers. All its other pages are shared
    /// until the library's own code writes to them. What its calls of the host go through, if that is not on these pages,
    /// takes a few pages for all libraries together.
    ///
    /// ```
    /// # if soload::OpenOptions::new().files("libz.so.1").is_err() { return }
    /// let snapshot = soload::Snapshot::create("libz.so.1").unwrap();
    /// let library = &snapshot.libraries()[0];
    /// let pages = snapshot.written_pages(library);
    /// assert!(pages.iter().all(|page| page.0 % soload::PageSize::native().bytes() == 0));
    /// ```
    #[must_use]
    pub fn written_pages(&self, library: &Path) -> Vec<Vaddr> {
        self.remaining(library).map_or_else(Vec::new, |remaining| remaining.written.into_keys().collect())
    }

    /// Bytes of memory that it takes, once for all who use it.
    ///
    /// ```
    /// # if soload::OpenOptions::new().files("libz.so.1").is_err() { return }
    /// assert!(soload::Snapshot::create("libz.so.1").unwrap().bytes() >= 8192);
    /// ```
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.header.len
    }

    /// Hashes all pages, and compares with what the snapshot states.
    ///
    /// ```
    /// # if soload::OpenOptions::new().files("libz.so.1").is_err() { return }
    /// assert!(soload::Snapshot::create("libz.so.1").unwrap().verify().is_ok());
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Snapshot`]: they differ.
    pub fn verify(&self) -> Result<(), Error> {
        self.0.verify_pages().map_err(|refusal| Error::new("snapshot", refusal.kind()))
    }
}

fn check(fd: &OwnedFd) -> Result<(), Refusal> {
    if sys::is_privileged() {
        return Err(Refusal::Privileged);
    }
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    match seals {
        Ok(seals) if seals.contains(SEALS) => Ok(()),
        Ok(_) => Err(Refusal::snapshot("expected a memory file that is sealed against writing and resizing")),
        Err(_) => Err(Refusal::snapshot("expected a sealed memory file, found another kind of file")),
    }
}

impl AsFd for Snapshot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("libraries", &self.libraries()).finish_non_exhaustive()
    }
}
