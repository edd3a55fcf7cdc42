//! What the kernel says of every page of a range of a process: shared with other processes, or its own.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::scan::PageScan;
use crate::addr::{Addr, PageSize};
use crate::error::ErrorKind;
use crate::sys;

/// What a page of this process is backed by at the moment of asking.
///
/// ```
/// use soload::{Addr, PageMap, PageState};
/// let local = 1_u8;
/// let at = std::ptr::from_ref(&local).addr();
/// let stack = PageMap::of_range(Addr(at)..Addr(at + 1))?;
/// assert_eq!(stack.count(PageState::Copied), 1);
/// # Ok::<(), soload::ErrorKind>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageState {
    /// By nothing yet: no memory is used for it. The next access may find it in the page cache all the same.
    Untouched,
    /// By a page of a file (also of a memfd) that another process has mapped too.
    Shared,
    /// By a page of a file that this process alone has mapped now; another may join.
    Exclusive,
    /// By memory of its own, because it was written: relocated, or changed by the program.
    ///
    /// Memory that no file is behind counts as well, even if it was only read so far.
    Copied,
    /// By a copy of its own that the kernel moved out of memory.
    Swapped,
}

/// One page of a [`PageMap`].
///
/// ```
/// # use soload::{Addr, PageMap, PageState};
/// # let local = 1_u8;
/// # let at = std::ptr::from_ref(&local).addr();
/// let page = PageMap::of_range(Addr(at)..Addr(at + 1))?.pages[0];
/// if let Some(frame) = page.frame {
///     println!("page frame {frame:#x}"); // only the superuser gets here
/// }
/// # Ok::<(), soload::ErrorKind>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// What it is backed by.
    pub state: PageState,
    /// Whether no other process has it mapped now. A copied page that is not exclusive is shared with a child or parent.
    pub exclusive: bool,
    /// The number of the page frame, if it has one and the kernel tells (`CAP_SYS_ADMIN`): two processes that have the
    /// same number share the page.
    pub frame: Option<NonZeroU64>,
    /// Whether it is mapped together with others by one entry for 2 MiB (or what the machine has), which saves page
    /// tables and faults. Always `false` before Linux 6.7, which does not tell.
    pub huge: bool,
}

impl Page {
    /// What an entry of `/proc/PID/pagemap` says (`Documentation/admin-guide/mm/pagemap.rst`).
    fn of_entry(entry: u64) -> Self {
        let bit = |number: u32| entry >> number & 1 == 1;
        let (present, swapped, file, exclusive) = (bit(63), bit(62), bit(61), bit(56));
        let state = match (present, swapped) {
            (true, _) if file && exclusive => PageState::Exclusive,
            (true, _) if file => PageState::Shared,
            (true, _) => PageState::Copied,
            (false, true) => PageState::Swapped,
            (false, false) => PageState::Untouched,
        };
        // Of a page that is not present the same bits say where in which swap area it is.
        let frame = if present { NonZeroU64::new(entry & ((1 << 55) - 1)) } else { None };
        Self { state, exclusive: present && exclusive, frame, huge: false }
    }
}

/// The pages of a range of addresses of a process, as they were at one moment.
///
/// Needs no privilege for processes of one's own. Asking changes nothing: no page is touched by it.
///
/// ```
/// use soload::{Addr, PageMap, PageState};
/// let buffer = vec![1_u8; 100_000];
/// let at = buffer.as_ptr().addr();
/// let map = PageMap::of_range(Addr(at)..Addr(at + buffer.len()))?;
/// assert_eq!(map.count(PageState::Copied), map.pages.len());
/// assert!(map.pages.len() as u64 * map.page.bytes() >= 100_000);
/// # Ok::<(), soload::ErrorKind>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageMap {
    /// The size of each page.
    pub page: PageSize,
    /// The start of the first page.
    pub start: Addr,
    /// The pages, in the order of their addresses, without gaps.
    pub pages: Vec<Page>,
}

/// 4 GiB in pages of 4 KiB, more than one library takes; the answer is 16 MiB then.
const PAGES_MAX: u64 = 1 << 20;
const ENTRY: u64 = 8;
const CHUNK: usize = 1 << 15;

impl PageMap {
    /// The pages that `range` touches, the first and the last one as a whole.
    ///
    /// ```
    /// use soload::{Addr, PageMap};
    /// let code = PageMap::of_range as *const () as usize;
    /// let map = PageMap::of_range(Addr(code)..Addr(code + 1))?;
    /// assert_eq!(map.pages.len(), 1);
    /// # Ok::<(), soload::ErrorKind>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] for a range of more than 2²⁰ pages, [`ErrorKind::System`] where `/proc` is not mounted.
    pub fn of_range(range: Range<Addr>) -> Result<Self, ErrorKind> {
        Self::of_pagemap("/proc/self/pagemap".as_ref(), range)
    }

