//! What is shown of shared pages agrees with the kernel's own sums, and what is claimed of mappings holds here.

#![cfg(all(feature = "cli", target_pointer_width = "64"))]
#![allow(unsafe_code)] // opens a terminal

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{thread, time::Duration};

use common::command::{document, run};
use common::fixture;
use serde_json::{Value, json};
use soload::{Image, Mapping, PageSize, Plan};

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
    let answer = document(0, ["share", "--json", "--with", "both", "-n", "5", demo.to_str().unwrap()]);
    let runs = answer["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| &run["with"]).collect::<Vec<_>>(), [&json!("dlopen"), &json!("soload")]);
    for run in runs {
        assert_eq!(run["processes"].as_array().unwrap().len(), 5);
        for segment in run["segments"].as_array().unwrap() {
            let (resident, frames, copied) =
                (number(segment, "resident"), number(segment, "frames"), number(segment, "copied"));
            match segment["content"].as_str().unwrap() {
                "code" | "headers and tables" => assert_eq!((resident, copied), (5 * frames, 0), "{segment}"),
                // Nothing that all workers do reads them: the kernel may bring them along.
                "constants" => assert!(resident <= 5 * frames && copied == 0, "{segment}"),
                "relocated constants" => assert!(resident == frames && copied == resident && copied > 0, "{segment}"),
                _ => assert!(copied <= frames, "{segment}"),
            }
        }
    }
}

#[test]
fn a_closure_is_counted_library_by_library_and_each_is_shared_as_it_is_alone() {
    // Needs three others, and the C library.
    let library = fixture("breadth_root");
    let of = |arguments: &[&str]| {
        let all = [&["share", "--json", "--with", "both", "-n", "4"], arguments].concat();
        document(0, all)["runs"].as_array().unwrap().clone()
    };
    let files = soload::OpenOptions::new().files(&library).unwrap();
    let alone: Vec<Vec<Value>> = files.iter().map(|file| of(&[file.to_str().unwrap()])).collect();
    let together = of(&["--closure", library.to_str().unwrap()]);
    assert!(files.len() >= 5 && together.len() == 2, "{files:?} {together:?}");
    for (index, run) in together.iter().enumerate() {
        assert_eq!(number(run, "objects"), files.len() as u64, "{run}");
        let each = |what| alone.iter().map(|runs| number(&runs[index]["total"], what)).sum::<u64>();
        let all = |what| number(&run["total"], what);
        assert_eq!((all("virtual"), all("copied") > 4 * files.len() as u64), (each("virtual"), true), "{run}");
        let segments = run["segments"].as_array().unwrap();
        let sum = |what| segments.iter().map(|segment| number(segment, what)).sum::<u64>();
        assert_eq!(["virtual", "frames", "copied"].map(all), ["virtual", "frames", "copied"].map(sum), "{run}");
    }
    let shared = document(0, ["share", "--json", "--closure", "--with", "snapshot", library.to_str().unwrap()]);
    assert_eq!(number(&shared["runs"][0], "objects"), files.len() as u64, "{shared}");
    // Alone it is itself.
    assert!(alone.iter().flatten().all(|run| number(run, "objects") == 1));
}

#[test]
fn a_load_without_snapshots_is_shown_as_one_whatever_the_environment_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
    command.args(["share", "-n", "2", "--with", "soload", "--"]).arg(fixture("demo"));
    assert!(command.env("SOLOAD_SNAPSHOTS", folder.path()).stdout(Stdio::null()).status().unwrap().success());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nobody has looked there for snapshots");
}

#[test]
fn forks_share_what_relocation_has_written_until_they_write_themselves() {
    let library = fixture("serve");
    let run = |options: &[&str]| {
        let arguments =
            [&["share", "--json", "--with", "fork", "-n", "3"], options, &[library.to_str().unwrap()]].concat();
        document(0, &arguments)["runs"][0].clone()
    };
    let still = run(&[]);
    assert_eq!((&still["with"], still["processes"].as_array().unwrap().len()), (&json!("fork"), 3));
    let total = &still["total"];
    assert!(number(total, "resident") == 3 * number(total, "frames") && number(total, "frames") > 0, "{total}");
    assert_eq!(number(total, "further_bytes"), 0);
    // Each counts its calls.
    let page = PageSize::native().bytes();
    let called = run(&["--call", "serve_count"]);
    assert_eq!(number(&called["total"], "further_bytes"), page, "{called}");
}

