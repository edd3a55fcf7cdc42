//! What `soload inspect` tells of how a file was compiled and linked, against files made in each way.

#![cfg(all(feature = "cli", target_arch = "x86_64"))]

#[path = "common/folder.rs"]
mod folder;

use std::process::Command;

use folder::{Folder, text};
use serde_json::Value;

fn inspect(folder: &Folder, file: &str) -> (Value, String) {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
        let output = folder.run(command.arg("inspect").args(arguments).arg(file), &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let document: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    (document["files"][0].clone(), run(&[]))
}

const COPIES: &str = "#include <string.h>\n#include <stdio.h>\n\
    void copy(char *to, const char *from) { char b[64]; strcpy(b, from); strcpy(to, b); printf(\"%s\", b); }";

#[test]
fn checks_of_the_compiler_are_told_by_what_they_call() {
    let folder = Folder::new();
    folder.compile("plain.so", &[], &["-shared", "-O2", "-U_FORTIFY_SOURCE", "-fno-stack-protector"], COPIES);
    let flags = ["-shared", "-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-all"];
    folder.compile("checked.so", &[], &flags, COPIES);
    let (plain, out) = inspect(&folder, "plain.so");
    let hardening = &plain["hardening"];
    assert_eq!((&hardening["stack_canary"], &hardening["fortified"]), (&false.into(), &Value::Array(Vec::new())));
    assert!(hardening["unfortified"].as_array().unwrap().contains(&"printf".into()), "{hardening}");
    assert!(out.contains("no canary") && out.contains("0 of "), "{out}");
    let (checked, out) = inspect(&folder, "checked.so");
    let hardening = &checked["hardening"];
    assert_eq!(hardening["stack_canary"], true);
    assert!(hardening["fortified"].as_array().unwrap().contains(&"printf".into()), "{hardening}");
    assert!(out.contains("checked by canaries") && !out.contains("0 of "), "{out}");
}

#[test]
fn the_hash_table_is_measured_as_a_search_would_find_it() {
    let folder = Folder::new();
    let names = (0..500).map(|number| format!("int name_{number}(void) {{ return {number}; }}\n"));
    let source: String = names.collect();
    for style in ["gnu", "sysv"] {
        let file = format!("{style}.so");
        folder.compile(&file, &[], &["-shared", "-nostdlib", &format!("-Wl,--hash-style={style}")], &source);
        let (document, _) = inspect(&folder, &file);
        let hash = &document["hash_table"];
        assert_eq!(hash["kind"], style);
        let histogram = Command::new("readelf").args(["-I", folder.path(&file).to_str().unwrap()]).output().unwrap();
        let histogram = text(&histogram.stdout);
        // `Length  Number     % of total  Coverage`, one row for each length.
        let rows = histogram.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().ok()?))
        });
        let rows: Vec<(u64, u64)> = rows.collect();
        let buckets: u64 = rows.iter().map(|(_, number)| number).sum();
        let symbols: u64 = rows.iter().map(|(length, number)| length * number).sum();
        let compared: u64 = rows.iter().map(|(length, number)| length * (length + 1) / 2 * number).sum();
        assert_eq!((&hash["buckets"], &hash["symbols"]), (&buckets.into(), &symbols.into()), "{histogram}");
        assert_eq!(hash["empty_buckets"], rows[0].1);
        assert_eq!(hash["longest_chain"], rows.iter().rfind(|(_, number)| *number > 0).unwrap().0);
        assert!((hash["compared_if_found"].as_f64().unwrap() - compared as f64 / symbols as f64).abs() < 1e-9);
        let passed = hash["passed_if_absent"].as_f64().unwrap();
        assert!(if style == "gnu" { passed < 0.5 } else { passed == 1.0 }, "{passed}");
    }
}

#[test]
fn relocations_of_thread_local_storage_are_told_apart_by_their_model() {
    let folder = Folder::new();
    let source = "extern __thread int other; int get(void) { return other; }";
    for (model, dialect, group) in [
        ("initial-exec", "gnu", "TLS in static storage"),
        ("global-dynamic", "gnu", "TLS by module"),
        ("global-dynamic", "gnu2", "TLS by descriptor"),
    ] {
        let model = format!("-ftls-model={model}");
        let dialect = format!("-mtls-dialect={dialect}");
        folder.compile("tls.so", &[], &["-shared", "-nostdlib", &model, &dialect], source);
        let (document, _) = inspect(&folder, "tls.so");
        assert!(document["relocations"]["by_kind"][group].as_u64() > Some(0), "{}", document["relocations"]);
    }
}
