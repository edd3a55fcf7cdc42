//! What it costs to copy pages of a file, in fresh processes: by a fault for each, together, and into one page of 2 MiB.
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
use std::os::unix::fs::FileExt;
use std::ptr;
use std::time::Instant;

const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;
const ROUNDS: usize = 101;

fn main() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![1; HUGE]).unwrap();
    println!("nanoseconds a page, medians of {ROUNDS} processes each\n");
    println!("{:>6} {:>10} {:>10} {:>10}", "pages", "faults", "together", "huge");
    for pages in [1, 2, 4, 8, 16, 24, 48, 100, 200, 512] {
        let len = pages * PAGE;
        let mut ways: Vec<&dyn Fn()> = Vec::new();
        let (faults, together, huge) =
            (|| faults(&file, len, 0), || faults(&file, len, libc::MAP_POPULATE), || huge(&file));
        ways.extend([&faults as &dyn Fn(), &together]);
        if len == HUGE {
            ways.push(&huge);
        }
        let mut times = vec![Vec::new(); ways.len()];
        for _ in 0..ROUNDS {
            times.iter_mut().zip(&ways).for_each(|(times, way)| times.push(in_a_fork(way)));
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

/// Reads the file into one page, if the kernel has such a page.
fn huge(file: &File) {
    let start = map(-1, 2 * HUGE, libc::MAP_ANONYMOUS);
    let block = start.wrapping_add(start.align_offset(HUGE));
    let bytes = unsafe {
        libc::madvise(block.cast(), HUGE, libc::MADV_HUGEPAGE);
        std::slice::from_raw_parts_mut(block, HUGE)
    };
    file.read_exact_at(bytes, 0).unwrap();
    (0..HUGE).step_by(PAGE).for_each(|at| unsafe { block.add(at).write_volatile(2) });
}
