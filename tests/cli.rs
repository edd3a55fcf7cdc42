//! The command: what it prints, how it ends, and what it does to pipes, terminals and full disks.

#![cfg(feature = "cli")]

mod common;
#[path = "common/foreign.rs"]
mod foreign;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Stdio;

use common::command::{command, document, out, run, texts};
use common::fixture;
use foreign::Foreign;
use serde_json::json;

fn demo() -> OsString {
    fixture("demo").into()
}

/// The arguments as they are typed, with paths put in for `DEMO` and `FILE`.
fn typed(line: &str, file: &Path) -> Vec<OsString> {
    let argument = |word: &str| match word {
        "DEMO" => demo(),
        "FILE" => file.into(),
        word => word.into(),
    };
    line.split_whitespace().map(argument).collect()
}

#[test]
fn load_prints_one_line_for_each_library() {
    let text = out([demo(), "libm.so.6".into()].iter().fold(vec!["load".into()], |mut all: Vec<OsString>, name| {
        all.push(name.clone());
        all
    }));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].starts_with("ok ") && lines[0].contains("1 loaded, ") && lines[0].contains("libdemo.so"),
        "{text}"
    );
    assert!(lines[1].starts_with("ok ") && lines[1].contains("0 loaded, "), "{text}");
}

#[test]
fn load_goes_on_after_a_failure_and_says_why() {
    let (out, err) = texts(1, typed("load libsoload_no_such.so DEMO", Path::new("")));
    assert!(out.lines().next().unwrap().starts_with("failed "), "{out}");
    assert!(out.lines().nth(1).unwrap().starts_with("ok "), "{out}");
    assert!(err.starts_with("error: libsoload_no_such.so: library not found"), "{err}");
    assert!(err.contains("\n  looked at, in this order:\n") && err.contains("\n  help: "), "{err}");
    assert!(err.contains("--search-dir") && !err.contains("OpenOptions"), "{err}");

    let (_, err) = texts(1, [OsString::from("load"), fixture("missing_deeper").into()]);
    assert!(err.contains("\n  needed by ") && err.contains("libmissing_dep"), "{err}");
}

#[test]
fn load_answers_in_json() {
    let answer = document(1, typed("load --json DEMO libsoload_no_such.so", Path::new("")));
    let [demo, missing] = answer["libraries"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    assert_eq!((&demo["ok"], &demo["loaded"], &demo["kept"]), (&json!(true), &json!(1), &json!([])));
    assert!(demo["path"].as_str().unwrap().ends_with("/libdemo.so"));
    assert!(demo["microseconds"].as_f64().unwrap() > 0.0);
    let stages = demo["stages"].as_array().unwrap();
    assert!(stages.iter().any(|stage| stage["name"] == "relocate"), "{answer}");
    assert_eq!((&missing["ok"], &missing["name"]), (&json!(false), &json!("libsoload_no_such.so")));
    assert_eq!(missing["error"]["kind"], "NotFound");
    assert!(missing["error"]["help"].is_string());
}

#[test]
fn a_name_without_a_slash_is_searched_for_and_help_tells_of_the_file_that_is_here() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("demo"), folder.path().join("libsoload_here.so")).unwrap();
    let err = |line: &str| {
        let output = command().args(line.split(' ')).current_dir(folder.path()).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let help =
        "  help: a name without a slash is searched for; the file in the current directory is ./libsoload_here.so\n";
    assert!(err("load libsoload_here.so").ends_with(help));
    assert_eq!(err("load ./libsoload_here.so"), "");
    assert!(err("load libsoload_no_such.so").contains("  help: install the package"));
}

#[test]
fn load_can_use_the_hosts_loader() {
    let answer = document(0, typed("load --json --with dlopen DEMO", Path::new("")));
    let library = &answer["libraries"][0];
    assert_eq!((&answer["with"], &library["ok"], &library["loaded"]), (&json!("dlopen"), &json!(true), &json!(1)));
    assert!(library["path"].as_str().unwrap().ends_with("/libdemo.so"));
    let (_, err) = texts(1, typed("load --with dlopen libsoload_no_such.so", Path::new("")));
    assert!(err.contains("cannot open shared object file"), "{err}");
    texts(2, typed("load --with dlopen --search-dir / DEMO", Path::new("")));
    texts(2, ["load", "--with", "dlopen"]);
}

