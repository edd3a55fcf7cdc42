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
    let numbers = |name| calls_of(name).iter().map(|call| call.number).collect::<Vec<_>>();
    assert_eq!(numbers("startup_linked"), numbers("startup_bare"));
}