    /// The same of another process.
    ///
    /// ```
    /// use soload::{Addr, PageMap};
    /// let local = 1_u8;
    /// let at = std::ptr::from_ref(&local).addr();
    /// let range = Addr(at)..Addr(at + 1);
    /// assert_eq!(PageMap::of_process(std::process::id(), range.clone())?.pages, PageMap::of_range(range)?.pages);
    /// # Ok::<(), soload::ErrorKind>(())
    /// ```
    ///
    /// # Errors
    /// As for [`PageMap::of_range`]; `ENOENT` if there is no such process, `EACCES` if it is another user's, `ESRCH` if it
    /// has ended meanwhile.
    pub fn of_process(process: u32, range: Range<Addr>) -> Result<Self, ErrorKind> {
        Self::of_pagemap(format!("/proc/{process}/pagemap").as_ref(), range)
    }

    fn of_pagemap(path: &Path, range: Range<Addr>) -> Result<Self, ErrorKind> {
        let page = sys::page_size();
        let start = page.down(range.start.0 as u64);
        let count = if range.is_empty() {
            0
        } else {
            // The last page of the address space has no end that is an address.
            (page.down(range.end.0 as u64 - 1) - start) / page.bytes() + 1
        };
        if count > PAGES_MAX {
            return Err(ErrorKind::Limit { what: "pages of a range", limit: PAGES_MAX, found: count });
        }
        let pagemap = File::open(path).map_err(system("open of pagemap"))?;
        let pages = read(&pagemap, start / page.bytes(), count)?;
        let mut map = Self { page, start: Addr(start as usize), pages };
        if let Some(scan) = PageScan::of_pagemap(pagemap) {
            map.note_huge(&scan);
        }
        Ok(map)
    }

    /// Entries of pagemap do not tell the size of what they are part of.
    fn note_huge(&mut self, scan: &PageScan) {
        let size = self.page.bytes() as usize;
        let end = Addr(self.start.0.saturating_add(self.pages.len() * size));
        for run in scan.runs(self.start..end).map_while(Result::ok).filter(|run| run.huge) {
            let index = |at: Addr| (at.0.saturating_sub(self.start.0) / size).min(self.pages.len());
            let (first, last) = (index(run.range.start), index(run.range.end));
            self.pages[first..last].iter_mut().for_each(|page| page.huge = true);
        }
    }

    /// How many of them are in that state.
    ///
    /// ```
    /// use soload::{Addr, PageMap, PageState};
    /// let nothing = PageMap::of_range(Addr(0)..Addr(0))?;
    /// assert_eq!(nothing.count(PageState::Untouched), 0);
    /// # Ok::<(), soload::ErrorKind>(())
    /// ```
    #[must_use]
    pub fn count(&self, state: PageState) -> usize {
        self.pages.iter().filter(|page| page.state == state).count()
    }
}

fn system(call: &'static str) -> impl Fn(io::Error) -> ErrorKind {
    move |error| ErrorKind::System { call, errno: error.raw_os_error().unwrap_or(0) }
}

