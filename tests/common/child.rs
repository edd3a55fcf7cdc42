//! A process of its own for the body of a test: a crash becomes a failure with output, and nothing is loaded before.
//!
//! The test's process runs its own executable again with this one test selected and the loader named in the
//! environment; the second process runs the body and exits. This works under every test runner.

use std::any::type_name;
use std::fs::File;
use std::io::Write;
use std::panic::Location;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fs};

use super::Loader;

const LOADER: &str = "SOLOAD_TEST_LOADER";
const SCRATCH: &str = "SOLOAD_TEST_SCRATCH";
const LINE: &str = "SOLOAD_TEST_LINE";
/// The child's last word: without it, the wrong test ran, or none.
const DONE: &str = "[the body of the test is done]\n";
/// Set it to `Host` to ask only the oracle, or to `Ours`.
const ONLY: &str = "SOLOAD_TEST_ONLY";
/// After this time a child counts as hung.
const SECONDS: u32 = 60;

/// How to start the children; `$SCRATCH` and `$LIBS` in values stand for their folders.
#[derive(Default)]
pub(crate) struct Child {
    env: Vec<(&'static str, &'static str)>,
    /// The program that starts the test's, if it does not start itself, and that one's arguments.
    starter: &'static [&'static str],
}

/// Runs the body once on ours and once on the host's loader. Returns what the two printed, also while exiting.
#[track_caller]
pub(crate) fn on_both_loaders<F: FnOnce(Loader)>(body: F) -> Vec<(Loader, String)> {
    Child::default().on_both_loaders(body)
}

/// Runs the body on ours only. Returns what it printed.
#[track_caller]
pub(crate) fn on_ours<F: FnOnce(Loader)>(body: F) -> Vec<(Loader, String)> {
    Child::default().run(&[Loader::Ours], body)
}

/// An empty folder of this child's own, removed when it has exited.
pub(crate) fn scratch() -> PathBuf {
    env::var_os(SCRATCH).expect("only in a child").into()
}

/// Links a fixture into the scratch folder under a name there.
pub(crate) fn link(name: &str, link: &str) -> PathBuf {
    let link = scratch().join(link);
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(super::fixture(name), &link).unwrap();
    link
}

/// Ends the child in success. Not by returning: the rest of the test belongs to the parent, and exiting is part of
/// what is tested.
pub(crate) fn exit() -> ! {
    print!("{DONE}");
    std::io::stdout().flush().unwrap();
    std::process::exit(0)
}

impl Child {
    /// Sets a variable of the child's environment.
    pub(crate) fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.env.push((name, value));
        self
    }

    /// Has the test's program started as an argument of another one.
    #[allow(dead_code)] // by one of the tests that share this
    pub(crate) fn started_by(mut self, starter: &'static [&'static str]) -> Self {
        self.starter = starter;
        self
    }

    #[track_caller]
    pub(crate) fn on_ours<F: FnOnce(Loader)>(self, body: F) -> Vec<(Loader, String)> {
        self.run(&[Loader::Ours], body)
    }

    #[track_caller]
    pub(crate) fn on_both_loaders<F: FnOnce(Loader)>(self, body: F) -> Vec<(Loader, String)> {
        self.run(&[Loader::Ours, Loader::Host], body)
    }

    /// In the test's process: starts a child for each loader. In a child: runs the body and exits.
    #[track_caller]
    fn run<F: FnOnce(Loader)>(self, loaders: &[Loader], body: F) -> Vec<(Loader, String)> {
        let line = Location::caller().line().to_string();
        if let Some(name) = env::var_os(LOADER) {
            assert_eq!(env::var(LINE).unwrap(), line, "one test starts its children in one place");
            let loader = *loaders.iter().find(|loader| *format!("{loader:?}") == *name).expect("a loader of this test");
            be_a_child();
            body(loader);
            exit();
        }
        let only = env::var(ONLY).ok();
        let wanted = |loader: &Loader| only.as_ref().is_none_or(|only| *only == format!("{loader:?}"));
        let chosen = loaders.iter().copied().filter(wanted);
        chosen.map(|loader| (loader, self.start(loader, test_of::<F>(), &line))).collect()
    }

    #[track_caller]
    fn start(&self, loader: Loader, test: &str, line: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let scratch = folder.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        let output = folder.path().join("output");
        let file = File::create(&output).unwrap();

        let filled_in = |value: &str| {
            value.replace("$SCRATCH", &scratch.to_string_lossy()).replace("$LIBS", env!("SOLOAD_TEST_LIBS"))
        };
        let program = env::current_exe().unwrap();
        let mut command = match self.starter {
            [] => Command::new(program),
            [starter, arguments @ ..] => {
                let mut command = Command::new(starter);
                command.args(arguments.iter().map(|argument| filled_in(argument))).arg(program);
                command
            }
        };
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        command.env(LOADER, format!("{loader:?}")).env(SCRATCH, &scratch).env(LINE, line);
        // One arena: the address space then changes only by what the loaders do, and by the heap, which has a name.
        command.env("MALLOC_ARENA_MAX", "1").env_remove("LD_LIBRARY_PATH").env("RUST_BACKTRACE", "0");
        for (name, value) in &self.env {
            command.env(name, filled_in(value));
        }
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let status = command.status().unwrap();

        let output = String::from_utf8_lossy(&fs::read(&output).unwrap()).into_owned();
        if !status.success() {
            panic!("{test} on {loader:?}: {status}\n{output}");
        }
        assert!(output.contains(DONE), "{test} on {loader:?}: the child ran another test, or exited early\n{output}");
        output
    }
}

/// The path by which the test runner knows the test: the closure's type is named after the function around it.
fn test_of<F>() -> &'static str {
    let name = type_name::<F>();
    let (_crate, name) = name.split_once("::").expect("a closure in a test");
    name.split_once("::{{closure}}").expect("a closure in a test").0
}

/// A crash must not write a core file, and a hang must end.
#[allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // takes no pointer that outlives the call
fn be_a_child() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::alarm(SECONDS);
    }
}
