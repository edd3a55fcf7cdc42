//! A process with very many mappings and very much address space is answered in seconds and in little memory.

#![cfg(all(feature = "cli", target_pointer_width = "64"))]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // maps, and asks what a child has used

mod common;

use std::ffi::c_void;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::ptr;
use std::time::{Duration, Instant};

use common::{on_ours, scratch};
use serde_json::Value;

const PAGE: usize = 4096;
const SPACE: usize = 100 << 30;

/// Maps addresses, of a file or of none.
fn map(len: usize, protection: i32, file: Option<&File>) -> *mut c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | if file.is_none() { libc::MAP_ANONYMOUS } else { 0 };
    let place = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, file.map_or(-1, File::as_raw_fd), 0) };
    assert_ne!(place, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    place
}

/// Most memory that any child has used so far, in bytes.
fn most_memory() -> u64 {
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage.ru_maxrss as u64 * 1024
    }
}

#[test]
fn a_process_with_very_many_mappings_is_answered_in_seconds_and_little_memory() {
    let output = on_ours(|_| {
        // As many as the kernel allows (/proc/sys/vm/max_map_count), at most 100,000: every other page may be read.
        let limit: usize = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
        let mappings = limit.saturating_sub(500).min(100_000);
        let space = map(SPACE, libc::PROT_NONE, None);
        for index in 0..mappings / 2 {
            let place = unsafe { space.byte_add(2 * index * PAGE) };
            assert_eq!(unsafe { libc::mprotect(place, PAGE, libc::PROT_READ | libc::PROT_WRITE) }, 0);
            if index % 16 == 0 {
                unsafe { place.cast::<u8>().write_volatile(1) };
            }
        }
        // A file of that size, mapped like code, of which a few pages have been read and one written.
        let path = scratch().join("large.bin");
        let file = File::create_new(&path).unwrap();
        file.set_len(SPACE as u64).unwrap();
        let file = File::open(&path).unwrap();
        let code = map(SPACE, libc::PROT_READ | libc::PROT_WRITE, Some(&file)).cast::<u8>();
        unsafe {
            code.byte_add(SPACE / 2).read_volatile();
            code.byte_add(SPACE / 3).write_volatile(1);
            assert_eq!(libc::mprotect(code.cast(), SPACE, libc::PROT_READ | libc::PROT_EXEC), 0);
        }
        let own = std::process::id().to_string();
        let lines = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        assert!(lines >= mappings, "{lines} mappings");
        let doctor = ["doctor", "--json", &own];
        for arguments in [&["pages", "--json", &own][..], &doctor, &["share", "--json", "--pid", &own, "libc.so.6"]] {
            let start = Instant::now();
            let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
            let answer = command.args(arguments).stdin(Stdio::null()).output().unwrap();
            let took = start.elapsed();
            let text = String::from_utf8_lossy(&answer.stdout);
            let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
            println!("{lines} mappings: {} took {took:?}, at most {} MiB", arguments[0], most_memory() >> 20);
            assert!(took < Duration::from_secs(10), "{arguments:?}: {took:?}");
            assert!(most_memory() < 200 << 20, "{arguments:?}");
            match arguments[0] {
                "pages" => {
                    let libraries = document["libraries"].as_array().unwrap();
                    assert!(libraries.len() > 2 && document["others"].as_array().unwrap().len() == 1, "{document}");
                }
                "doctor" => {
                    let findings = document["processes"][0]["findings"].as_array().unwrap();
                    let mut copied = findings.iter().filter(|finding| finding["kind"] == "private code");
                    let copied = copied.find(|finding| finding["path"] == path.to_str().unwrap()).unwrap();
                    assert!(copied["what"].as_str().unwrap().starts_with("1 page of code copied"), "{findings:?}");
                }
                _ => assert_eq!(document["runs"][0]["processes"][0].to_string(), own),
            }
        }
    });
    print!("{}", output[0].1);
}
