//! A library whose file is overwritten in place changes under the process, unless it was opened with a guard.

#![cfg(target_pointer_width = "64")]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixture's functions have the types that are stated

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Loader, fixture, on_both_loaders, on_ours, scratch};
use soload::{Guard, Library, OpenOptions, PageState};

/// A copy of the fixture that may be overwritten.
fn copy() -> PathBuf {
    let path = scratch().join("liboverwritten.so");
    fs::copy(fixture("overwritten"), &path).unwrap();
    path
}

/// Where the file has a number.
fn offset_of(path: &Path, number: u32) -> u64 {
    let bytes = fs::read(path).unwrap();
    let page = |at: &usize| bytes[*at..].starts_with(&number.to_le_bytes());
    (0..bytes.len()).step_by(4096).find(page).unwrap() as u64
}

/// Another process writes into the file as it is, then makes it empty.
fn overwrite_by_another_process(path: &Path) -> Duration {
    let start = Instant::now();
    let script = "dd if=/dev/zero of=\"$0\" bs=4096 count=\"$1\" conv=notrunc status=none && : > \"$0\"";
    let pages = fs::metadata(path).unwrap().len().div_ceil(4096);
    let status = Command::new("sh").args(["-c", script]).arg(path).arg(pages.to_string()).status().unwrap();
    assert!(status.success() && fs::metadata(path).unwrap().len() == 0, "{status}");
    start.elapsed()
}

fn call(library: &Library, name: &str) -> i32 {
    unsafe { library.get::<extern "C" fn() -> i32>(name).unwrap()() }
}

#[test]
fn without_a_guard_pages_that_were_not_copied_change() {
    on_both_loaders(|loader: Loader| {
        let path = copy();
        let library = loader.open(&path);
        assert_eq!(library.call("near_code"), 41);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&99_u32.to_le_bytes(), offset_of(&path, 42)).unwrap();
        assert_eq!(library.call("constant"), 99);
    });
}

#[test]
fn with_a_guard_nothing_changes_whatever_becomes_of_the_file() {
    on_ours(|_| {
        for guard in [Guard::Lease, Guard::Snapshot] {
            let path = copy();
            let library = unsafe { OpenOptions::new().guard(guard).open(&path) }.unwrap();
            assert_eq!(call(&library, "near_code"), 41);
            let took = overwrite_by_another_process(&path);
            let all = ["near_code", "constant", "variable", "far_code"].map(|name| call(&library, name));
            assert_eq!(all, [41, 42, 43, 44], "{guard:?}");
            // Nobody had to wait for the kernel's limit (/proc/sys/fs/lease-break-time).
            assert!(took < Duration::from_secs(20), "{guard:?}: {took:?}");
            assert_eq!(library.close().unwrap(), soload::Closed::Unloaded, "{guard:?}: destructors run as well");
            fs::remove_file(&path).unwrap();
        }
    });
}

#[test]
fn under_a_lease_pages_are_shared_until_somebody_writes() {
    on_ours(|_| {
        let path = copy();
        let library = unsafe { OpenOptions::new().guard(Guard::Lease).open(&path) }.unwrap();
        let code = || {
            let at = unsafe { *library.get::<*const u8>("far_code").unwrap() }.addr();
            assert_eq!(call(&library, "far_code"), 44);
            soload::PageMap::of_range(soload::Addr(at)..soload::Addr(at + 1)).unwrap().pages[0].state
        };
        assert_ne!(code(), PageState::Copied);
        // It is found in the process all the same, for whoever looks at its pages.
        let image = soload::Image::open(&path).unwrap();
        let plan = soload::Plan::of(&image, soload::PageSize::native()).unwrap();
        let mappings = soload::Mapping::all_of(std::process::id()).unwrap();
        assert_eq!(soload::Mapping::bias_of(&mappings, &image, &plan), library.bias());
        drop(image); // it has the file mapped, which would be truncated under it
        overwrite_by_another_process(&path);
        assert_eq!(code(), PageState::Copied);
        // A second writer is nothing to be told of any more.
        fs::write(&path, b"something else").unwrap();
        assert_eq!(call(&library, "constant"), 42);
    });
}

