//! What `soload trace` shows is what the program did: each page that was touched, and none besides.

#![cfg(all(feature = "cli", target_arch = "x86_64"))]

mod common;

use std::path::PathBuf;

use common::command::run;
use serde_json::Value;

/// The answer, which is the last line: the program may print something before.
#[track_caller]
fn trace(arguments: &[&str]) -> Option<Value> {
    let output = run([&["trace", "--json"], arguments].concat());
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if errors.contains("userfaultfd") {
        eprintln!("DID NOT RUN: {errors}");
        return None;
    }
    assert!(output.status.success(), "{text}{errors}");
    Some(serde_json::from_str(text.lines().last().unwrap()).unwrap())
}

fn fixture(name: &str) -> String {
    common::fixture(name).to_str().unwrap().into()
}

/// The letters of the pages of a region.
fn pages<'a>(answer: &'a Value, content: &str) -> &'a str {
    let regions = answer["regions"].as_array().unwrap();
    regions.iter().find(|region| region["content"] == content).unwrap()["pages"].as_str().unwrap()
}

fn number(answer: &Value, phase: &str, what: &str) -> u64 {
    let regions = answer["regions"].as_array().unwrap().iter();
    regions.map(|region| region["phases"][phase][what].as_u64().unwrap()).sum()
}

#[test]
fn relocation_writes_what_was_forecast_and_constructors_what_they_do() {
    for with in ["soload", "dlopen"] {
        let Some(answer) = trace(&["--with", with, &fixture("demo")]) else { return };
        assert_eq!((&answer["end"], &answer["before"]), (&"exit".into(), &0.into()), "{answer}");
        let phases: Vec<_> = answer["phases"].as_array().unwrap().iter().map(|phase| &phase["name"]).collect();
        assert_eq!(phases, ["load", "constructors", "run"], "{answer}");
        let forecast: u64 =
            answer["regions"].as_array().unwrap().iter().filter_map(|region| region["forecast"].as_u64()).sum();
        assert_eq!(number(&answer, "load", "written"), forecast, "{with}: {answer}");
        assert_eq!(pages(&answer, "relocated constants"), "LLLLLLL", "{with}");
        // The constructor is code, and sets a variable among the zeros; two pages of data nobody ever touches.
        assert_eq!((pages(&answer, "code"), pages(&answer, "zeros")), ("c", "C..."), "{with}: {answer}");
        // Where they begin on their first page is up to the linker.
        assert_eq!(pages(&answer, "variables").trim_start_matches('.'), "L..", "{with}");
        assert_eq!(number(&answer, "constructors", "written"), 1, "{with}");
        assert_eq!(number(&answer, "run", "written"), 0, "{with}");
    }
}

#[test]
fn holes_between_segments_change_nothing() {
    for with in ["soload", "dlopen"] {
        let Some(answer) = trace(&["--with", with, &fixture("align_2m")]) else { return };
        let forecast: u64 =
            answer["regions"].as_array().unwrap().iter().filter_map(|region| region["forecast"].as_u64()).sum();
        assert_eq!(number(&answer, "load", "written"), forecast, "{with}: {answer}");
        // Its constructors, those that the compiler adds, write nothing that relocation has written.
        assert_eq!(number(&answer, "constructors", "again"), 0, "{with}: {answer}");
    }
}

#[test]
fn each_page_that_is_touched_later_is_seen_and_no_other() {
    let library = fixture("overwritten");
    let Some(without) = trace(&[&library]) else { return };
    let changed = |function: &str, region: &str| {
        let with = trace(&["--call", function, &library]).unwrap();
        assert_eq!(number(&with, "run", "written"), 0, "{with}");
        let (without, with) = (pages(&without, region), pages(&with, region));
        assert_eq!(without.len(), with.len());
        let pages = without.chars().zip(with.chars());
        pages.filter(|(without, with)| without != with).collect::<Vec<_>>()
    };
    // The page beside it, which fault-around maps as well, does not count.
    assert_eq!(changed("constant", "constants"), [('.', 'r')]);
    assert_eq!(changed("near_code", "constants"), []);
    // On pages that constructors and destructors run on.
    assert_eq!((changed("near_code", "code"), changed("far_code", "code")), (vec![], vec![]));
}

#[test]
fn programs_that_know_nothing_of_soload_are_watched_from_their_start() {
    let demo = fixture("demo");
    let preload = format!("LD_PRELOAD={demo}");
    // Started by the program that was named, which does not load it itself.
    let Some(answer) = trace(&[&demo, "--", "sh", "-c", "true; env \"$0\" true; true", &preload]) else { return };
    assert_eq!(answer["end"], "exit");
    assert_eq!(pages(&answer, "relocated constants"), "LLLLLLL", "{answer}");
    assert_eq!(pages(&answer, "zeros"), "C...", "{answer}");
}

#[test]
fn what_the_program_prints_and_how_it_ends_stays_its_own() {
    let demo = fixture("demo");
    let output = run(["trace", &demo, "--", "env", &format!("LD_PRELOAD={demo}"), "echo", "hello"]);
    let text = String::from_utf8_lossy(&output.stdout);
    if String::from_utf8_lossy(&output.stderr).contains("userfaultfd") {
        return eprintln!("DID NOT RUN: no userfaultfd");
    }
    assert!(text.starts_with("hello\n") && text.contains("relocated constants"), "{text}");
    assert!(text.lines().skip(2).all(|line| line.chars().count() <= 100), "{text}");
    assert!(text.contains("in process "), "{text}");
    // A signal is delivered as if nobody looked.
    let script = "trap 'echo caught' USR1; kill -USR1 $$; LD_PRELOAD=\"$0\" true; exit 3";
    let output = run(["trace", &demo, "--", "sh", "-c", script, &demo]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("caught\n"), "{output:?}");
}

#[test]
fn threads_and_unloading_are_followed() {
    let demo = fixture("demo");
    let command = env!("CARGO_BIN_EXE_soload");
    let Some(answer) = trace(&[&demo, "--", command, "load", &demo]) else { return };
    assert_eq!(answer["end"], "unloaded", "{answer}");
    assert_eq!(pages(&answer, "relocated constants"), "LLLLLLL", "{answer}");
    // `forecast --check` loads it in a process that another thread of this one starts.
    let Some(answer) = trace(&[&demo, "--", command, "forecast", "--check", &demo]) else { return };
    assert_eq!(pages(&answer, "relocated constants"), "LLLLLLL", "{answer}");
}

#[test]
fn a_library_without_constructors_has_no_such_phase() {
    let library = fixture("without_functions");
    let Some(answer) = trace(&[&library]) else { return };
    let phases: Vec<_> = answer["phases"].as_array().unwrap().iter().map(|phase| &phase["name"]).collect();
    assert_eq!(phases, ["run"], "{answer}");
}

#[test]
fn what_cannot_be_run_or_does_not_load_it_is_said_to() {
    let demo = fixture("demo");
    let error = |arguments: &[&str]| {
        let output = run([&["trace"], arguments].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = error(&[&demo, "--", "true"]);
    assert!(code == Some(1) && text.contains("true has ended without loading"), "{text}");
    let (code, text) = error(&[&demo, "--", "./nothing-there"]);
    assert!(code == Some(1) && text.contains("./nothing-there: cannot be run"), "{text}");
    let (code, text) = error(&["--", "true"]);
    assert!(code == Some(2) && text.contains("name the library"), "{text}");
    let missing: PathBuf = "libnothing_there.so".into();
    assert_eq!(error(&[missing.to_str().unwrap(), "--", "true"]).0, Some(1));
}
