//! What it costs to copy pages of a file, in fresh processes: by a fault for each, and together.
//!
//! How soload maps what it is going to relocate rests on this.
//!
//! ```text
//! cargo bench --bench pages
//! ```

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // mappings of its own, in forks of its own

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Instant;

const PAGE: usize = 4096;
const PAGES: [usize; 10] = [1, 2, 4, 8, 16, 24, 48, 100, 200, 512];
const ROUNDS: usize = 101;

fn main() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![1; PAGES[PAGES.len() - 1] * PAGE]).unwrap();
    println!("nanoseconds a page, medians of {ROUNDS} processes each\n");
    println!("{:>6} {:>10} {:>10}", "pages", "faults", "together");
    for pages in PAGES {
        let ways = [0, libc::MAP_POPULATE];
        let mut times = ways.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            let time = |flag| in_a_fork(&|| faults(&file, pages * PAGE, flag));
            times.iter_mut().zip(ways).for_each(|(times, flag)| times.push(time(flag)));
        }
        print!("{pages:6}");
        for times in &mut times {
            times.sort_unstable();
            print!(" {:10}", times[ROUNDS / 2] / pages as u64);
        }
        println!();
    }
}

/// Nanoseconds that `way` takes in a process that has done nothing yet.
fn in_a_fork(way: &dyn Fn()) -> u64 {
    let (mut reader, mut writer) = pipe().unwrap();
    let child = unsafe { libc::fork() };
    if child == 0 {
        let start = Instant::now();
        way();
        let time = start.elapsed().as_nanos() as u64;
        writer.write_all(&time.to_ne_bytes()).unwrap();
        unsafe { libc::_exit(0) };
    }
    let mut time = [0; 8];
    reader.read_exact(&mut time).unwrap();
    unsafe { libc::waitpid(child, ptr::null_mut(), 0) };
    u64::from_ne_bytes(time)
}

fn map(file: i32, len: usize, flags: i32) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_PRIVATE | flags, file, 0) };
    assert_ne!(start, libc::MAP_FAILED);
    start.cast()
}

/// Maps the file privately, and writes to each page.
fn faults(file: &File, len: usize, populate: i32) {
    let start = map(file.as_raw_fd(), len, populate);
    (0..len).step_by(PAGE).for_each(|at| unsafe { start.add(at).write_volatile(2) });
}
