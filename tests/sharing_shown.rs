//! What is shown of shared pages agrees with the kernel's own sums, and what is claimed of mappings holds here.

#![cfg(all(feature = "cli", target_pointer_width = "64"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::{thread, time::Duration};

use serde_json::{Value, json};
use soload::{Image, Mapping, PageSize, Plan};

fn soload<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_soload")).args(arguments).env_remove("LD_LIBRARY_PATH").output().unwrap()
}

#[track_caller]
fn document<S: AsRef<std::ffi::OsStr>>(code: i32, arguments: &[S]) -> Value {
    let output = soload(arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("SOLOAD_TEST_LIBS")).join(format!("lib{name}.so"))
}

/// A process that holds the demonstration plugin until this is dropped.
struct Holder(Child);

impl Holder {
    fn start(with: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
        command.args(["share", "--hold", "--with", with, "--"]).arg(fixture("demo"));
        let holder = Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
        let (image, plan) = demo();
        for _ in 0..1000 {
            let mappings = Mapping::all_of(holder.0.id()).unwrap_or_default();
            if Mapping::bias_of(&mappings, &image, &plan).is_some() {
                // Mapped; relocation takes far less than that.
                thread::sleep(Duration::from_millis(200));
                return holder;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the library is not loaded");
    }

    fn id(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn demo() -> (Image, Plan) {
    let image = Image::open(&fixture("demo")).unwrap();
    let plan = Plan::of(&image, PageSize::native()).unwrap();
    (image, plan)
}

fn number(object: &Value, what: &str) -> u64 {
    object[what].as_u64().unwrap_or_else(|| panic!("{what}: {object}"))
}

#[test]
fn code_is_shared_by_all_workers_and_relocated_pages_by_none() {
    let demo = fixture("demo");
    let answer = document(0, &["share", "--json", "--with", "both", "-n", "5", demo.to_str().unwrap()]);
    let runs = answer["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| &run["with"]).collect::<Vec<_>>(), [&json!("dlopen"), &json!("soload")]);
    for run in runs {
        assert_eq!(run["processes"].as_array().unwrap().len(), 5);
        for segment in run["segments"].as_array().unwrap() {
            let (resident, frames, copied) =
                (number(segment, "resident"), number(segment, "frames"), number(segment, "copied"));
            match segment["content"].as_str().unwrap() {
                "code" | "headers and tables" | "constants" => {
                    assert_eq!((resident, copied), (5 * frames, 0), "{segment}");
                }
                "relocated constants" => assert!(resident == frames && copied == resident && copied > 0, "{segment}"),
                _ => assert!(copied <= frames, "{segment}"),
            }
        }
    }
}

#[test]
fn copied_pages_of_the_file_are_those_that_were_forecast() {
    for with in ["soload", "dlopen"] {
        let demo = fixture("demo");
        let answer = document(0, &["share", "--json", "--with", with, "-n", "2", demo.to_str().unwrap()]);
        let segments = answer["runs"][0]["segments"].as_array().unwrap();
        let of_file: Vec<_> = segments.iter().filter(|segment| !segment["forecast"].is_null()).collect();
        assert!(of_file.iter().all(|segment| segment["copied"] == segment["forecast"]), "{with}: {segments:?}");
        assert!(of_file.iter().map(|segment| number(segment, "copied")).sum::<u64>() > 0);
    }
}

#[test]
fn resident_pages_are_those_that_smaps_sums_up() {
    let holder = Holder::start("soload");
    let demo_path = fixture("demo");
    let answer = document(0, &["share", "--json", "--pid", &holder.id(), demo_path.to_str().unwrap()]);
    let run = &answer["runs"][0];
    assert_eq!((&run["with"], &run["processes"]), (&Value::Null, &json!([holder.0.id()])));

    let (image, plan) = demo();
    let bias = Mapping::bias_of(&Mapping::all_of(holder.0.id()).unwrap(), &image, &plan).unwrap();
    let range = bias.at(plan.span.start).0..bias.at(plan.span.end).0;
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", holder.0.id())).unwrap();
    let (mut inside, mut resident) = (false, 0);
    for line in smaps.lines() {
        let start = line.split('-').next().and_then(|start| usize::from_str_radix(start, 16).ok());
        // Pages of zeros may be one mapping with memory of others beside them, so only those of the file are compared.
        if let Some(start) = start.filter(|_| line.contains(" 00:00 ") || line.contains('/') || line.ends_with(' ')) {
            inside = range.contains(&start) && line.contains('/');
        }
        if let Some(kib) = line.strip_prefix("Rss:").filter(|_| inside) {
            resident += kib.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        }
    }
    let segments = run["segments"].as_array().unwrap();
    let of_file = segments.iter().filter(|segment| !segment["forecast"].is_null());
    let pages: u64 = of_file.map(|segment| number(segment, "resident")).sum();
    assert!(pages > 0 && pages * plan.page.bytes() / 1024 == resident, "{resident} KiB: {segments:#?}");
}

#[test]
fn a_process_that_is_not_there_is_said_to_be_and_the_rest_goes_on() {
    let holder = Holder::start("dlopen");
    let demo = fixture("demo");
    let output = soload(&["share", "--pid", &format!("{},4194305", holder.id()), demo.to_str().unwrap()]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("in 1 process"), "{out}{err}");
    assert!(err.contains("process 4194305: ") && err.lines().count() == 1, "{err}");
    assert_eq!(soload(&["share", "--pid", "4194305", demo.to_str().unwrap()]).status.code(), Some(1));
}

#[test]
fn pictures_are_well_formed_and_need_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (svg, html) = (folder.path().join("a.svg"), folder.path().join("a.html"));
    let files = [svg.to_str().unwrap(), html.to_str().unwrap()];
    let demo = fixture("demo");
    document(0, &["share", "--json", "-n", "2", "--svg", files[0], "--html", files[1], demo.to_str().unwrap()]);
    let (svg, html) = (fs::read_to_string(svg).unwrap(), fs::read_to_string(html).unwrap());
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && html.contains(svg.trim_end()), "{svg}");
    for (open, close) in [("<g>", "</g>"), ("<text", "</text>"), ("<title>", "</title>")] {
        assert_eq!(svg.matches(open).count(), svg.matches(close).count(), "{open}");
    }
    assert!(!html.contains("src=") && !html.contains("href="), "{html}");
}

#[test]
fn no_claim_fails() {
    let answer = document(0, &["prove", "--json"]);
    let claims = answer["claims"].as_array().unwrap();
    assert!(claims.len() >= 15);
    for claim in claims {
        assert_ne!(claim["verdict"], "fail", "{claim}");
        assert!(claim["verdict"] == "pass" || claim["why"].is_string(), "{claim}");
    }
    let passed = claims.iter().filter(|claim| claim["verdict"] == "pass").count();
    assert!(passed >= 12, "{claims:#?}");
}

#[test]
fn the_page_map_has_each_page_by_what_backs_it() {
    let demo = fixture("demo");
    let answer = document(0, &["pages", "--json", demo.to_str().unwrap()]);
    let of = |content: &str| {
        let regions = answer["regions"].as_array().unwrap();
        let region = regions.iter().find(|region| region["content"] == content).unwrap();
        region["pages"].as_str().unwrap()
    };
    assert!(of("code").chars().all(|letter| letter == 's'), "{answer}");
    assert!(of("relocated constants").chars().all(|letter| letter == 'R'), "{answer}");
    assert!(of("variables").starts_with('R') && of("zeros").ends_with('.'), "{answer}");

    // What the program writes later is told from what relocation wrote.
    let called = document(0, &["pages", "--json", "--call", "demo_letter", demo.to_str().unwrap()]);
    assert_eq!(called["regions"].as_array().unwrap().len(), answer["regions"].as_array().unwrap().len());
    let holder = Holder::start("dlopen");
    let theirs = document(0, &["pages", "--json", demo.to_str().unwrap(), "--pid", &holder.id()]);
    assert_eq!(theirs["process"], holder.0.id());
}

#[test]
fn pointing_at_a_cell_tells_section_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let html = folder.path().join("pages.html");
    let demo = fixture("demo");
    document(0, &["pages", "--json", "--html", html.to_str().unwrap(), demo.to_str().unwrap()]);
    let html = fs::read_to_string(html).unwrap();
    let cells: Vec<_> = html.split("<title>").skip(3).collect();
    assert!(cells.iter().any(|cell| cell.contains(" .text") && cell.contains("shared: ")), "{html}");
    assert!(cells.iter().any(|cell| cell.contains("relocation writes: ") && cell.contains(" relative")), "{html}");
    assert!(cells.iter().any(|cell| cell.contains("demo_")), "{html}");
}

#[test]
fn a_library_that_is_replaced_truncated_or_deleted_under_a_process_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libdemo.so");
    type Harm = fn(&Path);
    let cases: [(&str, Harm); 4] = [
        ("replaced", |library| {
            fs::copy(library, library.with_extension("new")).unwrap();
            fs::rename(library.with_extension("new"), library).unwrap();
        }),
        ("truncated", |library| fs::File::options().write(true).open(library).unwrap().set_len(5000).unwrap()),
        ("deleted", |library| fs::remove_file(library).unwrap()),
        ("", |_| {}),
    ];
    for (kind, harm) in cases {
        let _ = fs::remove_file(&library);
        fs::copy(fixture("demo"), &library).unwrap();
        let old = std::time::SystemTime::now() - Duration::from_secs(100);
        fs::File::options().write(true).open(&library).unwrap().set_modified(old).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
        command.args(["share", "--hold", "--"]).arg(&library).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Holder(command.spawn().unwrap());
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(holder.0.stdout.as_mut().unwrap()));
        assert!(lines.next().unwrap().unwrap().contains("is loaded"));
        harm(&library);
        let answer = document(i32::from(!kind.is_empty()), &["doctor", "--json", &holder.id()]);
        let findings = answer["processes"][0]["findings"].as_array().unwrap();
        let kinds: Vec<_> = findings.iter().map(|finding| finding["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, Vec::from_iter(Some(kind).filter(|kind| !kind.is_empty())), "{answer}");
    }
    assert_eq!(soload(&["doctor", "4194305"]).status.code(), Some(1));
}

#[test]
fn what_is_shown_fits_into_a_hundred_columns() {
    for arguments in [&["share", "-n", "3"][..], &["share", "-n", "2", "libc.so.6"], &["prove", "-v"], &["pages"]] {
        let output = soload(arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.lines().count() > 5, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
