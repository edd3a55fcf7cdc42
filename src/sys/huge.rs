//! Pages of 2 MiB: under what is read of a file, and under copies of its pages that every process has anyway.

use std::ops::Range;

use super::{RegularFile, Reservation};
use crate::addr::{Addr, PageSize, Protection};
use crate::error::ErrorKind;

/// Whether a huge page fits into `data`, a part of what lies at `start`.
pub(super) fn fits(start: u64, data: &Range<u64>) -> bool {
    PageSize::HUGE.up(start + data.start).is_some_and(|first| first + PageSize::HUGE.bytes() <= start + data.end)
}

/// Where `len` bytes should start instead of `start`, so that a huge page fits into `data`, a part of them; `None` if one
/// does already. The kernel puts large files where their code may come in huge pages: they stay there if there is a choice.
pub(super) fn better_start(start: Addr, len: u64, data: &Range<u64>) -> Option<Addr> {
    let (start, huge) = (start.0 as u64, PageSize::HUGE);
    if fits(start, data) {
        return None;
    }
    // The kernel goes on mapping below.
    let below = start.checked_sub(len)?;
    below.checked_sub(huge.offset(below + data.start)).map(|start| Addr(start as usize))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_no_room_for_a_huge_page_where_it_is_starts_elsewhere() {
        let huge = PageSize::HUGE.bytes();
        let (start, len) = (Addr(100 * huge as usize), 3 * huge);
        // A block that begins where one begins in memory, or has one inside.
        assert_eq!(better_start(start, len, &(huge..2 * huge)), None);
        assert_eq!(better_start(start, len, &(0x1000..2 * huge)), None);
        let at = better_start(start, len, &(0x1000..2 * huge - 0x1000)).unwrap();
        assert!(at.0 + len as usize <= start.0 && start.0 - at.0 < (len + huge) as usize, "{at}");
        assert_eq!((at.0 as u64 + 0x1000) % huge, 0);
        assert_eq!(better_start(Addr(0x1000), len, &(0x1000..huge)), None, "nothing is below");
    }
}
