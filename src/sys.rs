//! The system calls soload rests on, typed: files opened and mapped, addresses reserved, protected and given back.
//!
//! # Safety
//! This module owns every mapping that soload creates. A [`Reservation`] is a range of addresses that nobody else
//! uses; all other mappings are made inside one, or behind it where the kernel finds nothing, so no call here can change
//! memory of the rest of the program.

mod below;
pub(crate) mod fault;
#[cfg(feature = "serve")]
pub(crate) mod fork;
mod huge;
mod own;
#[cfg(any(feature = "snapshots", feature = "serve"))]
pub(crate) mod socket;

use std::any::Any;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use nix::sys::stat::Mode;

use crate::addr::{Addr, PageSize, Protection};
use crate::error::ErrorKind;

pub(crate) use below::{open_directory, place_below};
#[cfg(any(feature = "snapshots", feature = "serve"))]
pub(crate) use own::effective_user;
#[cfg(feature = "snapshots")]
pub(crate) use own::{Scratch, is_privileged, random};
pub(crate) use own::{auxiliary, auxiliary_str, page_size, populate};

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
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(ErrorKind::NulInName);
        }
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
            errno => ErrorKind::Open { errno: errno as i32 },
        })?;
        let stat = nix::sys::stat::fstat(&fd).map_err(|errno| ErrorKind::Open { errno: errno as i32 })?;
        if let Some(found) = not_regular(stat.st_mode) {
            return Err(ErrorKind::NotMappable { found });
        }
        let (content, anything) = ((stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec));
        Ok(Self {
            fd,
            identity: Identity { device: stat.st_dev, inode: stat.st_ino },
            size: stat.st_size as u64,
            mode: stat.st_mode,
            leased: false,
            huge: false,
            changed: Changed { content, anything },
        })
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

    /// Shows the file, read-only, in the first of `len` bytes of address space, at a multiple of `align`. If it has a home,
    /// and that is free, it is shown there, and only so much of it: the room grows when the rest is mapped. Elsewhere it lies
    /// so that a huge page fits into `data`, if such a place can be had.
    pub(crate) fn show(
        &self,
        len: u64,
        align: PageSize,
        home: Option<(Addr, u64)>,
        data: Option<Range<u64>>,
    ) -> Result<Shown, ErrorKind> {
        let is_aligned = |at: &Addr| align.offset(at.0 as u64) == 0;
        let show = |at: Option<NonZeroUsize>, len: u64| {
            let len = usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or(Errno::ENOMEM)?;
            let flags = if at.is_some() { MapFlags::MAP_FIXED_NOREPLACE } else { MapFlags::empty() };
            // SAFETY: a new mapping at an address that the kernel chooses, or where nothing is, touches no memory of the
            // program.
            let start = unsafe { mmap(at, len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE | flags, &self.fd, 0) }?;
            Ok(Reservation { map: Map { start, len } })
        };
        let at = |(at, len): (Addr, u64)| is_aligned(&at).then(|| show(Some(NonZeroUsize::new(at.0)?), len).ok())?;
        let elsewhere = || {
            let shown = show(None, len)?;
            let better = data.and_then(|data| huge::better_start(shown.start(), len, &data));
            Ok(better.and_then(|better| at((better, len))).unwrap_or(shown))
        };
        let shown = fault::point("mmap").and_then(|()| home.and_then(at).map_or_else(elsewhere, Ok));
        let mut room = shown.map_err(|errno: Errno| ErrorKind::NoRoom { bytes: len, errno: errno as i32 })?;
        // The kernel puts large files where huge pages fit: mostly that is enough.
        if !is_aligned(&room.start()) {
            drop(room);
            room = Reservation::new(len, align)?;
            room.map_file(0, len, Protection::READ, &self.fd, 0, false)?;
        }
        let from_file = usize::try_from(self.size).unwrap_or(usize::MAX).min(room.len());
        Ok(Shown { room: Arc::new(room), from_file })
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

/// A file shown where an object is going to be mapped: an object whose first segment begins with the file is read there,
/// and that segment is mapped already.
pub(crate) struct Shown {
    room: Arc<Reservation>,
    /// How many of its bytes are the file's. Those behind must not be touched.
    from_file: usize,
}

impl Shown {
    /// The file's bytes, as far as there is room for them.
    pub(crate) fn bytes(&self) -> Bytes {
        let owner: Arc<Reservation> = Arc::clone(&self.room);
        // SAFETY: that much of the file is mapped readable. Nothing else is mapped there until `into_room`, which
        // nobody gets who has not let go of these bytes.
        unsafe { Bytes::new(self.room.map.start.cast(), self.from_file, owner) }
    }

    /// The room, for the other segments to be mapped into; `None` as long as somebody holds bytes of it.
    pub(crate) fn into_room(self) -> Option<Reservation> {
        Arc::into_inner(self.room)
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

/// A mapping that is given back when dropped.
struct Map {
    start: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: it is a range of addresses; only `Drop` acts on it.
unsafe impl Send for Map {}
// SAFETY: as above; nothing can be done through a shared reference.
unsafe impl Sync for Map {}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by us and its owner is going away. Failure (a split at the limit of mappings)
        // would only leave it mapped.
        let _ = unsafe { munmap(self.start, self.len.get()) };
    }
}

/// A range of addresses that belongs to one object: whatever is mapped inside goes away with it.
pub(crate) struct Reservation {
    map: Map,
}

impl Reservation {
    /// Reserves `len` bytes of address space, inaccessible, at a multiple of `align`.
    pub(crate) fn new(len: u64, align: PageSize) -> Result<Self, ErrorKind> {
        let page = page_size();
        // Over-reserve so that an aligned start lies inside, then give the rest back.
        let slack = align.bytes().saturating_sub(page.bytes());
        let no_room = |errno: Errno| ErrorKind::NoRoom { bytes: len, errno: errno as i32 };
        let total = len.checked_add(slack).and_then(|total| usize::try_from(total).ok()).and_then(NonZeroUsize::new);
        let total = total.ok_or(no_room(Errno::ENOMEM))?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        let start = fault::point("mmap")
            // SAFETY: a new mapping at an address the kernel chooses touches no memory of the program.
            .and_then(|()| unsafe { mmap_anonymous(None, total, ProtFlags::PROT_NONE, flags) })
            .map_err(no_room)?;
        let mut map = Map { start, len: total };
        if slack > 0 {
            let first = start.as_ptr() as usize;
            let aligned = align.up(first as u64).map_or(first, |up| up as usize);
            map.keep(aligned - first, len as usize);
        }
        Ok(Self { map })
    }

    /// Reserves exactly the `len` bytes from `start` on. That something else is there already is an error.
    pub(crate) fn at(start: Addr, len: u64) -> Result<Self, ErrorKind> {
        let taken = |errno: Errno| ErrorKind::System { call: "mmap at the session's address", errno: errno as i32 };
        let len = usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or(taken(Errno::EINVAL))?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED_NOREPLACE;
        let got = fault::point("mmap")
            // SAFETY: the kernel refuses to replace a mapping; one made before Linux 4.17 takes the address for a hint.
            .and_then(|()| unsafe { mmap_anonymous(NonZeroUsize::new(start.0), len, ProtFlags::PROT_NONE, flags) })
            .map_err(taken)?;
        let map = Map { start: got, len };
        if got.as_ptr() as usize == start.0 { Ok(Self { map }) } else { Err(taken(Errno::EEXIST)) }
    }

    /// Moves what is mapped in it to the addresses from `start` on, and with it the pages that have been faulted in.
    pub(crate) fn moved_to(self, start: Addr) -> Result<Self, ErrorKind> {
        let there = Self::at(start, self.len() as u64)?;
        let (from, len) = (self.map.start.as_ptr(), self.len());
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let moved = fault::point("mremap").and_then(|()| {
            // SAFETY: both ranges are ours; nobody has been handed an address in either.
            let moved = unsafe { libc::mremap(from, len, len, flags, there.map.start.as_ptr()) };
            if moved == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
        });
        moved.map_err(|errno| refused("mremap to the session's address", len as u64, errno))?;
        // Nothing is left there to be given back: another thread may have it already.
        std::mem::forget(self);
        Ok(there)
    }

    pub(crate) fn start(&self) -> Addr {
        Addr(self.map.start.as_ptr() as usize)
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len.get()
    }

    pub(crate) fn contains(&self, addr: Addr) -> bool {
        addr.0.wrapping_sub(self.start().0) < self.len()
    }

    /// Maps `len` bytes of a file from `from` at `offset` into the reservation, privately: a write copies the page. `copy`: all
    /// pages of it are copied at once, as writing to each would do.
    pub(crate) fn map_file(
        &mut self,
        offset: u64,
        len: u64,
        protection: Protection,
        file: &impl AsFd,
        from: u64,
        copy: bool,
    ) -> Result<(), ErrorKind> {
        let populated = if copy { MapFlags::MAP_POPULATE } else { MapFlags::empty() };
        self.map_with(offset, len, "mmap of a segment", |at, size, flags| {
            let flags = MapFlags::MAP_PRIVATE | flags | populated;
            // SAFETY: `map_with` gives addresses of ours, or demands that nothing is there.
            unsafe { mmap(Some(at), size, prot(protection), flags, file, from as libc::off_t) }
        })
    }

    /// Maps `len` zero bytes at `offset` into the reservation.
    pub(crate) fn map_zeros(&mut self, offset: u64, len: u64, protection: Protection) -> Result<(), ErrorKind> {
        self.map_with(offset, len, "mmap of zero pages", |at, size, flags| {
            // SAFETY: as in `map_file`.
            unsafe { mmap_anonymous(Some(at), size, prot(protection), MapFlags::MAP_PRIVATE | flags) }
        })
    }

    /// Calls `map` with `len` bytes at `offset`: inside, where it replaces nothing but this object's own pages, or from the
    /// end on, where nothing else may be, and which are the reservation's from then on.
    fn map_with(
        &mut self,
        offset: u64,
        len: u64,
        call: &'static str,
        map: impl FnOnce(NonZeroUsize, NonZeroUsize, MapFlags) -> nix::Result<NonNull<c_void>>,
    ) -> Result<(), ErrorKind> {
        let grows = offset == self.len() as u64;
        let behind = NonZeroUsize::new(self.start().0.wrapping_add(self.len())).zip(NonZeroUsize::new(len as usize));
        let (at, size) = behind.filter(|_| grows).map_or_else(|| self.inside(offset, len), Ok)?;
        let flags = if grows { MapFlags::MAP_FIXED_NOREPLACE } else { MapFlags::MAP_FIXED };
        let start = fault::point("mmap").and_then(|()| map(at, size, flags));
        let start = start.map_err(|errno| refused(call, len, errno))?;
        if start.as_ptr() as usize != at.get() {
            // Before Linux 4.17 the address was a hint.
            drop(Map { start, len: size });
            return Err(refused(call, len, Errno::EEXIST));
        }
        if grows {
            self.map.len = self.map.len.checked_add(size.get()).unwrap_or(self.map.len);
        }
        Ok(())
    }

    /// Changes what may be done with `len` bytes at `offset`.
    pub(crate) fn protect(&self, offset: u64, len: u64, protection: Protection) -> Result<(), ErrorKind> {
        let (at, size) = self.inside(offset, len)?;
        let start = NonNull::new(at.get() as *mut c_void).unwrap_or(self.map.start);
        fault::point("mprotect")
            // SAFETY: `inside` proved the range to be ours. Rust references into it exist only for segments that are
            // never written (`load::map`), and those stay readable.
            .and_then(|()| unsafe { mprotect(start, size.get(), prot(protection)) })
            .map_err(|errno| refused("mprotect of a segment", len, errno))
    }

    /// The range as an address and a size, if it lies inside.
    fn inside(&self, offset: u64, len: u64) -> Result<(NonZeroUsize, NonZeroUsize), ErrorKind> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len() as u64);
        let at = NonZeroUsize::new(self.start().0.wrapping_add(offset as usize));
        match (end, at, NonZeroUsize::new(len as usize)) {
            (Some(_), Some(at), Some(len)) => Ok((at, len)),
            _ => Err(ErrorKind::Limit { what: "bytes of a reservation", limit: self.len() as u64, found: len }),
        }
    }
}

