//! What the kernel tells a process about itself, and gives it: the auxiliary vector, whose rights it has, random bytes, pages.

use std::ffi::{CStr, c_void};
#[cfg(feature = "snapshots")]
use std::num::NonZeroUsize;
#[cfg(feature = "snapshots")]
use std::ops::{Deref, DerefMut};

#[cfg(feature = "snapshots")]
use nix::errno::Errno;
#[cfg(feature = "snapshots")]
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use super::Reservation;
#[cfg(feature = "snapshots")]
use super::room::Map;
use crate::addr::PageSize;

/// A value of the auxiliary vector the kernel gave this process (`getauxval`); 0 where there is none.
pub(crate) fn auxiliary(key: libc::c_ulong) -> u64 {
    // SAFETY: reads a table that does not change.
    unsafe { libc::getauxval(key) }
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

/// Has the kernel give memory for `words` at once, which is a fault for each page otherwise. Only for speed.
pub(crate) fn populate(words: &mut [u32]) {
    let page = page_size();
    let (start, end) = (words.as_ptr() as u64, words.as_ptr() as u64 + size_of_val(words) as u64);
    let (start, end) = (page.up(start).unwrap_or(end), page.down(end));
    // Asking costs as much as the faults of a few pages.
    if end.saturating_sub(start) >= 24 * page.bytes() {
        // SAFETY: whole pages of memory that the caller has to itself; their content stays what it is.
        unsafe { libc::madvise(start as *mut c_void, (end - start) as usize, libc::MADV_POPULATE_WRITE) };
    }
}

impl Reservation {
    /// Has the kernel copy `len` bytes of private pages at `offset` at once, as writing to each would do. Kernels before
    /// 5.14 cannot; nothing is lost then but time.
    pub(crate) fn populate(&self, offset: u64, len: u64) {
        if let Ok((at, size)) = self.inside(offset, len) {
            // SAFETY: `inside` proved the range to be ours; the pages' content stays what it is.
            unsafe { libc::madvise(at.get() as *mut c_void, size.get(), libc::MADV_POPULATE_WRITE) };
        }
    }
}

/// Zeros to be written over, which go back to the kernel when they are dropped: what is of use only for a moment leaves no
/// hole in the heap.
#[cfg(feature = "snapshots")]
pub(crate) struct Scratch(Map);

#[cfg(feature = "snapshots")]
impl Scratch {
    pub(crate) fn new(len: usize) -> nix::Result<Self> {
        let len = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address the kernel chooses touches no memory of the program.
        let start = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        Ok(Self(Map { start, len }))
    }
}

#[cfg(feature = "snapshots")]
impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: that many bytes stay mapped as long as it lives, and it has them to itself.
        unsafe { std::slice::from_raw_parts(self.0.start.as_ptr().cast(), self.0.len.get()) }
    }
}

#[cfg(feature = "snapshots")]
impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`.
        unsafe { std::slice::from_raw_parts_mut(self.0.start.as_ptr().cast(), self.0.len.get()) }
    }
}
