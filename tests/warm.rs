//! Pages of 2 MiB under code, where the file system gives them.

#![cfg(all(target_pointer_width = "64", target_arch = "x86_64"))]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // reads mapped code

mod common;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use common::{Lib, Loader, fixture, on_both_loaders, on_ours, scratch};
use soload::{Addr, OpenOptions, PageMap, Warming, Warmth};

const PAGE: usize = 4096;
/// Bytes of code of the fixture.
const CODE: usize = 8 << 20;

/// A copy of the fixture that is in no process and not in memory.
fn cold() -> PathBuf {
    let path = scratch().join("liblarge_code.so");
    fs::copy(fixture("large_code"), &path).unwrap();
    let file = File::open(&path).unwrap();
    file.sync_all().unwrap();
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    path
}

/// Whether there are pages of 2 MiB for this file, which it is read in then.
fn gives_huge_pages(path: &Path) -> bool {
    let gives = Warming::of(path).unwrap().after.huge > 0;
    if !gives {
        eprintln!("DID NOT RUN: {} has no file system that gives pages of 2 MiB", path.display());
    }
    gives
}

/// Touches all code; answers the faults that took, and how many pages are in huge ones.
fn touch(library: &Lib) -> (i64, usize) {
    let faults = || unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage.ru_minflt + usage.ru_majflt
    };
    assert_eq!(library.call("large_code"), 7);
    let start = library.address("large_code");
    let before = faults();
    for page in (start..start + CODE).step_by(PAGE) {
        unsafe { (page as *const u8).read_volatile() };
    }
    let faults = faults() - before;
    let pages = PageMap::of_range(Addr(start)..Addr(start + CODE)).unwrap().pages;
    (faults, pages.iter().filter(|page| page.huge).count())
}

#[test]
fn code_that_is_read_anew_comes_in_huge_pages_and_takes_fewer_faults() {
    on_ours(|_| {
        let path = cold();
        let warming = Warming::of(&path).unwrap();
        let (before, after) = (warming.before, warming.after);
        assert_eq!(before.pages, after.pages);
        assert!(before.pages > (CODE / PAGE) as u64 && after.huge_possible >= (CODE / PAGE) as u64 - 1, "{warming:?}");
        if gives_huge_pages(&path) {
            assert_eq!(after.huge, after.huge_possible, "{warming:?}");
            assert!(after.minor_faults < 16, "{warming:?}");
        }
        // Once more changes nothing.
        assert_eq!(Warmth::of(&path).unwrap().huge, after.huge);
    });
}

#[test]
fn whoever_loads_what_has_been_warmed_has_fewer_faults() {
    on_both_loaders(|loader: Loader| {
        let path = cold();
        let faults = |library: Lib| touch(&library).0;
        let before = faults(loader.open(&path));
        if gives_huge_pages(&path) {
            let after = faults(loader.open(&path));
            assert!(after < before, "{after} faults, {before} before");
        }
    });
}

#[test]
#[cfg(feature = "cli")]
fn a_bench_begins_with_files_that_are_read_anew() {
    on_ours(|loader| {
        let path = cold();
        if !gives_huge_pages(&path) {
            return;
        }
        // Forgotten, and read again as loaders read.
        let path = cold();
        touch(&loader.open(&path));
        assert_eq!(Warmth::of(&path).unwrap().huge, 0);
        let mut bench = std::process::Command::new(env!("CARGO_BIN_EXE_soload"));
        let output = bench.args(["bench", "--own", "--rounds", "1"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(Warmth::of(&path).unwrap().huge > 0);
    });
}

#[test]
fn a_cold_library_is_loaded_in_huge_pages_if_that_is_wanted() {
    on_ours(|_| {
        let open = |path: &Path, huge| unsafe { OpenOptions::new().huge_pages(huge).open(path) }.unwrap();
        if !gives_huge_pages(&cold()) {
            return;
        }
        let (faults, huge) = touch(&Lib::Ours(open(&cold(), false)));
        let (fewer, more) = touch(&Lib::Ours(open(&cold(), true)));
        assert_eq!(huge, 0);
        // The first block has the headers in it, which are mapped another way.
        assert!(more >= CODE / PAGE - 512 && fewer < faults / 2, "{more} pages, {fewer} faults; {faults} without");
    });
}

#[test]
fn a_library_without_so_much_code_is_loaded_as_ever() {
    on_ours(|_| {
        let library = unsafe { OpenOptions::new().huge_pages(true).open(fixture("overwritten")) }.unwrap();
        assert_eq!(Lib::Ours(library).call("near_code"), 41);
        let warming = Warming::of(&fixture("overwritten")).unwrap();
        assert_eq!((warming.after.huge, warming.after.huge_possible), (0, 0));
    });
}