#[test]
fn load_finds_libraries_where_it_is_told_to_look() {
    texts(1, ["load", "libdemo.so"]);
    let text =
        out([OsStr::new("load"), "--search-dir".as_ref(), env!("SOLOAD_TEST_LIBS").as_ref(), "libdemo.so".as_ref()]);
    assert!(text.starts_with("ok "), "{text}");
}

#[test]
fn load_allows_what_it_refuses_if_it_is_told_to() {
    for (name, flag) in [("executable_stack", "--allow-exec-stack"), ("writable_text", "--allow-wx")] {
        let path = fixture(name);
        if !path.exists() {
            continue; // this machine's compiler cannot make it
        }
        let (_, err) = texts(1, [OsStr::new("load"), path.as_ref()]);
        assert!(err.contains(flag), "{err}");
        out([OsStr::new("load"), flag.as_ref(), path.as_ref()]);
    }
}

#[test]
fn load_shows_stages_and_pages_if_it_is_asked_to() {
    let text = out(typed("load --verbose DEMO", Path::new("")));
    for part in ["relocate ", "relocated constants", "page by page", "C  copied"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let answer = document(0, typed("load --verbose --json DEMO", Path::new("")));
    let regions = answer["libraries"][0]["plan"]["regions"].as_array().unwrap();
    assert!(regions.iter().any(|region| region["copied"].as_u64() > Some(0)), "{answer}");
}

#[test]
fn the_demonstration_shows_the_whole_main_job() {
    let text = out(["load"]);
    assert!(text.lines().all(|line| line.chars().count() <= 100 && !line.ends_with(' ')), "{text}");
    // It was called.
    assert!(text.contains("hello from a library that dlopen never saw") && text.contains("  42\n"), "{text}");
    // Every mapping and every stage.
    let plan = &document(0, typed("inspect --json DEMO", Path::new("")))["files"][0]["plan"];
    for region in plan["regions"].as_array().unwrap() {
        let range = format!("{:#07x}-{:#07x} ", region["start"].as_u64().unwrap(), region["end"].as_u64().unwrap());
        assert!(text.contains(&range), "no {range} in\n{text}");
    }
    for stage in ["host", "find", "plan", "map", "relocate", "seal", "publish", "constructors"] {
        assert!(text.contains(&format!("\n  {stage} ")), "no {stage} in\n{text}");
    }
    // The forecast was right, and the second process shares the text.
    assert!(text.contains(", as forecast: "), "{text}");
    assert!(text.contains("while a second process has loaded the same file"), "{text}");
    let code = text.lines().rfind(|line| line.starts_with("  code ")).unwrap();
    assert!(code.ends_with("  s"), "{text}");
}

#[test]
fn the_demonstration_leaves_no_file_behind() {
    let folder = tempfile::tempdir().unwrap();
    for line in ["load", "load --json", "call"] {
        let output = command().args(line.split(' ')).env("TMPDIR", folder.path()).output().unwrap();
        assert!(output.status.success());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{line}");
    }
    // Nowhere to write it: an error like any other.
    let output = command().arg("load").env("TMPDIR", folder.path().join("missing")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the demonstration plugin"));
}

#[test]
fn call_passes_arguments_and_prints_the_result() {
    for (line, expected) in [
        ("call libm.so.6 cos f64:1.0 --ret f64", "0.5403023058681398\n"),
        ("call libm.so.6 powf f32:2 f32:0.5 --ret f32", "1.4142135\n"),
        ("call DEMO demo_add i32:-2 i32:0x10", "14\n"),
        ("call DEMO demo_letter u32:0 --ret char", "s\n"),
        ("call DEMO demo_greeting --ret str", "hello from a library that dlopen never saw\n"),
        ("call libc.so.6 strlen str:four --ret usize", "4\n"),
        ("call libc.so.6 toupper i32:97", "65\n"),
        ("call libc.so.6 getenv str:SOLOAD_NOT_SET --ret str", "(null)\n"),
        ("call libc.so.6 memchr str:abc i32:122 usize:3 --ret ptr", "0x0\n"),
        ("call libc.so.6 llabs i64:-9223372036854775807 --ret i64", "9223372036854775807\n"),
        ("call libc.so.6 srand u32:1 --ret void", ""),
        ("call libm.so.6 cos f64:0 --ret f64 --symbol-version GLIBC_2.2.5", "1.0\n"),
        // What the function prints comes before its result.
        ("call libc.so.6 puts str:printed", "printed\n8\n"),
    ] {
        assert_eq!(out(typed(line, Path::new(""))), expected, "{line}");
    }
}

#[test]
fn call_without_a_library_calls_the_plugin() {
    let text = out(["call"]);
    assert!(text.contains("demo_add i32:2 i32:40 --ret i32") && text.contains("  42\n"), "{text}");
    assert!(text.contains("hello from a library that dlopen never saw"), "{text}");
}

#[test]
fn call_tells_wrong_usage_from_failure() {
    for (line, part) in [
        ("call DEMO", "<SYMBOL>"),
        ("call DEMO demo_add 5", "expected TYPE:VALUE"),
        ("call DEMO demo_add int:5", "expected one of the types i8, "),
        ("call DEMO demo_add u8:256", "expected a number that fits u8"),
        ("call DEMO demo_add i32:five", "expected a number that fits i32"),
        ("call DEMO demo_add --ret int", "invalid value 'int'"),
    ] {
        let (_, err) = texts(2, typed(line, Path::new("")));
        assert!(err.contains(part), "{line}: {err}");
    }
    for (line, part) in [
        ("call DEMO demo_nothing", "symbol demo_nothing: expected a definition, found none"),
        ("call DEMO demo_zeros", "demo_zeros: expected a function, found a variable"),
        ("call libm.so.6 cos f64:0 --symbol-version GLIBC_1.0", "cos@GLIBC_1.0"),
        ("call libsoload_no_such.so f", "library not found"),
    ] {
        let (out, err) = texts(1, typed(line, Path::new("")));
        assert!(out.is_empty() && err.contains(part), "{line}: {err}");
    }
}

#[test]
fn inspect_shows_what_a_loader_will_do() {
    let text = out(typed("inspect DEMO", Path::new("")));
    for part in [
        "little-endian ELF for ",
        "shared object",
        "needed        libc.so.6",
        "relocated constants",
        "rw-     r--",
        "forecast      relocation makes ",
        "of these 8 by relative, 1 by symbol",
        "by kind       3077 relative",
        "RELRO         partial",
        "stack         not executable",
        "GLIBC_2.",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    assert!(text.lines().skip(1).all(|line| line.chars().count() <= 100 && !line.ends_with(' ')), "{text}");
}

#[test]
fn inspect_tells_what_is_dangerous() {
    let hardening = |name: &str| {
        let path = fixture(name);
        path.exists().then(|| document(0, [OsStr::new("inspect"), "--json".as_ref(), path.as_ref()]))
    };
    for (name, key, expected) in [
        ("executable_stack", "executable_stack", json!(true)),
        ("demo", "executable_stack", json!(false)),
        ("demo", "writable_executable_segments", json!([])),
        ("text_relocations", "text_relocations", json!(true)),
    ] {
        if let Some(document) = hardening(name) {
            assert_eq!(document["files"][0]["hardening"][key], expected, "{name}");
        }
    }
    if let Some(document) = hardening("writable_text") {
        let segments = &document["files"][0]["hardening"]["writable_executable_segments"];
        assert_eq!(segments.as_array().unwrap().len(), 1, "{document}");
    }
}

#[test]
fn inspect_reads_files_of_every_class_and_order_and_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lib.so");
    for (foreign, name, page) in [
        (Foreign { wide: true, big: false, machine: 183, ..Foreign::default() }, "AArch64", 4096),
        (Foreign { wide: true, big: true, machine: 43, ..Foreign::default() }, "SPARC V9", 8192),
        (Foreign { wide: true, big: true, machine: 22, ..Foreign::default() }, "s390x", 4096),
        (Foreign { wide: false, big: true, machine: 20, ..Foreign::default() }, "PowerPC", 4096),
        (Foreign { wide: false, big: false, machine: 40, addends: false, ..Foreign::default() }, "ARM", 4096),
        (Foreign { wide: false, big: false, machine: 3, addends: false, ..Foreign::default() }, "i386", 4096),
    ] {
        fs::write(&path, foreign.bytes()).unwrap();
        let document = document(0, typed("inspect --json FILE", &path));
        let file = &document["files"][0];
        assert_eq!(file["machine"], name);
        assert_eq!(file["class"], if foreign.wide { 64 } else { 32 });
        assert_eq!(file["byte_order"], if foreign.big { "big" } else { "little" });
        assert_eq!((&file["soname"], &file["needed"]), (&json!("libself.so"), &json!(["libneeded.so"])), "{name}");
        assert_eq!(file["relocations"]["by_kind"], json!({"relative": 2, "unsupported": 1}), "{name}");
        assert_eq!(file["plan"]["page_size"], page, "{name}");
        let regions = file["plan"]["regions"].as_array().unwrap();
        let forecast: u64 = regions.iter().map(|region| region["forecast"].as_u64().unwrap()).sum();
        assert_eq!(forecast, 1, "{name}");
        let by_relative = |region: &serde_json::Value| region["by_cause"]["relative"].as_u64();
        assert_eq!(regions.iter().filter_map(by_relative).sum::<u64>(), 1, "{name}");
        out(typed("inspect FILE", &path));
    }
    let nobodys = Foreign { machine: 9999, ..Foreign::default() };
    fs::write(&path, nobodys.bytes()).unwrap();
    let document = document(0, typed("inspect --json FILE", &path));
    assert_eq!(document["files"][0]["machine"], "machine 9999");
    assert_eq!(document["files"][0]["relocations"]["by_kind"], json!({"unsupported": 3}));
}

#[test]
fn inspect_plans_for_the_page_size_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lib.so");
    fs::write(&path, Foreign { machine: 183, ..Foreign::default() }.bytes()).unwrap();
    let plan = |line: &str| document(0, typed(line, &path))["files"][0].clone();
    let file = plan("inspect --json FILE");
    let others = json!([
        {"bytes": 0x4000, "fits": true, "pages": 5, "forecast": 1},
        {"bytes": 0x10000, "fits": true, "pages": 2, "forecast": 1},
    ]);
    assert_eq!(file["other_page_sizes"], others);
    let file = plan("inspect --json --page-size 64K FILE");
    assert_eq!((&file["plan"]["page_size"], &file["plan"]["end"]), (&json!(0x10000), &json!(0x20000)));
    let (_, err) = texts(2, typed("inspect --page-size 5000 FILE", &path));
    assert!(err.contains("expected a power of two"), "{err}");
}

#[test]
fn inspect_shows_what_is_left_of_a_damaged_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lib.so");

    // One table is out of the file: all other facts stand, and so does the plan.
    fs::write(&path, Foreign { relocations_at: Some(0x99_0000), ..Foreign::default() }.bytes()).unwrap();
    let answer = document(1, typed("inspect --json FILE", &path));
    let file = &answer["files"][0];
    assert_eq!(
        (&file["ok"], &file["needed"], &file["relocations"]),
        (&json!(false), &json!(["libneeded.so"]), &json!(null))
    );
    assert_eq!(file["errors"].as_array().unwrap().len(), 1, "{answer}");
    assert!(file["errors"][0]["message"].as_str().unwrap().contains("DT_RELA"), "{answer}");
    assert_eq!(file["plan"]["regions"].as_array().unwrap().len(), 3);
    let (text, err) = texts(1, typed("inspect FILE", &path));
    assert!(text.contains("Plan: ") && err.starts_with("error: "), "{text}{err}");

    // A program header cannot be: the headers are shown as they stand.
    fs::write(&path, Foreign { file_size: 0x7777, ..Foreign::default() }.bytes()).unwrap();
    let answer = document(1, typed("inspect --json FILE", &path));
    assert_eq!(answer["files"][0]["program_headers"][1]["file_size"], 0x7777);
    assert_eq!(answer["files"][0]["machine"], "x86-64");
    let (text, err) = texts(1, typed("inspect FILE", &path));
    assert!(text.contains("Program headers as they stand") && text.contains("0x7777"), "{text}");
    assert!(err.contains("p_offset + p_filesz of program header 1"), "{err}");

    // Cut anywhere, changed anywhere: an answer, never a panic.
    let sound = Foreign::default().bytes();
    for len in (0..sound.len()).step_by(61) {
        fs::write(&path, &sound[..len]).unwrap();
        texts(1, typed("inspect FILE", &path));
    }
    for at in (0..0x300).step_by(3) {
        let mut bytes = sound.clone();
        bytes[at] ^= 0xff;
        fs::write(&path, &bytes).unwrap();
        let output = run(typed("inspect FILE", &path));
        assert!(matches!(output.status.code(), Some(0 | 1)), "byte {at}: {output:?}");
    }
}

