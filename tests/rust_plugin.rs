//! Libraries in Rust: panics, thread-local variables, threads, arguments and backtraces of a standard library of their own.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the plugin's symbols have the types stated here

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use common::maps::is_mapped;
use common::*;

/// The plugin, compiled by the compiler that this test was compiled by, once for all tests.
fn plugin() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = std::env::current_exe().unwrap().parent().unwrap().join("rust_plugin");
        std::fs::create_dir_all(&folder).unwrap();
        let (library, partial) = (folder.join("libplugin.so"), folder.join(format!("{}.so", std::process::id())));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plugin/plugin.rs");
        let modified = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        if modified(&library) > modified(Path::new(source)) {
            return library;
        }
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut compile = Command::new(rustc);
        compile.args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "plugin", "-g", "-o"]);
        let output = compile.arg(&partial).arg(source).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(partial, &library).unwrap();
        library
    })
}

fn open(loader: Loader) -> Lib {
    loader.try_open_bare(plugin(), With::default()).unwrap()
}

#[test]
fn panics_are_caught_in_the_library_and_threads_run_there() {
    on_both_loaders(|loader| {
        let library = open(loader);
        assert_eq!((library.call("panics_and_catches"), library.call("panics_and_catches")), (42, 42));
        assert_eq!(library.call("threads_answer"), 6);
        assert_eq!(library.call("dropped"), 4, "each thread's own");
    });
}

#[test]
fn the_programs_arguments_are_there() {
    on_both_loaders(|loader| {
        assert_eq!(open(loader).call("argument_count") as usize, std::env::args_os().count());
    });
}

#[test]
fn a_backtrace_names_the_librarys_functions() {
    on_both_loaders(|loader| assert_eq!(open(loader).call("backtrace_has_our_name"), 1));
}

#[test]
fn a_library_whose_thread_local_variables_are_gone_is_unloaded_and_starts_anew() {
    on_both_loaders(|loader| {
        for _ in 0..3 {
            let library = open(loader);
            let invite = library.address("invite");
            let invite: extern "C" fn() -> i32 = unsafe { std::mem::transmute(invite) };
            assert_eq!(thread::spawn(move || (invite(), invite())).join().unwrap(), (1, 2));
            assert_eq!(library.call("dropped"), 2);
            library.close();
            assert!(!is_mapped("libplugin.so"));
        }
    });
}