#[test]
fn copied_pages_of_the_file_are_those_that_were_forecast() {
    for with in ["soload", "dlopen"] {
        let demo = fixture("demo");
        let answer = document(0, ["share", "--json", "--with", with, "-n", "2", demo.to_str().unwrap()]);
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
    let answer = document(0, ["share", "--json", "--pid", &holder.id(), demo_path.to_str().unwrap()]);
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
    let output = run(["share", "--pid", &format!("{},4194305", holder.id()), demo.to_str().unwrap()]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("in 1 process"), "{out}{err}");
    assert!(err.contains("process 4194305: ") && err.lines().count() == 1, "{err}");
    assert_eq!(run(["share", "--pid", "4194305", demo.to_str().unwrap()]).status.code(), Some(1));
}

#[test]
fn pictures_are_well_formed_and_need_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (svg, html) = (folder.path().join("a.svg"), folder.path().join("a.html"));
    let files = [svg.to_str().unwrap(), html.to_str().unwrap()];
    let demo = fixture("demo");
    document(0, ["share", "--json", "-n", "2", "--svg", files[0], "--html", files[1], demo.to_str().unwrap()]);
    let (svg, html) = (fs::read_to_string(svg).unwrap(), fs::read_to_string(html).unwrap());
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && html.contains(svg.trim_end()), "{svg}");
    for (open, close) in [("<g>", "</g>"), ("<text", "</text>"), ("<title>", "</title>")] {
        assert_eq!(svg.matches(open).count(), svg.matches(close).count(), "{open}");
    }
    assert!(!html.contains("src=") && !html.contains("href="), "{html}");
}

#[test]
fn no_claim_fails() {
    let answer = document(0, ["prove", "--json"]);
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
    let answer = document(0, ["pages", "--json", demo.to_str().unwrap()]);
    let of = |answer: &Value, content: &str| {
        let regions = answer["regions"].as_array().unwrap();
        let region = regions.iter().find(|region| region["content"] == content).unwrap();
        region["pages"].as_str().unwrap().to_owned()
    };
    assert!(of(&answer, "code").chars().all(|letter| letter == 's'), "{answer}");
    assert_eq!(of(&answer, "relocated constants"), "RRRRRRR");
    let variables = of(&answer, "variables");
    // Older linkers have nothing else on the first page.
    assert!(variables.trim_start_matches('.').starts_with('R') && of(&answer, "zeros") == "C...", "{answer}");

    let holder = Holder::start("dlopen");
    let theirs = document(0, ["pages", "--json", demo.to_str().unwrap(), "--pid", &holder.id()]);
    assert_eq!(theirs["process"], holder.0.id());
    // Who has written to the zeros is not seen from outside, after the fact.
    assert_eq!((of(&theirs, "relocated constants"), of(&theirs, "zeros")), ("RRRRRRR".into(), "W...".into()));
}

#[test]
fn copies_are_told_by_what_made_them() {
    let library = fixture("copies");
    let image = Image::open(&library).unwrap();
    let names = image.exported_addresses().unwrap();
    let letter = |answer: &Value, name: &str| {
        let at = names.iter().find(|(_, symbol)| symbol == name.as_bytes()).unwrap().0.0;
        let regions = answer["regions"].as_array().unwrap().iter();
        let mut letters = regions.filter_map(|region| {
            let index = at.checked_sub(number(region, "start"))? / 4096;
            region["pages"].as_str().unwrap().chars().nth(index as usize)
        });
        letters.next_back().unwrap()
    };
    for with in ["soload", "dlopen"] {
        let path = library.to_str().unwrap();
        let answer = document(0, ["pages", "--json", "--with", with, "--call", "change", path]);
        let all = ["by_relocation", "by_constructor", "by_call", "by_nobody"].map(|name| letter(&answer, name));
        assert_eq!(all[..3], ['R', 'C', 'W'], "{with}: {answer}");
        // Fault-around may have brought the last one, or not.
        assert!(['.', 's', 'e'].contains(&all[3]), "{with}: {answer}");
    }
}

