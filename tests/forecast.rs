//! The forecast: the pages it names are exactly those that loading makes private, for each cause it says why.

#![cfg(all(feature = "cli", target_pointer_width = "64"))]

mod common;

use common::command::{document, run};
use common::fixture;
use serde_json::{Value, json};
use soload::{Cause, Fixup, Forecast, Image, PageSize, Plan, Snapshot};

fn forecast(name: &str) -> Forecast {
    let image = Image::open(&fixture(name)).unwrap();
    Forecast::of(&image, &Plan::of(&image, PageSize::native()).unwrap()).unwrap()
}

/// Libraries of the system with every cause between them, as far as they are installed.
const SAMPLE: [&str; 8] = [
    "libz.so.1",
    "libstdc++.so.6",
    "libcrypto.so.3",
    "libgcc_s.so.1",
    "libncursesw.so.6",
    "libpython3.11.so.1.0",
    "libglib-2.0.so.0",
    "libsqlite3.so.0",
];

#[test]
fn every_page_that_loading_makes_private_was_forecast_and_no_other() {
    let check = &document(0, ["forecast", "--check", "--timeout", "6", "--json", env!("SOLOAD_TEST_LIBS")])["check"];
    assert!(check["loaded"].as_u64().unwrap() > 50 && check["measured"].as_u64().unwrap() > 50, "{check}");
    assert_eq!((&check["missed"], &check["extra"], &check["differences"]), (&json!(0), &json!(0), &json!([])));
    assert_eq!(check["forecast"], check["measured"]);
}

#[test]
fn what_a_snapshot_leaves_to_each_process_is_what_each_process_writes() {
    let folder = env!("SOLOAD_TEST_LIBS");
    let check = &document(1, ["forecast", "--check", "--snapshots", "--timeout", "6", "--json", folder])["check"];
    assert!(check["loaded"].as_u64().unwrap() > 50 && check["measured"].as_u64().unwrap() > 50, "{check}");
    // The one library whose page is shared and whose resolver, code of its own, writes to a variable there.
    let differences: Vec<_> = check["differences"].as_array().unwrap().iter().map(|one| one["path"].as_str()).collect();
    let counting = fixture("lazy_resolved");
    assert_eq!((&check["missed"], &check["extra"], differences), (&json!(1), &json!(0), vec![counting.to_str()]));
    let without = &document(0, ["forecast", "--check", "--timeout", "6", "--json", folder])["check"];
    assert!(check["measured"].as_u64() < without["measured"].as_u64(), "{check} {without}");
}

#[test]
fn a_snapshot_is_said_to_have_the_pages_and_to_leave_the_words_that_it_does() {
    let demo = fixture("demo");
    let answer = document(0, ["forecast", "--json", "--snapshots", "-n", "10", demo.to_str().unwrap()]);
    let (shared, page) = (&answer["libraries"][0]["snapshot"], answer["page_size"].as_u64().unwrap());
    let snapshot = Snapshot::create(&demo).unwrap();
    assert_eq!((&shared["bytes"], shared["libraries"].as_array().unwrap().len()), (&json!(snapshot.bytes()), 1));
    let library = &shared["libraries"][0];
    let remaining = snapshot.remaining(&demo).unwrap();
    assert_eq!((&library["image"], &library["written"]), (&json!(remaining.pages), &json!(remaining.written.len())));
    assert_eq!((&library["words"], library["path"].as_str()), (&json!(remaining.words()), demo.to_str()));
    assert_eq!(snapshot.written_pages(&demo), remaining.written.keys().copied().collect::<Vec<_>>());
    // Its tables of pointers are shared, and what refers to the C library is not.
    assert!(library["private"].as_u64().unwrap() > 6 && library["written"].as_u64().unwrap() <= 2, "{library}");
    assert_eq!(library["by_cause"]["host"]["words"], remaining.words_by(Fixup::Host));
    assert!(remaining.words_by(Fixup::Host) > 0 && remaining.words_by(Fixup::Ifunc) == 0, "{remaining:?}");
    // Every process its private pages, all else once; few zeros are in the snapshot that no file has.
    let plan = Plan::of(&Image::open(&demo).unwrap(), PageSize::native()).unwrap();
    let of_file = plan.maps().iter().filter(|map| map.protection.write && map.file.is_some());
    let replaced = of_file.map(|map| (map.range.end.0 - map.range.start.0) / page).sum::<u64>();
    assert!(replaced < remaining.pages, "{replaced} {remaining:?}");
    let total = |number: &str| answer["total"][number].as_u64().unwrap();
    let memory = |who: &str| shared["memory"][who].as_u64().unwrap();
    assert_eq!(memory("alone"), total("bytes"));
    let shared_file = (total("file_pages") - replaced) * page;
    assert_eq!(memory("snapshot"), shared_file + snapshot.bytes() + 10 * remaining.written.len() as u64 * page);
}

#[test]
fn each_reason_for_a_word_that_is_left_is_told() {
    let words = |name: &str, why| {
        let snapshot = Snapshot::create(fixture(name)).unwrap();
        let remaining = snapshot.remaining(&fixture(name)).unwrap();
        assert!(remaining.count_by(why) <= remaining.written.len());
        remaining.words_by(why)
    };
    assert_eq!(words("relr", Fixup::Loader), words("demo", Fixup::Loader));
    assert!(words("ifunc_outer", Fixup::Ifunc) > 0);
    assert!(words("tls_general", Fixup::ThreadLocal) > 0);
    assert!(words("tls_descriptor", Fixup::ThreadLocal) > 0);
    assert_eq!(words("relr", Fixup::ThreadLocal), 0);
}

