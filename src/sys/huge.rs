//! Pages of 2 MiB: under what is read of a file, and under copies of its pages that every process has anyway.

use super::{RegularFile, Reservation};
use crate::addr::{PageSize, Protection};
use crate::error::ErrorKind;

impl Reservation {
    /// Has the kernel read `len` bytes of a file at `offset` in blocks of 2 MiB, and map them by one entry each, where it
    /// can. Before they are first read; nothing is lost where it cannot.
    pub(crate) fn prefer_huge_pages(&self, offset: u64, len: u64) {
        if let Ok((at, size)) = self.inside(offset, len) {
            // SAFETY: `inside` proved the range to be ours; what it contains stays what it is.
            unsafe { libc::madvise(at.get() as *mut libc::c_void, size.get(), libc::MADV_HUGEPAGE) };
        }
    }

    /// Puts what a file has from `from` on into one page of 2 MiB at `offset`, a block of memory that the process has for
    /// itself: what writing to each page of the file's private mapping there comes to, for a third of the price. Answers
    /// whether the kernel has such a page; if not, the block is to be mapped anew.
    pub(crate) fn copy_to_huge_page(&mut self, offset: u64, file: &RegularFile, from: u64) -> Result<bool, ErrorKind> {
        let len = PageSize::HUGE.bytes();
        self.map_zeros(offset, len, Protection { write: true, ..Protection::READ })?;
        let (at, size) = self.inside(offset, len)?;
        let start = at.get() as *mut u8;
        let (last, mut there) = (at.get() + size.get() - super::page_size().bytes() as usize, 0);
        // SAFETY: zero pages of ours that have just been mapped, and nobody knows of: they are ours to write to and to ask
        // about. The kernel writes one byte to `there`.
        let huge = unsafe {
            libc::madvise(start.cast(), size.get(), libc::MADV_HUGEPAGE) == 0 && {
                // The first byte that is touched brings the whole page, and the last one with it.
                start.write_volatile(0);
                libc::mincore(last as *mut libc::c_void, 1, &mut there) == 0 && there & 1 == 1
            }
        };
        if huge {
            // SAFETY: as above; what the file does not have stays zero, as behind its end in a mapping.
            file.read_into(from, unsafe { std::slice::from_raw_parts_mut(start, size.get()) })?;
        }
        Ok(huge)
    }
}
