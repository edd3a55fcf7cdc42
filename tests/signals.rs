//! Signal handlers that look at the stack, wherever in loading, unloading or unwinding they interrupt a thread.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;
#[path = "common/drop_in.rs"]
mod drop_in;

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use drop_in::drop_in;

unsafe extern "C" {
    fn backtrace(frames: *mut *mut c_void, count: c_int) -> c_int;
}

static LOOKED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn look_at_the_stack(_: c_int) {
    let mut frames = [std::ptr::null_mut(); 64];
    assert!(unsafe { backtrace(frames.as_mut_ptr(), 64) } > 2);
    LOOKED.fetch_add(1, Ordering::Relaxed);
}

/// Does the work again and again while another thread has this one look at its stack all the time.
fn while_interrupted(work: impl Fn()) {
    static STOP: AtomicBool = AtomicBool::new(false);
    // The first time it loads the unwinder.
    look_at_the_stack(0);
    unsafe { libc::signal(libc::SIGPROF, look_at_the_stack as *const () as usize) };
    let this = unsafe { libc::pthread_self() };
    let interrupter = thread::spawn(move || {
        while !STOP.load(Ordering::Relaxed) {
            unsafe { libc::pthread_kill(this, libc::SIGPROF) };
            thread::sleep(Duration::from_micros(20));
        }
    });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        work();
    }
    STOP.store(true, Ordering::Relaxed);
    interrupter.join().unwrap();
    unsafe { libc::signal(libc::SIGPROF, libc::SIG_IGN) };
    assert!(LOOKED.load(Ordering::Relaxed) > 100);
}

/// Children in which `dlopen` is the drop-in's: the host's loader is ours there.
fn under_drop_in() -> Child {
    // In the child it is there already, and not to be built again.
    let preload = std::env::var("LD_PRELOAD").unwrap_or_else(|_| drop_in().display().to_string()).leak();
    Child::default().env("LD_PRELOAD", preload)
}

fn come_and_go(loader: Loader) {
    while_interrupted(|| {
        for name in ["life_root", "ifunc_outer", "tls_general", "demo"] {
            drop(loader.open(name));
        }
    });
}

fn throw_and_catch(loader: Loader) {
    let library = loader.open("throws");
    while_interrupted(|| assert_eq!(library.call("thrown_and_caught"), 1));
}

#[test]
fn a_handler_looks_at_the_stack_while_libraries_come_and_go() {
    on_both_loaders(|loader| {
        come_and_go(loader);
    });
}

#[test]
fn a_handler_looks_at_the_stack_while_libraries_come_and_go_under_the_drop_in() {
    under_drop_in().on_both_loaders(|loader| {
        come_and_go(loader);
    });
}

#[test]
fn a_handler_looks_at_the_stack_while_exceptions_pass_through_a_library() {
    on_both_loaders(|loader| {
        throw_and_catch(loader);
    });
}

#[test]
fn a_handler_looks_at_the_stack_while_exceptions_pass_through_a_library_under_the_drop_in() {
    under_drop_in().on_both_loaders(|loader| {
        throw_and_catch(loader);
    });
}

#[test]
fn a_handler_of_a_fault_in_a_library_finds_the_function_and_leaves_by_a_jump() {
    on_both_loaders(|loader| {
        for _ in 0..3 {
            let library = loader.open("faults");
            assert_eq!((library.call("faults_and_returns"), library.call("faults_and_returns")), (1, 1));
        }
        assert!(!common::maps::is_mapped("libfaults.so"));
    });
}
