//! The system calls soload rests on, typed: files opened and mapped, addresses reserved, protected and given back.
//!
//! # Safety
//! What is mapped here is new, at an address that the kernel chooses, so no call can change memory of the rest of the program;
//! what lies at certain addresses is mapped in [`room`].

mod below;
pub(crate) mod fault;
#[cfg(feature = "serve")]
pub(crate) mod fork;
mod own;
mod room;
#[cfg(any(feature = "snapshots", feature = "serve"))]
pub(crate) mod socket;

use std::any::Any;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ops::{Deref, Range};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::stat::Mode;

use crate::error::ErrorKind;

#[cfg(feature = "snapshots")]
pub(crate) use below::Directory;
pub(crate) use below::{open_directory, place_below};
#[cfg(any(feature = "snapshots", feature = "serve"))]
pub(crate) use own::effective_user;
pub(crate) use own::{Zeros, auxiliary, auxiliary_str, c_library_release, page_size, release};
#[cfg(feature = "snapshots")]
pub(crate) use own::{is_privileged, random};
use room::Map;
pub(crate) use room::{Laid, Piece, Reservation, Room, Shown};

/// Which file it is, whatever it is called: two equal identities are one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// When a file was changed last: its content, and anything of it. Seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) content: (i64, i64),
    pub(crate) anything: (i64, i64),
}

/// Which file, its size, and when it was changed: what tells it from others, and from itself as it was.
pub(crate) type Stamp = (Identity, u64, Changed);

/// What is at `path`, if there is anything.
pub(crate) fn stamp(path: &Path) -> Option<Stamp> {
    nix::sys::stat::stat(path).ok().as_ref().map(stamp_of)
}

fn stamp_of(stat: &libc::stat) -> Stamp {
    let (content, anything) = ((stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec));
    let identity = Identity { device: stat.st_dev, inode: stat.st_ino };
    (identity, stat.st_size as u64, Changed { content, anything })
}

/// A regular file, open for reading.
#[derive(Debug)]
pub(crate) struct RegularFile {
    pub(crate) fd: OwnedFd,
    pub(crate) identity: Identity,
    pub(crate) size: u64,
    /// Its permissions (`st_mode`).
    pub(crate) mode: u32,
    /// Whether a lease has been taken, so that writers wait.
    pub(crate) leased: bool,
    /// Whether what is read of it shall come in blocks of 2 MiB.
    pub(crate) huge: bool,
    pub(crate) changed: Changed,
}

impl RegularFile {
    /// Opens `path` without ever waiting for it: whatever is not a regular file is refused, by its type.
    pub(crate) fn open(path: &Path) -> Result<Self, ErrorKind> {
        let opened = fault::point("open").and_then(|()| nix::fcntl::open(path, QUIETLY, Mode::empty()));
        Self::of(path, opened)
    }

    fn of(path: &Path, opened: nix::Result<OwnedFd>) -> Result<Self, ErrorKind> {
        let fd = opened.map_err(|errno| match errno {
            // A socket cannot be opened at all; say what it is instead of ENXIO.
            Errno::ENXIO => std::fs::metadata(path)
                .ok()
                .and_then(|meta| not_regular(meta.mode()))
                .map_or(ErrorKind::Open { errno: errno as i32 }, |found| ErrorKind::NotMappable { found }),
            Errno::EINVAL if path.as_os_str().as_bytes().contains(&0) => ErrorKind::NulInName,
            errno => ErrorKind::Open { errno: errno as i32 },
        })?;
        let stat = nix::sys::stat::fstat(&fd).map_err(|errno| ErrorKind::Open { errno: errno as i32 })?;
        if let Some(found) = not_regular(stat.st_mode) {
            return Err(ErrorKind::NotMappable { found });
        }
        let (identity, size, changed) = stamp_of(&stat);
        Ok(Self { fd, identity, size, mode: stat.st_mode, leased: false, huge: false, changed })
    }

