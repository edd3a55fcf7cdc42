//! Threads that open, close, look up, call, throw and fork at random, all at once.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;
#[path = "common/drop_in.rs"]
mod drop_in;

use std::cell::Cell;
use std::ffi::c_int;
use std::thread;
use std::time::{Duration, Instant};

use common::maps::is_mapped;
use common::*;
use drop_in::drop_in;

/// Libraries of all kinds, each with a function and what it answers.
const LIBRARIES: [(&str, &str, c_int); 10] = [
    ("life_root", "present", 1),
    ("life_left", "present", 1),
    ("life_right", "present", 1),
    ("ifunc", "call_exported", 0),
    ("tls_general", "is_aligned", 1),
    ("tls_initial", "is_aligned", 1),
    ("throws", "thrown_and_caught", 1),
    ("own_unwinder", "caught_by_own_unwinder", 0),
    ("scope_bridge", "call_through_bridge", 0),
    ("namespace", "next_of_inner", 0),
];

/// Set it to repeat a run: its number is printed when one fails.
const SEED: &str = "SOLOAD_TEST_SEED";

/// Numbers that look random (xorshift), the same for the same seed.
struct Random(Cell<u64>);

impl Random {
    fn below(&self, limit: usize) -> usize {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        (x >> 16) as usize % limit
    }
}

#[test]
fn threads_do_everything_at_random_at_once() {
    on_both_loaders(|loader| {
        torture(loader);
    });
}

#[test]
fn threads_do_everything_at_random_at_once_under_the_drop_in() {
    // In the child it is there already, and not to be built again.
    let preload = std::env::var("LD_PRELOAD").unwrap_or_else(|_| drop_in().display().to_string()).leak();
    Child::default().env("LD_PRELOAD", preload).on_both_loaders(|loader| {
        torture(loader);
    });
}

fn torture(loader: Loader) {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id()));
    println!("{SEED}={seed}");
    let throws = loader.open("throws");
    thread::scope(|scope| {
        for number in 1..=4u64 {
            let throws = &throws;
            let random = Random(Cell::new((seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1));
            scope.spawn(move || work(loader, throws, &random));
        }
    });
    drop(throws);
    for name in ["life_root", "life_left", "life_leaf", "ifunc", "tls_general", "tls_initial", "namespace_inner"] {
        assert!(!is_mapped(&format!("lib{name}.so")), "{name} is left behind");
    }
}

fn work(loader: Loader, throws: &Lib, random: &Random) {
    let begun = Instant::now();
    let mut open: Vec<(usize, Lib)> = Vec::new();
    while begun.elapsed() < Duration::from_secs(2) {
        match random.below(10) {
            0..=3 => {
                let index = random.below(LIBRARIES.len());
                open.push((index, open_somewhere(loader, LIBRARIES[index].0, random)));
            }
            4..=5 if !open.is_empty() => drop(open.swap_remove(random.below(open.len()))),
            6..=7 if !open.is_empty() => {
                let (index, library) = &open[random.below(open.len())];
                use_it(*index, library);
            }
            8 => throws.throws_and_catches(),
            9 if random.below(8) == 0 => fork_and_open(loader, throws, random.below(2)),
            _ => {}
        }
        if open.len() > 12 {
            open.clear();
        }
    }
}

/// Opens in the base or, on ours, in a name space of its own.
fn open_somewhere(loader: Loader, name: &str, random: &Random) -> Lib {
    match loader {
        Loader::Ours if random.below(4) == 0 => {
            let mut options = soload::OpenOptions::new();
            let options = options.namespace(soload::Namespace::isolated());
            Lib::Ours(unsafe { options.open(fixture(name)) }.unwrap())
        }
        _ => loader.open(name),
    }
}

fn use_it(index: usize, library: &Lib) {
    let (name, function, expected) = LIBRARIES[index];
    let answer = library.call(function);
    // 0 stands for an answer that changes.
    assert!(expected == 0 || answer == expected, "{name}: {function}() is {answer}");
}

/// In a child: throws, opens one of two libraries, and ends.
fn fork_and_open(loader: Loader, throws: &Lib, which: usize) {
    // glibc does not promise that a child can open anything.
    let is_ours = loader == Loader::Ours || std::env::var_os("LD_PRELOAD").is_some();
    let child = unsafe { libc::fork() };
    if child == 0 {
        unsafe { libc::alarm(20) };
        throws.throws_and_catches();
        let (name, function, expected) = LIBRARIES[which];
        let right = !is_ours
            || loader.try_open(name).is_ok_and(|library| {
                let right = library.call(function) == expected;
                // Nothing that takes locks which fork does not free.
                library.leak();
                right
            });
        unsafe { libc::_exit(if right { 0 } else { 1 }) };
    }
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child's end (14: it hung)");
}
