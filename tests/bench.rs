//! `soload bench`: what it says of the loaders fits together, and whoever cannot be measured does not stop the others.

#![cfg(all(feature = "cli", target_arch = "x86_64"))]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::command::{document, run};
use common::fixture;
use common::trace::system_calls_of;
use serde_json::Value;

/// A median inside its interval.
#[track_caller]
fn median(value: &Value) -> f64 {
    let [low, median, high] = ["low", "median", "high"].map(|key| value[key].as_f64().unwrap());
    assert!(0.0 < low && low <= median && median <= high, "{value}");
    median
}

#[test]
fn every_loader_is_measured_in_both_modes() {
    let library = fixture("life_root");
    let document = document(0, ["bench", "--json", "--rounds", "3", library.to_str().unwrap()]);
    assert_eq!((&document["command"], &document["rounds"]), (&"bench".into(), &3.into()));
    let reports = document["libraries"][0]["reports"].as_array().unwrap();
    let modes: Vec<_> = reports.iter().map(|report| report["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["own", "cold"]);
    let [own, cold] = [0, 1].map(|mode| &reports[mode]);
    assert!(own["before"].as_u64() > Some(0) && cold["before"] == 0, "what it needs is there before, or is not");
    for report in reports {
        for loader in ["dlopen", "dlopen-lazy", "soload"] {
            let measured = &report["loaders"][loader];
            median(&measured["microseconds"]);
            median(&measured["ratio"]);
            assert!(
                measured["faults"].as_f64().is_some() && measured["private_bytes"].as_f64() > Some(0.0),
                "{measured}"
            );
        }
        assert_eq!(median(&report["loaders"]["dlopen"]["ratio"]), 1.0);
        let stages = report["loaders"]["soload"]["stages"].as_object().unwrap();
        let all: f64 = stages.values().map(|stage| stage.as_f64().unwrap()).sum();
        let whole = median(&report["loaders"]["soload"]["microseconds"]);
        assert!(stages.contains_key("relocate") && all > 0.0 && all < 3.0 * whole, "{stages:?} of {whole}");
    }
    // What is loaded before need not be loaded then.
    let calls = |report: &Value, loader: &str| report["loaders"][loader]["calls"].as_u64().unwrap();
    for loader in ["dlopen", "soload"] {
        assert!(calls(own, loader) < calls(cold, loader), "{loader}: {own} {cold}");
    }
}

#[test]
fn the_system_calls_counted_are_those_of_the_open() {
    // Nothing of it is loaded twice in this process, and it needs nothing: so it costs the same here as in the worker.
    let library = fixture("bss");
    let here = system_calls_of(|| {
        let name = std::ffi::CString::new(library.to_str().unwrap()).unwrap();
        // SAFETY: the fixture has no constructors.
        assert!(!unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) }.is_null());
    });
    // The forked process begins with the rest of a signal's delivery and ends with its exit.
    let first = here.iter().position(|call| call.number == libc::SYS_openat).unwrap();
    let counted = here[first..].iter().filter(|call| call.number != libc::SYS_brk).count();
    let document = document(0, ["bench", "--json", "--cold", "--rounds", "1", library.to_str().unwrap()]);
    let calls = &document["libraries"][0]["reports"][0]["loaders"]["dlopen"]["calls"];
    // The worker's heap may have to grow just then.
    let calls = calls.as_u64().unwrap() as usize;
    assert!((counted..=counted + 1).contains(&calls), "{calls}: {here:?}");
}

#[test]
fn a_library_that_is_missing_is_named_and_the_rest_goes_on() {
    let library = fixture("bss");
    let output = run(["bench", "--cold", "--rounds", "1", "libsoload_absent.so", library.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<_> = text.lines().filter(|line| line.contains("libsoload_absent.so")).collect();
    assert!(lines.len() == 1 && lines[0].contains("left out: libsoload_absent.so: library not found"), "{text}");
    assert!(text.contains("libbss.so") && text.contains('█') && text.contains("soload by stage:"), "{text}");
}

#[test]
fn a_library_that_no_loader_loads_is_an_error() {
    let library = fixture("undefined_variable");
    let document = document(1, ["bench", "--json", "--cold", "--rounds", "1", library.to_str().unwrap()]);
    let loaders = document["libraries"][0]["reports"][0]["loaders"].as_object().unwrap();
    let is_said = |measured: &Value| measured["error"].as_str().is_some_and(|error| error.contains("undefined"));
    assert!(["dlopen", "soload"].iter().all(|name| is_said(&loaders[*name])), "{loaders:?}");
}

#[test]
fn what_is_bound_when_it_is_called_is_measured_where_that_is_asked_for() {
    let loaders = |more: &[&str]| {
        let library = fixture("lazy_missing");
        let arguments = ["bench", "--json", "--cold", "--rounds", "3", library.to_str().unwrap()];
        document(0, [&arguments[..], more].concat())["libraries"][0]["reports"][0]["loaders"].clone()
    };
    let asked = loaders(&["--lazy"]);
    for (loader, loads) in [("dlopen", false), ("dlopen-lazy", true), ("soload", false), ("soload-lazy", true)] {
        let (error, time) = (&asked[loader]["error"], &asked[loader]["microseconds"]);
        assert_eq!((error.is_null(), time.is_null()), (loads, !loads), "{loader}: {asked}");
    }
    assert!(loaders(&[])["soload-lazy"].is_null());
}

#[test]
fn a_fork_is_measured_of_a_process_that_may_fork() {
    let loaders = |name: &str| {
        let library = fixture(name);
        let document = document(0, ["bench", "--json", "--cold", "--fork", "--rounds", "3", library.to_str().unwrap()]);
        document["libraries"][0]["reports"][0]["loaders"].clone()
    };
    let fork = &loaders("serve")["fork"];
    median(&fork["microseconds"]);
    median(&fork["ratio"]);
    assert!(fork["faults"].as_f64() > Some(0.0) && fork["private_bytes"].is_null(), "{fork}");
    let why = "expected a process of one thread, found 2: a fork has only one of them";
    assert_eq!(loaders("serve_thread")["fork"]["error"], why);
}

#[test]
fn a_loader_that_fails_is_left_out_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let peer = folder.path().join("lame");
    fs::write(&peer, "#!/bin/sh\necho '{\"command\":\"bench worker\",\"error\":\"too tired\"}'\n").unwrap();
    fs::set_permissions(&peer, fs::Permissions::from_mode(0o755)).unwrap();
    let library = fixture("bss");
    let peer = peer.to_str().unwrap();
    let document =
        document(0, ["bench", "--json", "--cold", "--rounds", "1", "--peer", peer, library.to_str().unwrap()]);
    let loaders = &document["libraries"][0]["reports"][0]["loaders"];
    assert_eq!(loaders["lame"]["error"], "too tired");
    median(&loaders["soload"]["ratio"]);
}
