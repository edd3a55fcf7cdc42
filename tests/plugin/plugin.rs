//! A library in Rust that brings a standard library of its own: compiled by `tests/rust_plugin.rs`.

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicI32, Ordering};

static DROPPED: AtomicI32 = AtomicI32::new(0);

struct Guest(#[allow(dead_code)] String);

impl Drop for Guest {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

thread_local! {
    static GUESTS: RefCell<Vec<Guest>> = const { RefCell::new(Vec::new()) };
}

/// How many there are in this thread, with a new one.
#[unsafe(no_mangle)]
pub extern "C" fn invite() -> i32 {
    GUESTS.with_borrow_mut(|guests| {
        guests.push(Guest("a guest".into()));
        guests.len() as i32
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dropped() -> i32 {
    DROPPED.load(Ordering::SeqCst)
}

/// The program's arguments, as the standard library of this library has them.
#[unsafe(no_mangle)]
pub extern "C" fn argument_count() -> i32 {
    std::env::args_os().count() as i32
}

#[unsafe(no_mangle)]
pub extern "C" fn panics_and_catches() -> i32 {
    std::panic::set_hook(Box::new(|_| {}));
    let caught = catch_unwind(|| std::panic::panic_any(42)).unwrap_err();
    let _ = std::panic::take_hook();
    *caught.downcast::<i32>().unwrap()
}

#[unsafe(no_mangle)]
pub extern "C" fn threads_answer() -> i32 {
    (0..4).map(|number| std::thread::spawn(move || number * invite())).map(|thread| thread.join().unwrap()).sum()
}

/// Whether a backtrace from here has this function's name.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn backtrace_has_our_name() -> i32 {
    Backtrace::force_capture().to_string().contains("backtrace_has_our_name") as i32
}