#[test]
fn inspect_says_what_cannot_be_read_and_goes_on() {
    let (out, err) = texts(1, typed("inspect /dev/null /etc/passwd DEMO", Path::new("")));
    assert!(out.contains("libdemo.so: "), "{out}");
    assert!(err.contains("/dev/null: file type: expected a regular file"), "{err}");
    assert!(err.contains("/etc/passwd: expected ELF magic"), "{err}");
}

#[test]
fn control_characters_of_files_and_arguments_do_not_reach_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("\x1b[31mred\n.so");
    fs::write(&path, Foreign { soname: "\x1b]0;title\x07", ..Foreign::default() }.bytes()).unwrap();
    let missing = folder.path().join("\x1b[31mmissing");
    for arguments in [
        typed("inspect FILE", &path),
        typed("load FILE", &path),
        typed("load --with dlopen FILE", &path),
        typed("inspect FILE", &missing),
        typed("compare FILE", &path),
        typed("call FILE x", &path),
        typed("man FILE", &path),
        typed("call libc.so.6 getenv str:HOSTILE --ret str", &path),
        vec!["\x1b[31m".into()],
        vec!["inspect".into(), "--page-size".into(), "\x1b[31m".into(), demo()],
    ] {
        let output = command().args(&arguments).env("HOSTILE", "\x1b[31m\u{9b}31m").output().unwrap();
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).unwrap();
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{arguments:?}: {text:?}");
        }
    }
}

