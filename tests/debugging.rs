//! Debuggers see our modules: gdb lists them, breaks in them by source line, and shows where it is.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::*;

/// Runs this test's process again, under gdb with a script of commands; answers what gdb printed.
fn under_gdb(name: &str, commands: &[&str]) -> Option<String> {
    let mut gdb = has_gdb(name).then(|| gdb(commands))?;
    gdb.arg("--args").arg(std::env::current_exe().unwrap());
    gdb.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(DEBUGGED, "1");
    Some(said(gdb))
}

fn has_gdb(name: &str) -> bool {
    let said = Command::new("gdb").arg("--version").output().map_or(Vec::new(), |output| output.stdout);
    let said = String::from_utf8_lossy(&said);
    let release = said.lines().next().and_then(|line| line.rsplit(' ').next()?.split('.').next()?.parse().ok());
    // Before 13 it does not follow the list of lists.
    let has = release.is_some_and(|release: u32| release >= 13);
    if !has {
        eprintln!("DID NOT RUN: {name} needs the package gdb, of release 13 or later");
        assert!(std::env::var_os("CI").is_none(), "CI installs gdb");
    }
    has
}

/// gdb with a script of commands.
fn gdb(commands: &[&str]) -> Command {
    let mut gdb = Command::new("gdb");
    gdb.args(["--batch", "-nx", "-iex", "set debuginfod enabled off", "-ex", "set confirm off"]);
    gdb.args(["-ex", "set breakpoint pending on"]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    gdb
}

fn said(mut gdb: Command) -> String {
    let output = gdb.output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether a backtrace has a function in the frame of that number (`#1 `).
fn frame(said: &str, number: &str, function: &str) -> bool {
    said.lines().any(|line| line.starts_with(number) && line.contains(function))
}

/// Asserts that a backtrace from the inner function goes on to the outer one.
#[track_caller]
fn assert_goes_through(said: &str) {
    let (inner, outer) = (frame(said, "#0 ", "debugged_inner (value=42)"), frame(said, "#1 ", "in debugged_outer ()"));
    assert!(inner && outer, "the backtrace goes through it:\n{said}");
}

/// The line of the fixture at which it is stopped.
fn line_to_break_at() -> usize {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/test-libs/debugged.c");
    fs::read_to_string(source).unwrap().lines().position(|line| line.contains("break here")).unwrap() + 1
}

const DEBUGGED: &str = "SOLOAD_TEST_DEBUGGED";

/// What a process says that waits for gdb to attach to it.
const READY: &str = "ready";

#[test]
fn gdb_breaks_in_a_library_by_source_line_and_shows_the_way_there() {
    let name = "gdb_breaks_in_a_library_by_source_line_and_shows_the_way_there";
    if std::env::var_os(DEBUGGED).is_some() {
        let library = Lib::Ours(ours("debugged").unwrap());
        assert_eq!(library.call("debugged_outer"), 43);
        return;
    }
    let line = line_to_break_at();
    let breakpoint = format!("break debugged.c:{line}");
    let Some(said) = under_gdb(name, &[&breakpoint, "run", "info sharedlibrary", "backtrace 3", "kill"]) else {
        return;
    };
    assert!(
        said.contains(&format!("hit Breakpoint 1, debugged_inner (value=42) at test-libs/debugged.c:{line}")),
        "{said}"
    );
    let listed = said.lines().find(|line| line.contains("libdebugged.so")).unwrap_or_default();
    assert!(listed.contains("Yes"), "the library is listed with its symbols:\n{said}");
    assert_goes_through(&said);
}

#[test]
fn gdb_breaks_in_a_constructor() {
    let name = "gdb_breaks_in_a_constructor";
    if std::env::var_os(DEBUGGED).is_some() {
        ours("debugged").unwrap();
        return;
    }
    let Some(said) = under_gdb(name, &["break debugged_start", "run", "kill"]) else { return };
    assert!(said.contains("hit Breakpoint 1, debugged_start () at test-libs/debugged.c"), "{said}");
}

#[test]
fn gdb_that_attaches_later_breaks_in_what_is_opened_then() {
    let name = "gdb_that_attaches_later_breaks_in_what_is_opened_then";
    if std::env::var_os(DEBUGGED).is_some() {
        let _before = ours("bss").unwrap();
        // SAFETY: changes nothing but who may attach.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
        println!("{READY}");
        // Of this very thread: gdb stops one after another.
        while fs::read_to_string("/proc/thread-self/status").unwrap().contains("TracerPid:\t0\n") {
            std::thread::sleep(Duration::from_millis(10));
        }
        let library = Lib::Ours(ours("debugged").unwrap());
        assert!(!fs::read_to_string("/proc/self/maps").unwrap().contains("memfd:soload"), "nothing is left of it");
        assert_eq!(library.call("debugged_outer"), 43);
        return;
    }
    if !has_gdb(name) {
        return;
    }
    let mut debugged = Command::new(std::env::current_exe().unwrap());
    let debugged = debugged.args([name, "--exact", "--nocapture"]).env(DEBUGGED, "1").stdout(Stdio::piped());
    let mut debugged = debugged.spawn().unwrap();
    let mut lines = BufReader::new(debugged.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with(READY)));
    let attach = format!("attach {}", debugged.id());
    let breakpoint = format!("break debugged.c:{}", line_to_break_at());
    let said = said(gdb(&[&attach, &breakpoint, "continue", "info sharedlibrary", "backtrace 3", "kill"]));
    debugged.kill().unwrap();
    debugged.wait().unwrap();
    if said.contains("Operation not permitted") {
        eprintln!("DID NOT RUN: {name} needs to be allowed to attach to a process");
        return;
    }
    assert!(said.contains("hit Breakpoint 1, debugged_inner (value=42)"), "{said}");
    let listed = |name: &str| said.lines().any(|line| line.contains(&format!("/lib{name}.so")) && line.contains("Yes"));
    assert!(listed("bss") && listed("debugged"), "{said}");
    assert_goes_through(&said);
}

#[test]
fn gdb_finds_a_library_in_a_core_file_and_shows_the_way_through_it() {
    let name = "gdb_finds_a_library_in_a_core_file_and_shows_the_way_through_it";
    if std::env::var_os(DEBUGGED).is_some() {
        let library = Lib::Ours(ours("debugged").unwrap());
        assert_eq!(library.call("debugged_outer"), 43);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let core = folder.path().join("core");
    let line = line_to_break_at();
    let (breakpoint, dump) = (format!("break debugged.c:{line}"), format!("gcore {}", core.display()));
    let Some(dumped) = under_gdb(name, &[&breakpoint, "run", &dump, "kill"]) else { return };
    assert!(core.is_file(), "the process was dumped:\n{dumped}");

    // Nothing but the files is left of the process.
    let mut gdb = gdb(&["info sharedlibrary", "backtrace 3", "frame 0", "print value"]);
    gdb.arg(std::env::current_exe().unwrap()).arg(&core);
    let said = said(gdb);
    let listed = said.lines().find(|line| line.contains("libdebugged.so")).unwrap_or_default();
    assert!(listed.contains("Yes"), "the library is listed with its symbols:\n{said}");
    assert_goes_through(&said);
    assert!(said.contains(&format!("debugged.c:{line}")) && said.contains("$1 = 42"), "down to the line:\n{said}");
}

#[test]
fn gdb_breaks_in_a_copy_in_a_name_space_of_its_own() {
    let name = "gdb_breaks_in_a_copy_in_a_name_space_of_its_own";
    if std::env::var_os(DEBUGGED).is_some() {
        let _base = ours("debugged").unwrap();
        let mut options = soload::OpenOptions::new();
        let options = options.namespace(soload::Namespace::isolated());
        let copy = unsafe { options.open(fixture("debugged")) }.unwrap();
        assert_eq!(Lib::Ours(copy).call("debugged_outer"), 43);
        return;
    }
    let line = line_to_break_at();
    let breakpoint = format!("break debugged.c:{line}");
    let Some(said) = under_gdb(name, &[&breakpoint, "run", "info sharedlibrary", "backtrace 3", "kill"]) else {
        return;
    };
    let listed = said.lines().filter(|line| line.contains("libdebugged.so") && line.contains("Yes"));
    assert_eq!(listed.count(), 2, "each copy is listed with its symbols:\n{said}");
    assert_goes_through(&said);
}

#[test]
fn gdb_lists_what_was_opened_after_the_last_the_middle_or_all_of_the_list_were_closed() {
    let name = "gdb_lists_what_was_opened_after_the_last_the_middle_or_all_of_the_list_were_closed";
    if std::env::var_os(DEBUGGED).is_some() {
        drop(ours("demo").unwrap());
        let _stays = ours("relr").unwrap();
        let middle = ours("bss").unwrap();
        let last = ours("life_leaf").unwrap();
        drop(middle);
        drop(last);
        let _new = ours("hash_gnu").unwrap();
        let library = Lib::Ours(ours("debugged").unwrap());
        // Nothing is opened after that.
        drop(ours("hash_sysv").unwrap());
        assert_eq!(library.call("debugged_outer"), 43);
        return;
    }
    let breakpoint = format!("break debugged.c:{}", line_to_break_at());
    let Some(said) = under_gdb(name, &[&breakpoint, "run", "info sharedlibrary", "kill"]) else { return };
    let listed = |name: &str| said.lines().any(|line| line.contains(&format!("/lib{name}.so")) && line.contains("Yes"));
    let names = ["demo", "relr", "bss", "life_leaf", "hash_gnu", "debugged", "hash_sysv"];
    let listed: Vec<_> = names.into_iter().filter(|name| listed(name)).collect();
    assert_eq!(listed, ["relr", "hash_gnu", "debugged"], "{said}");
}

#[test]
fn perf_names_the_library_and_its_functions() {
    let name = "perf_names_the_library_and_its_functions";
    if std::env::var_os(DEBUGGED).is_some() {
        let library = Lib::Ours(ours("debugged").unwrap());
        assert_ne!(library.call("debugged_busy"), 0);
        library.close();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("perf.data");
    let own = std::env::current_exe().unwrap();
    let mut record = Command::new("perf");
    // A clock of the kernel's, for machines that have no counters; as often as anybody may.
    record.args(["record", "--quiet", "--event", "cpu-clock:u", "--freq", "99", "--output"]).arg(&data).arg("--");
    record.arg(own).args([name, "--exact", "--nocapture", "--test-threads=1"]).env(DEBUGGED, "1");
    let recorded = record.output();
    if !recorded.as_ref().is_ok_and(|recorded| recorded.status.success()) {
        eprintln!("DID NOT RUN: {name} needs the package linux-perf, and to be allowed to use it: {recorded:?}");
        return;
    }
    let mut report = Command::new("perf");
    report.args(["report", "--stdio", "--sort", "dso,symbol", "--input"]).arg(&data).env("DEBUGINFOD_URLS", "");
    let said = said(report);
    let line = said.lines().find(|line| line.contains("debugged_busy")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("libdebugged.so"), "{said}");
    let share: f64 = line.trim().split('%').next().unwrap().parse().unwrap();
    assert!(share > 20.0, "it does almost all there is to do:\n{said}");
}

#[test]
fn gdb_sees_through_a_call_that_is_being_bound() {
    let name = "gdb_sees_through_a_call_that_is_being_bound";
    if std::env::var_os(DEBUGGED).is_some() {
        let library = Loader::Ours.open_with("debugged", LAZY);
        assert_eq!(library.call("debugged_outer"), 43);
        assert_eq!(library.call("debugged_outer"), 43);
        return;
    }
    let commands = [
        "break debugged_outer",
        "run",
        // It calls a function of its own, through the procedure linkage table.
        "break soload::process::lazy::bind",
        "continue",
        "backtrace 4",
        "finish",
        "tbreak debugged_inner",
        "continue",
        "backtrace 2",
        // Bound already.
        "continue",
        "step",
        "print value",
        "kill",
    ];
    let Some(said) = under_gdb(name, &commands) else { return };
    let (binding, bound) = said.split_once("Value returned").unwrap_or_else(|| panic!("`finish` comes back:\n{said}"));
    assert!(frame(binding, "#1 ", "in soload_bind_"), "{said}");
    assert!(frame(binding, "#2 ", "in debugged_outer ()"), "a backtrace passes through the trampoline:\n{said}");
    assert!(frame(bound, "#1 ", "in debugged_outer ()"), "the trampoline leaves no frame behind:\n{said}");
    let after = said.rfind("Breakpoint 1, debugged_outer").map_or("", |at| &said[at..]);
    assert!(
        after.contains("debugged_inner (value=42)") && after.contains("$2 = 42"),
        "a later call is stepped into:\n{said}"
    );
}