#[test]
fn a_file_that_cannot_be_leased_is_guarded_by_a_snapshot() {
    on_ours(|_| {
        let path = copy();
        // No lease is given of a file that is open for writing.
        let writer = File::options().write(true).open(&path).unwrap();
        let library = unsafe { OpenOptions::new().guard(Guard::Lease).open(&path) }.unwrap();
        writer.set_len(0).unwrap();
        assert_eq!(["constant", "far_code"].map(|name| call(&library, name)), [42, 44]);
    });
}

#[test]
fn a_lease_ends_with_the_library_and_nobody_waits_for_it() {
    on_ours(|_| {
        let path = copy();
        for _ in 0..20 {
            let library = unsafe { OpenOptions::new().guard(Guard::Lease).open(&path) }.unwrap();
            assert_eq!(call(&library, "near_code"), 41);
            drop(library);
            let start = Instant::now();
            drop(File::options().write(true).open(&path).unwrap());
            assert!(start.elapsed() < Duration::from_secs(5));
        }
        // Opens that fail leave none behind either.
        let broken = scratch().join("libbroken.so");
        fs::copy(fixture("missing_dependency"), &broken).unwrap();
        unsafe { OpenOptions::new().guard(Guard::Lease).open(&broken) }.unwrap_err();
        let start = Instant::now();
        drop(File::options().write(true).open(&broken).unwrap());
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn a_lease_that_is_over_does_not_end_another() {
    on_ours(|_| {
        let open = |name: &str| {
            let path = scratch().join(name);
            fs::copy(fixture("overwritten"), &path).unwrap();
            (unsafe { OpenOptions::new().guard(Guard::Lease).open(&path) }.unwrap(), path)
        };
        let _first = open("liba.so");
        let (second, path) = open("libb.so");
        overwrite_by_another_process(&path);
        let (third, path) = open("libc_.so");
        drop(second);
        overwrite_by_another_process(&path);
        assert_eq!(["constant", "far_code"].map(|name| call(&third, name)), [42, 44]);
    });
}

#[test]
fn writers_and_openers_may_come_at_any_moment() {
    on_ours(|_| {
        let path = copy();
        let original = fs::read(&path).unwrap();
        // Writes the same bytes again and again, by a process that opens the file anew each time.
        let script = "while :; do dd if=\"$1\" of=\"$0\" bs=4096 conv=notrunc status=none; done";
        let mut writer = Command::new("sh");
        writer.args(["-c", script]).arg(&path).arg(fixture("overwritten")).stdin(Stdio::null());
        let mut writer = writer.spawn().unwrap();
        for _ in 0..50 {
            let library = unsafe { OpenOptions::new().guard(Guard::Lease).open(&path) }.unwrap();
            assert_eq!(
                ["near_code", "constant", "variable", "far_code"].map(|name| call(&library, name)),
                [41, 42, 43, 44]
            );
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        assert_eq!(fs::read(&path).unwrap(), original);
    });
}

#[test]
fn a_snapshot_is_sealed() {
    on_ours(|_| {
        let path = copy();
        let library = unsafe { OpenOptions::new().guard(Guard::Snapshot).open(&path) }.unwrap();
        let at = unsafe { *library.get::<*const u8>("near_code").unwrap() }.addr();
        let of_code = |map: &common::maps::Map| map.range.contains(&at);
        let map = common::maps::maps().into_iter().find(of_code).unwrap();
        assert!(map.path.contains("memfd:soload"), "{map:?}");
        // Also the root user cannot write to it by way of the mapping.
        let file = format!("/proc/self/map_files/{:x}-{:x}", map.range.start, map.range.end);
        if let Ok(file) = File::options().write(true).open(file) {
            assert_eq!(file.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EPERM));
            assert_eq!(file.set_len(0).unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
        assert_eq!(library.path(), path);
    });
}
