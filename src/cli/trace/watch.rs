//! Which pages of a library another process touches and writes, counted by the kernel while it runs.
//!
//! # Safety
//! The descriptor that is taken over is the other process's; what is asked of it concerns that process's memory alone,
//! whose content does not change.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use soload::{Addr, Bias, ErrorKind, Mapping, PageRun, PageScan, Vaddr};

/// `_IOWR(0xaa, 0x3f, struct uffdio_api)` and `_IOWR(0xaa, 0, struct uffdio_register)` (`<linux/userfaultfd.h>`).
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFD_API: u64 = 0xaa;
/// Writes are noted without stopping the process, also to pages that nothing is behind yet.
const FEATURES: u64 = WP_ASYNC | WP_UNPOPULATED | WP_HUGETLBFS_SHMEM;
const WP_ASYNC: u64 = 1 << 15;
const WP_UNPOPULATED: u64 = 1 << 13;
const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const REGISTER_MODE_WP: u64 = 1 << 1;

/// What a page's memory is, and whether it was written in the time before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Touch {
    pub(super) file: bool,
    pub(super) written: bool,
}

/// The state of all pages at one moment, and what the process had cost until then.
pub(super) struct Snapshot {
    pub(super) runs: Vec<PageRun>,
    /// Minor and major faults of the whole process so far.
    pub(super) faults: (u64, u64),
    pub(super) at: Instant,
}

/// The pages of one library in one process, watched.
pub(super) struct Watch {
    pub(super) process: Pid,
    pub(super) bias: Bias,
    /// Its addresses.
    span: Range<Addr>,
    scan: PageScan,
    /// What of them is watched: holes between segments cannot be.
    watched: RefCell<Vec<Range<Addr>>>,
    /// As long as it is open, the pages are watched.
    userfault: OwnedFd,
    pub(super) start: Instant,
    pub(super) faults: (u64, u64),
    /// Pages that something was behind before they were watched.
    pub(super) before: usize,
}

impl Watch {
    /// Watches a library in a process of which `descriptor` is a new userfaultfd.
    pub(super) fn start(process: Pid, descriptor: RawFd, bias: Bias, span: &Range<Vaddr>) -> Result<Self, String> {
        let userfault = take(process, descriptor).map_err(|error| format!("pidfd_getfd: {error}"))?;
        let mut api = [UFFD_API, FEATURES, 0];
        ask(&userfault, UFFDIO_API, &mut api).map_err(|error| {
            format!("userfaultfd: {error}: this kernel cannot note writes asynchronously (Linux 6.7 can)")
        })?;
        let scan = PageScan::of_process(process.as_raw() as u32).map_err(|error| error.to_string())?;
        let span = bias.at(span.start)..bias.at(span.end);
        let found = scan.runs(span.clone()).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        let page = soload::PageSize::native().bytes() as usize;
        let before = found.iter().map(|run| (run.range.end.0 - run.range.start.0) / page).sum();
        let (start, faults) = (Instant::now(), faults(process));
        let watched = RefCell::default();
        let watch = Self { process, bias, span, scan, watched, userfault, start, faults, before };
        watch.register(&watch.span)?;
        Ok(watch)
    }

    /// Whether a range of addresses has to do with the library.
    pub(super) fn concerns(&self, range: &Range<Addr>) -> bool {
        range.start < self.span.end && self.span.start < range.end
    }

    /// Watches what has been mapped there. What was watched before must not be named again: its writes would be forgotten.
    pub(super) fn register(&self, range: &Range<Addr>) -> Result<(), String> {
        let mappings = Mapping::all_of(self.process.as_raw() as u32).map_err(|error| error.to_string())?;
        let wanted = range.start.max(self.span.start)..range.end.min(self.span.end);
        for mapping in mappings.iter().filter(|mapping| mapping.protection.read) {
            let range = mapping.range.start.max(wanted.start)..mapping.range.end.min(wanted.end);
            if range.is_empty() {
                continue;
            }
            let mut register = [range.start.0 as u64, (range.end.0 - range.start.0) as u64, REGISTER_MODE_WP, 0];
            ask(&self.userfault, UFFDIO_REGISTER, &mut register)
                .map_err(|error| format!("userfaultfd: {} cannot be watched: {error}", range.start))?;
            self.scan.protect(range.clone()).map_err(|error| error.to_string())?;
            self.watched.borrow_mut().push(range);
        }
        Ok(())
    }

