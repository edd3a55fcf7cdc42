//! `soload exec`: the program runs as ever, but for who loads its libraries, and says which if it is asked to.

#![cfg(feature = "cli")]

#[path = "common/drop_in.rs"]
mod drop_in;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use drop_in::drop_in;

const LIBRARIES: &str = env!("SOLOAD_TEST_LIBS");

/// `soload exec` as it is called; the drop-in is where `SOLOAD_DL` says.
fn exec(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
    command.arg("exec").args(arguments).stdin(Stdio::null()).env("SOLOAD_DL", drop_in());
    for variable in ["LD_PRELOAD", "SOLOAD_LOG"] {
        command.env_remove(variable);
    }
    command
}

/// Its exit code, and what it printed to standard output and standard error.
fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A program that opens, asks and closes.
fn program() -> String {
    format!("{LIBRARIES}/programs/dlfcn")
}

#[test]
fn a_program_prints_the_same_and_ends_the_same() {
    let plain = outcome(Command::new(program()).arg(LIBRARIES));
    assert_eq!(outcome(&mut exec(&["--", &program(), LIBRARIES])), plain);
    assert_eq!(outcome(&mut exec(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"])).0, Some(7));
    let killed = exec(&["--", "sh", "-c", "kill -9 $$"]).status().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed), Some(9));
}

#[test]
fn the_trace_has_a_line_for_each_open_with_what_was_loaded_or_the_error() {
    let (code, _, said) = outcome(&mut exec(&["--trace", "--", &program(), LIBRARIES]));
    assert_eq!(code, Some(0));
    let line = |of: &str| said.lines().find(|line| line.contains(of)).unwrap_or_else(|| panic!("no {of}: {said}"));
    let opened = line("liblife_leaf.so: loaded liblife_leaf.so, libjournal.so; bound to libjournal.so");
    assert!(opened.starts_with("soload[") && opened.ends_with(" ms"), "{opened}");
    assert!(line("there already").contains("liblife_leaf.so"));
    assert!(line("not opened").contains("libno-such.so: library not found"));
    assert!(line("libm.so.6 is /").contains("the C library's loader has it"));
}

#[test]
fn nothing_is_said_that_was_not_asked_for() {
    assert_eq!(outcome(&mut exec(&["--", &program(), LIBRARIES])).2, "");
    assert_eq!(outcome(exec(&["--", &program(), LIBRARIES]).env("SOLOAD_LOG", "")).2, "");
}

#[test]
fn a_log_that_is_a_path_is_written_to_the_end_of_that_file() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "before\n").unwrap();
    let (code, _, said) = outcome(exec(&["--", &program(), LIBRARIES]).env("SOLOAD_LOG", &log));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let written = fs::read_to_string(&log).unwrap();
    assert!(written.starts_with("before\nsoload["), "{written}");
}

#[test]
fn without_a_name_the_snapshots_are_those_of_the_login_session() {
    let folder = tempfile::tempdir().unwrap();
    let session =
        |command: &mut Command| outcome(command.env_remove("SOLOAD_SNAPSHOTS").env("XDG_RUNTIME_DIR", folder.path()));
    let expected = folder.path().join("soload");
    let (code, printed, _) = session(&mut exec(&["--snapshots", "--", "sh", "-c", "echo $SOLOAD_SNAPSHOTS"]));
    assert_eq!((code, printed.trim()), (Some(0), expected.to_str().unwrap()));
    let library = format!("{LIBRARIES}/libdemo.so");
    let load = || session(Command::new(env!("CARGO_BIN_EXE_soload")).args(["load", "--snapshots", &library]));
    for outcome in ["by a snapshot made now", "by a snapshot"] {
        let (code, printed, said) = load();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(printed.lines().last().map(str::trim), Some(outcome), "{printed}");
    }
    assert!(expected.is_dir());
}

#[test]
fn with_snapshots_the_program_does_the_same_and_the_log_says_what_they_were_good_for() {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = format!("--snapshots={}", folder.path().join("snapshots").display());
    let plain = outcome(Command::new(program()).arg(LIBRARIES));
    for expected in ["; by a snapshot made now;", "; by a snapshot;"] {
        let (code, printed, said) = outcome(&mut exec(&[&snapshots, "--trace", "--", &program(), LIBRARIES]));
        assert_eq!((code, printed), (plain.0, plain.1.clone()));
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn what_was_to_be_preloaded_still_is_and_comes_first() {
    let other = format!("{LIBRARIES}/libbss.so");
    let mut command = exec(&["--", "sh", "-c", "echo $LD_PRELOAD"]);
    let (_, said, _) = outcome(command.env("LD_PRELOAD", &other));
    assert_eq!(said.trim_end(), format!("{other}:{}", drop_in().display()));
    let own = drop_in().display().to_string();
    assert_eq!(outcome(command.env("LD_PRELOAD", &own)).1.trim_end(), own, "once is enough");
}

#[test]
fn a_malloc_that_was_preloaded_may_ask_for_the_next_one() {
    let malloc = format!("{LIBRARIES}/libpreloaded_malloc.so");
    let plain = outcome(Command::new(program()).arg(LIBRARIES).env("LD_PRELOAD", &malloc));
    assert_eq!(plain.0, Some(0));
    assert_eq!(outcome(exec(&["--", &program(), LIBRARIES]).env("LD_PRELOAD", &malloc)), plain);
}

#[test]
fn what_cannot_be_run_is_named_and_the_code_is_127() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "no program").unwrap();
    let script = script.to_str().unwrap();
    for (program, why) in [
        ("no-such-program", "not found in PATH"),
        ("/no/such/program", "no such file, or its interpreter is missing"),
        (script, "Permission denied"),
    ] {
        let (code, out, said) = outcome(&mut exec(&["--", program]));
        assert_eq!((code, out.as_str()), (Some(127), ""), "{said}");
        assert!(said.contains(&format!("{program}: cannot be run: {why}")), "{said}");
    }
    assert_eq!(outcome(&mut exec(&[])).0, Some(2), "nothing to run is wrong usage");
}

#[test]
fn the_drop_in_is_found_beside_the_command_and_in_the_lib_folder_next_to_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    fs::create_dir(place("bin")).unwrap();
    fs::create_dir(place("lib")).unwrap();
    // Not by this process: a test that forks at this moment would have the copy open for writing, and nobody could run it.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_soload")).arg(place("bin/soload")).status().unwrap();
    assert!(copied.success());
    let said = || {
        let mut command = Command::new(place("bin/soload"));
        command.args(["exec", "--", "sh", "-c", "echo $LD_PRELOAD"]).env_remove("SOLOAD_DL").env_remove("LD_PRELOAD");
        outcome(&mut command)
    };
    let (code, _, error) = said();
    assert_eq!(code, Some(127));
    assert!(error.contains("SOLOAD_DL") && error.contains("cargo build -p soload_dl"), "{error}");
    for (link, expected) in
        [("lib/libsoload_dl.so", "bin/../lib/libsoload_dl.so"), ("bin/libsoload_dl.so", "bin/libsoload_dl.so")]
    {
        symlink(drop_in(), place(link)).unwrap();
        assert_eq!(Path::new(said().1.trim_end()), place(expected));
    }
    let (code, _, error) = outcome(exec(&["--", "true"]).env("SOLOAD_DL", "/no/such/drop-in"));
    assert_eq!(code, Some(127));
    assert!(error.contains("/no/such/drop-in: no such file"), "{error}");
}
