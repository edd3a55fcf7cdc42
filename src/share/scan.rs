//! What the kernel says of a process's pages run by run (`PAGEMAP_SCAN`, Linux 6.7), however large the range is.
//!
//! # Safety
//! One system call, which fills a buffer of ours and changes no memory of this process.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use crate::addr::Addr;
use crate::error::ErrorKind;

/// Pages in a row that memory is behind, and of which the kernel says the same.
///
/// ```
/// use soload::{Addr, PageScan};
/// let buffer = vec![1_u8; 100_000];
/// let at = buffer.as_ptr().addr();
/// if let Ok(scan) = PageScan::of_process(std::process::id()) {
///     let runs = scan.runs(Addr(at)..Addr(at + buffer.len())).collect::<Result<Vec<_>, _>>()?;
///     assert!(runs.iter().all(|run| !run.file));
/// }
/// # Ok::<(), soload::ErrorKind>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageRun {
    /// Their addresses, whole pages.
    pub range: Range<Addr>,
    /// Whether the memory is a file's, in the page cache. Otherwise it is the process's own.
    pub file: bool,
    /// Whether they were written since they were last [protected](PageScan::protect).
    pub written: bool,
    /// Whether they are the page of zeros that all processes have for what was only read so far.
    pub zero: bool,
    /// Whether they are mapped by one entry for 2 MiB (or what the machine has).
    pub huge: bool,
}

/// A process whose pages can be asked for run by run: what nobody has touched costs neither time nor memory.
///
/// Needs no privilege for processes of one's own. Asking changes nothing: no page is touched by it.
///
/// ```
/// use soload::{Addr, PageScan};
/// if let Ok(scan) = PageScan::of_process(std::process::id()) {
///     // All of the address space of x86-64, answered at once.
///     let pages = scan.runs(Addr(0)..Addr((1 << 47) - 4096)).map(|run| run.map(|run| run.range.end.0 - run.range.start.0));
///     assert!(pages.sum::<Result<usize, _>>()? > 100_000);
/// }
/// # Ok::<(), soload::ErrorKind>(())
/// ```
#[derive(Debug)]
pub struct PageScan {
    pagemap: File,
}

/// `struct pm_scan_arg` (`<linux/fs.h>`).
#[repr(C)]
struct Argument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const WP_MATCHING: u64 = 1;
const CHECK_WPASYNC: u64 = 2;
const WRITTEN: u64 = 1 << 1;
const FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const PFNZERO: u64 = 1 << 5;
const HUGE: u64 = 1 << 6;

/// Regions that one call answers: 24 KiB.
const REGIONS: usize = 1024;

impl PageScan {
    /// That process.
    ///
    /// # Errors
    /// [`ErrorKind::System`]: `ENOENT` if there is no such process, `EACCES` if it is another user's, `ENOTTY` where the
    /// kernel is older than 6.7.
    pub fn of_process(process: u32) -> Result<Self, ErrorKind> {
        let pagemap = File::open(format!("/proc/{process}/pagemap")).map_err(system("open of pagemap"))?;
        let scan = Self { pagemap };
        // Nothing, to learn whether it can be asked at all.
        scan.ask(0..0, 0, 0, &mut [])?;
        Ok(scan)
    }

    /// The process whose `pagemap` that is, where the kernel can be asked.
    pub(super) fn of_pagemap(pagemap: File) -> Option<Self> {
        let scan = Self { pagemap };
        scan.ask(0..0, 0, 0, &mut []).is_ok().then_some(scan)
    }

    /// What memory is behind in `range`, in the order of addresses. What is untouched or swapped out is left out.
    /// A range that ends behind the addresses of user programs is an error (`EFAULT`).
    pub fn runs(&self, range: Range<Addr>) -> impl Iterator<Item = Result<PageRun, ErrorKind>> {
        let mut buffer = vec![Region::default(); REGIONS];
        let (mut next, end) = (range.start.0 as u64, range.end.0 as u64);
        let (mut filled, mut taken) = (0, 0);
        std::iter::from_fn(move || {
            while taken == filled {
                if next >= end {
                    return None;
                }
                match self.ask(next..end, 0, PRESENT, &mut buffer) {
                    // No more than the range can be left: whatever the kernel answers, this ends.
                    Ok((count, walked)) => (filled, taken, next) = (count, 0, walked.max(next + 1)),
                    Err(error) => {
                        next = end;
                        return Some(Err(error));
                    }
                }
            }
            let region = buffer[taken];
            taken += 1;
            let has = |category: u64| region.categories & category != 0;
            Some(Ok(PageRun {
                range: Addr(region.start as usize)..Addr(region.end as usize),
                file: has(FILE),
                written: has(WRITTEN),
                zero: has(PFNZERO),
                huge: has(HUGE),
            }))
        })
    }

    /// How many of the pages in `range` memory is behind that is the process's own, not a file's.
    ///
    /// ```
    /// use soload::{Addr, PageScan};
    /// let code = PageScan::of_process as *const () as usize;
    /// if let Ok(scan) = PageScan::of_process(std::process::id()) {
    ///     assert_eq!(scan.copied(Addr(code)..Addr(code + 1))?, 0);
    /// }
    /// # Ok::<(), soload::ErrorKind>(())
    /// ```
    ///
    /// # Errors
    /// The process has ended meanwhile.
    pub fn copied(&self, range: Range<Addr>) -> Result<u64, ErrorKind> {
        let page = crate::sys::page_size().bytes();
        let pages = |run: PageRun| (run.range.end.0 - run.range.start.0) as u64 / page;
        self.runs(range).map(|run| run.map(|run| if run.file { 0 } else { pages(run) })).sum()
    }