#[test]
fn all_libraries_of_a_process_are_shown() {
    let holder = Holder::start("soload");
    let answer = document(0, ["pages", "--json", &holder.id()]);
    assert_eq!((&answer["process"], &answer["others"]), (&json!(holder.0.id()), &json!([])));
    let libraries = answer["libraries"].as_array().unwrap();
    let path = |library: &Value| library["path"].as_str().unwrap().to_owned();
    let names: Vec<_> = libraries.iter().map(path).collect();
    for name in ["/libdemo.so", "/libc.so.6", "/soload"] {
        assert_eq!(names.iter().filter(|path| path.ends_with(name)).count(), 1, "{names:?}");
    }
    // What it says of one of them is what it says of that one alone.
    let demo = libraries.iter().find(|library| path(library).ends_with("/libdemo.so")).unwrap();
    let alone = document(0, ["pages", "--json", "--pid", &holder.id(), fixture("demo").to_str().unwrap()]);
    assert_eq!((&demo["regions"], &demo["bias"]), (&alone["regions"], &alone["bias"]));

    let text = String::from_utf8(run(["pages", &holder.id()]).stdout).unwrap();
    assert!(text.contains("libdemo.so ") && text.contains("total ") && text.contains("own KiB"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
    let none = run(["pages", "4194305"]);
    assert!(none.status.code() == Some(1) && String::from_utf8_lossy(&none.stderr).contains("process 4194305: "));
}

#[test]
fn the_page_for_a_browser_has_all_that_it_tells() {
    let folder = tempfile::tempdir().unwrap();
    let html = folder.path().join("pages.html");
    let demo = fixture("demo");
    document(0, ["pages", "--json", "--html", html.to_str().unwrap(), demo.to_str().unwrap()]);
    let html = fs::read_to_string(html).unwrap();
    let data = html.split("type=\"application/json\">").nth(1).unwrap().split("</script>").next().unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    let library = &data["libraries"][0];
    let has = |list: &str, name: &str| {
        library[list].as_array().unwrap().iter().any(|entry| entry.as_array().unwrap().iter().any(|item| item == name))
    };
    assert!(has("sections", ".data.rel.ro") && has("symbols", "demo_add"), "{library}");
    let causes: Vec<_> = library["causes"].as_object().unwrap().values().collect();
    assert!(causes.iter().any(|cause| cause.as_str().unwrap().contains(" relative")), "{library}");
    assert!(!html.contains("{{") && !html.contains("src=") && !html.contains("href="), "{html}");
}

/// A terminal of our own, for a program to write to.
fn terminal() -> (fs::File, fs::File) {
    // SAFETY: new descriptors, which nobody else has; the name is written to a buffer that outlives the call.
    unsafe {
        let ours = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY);
        assert!(ours >= 0 && libc::grantpt(ours) == 0 && libc::unlockpt(ours) == 0);
        let mut name = [0; 64];
        assert_eq!(libc::ptsname_r(ours, name.as_mut_ptr(), name.len()), 0);
        let path = std::ffi::CStr::from_ptr(name.as_ptr()).to_str().unwrap();
        let theirs = fs::File::options().read(true).write(true).open(path).unwrap();
        (std::os::fd::FromRawFd::from_raw_fd(ours), theirs)
    }
}

#[test]
fn a_watched_process_is_looked_at_until_it_ends() {
    for whole in [false, true] {
        let mut holder = Holder::start("soload");
        let (mut ours, theirs) = terminal();
        let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
        command.args(["pages", "--watch=1"]).env("TERM", "xterm").env_remove("NO_COLOR");
        match whole {
            true => command.arg(holder.id()),
            false => command.args(["--pid", &holder.id()]).arg(fixture("demo")),
        };
        let stdout = theirs.try_clone().unwrap();
        let mut watcher = command.stdin(Stdio::null()).stdout(stdout).stderr(theirs).spawn().unwrap();
        drop(command); // it has the other end
        let (mut seen, mut looks) = (String::new(), 0);
        let mut bytes = [0; 4096];
        // The other end closed is an error, EIO.
        while let Ok(count @ 1..) = std::io::Read::read(&mut ours, &mut bytes) {
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
            let now = seen.matches("changed since the last look").count();
            if now >= 2 && looks < 2 {
                holder.0.kill().unwrap();
                holder.0.wait().unwrap();
            }
            looks = now;
        }
        assert!(watcher.wait().unwrap().success(), "{seen}");
        // Each look begins at the top of an empty screen, and draws with half blocks in colour.
        assert!(looks >= 2 && seen.matches("\x1b[H\x1b[2J").count() == looks, "{looks}: {seen:?}");
        assert!(seen.contains('▀') && seen.contains("\x1b[33m"), "{seen:?}");
        let last = seen.trim_end().lines().last().unwrap();
        assert!(last.contains(&format!("process {}: ", holder.0.id())), "{last}");
    }
}

#[test]
fn a_library_that_is_replaced_truncated_written_or_deleted_under_a_process_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libdemo.so");
    type Harm = fn(&Path);
    let cases: [(&str, Harm); 5] = [
        ("replaced", |library| {
            fs::copy(library, library.with_extension("new")).unwrap();
            fs::rename(library.with_extension("new"), library).unwrap();
        }),
        ("truncated", |library| fs::File::options().write(true).open(library).unwrap().set_len(5000).unwrap()),
        ("modified", |library| {
            let later = std::time::SystemTime::now() + Duration::from_secs(100);
            fs::File::options().write(true).open(library).unwrap().set_modified(later).unwrap();
        }),
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
        let answer = document(i32::from(!kind.is_empty()), ["doctor", "--json", &holder.id()]);
        let findings = answer["processes"][0]["findings"].as_array().unwrap();
        let kinds: Vec<_> = findings.iter().map(|finding| finding["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, Vec::from_iter(Some(kind).filter(|kind| !kind.is_empty())), "{answer}");
    }
    let nobody = run(["doctor", "4194305"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&nobody.stderr), "error: process 4194305: no such process in /proc\n");
}

#[test]
fn what_is_shown_fits_into_a_hundred_columns() {
    for arguments in [&["share", "-n", "3"][..], &["share", "-n", "2", "libc.so.6"], &["prove", "-v"], &["pages"]] {
        let output = run(arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.lines().count() > 5, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