#[test]
fn a_snapshot_that_cannot_be_made_is_no_forecast_and_says_why() {
    let library = fixture("text_relocations");
    let answer = document(1, ["forecast", "--json", "--snapshots", library.to_str().unwrap()]);
    let why = answer["libraries"][0]["snapshot"]["error"]["message"].as_str().unwrap();
    assert!(why.ends_with("it has text relocations"), "{why}");
    assert!(answer["libraries"][0]["private"].is_number(), "the rest is told");
    for wrong in [
        &["--with", "dlopen"][..],
        &["--snapshots", "--top"][..],
        &["--snapshots=/tmp"],
        &["--snapshots", "--with", "dlopen"],
    ] {
        assert_eq!(run([&["forecast"], wrong, &["libc.so.6"]].concat()).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn the_forecast_for_dlopen_is_exact_as_well() {
    let traced = run(["trace", "--with", "dlopen"]);
    if !traced.status.success() {
        return eprintln!("DID NOT RUN: {}", String::from_utf8_lossy(&traced.stderr));
    }
    let arguments = ["forecast", "--check", "--timeout", "6", "--json", "--with", "dlopen", env!("SOLOAD_TEST_LIBS")];
    let check = &document(0, arguments)["check"];
    assert!(check["loaded"].as_u64().unwrap() > 50 && check["measured"].as_u64().unwrap() > 50, "{check}");
    assert_eq!((&check["missed"], &check["extra"], &check["differences"]), (&json!(0), &json!(0), &json!([])));
}

#[test]
fn the_forecast_is_exact_for_libraries_of_the_system() {
    let mut arguments = vec!["forecast", "--check", "--json"];
    arguments.extend(SAMPLE.iter().filter(|name| run(["load", name]).status.success()));
    let check = &document(0, &arguments)["check"];
    assert_eq!(check["loaded"].as_u64().unwrap() as usize, arguments.len() - 3, "{check}");
    assert!(check["measured"].as_u64() > Some(0), "{check}");
    assert_eq!((&check["missed"], &check["extra"]), (&json!(0), &json!(0)), "{check}");
}

#[test]
fn each_cause_is_told_by_the_relocations_that_it_has() {
    let cases = [
        ("relr", Cause::Relative),
        ("ifunc_outer", Cause::Ifunc),
        ("tls_general", Cause::ThreadLocal),
        ("bss", Cause::BssTail),
        ("demo", Cause::Symbol),
        ("demo", Cause::Dynamic),
    ];
    for (name, cause) in cases {
        assert!(forecast(name).count_by(cause) > 0, "{name}: {cause:?}");
    }
    assert_eq!(forecast("demo").count_by(Cause::Ifunc), 0);
}

#[test]
fn what_processes_need_is_the_private_pages_of_each_and_the_others_once() {
    let demo = fixture("demo");
    let total = |processes: &str| {
        let answer = document(0, ["forecast", "--json", "-n", processes, demo.to_str().unwrap()]);
        let number = |what: &str| answer["total"][what].as_u64().unwrap();
        (number("bytes"), number("private") * answer["page_size"].as_u64().unwrap())
    };
    let ((one, private), (ten, _)) = (total("1"), total("10"));
    assert!(private > 0);
    assert_eq!(ten, one + 9 * private);
}

#[test]
fn a_closure_names_each_object_once() {
    let answer = document(0, ["forecast", "--json", "--deps", fixture("demo").to_str().unwrap()]);
    let paths: Vec<_> = answer["libraries"].as_array().unwrap().iter().map(|one| one["path"].to_string()).collect();
    let mut once = paths.clone();
    once.sort();
    once.dedup();
    assert!(paths.len() >= 2 && once.len() == paths.len(), "{paths:?}");
    assert!(paths.iter().any(|path| path.contains("libc.so.6")), "{paths:?}");
    let sum: u64 = answer["libraries"].as_array().unwrap().iter().map(|one| one["private"].as_u64().unwrap()).sum();
    assert_eq!(answer["total"]["private"], sum);
}

#[test]
fn the_ranking_begins_with_the_library_that_has_the_most_private_pages() {
    let answer = document(0, ["forecast", "--json", "--top=5", env!("SOLOAD_TEST_LIBS")]);
    let private = |one: &Value| one["private"].as_u64().unwrap();
    let ranked: Vec<_> = answer["libraries"].as_array().unwrap().iter().map(private).collect();
    assert_eq!(ranked.len(), 5);
    assert!(ranked.is_sorted_by(|a, b| a >= b) && ranked[0] > 1, "{ranked:?}");
}

#[test]
fn a_library_that_is_not_there_is_said_to_be_and_the_rest_goes_on() {
    let demo = fixture("demo");
    let output = run(["forecast", "libsoload_no_such.so", demo.to_str().unwrap()]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("libsoload_no_such.so: library not found") && out.contains("libdemo.so"), "{out}{err}");
    assert_eq!(run(["forecast"]).status.code(), Some(2));
}

#[test]
fn tables_fit_into_a_hundred_columns() {
    let demo = fixture("demo");
    let demo = demo.to_str().unwrap();
    for arguments in [
        &["forecast", "-n", "50", "libc.so.6"][..],
        &["forecast", "--deps", "libm.so.6"],
        &["forecast", "--snapshots", "-n", "50", demo],
    ] {
        let output = run(arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.lines().count() > 5, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
