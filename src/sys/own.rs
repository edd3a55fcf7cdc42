//! What the kernel tells a process about itself, and gives it: the auxiliary vector, whose rights it has, random bytes, pages.

use std::ffi::{CStr, c_void};
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

#[cfg(feature = "snapshots")]
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use super::room::Map;
use super::{Reservation, fault};
use crate::addr::PageSize;

/// A value of the auxiliary vector the kernel gave this process (`getauxval`); 0 where there is none.
pub(crate) fn auxiliary(key: libc::c_ulong) -> u64 {
    // SAFETY: reads a table that does not change.
    unsafe { libc::getauxval(key) }
}

/// The release of glibc in this process, as 2 and 36.
pub(crate) fn c_library_release() -> Option<(u32, u32)> {
    // SAFETY: a constant string.
    release(unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_bytes())
}

/// The first two numbers of what begins as `2.36`.
pub(crate) fn release(text: &[u8]) -> Option<(u32, u32)> {
    let mut numbers = text.split(|byte| !byte.is_ascii_digit()).map(|digits| str::from_utf8(digits).ok()?.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The page size of this machine, as the kernel reports it.
pub(crate) fn page_size() -> PageSize {
    PageSize::new(auxiliary(libc::AT_PAGESZ)).unwrap_or(const { PageSize::new(4096).unwrap() })
}

impl PageSize {
    /// The page size of this machine, as the kernel reports it.
    ///
    /// ```
    /// assert!(soload::PageSize::native().bytes() >= 4096);
    /// ```
    #[must_use]
    pub fn native() -> Self {
        page_size()
    }
}

/// Whether the process runs with rights that its starter does not have.
#[cfg(feature = "snapshots")]
pub(crate) fn is_privileged() -> bool {
    auxiliary(libc::AT_SECURE) != 0
}

/// Whose rights the process has.
#[cfg(any(feature = "snapshots", feature = "serve"))]
pub(crate) fn effective_user() -> u32 {
    // SAFETY: no arguments, no failure.
    unsafe { libc::geteuid() }
}

/// Bytes that nobody can foresee.
#[cfg(feature = "snapshots")]
pub(crate) fn random() -> nix::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    // SAFETY: the kernel writes at most that many bytes there.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Up to 256 bytes come whole or not at all.
    if got == bytes.len() as isize { Ok(bytes) } else { Err(Errno::last()) }
}

/// The string of the auxiliary vector under `key`, such as `AT_PLATFORM`.
pub(crate) fn auxiliary_str(key: libc::c_ulong) -> Option<&'static CStr> {
    let at = auxiliary(key) as *const libc::c_char;
    // SAFETY: for keys that hold strings the kernel put a NUL-terminated one on the initial stack, which stays.
    (!at.is_null()).then(|| unsafe { CStr::from_ptr(at) })
}

/// Words or bytes that start as zeroes. Many of them have pages of their own, which come together and go back to the kernel
/// when they are dropped: in the heap they would be a fault for each page, and then a hole.
pub(crate) struct Zeros<T> {
    all: NonNull<[T]>,
    /// Otherwise they are in the heap.
    pages: Option<Map>,
}

// SAFETY: as a `Box` of them: nobody else has them.
unsafe impl<T: Send> Send for Zeros<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Zeros<T> {}

impl Zeros<u32> {
    /// Bytes from which on two calls are worth it.
    const MANY: usize = 64 << 10;

    pub(crate) fn new(count: usize) -> Self {
        let len = Some(count.saturating_mul(4)).filter(|len| *len >= Self::MANY).and_then(NonZeroUsize::new);
        match len.and_then(|len| Map::of_zeros(len).ok()) {
            Some(map) => Self { all: NonNull::slice_from_raw_parts(map.start.cast(), count), pages: Some(map) },
            None => Self { all: NonNull::from(Box::leak(vec![0; count].into_boxed_slice())), pages: None },
        }
    }
}

#[cfg(feature = "snapshots")]
impl Zeros<u8> {
    /// In pages of their own, however few.
    pub(crate) fn in_pages(len: usize) -> nix::Result<Self> {
        let map = Map::of_zeros(NonZeroUsize::new(len).ok_or(Errno::EINVAL)?)?;
        Ok(Self { all: NonNull::slice_from_raw_parts(map.start.cast(), len), pages: Some(map) })
    }
}

impl<T> Drop for Zeros<T> {
    fn drop(&mut self) {
        if self.pages.is_none() {
            // SAFETY: they were a `Box` in `new`.
            drop(unsafe { Box::from_raw(self.all.as_ptr()) });
        }
    }
}

impl<T> Deref for Zeros<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: they stay where they are as long as it lives, which has them to itself; they are made as numbers, which
        // zeroes are.
        unsafe { self.all.as_ref() }
    }
}

impl<T> DerefMut for Zeros<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`.
        unsafe { self.all.as_mut() }
    }
}

impl Map {
    /// Zero pages for `len` bytes, there at once.
    fn of_zeros(len: NonZeroUsize) -> nix::Result<Self> {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address the kernel chooses touches no memory of the program.
        let start = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        Ok(Self { start, len })
    }
}

impl Reservation {
    /// Has the kernel copy `len` bytes of private pages at `offset` at once, as writing to each would do. Kernels before
    /// 5.14 cannot; nothing is lost then but time.
    ///
    /// One call for each range: that for several (`process_madvise`) is known to few filters of system calls and to no older
    /// Valgrind, and saves nothing that can be measured.
    pub(crate) fn populate(&self, offset: u64, len: u64) {
        if let Ok((at, size)) = self.inside(offset, len)
            && fault::point("madvise").is_ok()
        {
            // SAFETY: `inside` proved the range to be ours; the pages' content stays what it is.
            unsafe { libc::madvise(at.get() as *mut c_void, size.get(), libc::MADV_POPULATE_WRITE) };
        }
    }

    /// Has the kernel read `len` bytes of a file at `offset` in blocks of 2 MiB, and map them by one entry each, where it
    /// can. Before they are first read; nothing is lost where it cannot.
    pub(crate) fn prefer_huge_pages(&self, offset: u64, len: u64) {
        if let Ok((at, size)) = self.inside(offset, len) {
            // SAFETY: `inside` proved the range to be ours; what it contains stays what it is.
            unsafe { libc::madvise(at.get() as *mut c_void, size.get(), libc::MADV_HUGEPAGE) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_zero_and_can_be_written_in_the_heap_and_in_pages_of_their_own() {
        for count in [0, 1, 1000, Zeros::<u32>::MANY / 4, 100_000] {
            let mut words = Zeros::new(count);
            assert!(words.len() == count && words.iter().all(|word| *word == 0));
            assert_eq!(words.pages.is_some(), count * 4 >= Zeros::<u32>::MANY);
            words.iter_mut().for_each(|word| *word = 7);
            assert!(words.iter().all(|word| *word == 7));
        }
    }
}