    /// What the pages are now; writes are noted anew from here on.
    pub(super) fn look(&self) -> Result<Snapshot, ErrorKind> {
        let runs = self.scan.runs(self.span.clone()).collect::<Result<_, _>>()?;
        let snapshot = Snapshot { runs, faults: faults(self.process), at: Instant::now() };
        for range in self.watched.borrow().iter() {
            // What has been mapped over meanwhile, by nothing to be watched, is not of the library any more.
            let _ = self.scan.protect(range.clone());
        }
        Ok(snapshot)
    }
}

impl Snapshot {
    /// The touched pages among `count` pages from `start`.
    pub(super) fn touches(&self, start: Addr, count: usize, page: usize) -> Vec<Option<Touch>> {
        let mut touches = vec![None; count];
        for run in &self.runs {
            let index = |at: Addr| (at.0.saturating_sub(start.0) / page).min(count);
            let touch = Touch { file: run.file, written: run.written };
            touches[index(run.range.start)..index(run.range.end)].fill(Some(touch));
        }
        touches
    }

    pub(super) fn since(&self, start: Instant) -> Duration {
        self.at.saturating_duration_since(start)
    }
}

/// A descriptor of another process, for this one.
fn take(process: Pid, descriptor: RawFd) -> io::Result<OwnedFd> {
    let own = |descriptor: libc::c_long| match descriptor {
        // SAFETY: a new descriptor that nobody else has.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) }),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: numbers only; both calls give a new descriptor or an error.
    let handle = own(unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) })?;
    // SAFETY: as above.
    own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, handle.as_raw_fd(), descriptor, 0) })
}

fn ask<const N: usize>(descriptor: &OwnedFd, call: libc::c_ulong, argument: &mut [u64; N]) -> io::Result<()> {
    // SAFETY: the structures of both calls are made of as many 64-bit numbers as the caller has.
    match unsafe { libc::ioctl(descriptor.as_raw_fd(), call, argument.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Minor and major faults of a process so far (`proc_pid_stat(5)`, fields 10 and 12).
fn faults(process: Pid) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name may have blanks and parentheses: fields are counted from behind it.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let mut field = |skip| fields.nth(skip).and_then(|field| field.parse().ok()).unwrap_or(0);
    (field(7), field(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_pages_are_put_where_they_belong() {
        let scan = PageScan::of_process(std::process::id());
        let Ok(scan) = scan else { return eprintln!("DID NOT RUN: this kernel has no PAGEMAP_SCAN") };
        let page = soload::PageSize::native().bytes() as usize;
        let mut bytes = vec![0_u8; 64 << 20];
        let first = bytes.as_ptr().addr();
        let start = first.next_multiple_of(page);
        bytes[start - first + 3 * page] = 1;
        let runs = scan.runs(Addr(start)..Addr(start + 10 * page)).collect::<Result<_, _>>().unwrap();
        let snapshot = Snapshot { runs, faults: (0, 0), at: Instant::now() };
        let touches = snapshot.touches(Addr(start), 5, page);
        assert_eq!(touches[3].map(|touch| touch.file), Some(false), "{touches:?}");
        assert_eq!(snapshot.touches(Addr(start + 3 * page), 1, page), [touches[3]]);
        std::hint::black_box(&bytes);
    }

    #[test]
    fn a_process_has_faults() {
        assert!(faults(Pid::this()).0 > 0);
    }
}
