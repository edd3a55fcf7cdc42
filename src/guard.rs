//! What keeps loaded code as it was when somebody overwrites its file in place.
//!
//! # Safety
//! Pages of a library are replaced by copies with the same content, at the same addresses, in one step of the kernel's:
//! those that are written while the library is being loaded and nobody else knows of them, all others, which nobody
//! writes, once somebody is about to change the file. A [`Lease`] is dropped before the mapping whose pages it names.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use crate::addr::{Addr, Protection};
use crate::error::ErrorKind;
use crate::sys::RegularFile;

/// How a library is kept as it was when it was opened, if somebody overwrites its file in place, or truncates it.
///
/// A package manager puts a new file in place of the old one, which harms nobody. `cp` over a library, or a build that
/// writes into it, changes the pages that running processes have mapped: they crash, or do something else.
///
/// | | cost of opening | memory | what it cannot do |
/// |---|---|---|---|
/// | [`Guard::Nothing`] | none | pages are shared | keep code from changing under the process |
/// | [`Guard::Lease`] | copying what can be written; a thread for all leases | code and constants are shared until somebody writes, and then copied; variables are private from the start | protect a child of `fork`; keep a writer from waiting while pages are copied |
/// | [`Guard::Snapshot`] | copying the file | the whole file, for this process alone | show debuggers and `/proc/PID/maps` the file: they see a memfd |
///
/// The kernel gives a lease only of files of one's own user (or with `CAP_LEASE`), which nobody has open for writing, and
/// not on every file system. Of other files, and of those whose symbol tables are in writable segments, [`Guard::Lease`]
/// takes a snapshot.
///
/// Applies to all that an open loads, not to what was in the process before.
///
/// ```
/// let mut options = soload::OpenOptions::new();
/// options.guard(soload::Guard::Snapshot).huge_pages(true);
/// // SAFETY: zlib's constructors are sound.
/// if let Ok(library) = unsafe { options.open("libz.so.1") } {
///     println!("{} may be overwritten now", library.path().display());
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Guard {
    /// The file must not be changed: whoever opens the library sees to that.
    #[default]
    Nothing,
    /// The kernel is asked to make writers wait (`F_SETLEASE`), until every page of the library has become private.
    Lease,
    /// The file is copied to memory that nobody can change any more (a sealed memfd), and mapped from there.
    Snapshot,
}

/// The largest file of which a snapshot is taken: 4 GiB.
const SNAPSHOT_MAX: u64 = 4 << 30;

impl Guard {
    /// Takes a lease of `file`, if that is wanted and can be had; answers what has to be done instead.
    pub(crate) fn lease(self, file: &mut RegularFile) -> Self {
        if self == Self::Lease {
            file.leased = keeper().is_some_and(|keeper| keeper.lease(&file.fd).is_ok());
        }
        if self == Self::Lease && !file.leased { Self::Snapshot } else { self }
    }
}

fn system(call: &'static str) -> impl Fn(io::Error) -> ErrorKind {
    move |error| ErrorKind::System { call, errno: error.raw_os_error().unwrap_or(0) }
}

/// A copy of `file` that nobody can change, under its identity.
pub(crate) fn snapshot(file: &RegularFile) -> Result<RegularFile, ErrorKind> {
    if file.size > SNAPSHOT_MAX {
        return Err(ErrorKind::Limit { what: "bytes of a snapshot", limit: SNAPSHOT_MAX, found: file.size });
    }
    // MFD_NOEXEC_SEAL, since Linux 6.3: it cannot be run as a program; mapping it to be executed is another thing.
    const NOEXEC_SEAL: libc::c_uint = 8;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let create = |flags| {
        // SAFETY: a C string; gives a new descriptor, which nobody else has, or an error.
        unsafe {
            let descriptor = libc::memfd_create(c"soload".as_ptr(), flags);
            if descriptor < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(descriptor)) }
        }
    };
    let copy = create(flags | NOEXEC_SEAL).or_else(|_| create(flags)).map_err(system("memfd_create"))?;
    let (mut copy, mut from) = (File::from(copy), File::from(file.fd.try_clone().map_err(system("dup"))?));
    // By sendfile or the like. A file that grows is not followed: its size was read when it was opened.
    let size = io::copy(&mut io::Read::take(&mut from, file.size), &mut copy).map_err(system("copy to a memfd"))?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: a number and a descriptor of our own.
    if unsafe { libc::fcntl(copy.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(system("F_ADD_SEALS")(io::Error::last_os_error()));
    }
    let (identity, mode, changed) = (file.identity, file.mode, file.changed);
    Ok(RegularFile { fd: copy.into(), identity, size, mode, leased: false, huge: false, changed })
}