#[test]
fn paths_that_are_not_text_are_taken_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(OsString::from_vec(b"lib\xff.so".to_vec()));
    fs::copy(fixture("demo"), &path).unwrap();
    let hex: String = path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    for line in ["inspect --json FILE", "load --json FILE"] {
        let document = document(0, typed(line, &path));
        let entry = if line.starts_with("inspect") { &document["files"][0] } else { &document["libraries"][0] };
        assert!(entry["path"].as_str().unwrap().ends_with("lib\u{fffd}.so"));
        assert_eq!(entry["path_bytes"], hex.as_str(), "{line}");
    }
    assert!(out(typed("load FILE", &path)).contains(r"lib\xff.so"));
    assert_eq!(out(typed("call FILE demo_add i32:1 i32:2", &path)), "3\n");
}

#[test]
fn warm_reads_a_library_or_all_that_it_needs_once() {
    let files = |arguments: &[&OsStr]| {
        let document = document(0, ["warm", "--json"].iter().map(OsStr::new).chain(arguments.iter().copied()));
        let file = |library: &serde_json::Value| {
            let (before, after) = (&library["before"], &library["after"]);
            assert!(before["pages"].as_u64() > Some(0) && before["pages"] == after["pages"], "{library}");
            assert!(library["mapped_by"].is_array() && after["microseconds"].is_number(), "{library}");
            Path::new(library["path"].as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_owned()
        };
        document["libraries"].as_array().unwrap().iter().map(file).collect::<Vec<_>>()
    };
    let (user, needed) = (fixture("absolute_user"), fixture("absolute"));
    assert_eq!(files(&[user.as_ref()]), ["libabsolute_user.so"]);
    let all = files(&["--closure".as_ref(), user.as_ref(), needed.as_ref()]);
    assert_eq!(all[..2], ["libabsolute_user.so", "libabsolute.so"], "in the order of loading");
    assert_eq!(all.iter().filter(|file| *file == "libabsolute.so").count(), 1, "each once: {all:?}");
    assert!(all.contains(&"libc.so.6".to_owned()), "{all:?}");

    // A program is run and not opened; what it needs comes with it all the same.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_soload"), &program).unwrap();
    assert_eq!(files(&[program.as_ref()]), ["program"]);
    assert!(files(&["--closure".as_ref(), program.as_ref()]).contains(&"libc.so.6".to_owned()));

    let (text, err) = texts(1, ["warm".as_ref(), user.as_os_str(), "libsoload_no_such.so".as_ref()]);
    assert!(text.contains("libabsolute_user.so ") && !text.contains("no_such"), "{text}");
    assert!(err.starts_with("error: libsoload_no_such.so: library not found"), "{err}");
}

#[test]
fn compare_counts_and_names_the_differences() {
    // The demonstration plugin loads with both; this one asks for something that only dlopen grants.
    let writable = fixture("writable_text");
    let (text, _) = texts(1, typed("compare DEMO FILE", &writable));
    assert!(text.starts_with("soload loads 1 of 2 libraries that dlopen loads.\n"), "{text}");
    assert!(text.contains("libwritable_text.so\n    soload  "), "{text}");
    let (text, _) = texts(0, typed("compare --allow-wx DEMO FILE", &writable));
    assert!(text.starts_with("soload loads 2 of 2 "), "{text}");

    let answer = document(1, typed("compare --json DEMO FILE libsoload_no_such.so", &writable));
    assert_eq!((&answer["of_dlopen"], &answer["of_both"]), (&json!(2), &json!(1)));
    assert!(answer["failures"][0]["soload"].as_str().unwrap().contains("p_flags"), "{answer}");
    assert_eq!(answer["neither"][0]["library"], "libsoload_no_such.so");
}

#[test]
fn compare_tells_what_only_soload_loads_and_finds_no_fault_in_it() {
    // It needs more static thread-local storage than glibc has left.
    let large = fixture("tls_too_large");
    let (text, _) = texts(0, typed("compare DEMO FILE", &large));
    assert!(text.starts_with("soload loads 1 of 1 libraries that dlopen loads.\n"), "{text}");
    assert!(text.contains("1 more are loaded by soload, which dlopen refuses:\n"), "{text}");
    assert!(text.contains("cannot allocate memory in static TLS block"), "{text}");
    let answer = document(0, typed("compare --json FILE", &large));
    assert_eq!(answer["extra"][0]["soload"], serde_json::Value::Null, "{answer}");
}

#[test]
fn compare_survives_what_libraries_do_to_their_process() {
    let (crash, endless) = (fixture("crash"), fixture("endless"));
    let arguments = ["compare", "--json", "--timeout", "1"].map(OsString::from).into_iter();
    let answer = document(0, arguments.chain([crash.into(), endless.into()]));
    for loader in ["soload", "dlopen"] {
        assert_eq!(answer["neither"][0][loader], "crashed: SIGABRT");
        assert_eq!(answer["neither"][1][loader], "did not end within 1 second");
    }
}

#[test]
fn compare_takes_each_file_of_a_folder_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::copy(fixture("demo"), at("libdemo.so.1.0")).unwrap();
    std::os::unix::fs::symlink("libdemo.so.1.0", at("libdemo.so.1")).unwrap();
    std::os::unix::fs::symlink("missing", at("libdangling.so")).unwrap();
    fs::write(at("README"), "not a library").unwrap();
    fs::create_dir(at("deeper")).unwrap();
    fs::copy(fixture("demo"), at("deeper/libdeeper.so")).unwrap();
    std::os::unix::fs::symlink("..", at("deeper/back")).unwrap();
    let both = |line: &str| document(0, typed(line, folder.path()))["of_both"].clone();
    assert_eq!(both("compare --json FILE"), 1);
    assert_eq!(both("compare --json -R FILE"), 2);
    // A file that is there is meant itself, wherever the loaders would look for its name.
    let beside = command().args(["compare", "--json", "libdemo.so.1"]).current_dir(folder.path()).output().unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&beside.stdout).unwrap()["of_both"], 1);
    texts(1, ["compare", "/no/such/folder"]);
    let empty = tempfile::tempdir().unwrap();
    texts(1, typed("compare FILE", empty.path()));
}