    /// Has the kernel note which pages of `range` are written from now on ([`PageRun::written`]), without stopping the
    /// process: they must have been registered with its userfaultfd for asynchronous write protection
    /// (`UFFD_FEATURE_WP_ASYNC`).
    ///
    /// ```
    /// use soload::{Addr, PageScan};
    /// let local = 1_u8;
    /// let at = std::ptr::from_ref(&local).addr();
    /// if let Ok(scan) = PageScan::of_process(std::process::id()) {
    ///     assert!(scan.protect(Addr(at)..Addr(at + 1)).is_err(), "not registered");
    /// }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::System`]: `EPERM` if they are not registered so.
    pub fn protect(&self, range: Range<Addr>) -> Result<(), ErrorKind> {
        let (mut next, end) = (range.start.0 as u64, range.end.0 as u64);
        let mut buffer = vec![Region::default(); REGIONS];
        while next < end {
            let (_, walked) = self.ask(next..end, WP_MATCHING | CHECK_WPASYNC, WRITTEN, &mut buffer)?;
            next = walked.max(next + 1);
        }
        Ok(())
    }

    /// One call: how many regions it found that have the category, and where it stopped.
    fn ask(
        &self,
        range: Range<u64>,
        flags: u64,
        category: u64,
        regions: &mut [Region],
    ) -> Result<(usize, u64), ErrorKind> {
        let page = crate::sys::page_size();
        let mut argument = Argument {
            size: size_of::<Argument>() as u64,
            flags,
            start: page.down(range.start),
            end: page.up(range.end).unwrap_or(page.down(u64::MAX)),
            walk_end: 0,
            vec: if regions.is_empty() { 0 } else { regions.as_mut_ptr().addr() as u64 },
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: 0,
            category_mask: category,
            category_anyof_mask: 0,
            return_mask: PRESENT | FILE | WRITTEN | PFNZERO | HUGE,
        };
        // SAFETY: the kernel reads and writes `argument`, and writes at most `vec_len` regions to `regions`; both outlive
        // the call.
        let found = unsafe { libc::ioctl(self.pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
        match usize::try_from(found) {
            Ok(found) => Ok((found.min(regions.len()), argument.walk_end)),
            Err(_) => Err(system("PAGEMAP_SCAN")(io::Error::last_os_error())),
        }
    }
}

fn system(call: &'static str) -> impl Fn(io::Error) -> ErrorKind {
    move |error| ErrorKind::System { call, errno: error.raw_os_error().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    fn own() -> Option<PageScan> {
        match PageScan::of_process(std::process::id()) {
            Err(ErrorKind::System { errno: libc::ENOTTY, .. }) => {
                eprintln!("DID NOT RUN: this kernel has no PAGEMAP_SCAN");
                None
            }
            scan => Some(scan.unwrap()),
        }
    }

    #[test]
    fn runs_are_the_pages_that_pagemap_has_one_by_one() {
        use super::super::pages::{PageMap, PageState};
        let Some(scan) = own() else { return };
        let page = crate::sys::page_size().bytes() as usize;
        let mut bytes = vec![0_u8; 64 << 20]; // a mapping of its own
        let first = bytes.as_ptr().addr();
        let start = first.next_multiple_of(page);
        // More runs than one call answers.
        let written: Vec<usize> = (0..2 * REGIONS + 5).map(|index| 4 * index + index % 2).collect();
        for index in &written {
            bytes[start - first + index * page] = black_box(1);
        }
        let range = Addr(start)..Addr(start + (8 * REGIONS + 32) * page);
        let runs: Vec<_> = scan.runs(range.clone()).collect::<Result<_, _>>().unwrap();
        let pages = runs.iter().flat_map(|run| (run.range.start.0..run.range.end.0).step_by(page));
        let found: Vec<_> = pages.map(|at| (at - start) / page).collect();
        let map = PageMap::of_range(range.clone()).unwrap();
        let states = map.pages.iter().enumerate().filter(|(_, page)| page.state == PageState::Copied);
        assert_eq!(found, states.map(|(index, _)| index).collect::<Vec<_>>());
        // Transparent huge pages may have brought more than what was written.
        assert!(written.iter().all(|index| found.contains(index)) && runs.iter().all(|run| !run.file));
        assert_eq!(scan.copied(range).unwrap(), found.len() as u64);
        black_box(&bytes);
    }

    #[test]
    fn code_is_a_file_s_and_what_is_not_mapped_has_no_runs() {
        let Some(scan) = own() else { return };
        let code = PageScan::of_process as *const () as usize;
        let run = scan.runs(Addr(code)..Addr(code + 1)).next().unwrap().unwrap();
        assert!(run.file && run.range.contains(&Addr(code)), "{run:?}");
        assert_eq!(scan.runs(Addr(0)..Addr(4096)).count(), 0);
        assert_eq!(scan.runs(Addr(4096)..Addr(0)).count(), 0);
    }

    #[test]
    fn a_process_that_is_not_there_cannot_be_asked() {
        let error = PageScan::of_process(u32::MAX).unwrap_err();
        assert!(matches!(error, ErrorKind::System { errno: libc::ENOENT, .. }), "{error:?}");
    }
}