/// Pages that come from the file, and what may be done with them.
pub(crate) struct Part {
    pub(crate) range: Range<Addr>,
    pub(crate) protection: Protection,
}

/// A lease that is held for a mapped library. Dropping it gives it back.
pub(crate) struct Lease {
    number: u64,
    /// The process that took it: a fork's child leaves it alone.
    process: u32,
}

impl Lease {
    /// Holds the lease of `file`, if it has one, for the pages that are mapped from it.
    ///
    /// # Safety
    /// The parts are mapped so until the lease is dropped. Those that are not writable are not written, and nobody knows
    /// of the others yet.
    pub(crate) unsafe fn hold<Parts: Iterator<Item = Part>>(
        file: &RegularFile,
        parts: impl FnOnce() -> Parts,
    ) -> Result<Option<Self>, ErrorKind> {
        // Nobody gets a thread who has not asked for one.
        let Some(keeper) = file.leased.then(keeper).flatten() else { return Ok(None) };
        let (variable, constant): (Vec<_>, Vec<_>) = parts().partition(|part| part.protection.write);
        for part in &variable {
            // Later a write of the program's could be lost.
            // SAFETY: the caller's promise.
            unsafe { replace(part) }.map_err(system("mremap of a segment"))?;
        }
        let descriptor = file.fd.try_clone().map_err(system("dup"))?;
        let mut held = keeper.held.lock().unwrap_or_else(PoisonError::into_inner);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        held.push(Held { number, file: descriptor, parts: constant });
        // Somebody may have come while it was loaded: the signal was about a lease that nobody held yet.
        held.retain(|one| one.number != number || !one.answer());
        Ok(Some(Self { number, process: std::process::id() }))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // In a fork's child the keeper does not run, and may have had the list locked.
        if let Some(keeper) = KEEPER.get().and_then(Option::as_ref).filter(|_| self.process == std::process::id()) {
            let mut held = keeper.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.retain(|one| {
                if one.number == self.number {
                    one.give_back();
                }
                one.number != self.number
            });
        }
    }
}

/// One lease, and what it protects.
struct Held {
    number: u64,
    file: OwnedFd,
    parts: Vec<Part>,
}

impl Held {
    /// If somebody waits to write: makes all pages private, and lets him.
    fn answer(&self) -> bool {
        // SAFETY: asks about a descriptor of our own. While a writer waits, the answer is what the lease has to become.
        let broken = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) } == libc::F_UNLCK;
        if broken {
            for part in &self.parts {
                // Without memory for a copy there is nothing better to do than to let the writer go on.
                // SAFETY: mapped as long as the lease is held, and never written, as `hold` was promised.
                let _ = unsafe { replace(part) };
            }
            self.give_back();
        }
        broken
    }

    fn give_back(&self) {
        // SAFETY: a number and a descriptor of our own.
        unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }
}

/// The thread that the kernel tells of writers, and what it answers for.
struct Keeper {
    process: u32,
    thread: libc::pid_t,
    held: Mutex<Vec<Held>>,
}