fn read(pagemap: &File, first: u64, count: u64) -> Result<Vec<Page>, ErrorKind> {
    let mut pages = Vec::with_capacity(count as usize);
    let mut chunk = [0; CHUNK];
    while (pages.len() as u64) < count {
        let done = pages.len() as u64;
        let wanted = ((count - done) * ENTRY).min(CHUNK as u64) as usize;
        let got = match pagemap.read_at(&mut chunk[..wanted], (first + done) * ENTRY) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            got => got.map_err(system("read of pagemap"))?,
        };
        let (entries, _) = chunk[..got].as_chunks();
        pages.extend(entries.iter().map(|entry| Page::of_entry(u64::from_ne_bytes(*entry))));
        if entries.is_empty() {
            // Behind the end of the address space of user programs: nothing of ours is there.
            pages.resize(count as usize, Page::of_entry(0));
        }
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    fn page_at(at: usize) -> Page {
        let map = PageMap::of_range(Addr(at)..Addr(at + 1)).unwrap();
        assert_eq!(map.pages.len(), 1);
        map.pages[0]
    }

    // glibc gives a request of this size a mapping of its own, whose pages nobody has touched.
    const UNTOUCHED: usize = 64 << 20;

    #[test]
    fn an_entry_of_pagemap_is_read_as_the_kernel_documents_it() {
        let cases = [
            (0, PageState::Untouched, None),
            // Soft-dirty, write-protected by userfaultfd, guard: say nothing about what backs the page.
            (1 << 55 | 1 << 57 | 1 << 58, PageState::Untouched, None),
            (1 << 63 | 1 << 61, PageState::Shared, None),
            (1 << 63 | 1 << 61 | 1 << 55 | 0x1234, PageState::Shared, NonZeroU64::new(0x1234)),
            (1 << 63 | 1 << 61 | 1 << 56, PageState::Exclusive, None),
            (1 << 63 | 1 << 56, PageState::Copied, None),
            (1 << 63, PageState::Copied, None),
            (1 << 63 | ((1 << 55) - 1), PageState::Copied, NonZeroU64::new((1 << 55) - 1)),
            (1 << 62 | 0x1234, PageState::Swapped, None),
        ];
        for (entry, state, frame) in cases {
            let exclusive = entry >> 63 & 1 == 1 && entry >> 56 & 1 == 1;
            assert_eq!(Page::of_entry(entry), Page { state, exclusive, frame, huge: false }, "{entry:#x}");
        }
    }

    #[test]
    fn code_that_runs_is_a_page_of_its_file() {
        let state = page_at(read as *const () as usize).state;
        assert!(matches!(state, PageState::Shared | PageState::Exclusive), "{state:?}");
    }

    #[test]
    fn a_page_that_was_relocated_is_a_copy() {
        // A pointer to data needs a relocation in a position-independent executable, and the tests are one.
        static RELOCATED: [&str; 2] = ["a", "b"];
        assert_eq!(page_at(black_box(&RELOCATED).as_ptr().addr()).state, PageState::Copied);
    }

    #[test]
    fn the_stack_is_no_file() {
        let local = black_box(1_u8);
        assert_eq!(page_at(std::ptr::from_ref(&local).addr()).state, PageState::Copied);
    }

    #[test]
    fn memory_is_untouched_until_it_is_written() {
        let mut bytes = vec![0_u8; UNTOUCHED];
        let at = bytes.as_ptr().addr() + UNTOUCHED / 2;
        assert_eq!(page_at(at).state, PageState::Untouched);
        bytes[UNTOUCHED / 2] = black_box(1);
        assert_eq!(page_at(at).state, PageState::Copied);
        black_box(&bytes);
    }

    #[test]
    fn each_page_of_a_long_range_is_in_its_place() {
        let page = sys::page_size().bytes() as usize;
        let mut bytes = vec![0_u8; UNTOUCHED];
        let start = bytes.as_ptr().addr();
        let all = || PageMap::of_range(Addr(start + page)..Addr(start + UNTOUCHED)).unwrap();
        assert_eq!(all().count(PageState::Untouched), all().pages.len());
        // Around the ends of the first and the second chunk, and the last page.
        let entries = CHUNK / ENTRY as usize;
        let written = [0, entries - 1, entries, 2 * entries, all().pages.len() - 1];
        for index in written {
            bytes[all().start.0 + index * page - start] = black_box(1);
        }
        assert!(written.iter().all(|index| all().pages[*index].state == PageState::Copied));
        assert!(all().pages.len() > 2 * entries);
        black_box(&bytes);
    }

    #[test]
    fn pages_are_whole_even_if_the_range_is_not() {
        let page = sys::page_size();
        let at = page.up(read as *const () as u64).unwrap();
        let map = PageMap::of_range(Addr(at as usize - 1)..Addr(at as usize + 1)).unwrap();
        assert_eq!((map.pages.len(), map.start, map.page), (2, Addr((at - page.bytes()) as usize), page));
    }

    #[test]
    fn an_empty_or_reversed_range_has_no_pages() {
        assert!(PageMap::of_range(Addr(1)..Addr(1)).unwrap().pages.is_empty());
        assert!(PageMap::of_range(Addr(0x5000)..Addr(1)).unwrap().pages.is_empty());
    }

    #[test]
    fn the_end_of_the_address_space_is_untouched() {
        assert_eq!(PageMap::of_range(Addr(usize::MAX - 1)..Addr(usize::MAX)).unwrap().count(PageState::Untouched), 1);
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn more_pages_than_any_library_has_are_refused() {
        let error = PageMap::of_range(Addr(0)..Addr(usize::MAX)).unwrap_err();
        assert!(matches!(error, ErrorKind::Limit { limit: PAGES_MAX, found, .. } if found > PAGES_MAX), "{error}");
    }
}