    /// At most `len` bytes of the file from `offset` on: fewer where it ends.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, ErrorKind> {
        let rest = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(len.min(rest));
        let read = self.fill(offset, &mut bytes.spare_capacity_mut()[..len.min(rest)])?;
        // SAFETY: so many of them have been written.
        unsafe { bytes.set_len(read) };
        Ok(bytes)
    }

    /// Fills `bytes` from `offset` on, or as much of it as the file has; answers how much.
    pub(crate) fn read_into(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, ErrorKind> {
        // SAFETY: the same bytes; `fill` writes nothing else than bytes.
        self.fill(offset, unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) })
    }

    fn fill(&self, offset: u64, room: &mut [MaybeUninit<u8>]) -> Result<usize, ErrorKind> {
        let mut done = 0;
        while done < room.len() {
            let at = offset.checked_add(done as u64).and_then(|at| libc::off_t::try_from(at).ok());
            let (rest, fd) = (&mut room[done..], self.fd.as_raw_fd());
            let read = fault::point("pread").and(at.ok_or(Errno::EOVERFLOW)).and_then(|at| {
                // SAFETY: the kernel writes to `rest` alone.
                Errno::result(unsafe { libc::pread(fd, rest.as_mut_ptr().cast(), rest.len(), at) })
            });
            match read {
                Ok(0) => break,
                Ok(count) => done += count as usize,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(ErrorKind::System { call: "pread", errno: errno as i32 }),
            }
            if done as u64 + offset >= self.size {
                break;
            }
        }
        Ok(done)
    }

    /// The whole file, mapped read-only; reading it copies nothing.
    pub(crate) fn map(&self) -> Result<Bytes, ErrorKind> {
        let Some(len) = usize::try_from(self.size).ok().and_then(NonZeroUsize::new) else {
            return Ok(Bytes::from_static(&[]));
        };
        fault::point("mmap")
            // SAFETY: a new mapping at an address the kernel chooses touches no memory of the program.
            .and_then(|()| unsafe { mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, &self.fd, 0) })
            .map(|start| {
                if self.huge {
                    // SAFETY: the mapping that has just been made; advice changes nothing that can be read.
                    unsafe { libc::madvise(start.as_ptr(), len.get(), libc::MADV_HUGEPAGE) };
                }
                let map = Map { start, len };
                // SAFETY: the range is mapped readable until `map`, its owner, is dropped. The kernel keeps a private
                // file mapping readable; a file truncated by somebody else meanwhile is outside what can be promised.
                unsafe { Bytes::new(start.cast(), len.get(), Arc::new(map)) }
            })
            .map_err(|errno| ErrorKind::NoRoom { bytes: self.size, errno: errno as i32 })
    }
}

/// How files are opened to be read. `O_NONBLOCK`: a FIFO without a writer would otherwise block right there, before its
/// type is known.
const QUIETLY: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// What a file of that `st_mode` is, unless it is a regular one.
fn not_regular(mode: u32) -> Option<&'static str> {
    Some(match mode & libc::S_IFMT {
        libc::S_IFREG => return None,
        libc::S_IFDIR => "a directory",
        libc::S_IFIFO => "a FIFO",
        libc::S_IFSOCK => "a socket",
        libc::S_IFCHR => "a character device (a terminal or the like)",
        libc::S_IFBLK => "a block device",
        _ => "something else",
    })
}

/// Bytes that do not move or change while they are held, shared with whoever keeps them mapped.
#[derive(Clone)]
pub(crate) struct Bytes {
    start: NonNull<u8>,
    len: usize,
    /// None has what is there for good, or what somebody else keeps.
    owner: Option<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: `Bytes` is a shared, read-only view; `Bytes::new` demands that its memory stays readable on any thread.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// # Safety
    /// `start..start + len` stays readable, and is not written, until `owner` is dropped.
    pub(crate) unsafe fn new(start: NonNull<u8>, len: usize, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { start, len, owner: Some(owner) }
    }

    /// # Safety
    /// `start..start + len` stays readable, and is not written, for as long as what it becomes is used.
    pub(crate) unsafe fn lent(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len, owner: None }
    }

    pub(crate) fn from_static(bytes: &'static [u8]) -> Self {
        Self { start: NonNull::from(bytes).cast(), len: bytes.len(), owner: None }
    }

    /// A part of them, if it is one.
    pub(crate) fn slice(&self, range: Range<u64>) -> Option<Self> {
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        let part = self.get(start..end)?;
        Some(Self { start: NonNull::from(part).cast(), len: part.len(), owner: self.owner.clone() })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `Bytes::new`'s caller guarantees the range for as long as `owner`, which we hold, lives; the caller of
        // `Bytes::lent` for as long as anybody asks.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let owner: Arc<Vec<u8>> = Arc::new(bytes);
        // SAFETY: a `Vec` behind an `Arc` that nobody else has neither moves its bytes nor changes them.
        unsafe { Self::new(NonNull::from(owner.as_slice()).cast(), owner.len(), owner) }
    }
}