static KEEPER: OnceLock<Option<Keeper>> = OnceLock::new();
/// Of the next lease: none has the number of another, also of one that is over.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The keeper, started when it is first needed; none where it could not do its work.
fn keeper() -> Option<&'static Keeper> {
    let keeper = KEEPER.get_or_init(|| {
        let (tell, told) = std::sync::mpsc::channel();
        // It has to begin with all signals blocked, those included that the program handles.
        let before = block_signals()?;
        let started = thread::Builder::new().name("soload-lease".into()).stack_size(64 << 10).spawn(move || {
            // SAFETY: asks for the thread's own number.
            let _ = tell.send(unsafe { libc::gettid() });
            keep()
        });
        // SAFETY: the mask that was there before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
        started.ok()?;
        Some(Keeper { process: std::process::id(), thread: told.recv().ok()?, held: Mutex::default() })
    });
    // In a fork's child the thread is not there: a snapshot is taken then.
    keeper.as_ref().filter(|keeper| keeper.process == std::process::id())
}

impl Keeper {
    /// Takes a read lease: whoever opens the file for writing waits, and the keeper gets a signal.
    fn lease(&self, file: &impl AsFd) -> io::Result<()> {
        /// `struct f_owner_ex` (`<fcntl.h>`).
        #[repr(C)]
        struct Owner {
            kind: libc::c_int,
            thread: libc::pid_t,
        }
        const F_SETOWN_EX: libc::c_int = 15;
        const F_OWNER_TID: libc::c_int = 0;
        let owner = Owner { kind: F_OWNER_TID, thread: self.thread };
        let descriptor = file.as_fd().as_raw_fd();
        // The owner first: without one the kernel would signal the whole process, whom SIGIO ends.
        // SAFETY: `owner` is what the kernel reads, and outlives the call.
        let failed = unsafe {
            libc::fcntl(descriptor, F_SETOWN_EX, &raw const owner) != 0
                || libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_RDLCK) != 0
        };
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// What the keeper does, as long as the process lives.
fn keep() {
    let mut signals = MaybeUninit::uninit();
    loop {
        let mut signal = 0;
        // SAFETY: the set is filled before it is used; SIGIO is blocked in this thread.
        let failed = unsafe {
            libc::sigemptyset(signals.as_mut_ptr());
            libc::sigaddset(signals.as_mut_ptr(), libc::SIGIO);
            libc::sigwait(signals.as_ptr(), &mut signal)
        };
        if let (0, Some(Some(keeper))) = (failed, KEEPER.get()) {
            // One signal may stand for several writers.
            keeper.held.lock().unwrap_or_else(PoisonError::into_inner).retain(|one| !one.answer());
        }
    }
}

/// Blocks all signals in this thread; answers which were before.
fn block_signals() -> Option<libc::sigset_t> {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: both sets are filled by these calls before they are read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        let failed = libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        (failed == 0).then(|| before.assume_init())
    }
}

/// Puts memory of the process's own in place of a file's pages, with what they contain. Copies made by writing to them
/// would not do: a truncated file takes those along.
///
/// # Safety
/// The pages are mapped and readable, and nobody writes to them meanwhile.
unsafe fn replace(part: &Part) -> io::Result<()> {
    let (start, len) = (part.range.start.0, part.range.end.0 - part.range.start.0);
    if len == 0 || !part.protection.read {
        return Ok(());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address the kernel chooses touches no memory of the program.
    let copy = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if copy == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let place = start as *mut c_void;
    // SAFETY: the source is readable by the caller's promise; the copy is ours alone until it takes the source's place,
    // where it has the same bytes and may be used for the same.
    unsafe {
        place.cast::<u8>().copy_to_nonoverlapping(copy.cast(), len);
        let moved = libc::mprotect(copy, len, protection(part.protection)) == 0
            && libc::mremap(copy, len, len, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, place) != libc::MAP_FAILED;
        let error = io::Error::last_os_error();
        if !moved {
            libc::munmap(copy, len);
        }
        if moved { Ok(()) } else { Err(error) }
    }
}

fn protection(protection: Protection) -> c_int {
    let flag = |on, flag| if on { flag } else { 0 };
    flag(protection.read, libc::PROT_READ)
        | flag(protection.write, libc::PROT_WRITE)
        | flag(protection.execute, libc::PROT_EXEC)
}
