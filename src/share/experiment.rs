//! Mappings to experiment with, and second processes to see them from: what `prove` does its work with.
//!
//! # Safety
//! An [`Area`] is a mapping of its own that no Rust reference points into: its bytes are read and written one at a time,
//! as volatile ones, so that a file that changes underneath is no more than a changed value. Reading what a file does not
//! have any more raises a signal; [`signal_of`] has a child do that.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::addr::Addr;

/// A mapping that ends when it is dropped.
pub(super) struct Area {
    start: *mut u8,
    len: usize,
}

fn page() -> usize {
    crate::sys::page_size().bytes() as usize
}

/// What becomes of writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writes {
    /// There are none.
    Refused,
    /// They stay in this process (`MAP_PRIVATE`).
    Private,
    /// They go to the file (`MAP_SHARED`).
    Shared,
}

impl Area {
    /// Maps the first `len` bytes of what `fd` is.
    pub(super) fn map(fd: BorrowedFd<'_>, len: usize, writes: Writes) -> io::Result<Self> {
        let protection = if writes == Writes::Refused { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
        let flags = if writes == Writes::Shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        // SAFETY: a new mapping at an address the kernel chooses touches no memory of the program.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start: start.cast(), len }) }
    }

    /// Maps the first `len` bytes of a file as code is, at a multiple of `align`.
    pub(super) fn map_code(fd: BorrowedFd<'_>, len: usize, align: usize) -> io::Result<Self> {
        let total = len.checked_add(align).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address the kernel chooses touches no memory of the program.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), total, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let reserved = Self { start: start.cast(), len: total };
        let (skip, protection) =
            (start.addr().next_multiple_of(align) - start.addr(), libc::PROT_READ | libc::PROT_EXEC);
        // SAFETY: inside what has just been reserved, which nothing refers to.
        let mapped = unsafe {
            libc::mmap(start.byte_add(skip), len, protection, libc::MAP_PRIVATE | libc::MAP_FIXED, fd.as_raw_fd(), 0)
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(reserved);
        let area = Self { start: mapped.cast(), len };
        for (at, len) in [(start, skip), (mapped.wrapping_byte_add(len.next_multiple_of(page())), align - skip)] {
            // SAFETY: the ends of the reservation, in which nothing is mapped. The last page of the file is not among them.
            unsafe { libc::munmap(at, len & !(page() - 1)) };
        }
        Ok(area)
    }

    /// Has the kernel read those bytes in blocks of 2 MiB, where it can. An error says that it did not read them.
    pub(super) fn read_in_huge_pages(&self, bytes: Range<usize>) -> io::Result<()> {
        let advise = |start: usize, len: usize, advice| {
            assert!(start.checked_add(len).is_some_and(|end| end <= self.len.next_multiple_of(page())));
            // SAFETY: our own mapping; its content stays what it is.
            match unsafe { libc::madvise(self.start.add(start).cast(), len, advice) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // A kernel without huge pages refuses the first one only.
        let _ = advise(0, self.len, libc::MADV_HUGEPAGE);
        advise(bytes.start, bytes.len(), libc::MADV_POPULATE_READ)
    }

    pub(super) fn range(&self) -> Range<Addr> {
        let start = self.start.addr();
        Addr(start)..Addr(start + self.len)
    }

    pub(super) fn read(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: inside the mapping, which is readable until it is dropped.
        unsafe { self.start.add(at).read_volatile() }
    }

    /// Writes a byte, if it was mapped to be written.
    pub(super) fn write(&mut self, at: usize, byte: u8) {
        assert!(at < self.len);
        // SAFETY: inside the mapping, which nothing else refers to; without permission the process ends by a signal.
        unsafe { self.start.add(at).write_volatile(byte) };
    }

    /// Reads one byte of each page of `size` bytes.
    pub(super) fn touch(&self, bytes: Range<usize>, size: usize) -> u64 {
        bytes.step_by(size).map(|at| u64::from(self.read(at))).sum()
    }

    /// Has the kernel write to the file what was changed.
    pub(super) fn sync(&self) -> io::Result<()> {
        // SAFETY: our own mapping; changes no memory.
        match unsafe { libc::msync(self.start.cast(), self.len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// Has the kernel map each page of an area alone when it is touched, as long as the answer is held: registered for write
/// protection, nothing around a touched page is mapped with it.
pub(super) fn one_by_one(area: &Area) -> io::Result<OwnedFd> {
    // `_IOWR(0xaa, 0x3f, struct uffdio_api)`, `_IOWR(0xaa, 0, struct uffdio_register)` (`<linux/userfaultfd.h>`).
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
    const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
    // WP_ASYNC, WP_UNPOPULATED, WP_HUGETLBFS_SHMEM.
    let mut api = [0xaa_u64, 1 << 15 | 1 << 13 | 1 << 12, 0];
    let range = area.range();
    let mut register = [range.start.0 as u64, (range.end.0 - range.start.0) as u64, 2, 0]; // 2: write protection
    // SAFETY: a new descriptor, which nobody else has; both structures are of 64-bit numbers, as many as there are here. Of
    // the mapping, which is our own, nothing is changed that can be read.
    unsafe {
        // USER_MODE_ONLY, which everybody may ask for.
        let descriptor = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | 1);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        let descriptor = OwnedFd::from_raw_fd(descriptor as libc::c_int);
        let failed = libc::ioctl(descriptor.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) != 0
            || libc::ioctl(descriptor.as_raw_fd(), UFFDIO_REGISTER, register.as_mut_ptr()) != 0;
        if failed { Err(io::Error::last_os_error()) } else { Ok(descriptor) }
    }
}

/// Another process that has done something, and waits until this is dropped.
pub(super) struct Companion {
    process: libc::pid_t,
    /// What it answered.
    pub(super) answer: u64,
    talk: Option<PipeWriter>,
    listen: PipeReader,
}

impl Companion {
    /// A copy of this process does `first` and answers with its result; when it is asked, it answers with that of `then`.
    pub(super) fn start<T>(first: impl FnOnce() -> (u64, T), then: impl FnOnce(T) -> u64) -> io::Result<Self> {
        let (listen, mut answer) = io::pipe()?;
        let (mut asked, talk) = io::pipe()?;
        // SAFETY: the child only maps, reads and writes, and ends without running anything of this process.
        let process = unsafe { libc::fork() };
        if process < 0 {
            return Err(io::Error::last_os_error());
        }
        if process == 0 {
            drop((listen, talk));
            let (number, kept) = first();
            let _ = answer.write_all(&number.to_ne_bytes());
            if matches!(asked.read(&mut [0]), Ok(1)) {
                let _ = answer.write_all(&then(kept).to_ne_bytes());
                let _ = asked.read(&mut [0]);
            }
            // SAFETY: ends the child; nothing of the parent's is done twice.
            unsafe { libc::_exit(0) };
        }
        drop((answer, asked));
        let mut companion = Self { process, answer: 0, talk: Some(talk), listen };
        companion.answer = companion.hear()?;
        Ok(companion)
    }

    fn hear(&mut self) -> io::Result<u64> {
        let mut number = [0; 8];
        self.listen.read_exact(&mut number)?;
        Ok(u64::from_ne_bytes(number))
    }

    /// What the other process answers now.
    pub(super) fn ask(&mut self) -> io::Result<u64> {
        if let Some(talk) = &mut self.talk {
            talk.write_all(&[1])?;
        }
        self.hear()
    }

    pub(super) fn id(&self) -> u32 {
        self.process as u32
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.talk.take();
        // SAFETY: our own child, which nobody else waits for.
        unsafe {
            libc::kill(self.process, libc::SIGKILL);
            libc::waitpid(self.process, std::ptr::null_mut(), 0)
        };
    }
}

/// The signal that reading that byte ends a process by; 0 for none.
pub(super) fn signal_of(area: &Area, at: usize) -> io::Result<i32> {
    // SAFETY: the child reads one byte and ends, by a signal or at once; it writes no core file.
    let process = unsafe { libc::fork() };
    if process < 0 {
        return Err(io::Error::last_os_error());
    }
    if process == 0 {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: of the child's own process; the default action of a signal is to end it.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        }
        area.read(at);
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: our own child; `status` outlives the call.
    unsafe { libc::waitpid(process, &mut status, 0) };
    Ok(if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 })
}

/// Minor and major faults of this process so far.
pub(super) fn faults() -> (u64, u64) {
    // SAFETY: a structure of numbers, which the call fills.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` outlives the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    (usage.ru_minflt as u64, usage.ru_majflt as u64)
}

/// Asks the kernel to forget the cached pages of a file.
pub(super) fn forget(file: &File) {
    // SAFETY: advice about a file; changes nothing that can be read.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// How many cached pages of a file have yet to be written to it, where the kernel tells (`cachestat`, Linux 6.5).
pub(super) fn dirty_pages(file: &File) -> Option<u64> {
    const CACHESTAT: libc::c_long = 451;
    let range = [0_u64, 0];
    let mut counts = [0_u64; 5];
    // SAFETY: both outlive the call; the kernel reads two numbers and writes five (`struct cachestat`).
    let failed = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0) };
    (failed == 0).then_some(counts[1])
}

/// A terminal of its own, if there can be one.
pub(super) fn terminal() -> Option<File> {
    // SAFETY: opens a new descriptor, which the file then owns.
    unsafe {
        let descriptor = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY);
        (descriptor >= 0).then(|| FromRawFd::from_raw_fd(descriptor))
    }
}