impl Map {
    /// Gives back all but `len` bytes from `skip` on.
    fn keep(&mut self, skip: usize, len: usize) {
        let (first, total) = (self.start.as_ptr() as usize, self.len.get());
        for (start, size) in [(first, skip), (first + skip + len, total - skip - len)] {
            if let (Some(start), true) = (NonNull::new(start as *mut c_void), size > 0) {
                // SAFETY: both ranges are ends of our own mapping that nobody has used yet. If it fails they stay
                // reserved, which costs nothing but addresses.
                let _ = unsafe { munmap(start, size) };
            }
        }
        if let (Some(start), Some(len)) = (NonNull::new((first + skip) as *mut c_void), NonZeroUsize::new(len)) {
            (self.start, self.len) = (start, len);
        }
    }
}

fn prot(protection: Protection) -> ProtFlags {
    let mut flags = ProtFlags::PROT_NONE;
    flags.set(ProtFlags::PROT_READ, protection.read);
    flags.set(ProtFlags::PROT_WRITE, protection.write);
    flags.set(ProtFlags::PROT_EXEC, protection.execute);
    flags
}

fn refused(call: &'static str, bytes: u64, errno: Errno) -> ErrorKind {
    match errno {
        Errno::ENOMEM => ErrorKind::NoRoom { bytes, errno: errno as i32 },
        errno => ErrorKind::System { call, errno: errno as i32 },
    }
}
