//! Valgrind finds nothing to complain of while libraries are loaded, used and unloaded.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;

use std::process::Command;
use std::thread;

use common::*;

const WATCHED: &str = "SOLOAD_TEST_WATCHED";

/// Runs this one test again under valgrind. Whatever that reports fails it.
fn under_valgrind(name: &str) {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite"]);
    // Otherwise what an unloaded library had allocated is reported without saying where.
    valgrind.args(["--keep-debuginfo=yes", "--show-leak-kinds=definite"]);
    valgrind.arg(std::env::current_exe().unwrap());
    valgrind.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(WATCHED, "1").env("RUST_BACKTRACE", "0");
    match valgrind.output() {
        Err(_) => {
            eprintln!("DID NOT RUN: {name} needs the package valgrind");
            assert!(std::env::var_os("CI").is_none(), "CI installs valgrind");
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let told = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}\n{said}\n{told}", output.status);
            assert!(told.contains("1 passed"), "this test has run there: {told}");
        }
    }
}

fn is_watched() -> bool {
    std::env::var_os(WATCHED).is_some()
}

/// Opens, calls, closes; twice, as the second time meets what the first left behind.
fn use_all(libraries: &[(&str, &str)]) {
    for _ in 0..2 {
        for (library, function) in libraries {
            let library = Lib::Ours(ours(library).unwrap_or_else(|error| panic!("{error}")));
            library.call(function);
            library.close();
        }
    }
}

#[test]
fn loading_using_and_unloading_is_clean() {
    if !is_watched() {
        return under_valgrind("loading_using_and_unloading_is_clean");
    }
    use_all(&[
        ("life_root", "present"),
        ("ifunc", "call_exported"),
        ("scope_bridge", "call_through_bridge"),
        ("throws", "thrown_and_caught"),
        ("thread_destructor", "invite"),
        ("next_root", "call_next"),
    ]);
    ours("undefined_function").expect_err("an error is clean as well");
}

#[test]
fn thread_local_storage_is_clean_in_every_model_and_thread() {
    if !is_watched() {
        return under_valgrind("thread_local_storage_is_clean_in_every_model_and_thread");
    }
    for model in ["tls_general", "tls_local", "tls_initial", "tls_descriptor", "tls_descriptor_static"] {
        let library = Lib::Ours(ours(model).unwrap());
        let next = library.address("next_value");
        let call = move || unsafe { std::mem::transmute::<usize, extern "C" fn() -> i32>(next) }();
        assert_eq!((call(), thread::spawn(call).join().unwrap()), (42, 42), "{model}");
        library.close();
    }
}

#[test]
fn what_loaded_code_opens_is_clean() {
    if !is_watched() {
        return under_valgrind("what_loaded_code_opens_is_clean");
    }
    use_all(&[
        ("nested/constructor.so", "plugin_own"),
        ("nested/plugin.so", "open_while_going_through"),
        ("nested/plugin.so", "close_own_handle"),
        ("nested/plugin.so", "plugin_backtrace"),
        ("nested/thread_local.so", "use_thread_locals"),
    ]);
}

#[test]
fn calls_that_are_bound_late_are_clean() {
    if !is_watched() {
        return under_valgrind("calls_that_are_bound_late_are_clean");
    }
    let _second = Loader::Ours.open_with("lazy_second", GLOBAL);
    for _ in 0..2 {
        for (library, function) in [
            ("lazy_calls", "sums"),
            ("lazy_calls", "catch_through"),
            ("lazy_resolver", "call_indirect"),
            ("lazy_asker", "call_chosen"),
            ("lazy_goodbye", "present"),
        ] {
            let library = Loader::Ours.open_with(library, LAZY);
            library.call(function);
            library.close();
        }
    }
}