#[test]
fn completions_and_manual_pages_name_every_subcommand() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = out(["completions", shell]);
        assert!(["load", "call", "inspect", "compare"].iter().all(|name| text.contains(name)), "{shell}");
    }
    let page = out(["man"]);
    assert!(page.contains(".TH soload 1") && page.contains("inspect"), "{page}");
    let page = out(["man", "inspect"]);
    assert!(page.contains(".TH soload-inspect 1") && page.contains(r"\-\-page\-size"), "{page}");
    texts(2, ["man", "nothing"]);
    texts(2, ["completions", "nothing"]);
}

#[test]
fn usage_ends_with_2_and_help_with_0() {
    for line in ["--help", "--version", "load --help", "call --help", "inspect --help", "compare --help"] {
        let text = out(line.split(' '));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
    for line in ["nothing", "load --nothing", "inspect", "compare --timeout 0", "load --with nothing"] {
        texts(2, line.split(' '));
    }
    assert_eq!(run([""; 0]).status.code(), Some(2));
}

#[test]
fn colours_are_for_terminals_or_on_demand() {
    let text = |variables: &[(&str, &str)]| {
        let output =
            command().args(typed("load DEMO", Path::new(""))).envs(variables.iter().copied()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!text(&[]).contains('\x1b'));
    assert!(text(&[("CLICOLOR_FORCE", "1")]).contains('\x1b'));
    assert!(!text(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).contains('\x1b'));
    for line in ["load", "call", "inspect DEMO", "compare DEMO", "load libno.so", "inspect /dev/null", "nothing"] {
        let output = run(typed(line, Path::new("")));
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{line}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    // More than fits a pipe.
    let mut arguments = vec![OsString::from("inspect")];
    arguments.extend(std::iter::repeat_n(demo(), 100));
    let mut process = command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("libdemo.so"));
    let output = process.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    for line in [
        "load",
        "load DEMO",
        "load --json DEMO",
        "call",
        "call DEMO demo_add i32:1 i32:2",
        "inspect DEMO",
        "inspect --json DEMO",
        "compare DEMO",
        "completions bash",
        "man",
        "--help",
        "--version",
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command().args(typed(line, Path::new(""))).stdout(full).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {err}");
        assert!(err.starts_with("error: cannot write the output: ") && err.lines().count() == 1, "{line}: {err}");
    }
    // Nor does it matter if errors cannot be written.
    for line in ["load libno.so", "nothing", "inspect /dev/null"] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let status = command().args(line.split(' ')).stdout(Stdio::null()).stderr(full).status().unwrap();
        assert!(matches!(status.code(), Some(1 | 2)), "{line}: {status}");
    }
}
