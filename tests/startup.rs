//! What soload costs a program that does not use it yet: nothing.

#![cfg(target_arch = "x86_64")]

mod common;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;

use common::trace::{Call, system_calls_of};

/// One of the programs in `tests/startup/`, built if need be: cargo builds examples only along with all other targets.
fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().nth(3).unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--example", name, "--target-dir"]).arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join("debug/examples").join(name)
}

/// The system calls of a run of the program, from its start on.
fn calls_of(name: &str) -> Vec<Call> {
    let path = CString::new(program(name).as_os_str().as_bytes()).unwrap();
    let calls = system_calls_of(|| {
        let arguments = [path.as_ptr(), std::ptr::null()];
        // SAFETY: two null-terminated lists of strings.
        unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), [std::ptr::null()].as_ptr()) };
    });
    assert_eq!(calls[0].number, libc::SYS_execve);
    calls
}

#[test]
fn a_program_that_opens_nothing_makes_no_system_call_on_account_of_soload() {
    // What ld.so takes for the program's thread-local storage, of which soload has 8 KiB, is more than it has anyway in some
    // releases (2.41).
    let is_storage =
        |call: &Call| call.number == libc::SYS_mmap && call.arguments[4] as i32 == -1 && call.arguments[0] == 0;
    let numbers = |name| {
        let calls = calls_of(name);
        let started = calls.iter().position(|call| call.number == libc::SYS_arch_prctl).unwrap();
        let (loader, program) = calls.split_at(started);
        let counted = loader.iter().filter(|call| !is_storage(call)).chain(program);
        counted.map(|call| call.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers("startup_linked"), numbers("startup_bare"));
}

/// What an open asks of the kernel but for memory.
const QUESTIONS: [i64; 7] = [
    libc::SYS_openat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readlink,
    libc::SYS_getrandom,
];

#[test]
fn the_first_open_asks_the_kernel_for_nothing_that_a_later_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let copies = ["libfirst.so", "libsecond.so"].map(|name| folder.path().join(name));
    for copy in &copies {
        std::fs::copy(common::fixture("bss"), copy).unwrap();
    }
    let calls = system_calls_of(|| {
        for copy in &copies {
            // SAFETY: a library without constructors.
            std::mem::forget(unsafe { soload::Library::new(copy) }.unwrap());
            // SAFETY: no descriptor has that number.
            unsafe { libc::close(-1) };
        }
    });
    let is_mark = |call: &Call| call.number == libc::SYS_close && call.arguments[0] as i32 == -1;
    let opens: Vec<Vec<i64>> = calls
        .split(is_mark)
        .map(|open| open.iter().map(|call| call.number).filter(|number| QUESTIONS.contains(number)).collect())
        .collect();
    assert!(opens[0].contains(&libc::SYS_openat), "{opens:?}");
    // Where the C library has probes for SystemTap, debuggers go by these: its loader's file says where.
    let loader = std::fs::read("/lib64/ld-linux-x86-64.so.2").unwrap();
    let has_probes = loader.windows(8).any(|window| window == b"stapsdt\0");
    // It is opened, asked which file it is, and read once, as every file is.
    assert_eq!(opens[0], opens[1].repeat(if has_probes { 2 } else { 1 }));
}
