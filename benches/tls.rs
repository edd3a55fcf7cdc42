//! What an access to thread-local storage costs in a library that soload loaded, as a ratio to what it costs in one that
//! the C library's own loader loaded: both measured in turn, in one run.
//!
//! ```text
//! cargo bench --bench tls
//! ```

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' functions have the type stated here

use std::ffi::CString;
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

type Function = extern "C" fn() -> i32;

const CALLS: u32 = 2_000_000;
const ROUNDS: usize = 15;

fn main() {
    println!("{:24} {:>9} {:>9} {:>6}", "model", "soload", "glibc", "ratio");
    for model in ["tls_general", "tls_local", "tls_initial", "tls_descriptor", "tls_descriptor_static"] {
        let path = Path::new(env!("SOLOAD_TEST_LIBS")).join(format!("lib{model}.so"));
        let library = unsafe { soload::Library::new(&path) }.unwrap();
        let ours = *unsafe { library.get::<Function>(b"next_value") }.unwrap();
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        let host = unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
            let address = libc::dlsym(handle, c"next_value".as_ptr());
            assert!(!address.is_null());
            std::mem::transmute::<*mut libc::c_void, Function>(address)
        };
        // The best of many short rounds: whatever disturbs makes a round longer, never shorter.
        let mut best = [Duration::MAX; 2];
        for _ in 0..ROUNDS {
            for (best, function) in best.iter_mut().zip([ours, host]) {
                *best = (*best).min(time(function));
            }
        }
        let [ours, host] = best.map(|time| time.as_secs_f64() * 1e9 / f64::from(CALLS));
        println!("{model:24} {ours:6.2} ns {host:6.2} ns {:6.2}", ours / host);
    }
}

fn time(function: Function) -> Duration {
    let begun = Instant::now();
    for _ in 0..CALLS {
        black_box(function());
    }
    begun.elapsed()
}
