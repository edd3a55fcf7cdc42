//! Files read anew: how a file's code comes from the page cache, and how to have it come in fewer and larger pieces.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::experiment::{Area, faults, forget};
use super::scan::PageScan;
use crate::addr::PageSize;
use crate::error::{Error, ErrorKind};
use crate::file::image::Image;
use crate::file::plan::{Plan, PlannedMap};
use crate::sys;

/// What it costs a process to touch every page of a file's code for the first time.
///
/// ```
/// let now = soload::Warmth::of("/proc/self/exe".as_ref())?;
/// assert!(now.minor_faults + now.major_faults > 0 && now.huge <= now.pages);
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warmth {
    /// Pages of code.
    pub pages: u64,
    /// Of these, pages that are mapped by one entry for 2 MiB together with others.
    pub huge: u64,
    /// Of these, pages for which that is possible: those in whole blocks of 2 MiB of the file.
    pub huge_possible: u64,
    /// Faults that found what they needed in memory.
    pub minor_faults: u64,
    /// Faults that had to wait for the disk.
    pub major_faults: u64,
    /// How long it took.
    pub time: Duration,
}

/// A file that has been read anew, in pieces of up to 2 MiB where the file system gives them: how its code came before, and
/// after.
///
/// What decides is who reads a file first: read through a mapping of code it comes in single pages, and stays so in the
/// cache, for all processes, until it is forgotten. This has the kernel forget the file and read what loading maps of it
/// again (`MADV_HUGEPAGE`, then `MADV_POPULATE_READ`). A whole piece of 2 MiB takes one fault; of a smaller one the 16 pages
/// that a fault maps are mapped in one go, and not each by itself. Pages that any process has mapped are not forgotten, and
/// stay as they are.
///
/// ```no_run
/// let warming = soload::Warming::of("/usr/lib/x86_64-linux-gnu/libLLVM-16.so.1".as_ref())?;
/// println!("{} faults, and {} now", warming.before.minor_faults, warming.after.minor_faults);
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warming {
    /// How the code came when it was touched first.
    pub before: Warmth,
    /// How it comes now.
    pub after: Warmth,
}

const HUGE: u64 = PageSize::HUGE.bytes();
/// The most of one file that is read: 4 GiB. A file with holes may claim more than there are bytes in the world.
const READ_MAX: u64 = 4 << 30;

/// A file, where in it its code is, and where all is that loading maps.
struct Code {
    file: File,
    len: usize,
    ranges: Vec<Range<u64>>,
    mapped: Vec<Range<u64>>,
    page: PageSize,
}

impl Code {
    fn open(path: &Path) -> Result<Self, Error> {
        // Closed again at once: it has the file mapped, which would keep its pages.
        let image = Image::open(path)?;
        let plan = Plan::of(&image, sys::page_size())?;
        let in_file =
            |map: &PlannedMap| Some((map.file?.0, map.file?.0.checked_add(map.range.end.0 - map.range.start.0)?));
        let ranges = |wanted: &dyn Fn(&PlannedMap) -> bool| -> Vec<Range<u64>> {
            plan.maps().iter().filter(|map| wanted(map)).filter_map(in_file).map(|(start, end)| start..end).collect()
        };
        let (ranges, mapped) = (ranges(&|map| map.protection.execute), ranges(&|_| true));
        let found = mapped.iter().map(|range: &Range<u64>| range.end - range.start).sum();
        if found > READ_MAX {
            return Err(Error::new(path, ErrorKind::Limit { what: "bytes to be mapped", limit: READ_MAX, found }));
        }
        let open = || File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = open().map_err(|error| failed(path, "open", &error))?;
        Ok(Self { file, len: len as usize, ranges, mapped, page: plan.page })
    }

    fn touch(&self, path: &Path) -> Result<Warmth, Error> {
        let area = Area::map_code(self.file.as_fd(), self.len, HUGE as usize);
        let area = area.map_err(|error| failed(path, "mmap", &error))?;
        let size = self.page.bytes();
        let (before, started) = (faults(), Instant::now());
        for range in &self.ranges {
            // The last page may end behind the end of the file.
            area.touch(range.start as usize..(range.end as usize).min(self.len), size as usize);
        }
        let (after, time) = (faults(), started.elapsed());
        let mut huge = 0;
        if let Ok(scan) = PageScan::of_process(std::process::id()) {
            let start = area.range().start.0 as u64;
            for run in scan.runs(area.range()).map_while(Result::ok).filter(|run| run.huge) {
                let (from, to) = (run.range.start.0 as u64 - start, run.range.end.0 as u64 - start);
                let common = |range: &Range<u64>| range.end.min(to).saturating_sub(range.start.max(from));
                huge += self.ranges.iter().map(common).sum::<u64>() / size;
            }
        }
        let whole = |range: &Range<u64>| {
            // A block is read as a whole; it may begin before the code, but not end behind the file.
            let end = range.end.min(self.len as u64 / HUGE * HUGE);
            end.saturating_sub(range.start) / size
        };
        Ok(Warmth {
            pages: self.ranges.iter().map(|range| (range.end - range.start) / size).sum(),
            huge,
            huge_possible: self.ranges.iter().map(whole).sum(),
            minor_faults: after.0 - before.0,
            major_faults: after.1 - before.1,
            time,
        })
    }

    fn read_anew(&self, path: &Path) -> Result<(), Error> {
        // What has not reached the disk is not forgotten. A file system that cannot say has nothing to write.
        let _ = self.file.sync_data();
        forget(&self.file);
        let area = Area::map_code(self.file.as_fd(), self.len, HUGE as usize);
        let area = area.map_err(|error| failed(path, "mmap", &error))?;
        for range in &self.mapped {
            let end = range.end.next_multiple_of(HUGE).min(self.page.up(self.len as u64).unwrap_or(range.end));
            let start = range.start / HUGE * HUGE;
            // Somebody may have cut it off meanwhile.
            if start >= end {
                continue;
            }
            area.read_in_huge_pages(start as usize..end as usize)
                .map_err(|error| failed(path, "MADV_POPULATE_READ", &error))?;
        }
        Ok(())
    }
}

fn failed(path: &Path, call: &'static str, error: &std::io::Error) -> Error {
    Error::new(path, ErrorKind::System { call, errno: error.raw_os_error().unwrap_or(0) })
}

impl Warmth {
    /// Touches every page of the file's code, in a mapping of its own.
    ///
    /// Other threads' faults are counted as well: call it while they are idle.
    ///
    /// # Errors
    /// The file cannot be opened, is no ELF file, or there is no room to map it.
    pub fn of(path: &Path) -> Result<Self, Error> {
        Code::open(path)?.touch(path)
    }
}

impl Warming {
    /// Has the kernel read what loading maps of the file at `path` anew.
    ///
    /// Needs no privilege. Takes the time of reading the file from the disk, and as much memory for it in the page cache.
    ///
    /// # Errors
    /// As for [`Warmth::of`]; a kernel before 5.14 cannot read ahead so.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let code = Code::open(path)?;
        let before = code.touch(path)?;
        code.read_anew(path)?;
        // The first time may still wait for the disk.
        code.touch(path)?;
        Ok(Self { before, after: code.touch(path)? })
    }
}
