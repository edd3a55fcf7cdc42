//! The pictures, in a real browser and as pixels: what pointing at a cell says, and that none is empty or broken.
//!
//! With `SOLOAD_PICTURES=DIR` set, the pictures are kept there to be looked at.

#![cfg(all(feature = "cli", target_arch = "x86_64"))]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // gives a browser two descriptors by number

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::command::out;
use serde_json::{Value, json};

/// Where a program is, or a loud word that the test did not run.
fn program(names: &[&str], package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        eprintln!("DID NOT RUN: {} needs the package {package}", names[0]);
        assert!(std::env::var_os("CI").is_none(), "CI installs {package}");
    }
    found
}

/// A browser without a window, spoken to by the DevTools protocol over a pipe.
struct Browser {
    process: Child,
    talk: PipeWriter,
    listen: BufReader<PipeReader>,
    number: u64,
    page: Value,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn start(command: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let (theirs_in, talk) = std::io::pipe().unwrap();
        let (listen, theirs_out) = std::io::pipe().unwrap();
        let mut browser = Command::new(command);
        browser.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ]);
        browser.args(["--window-size=1100,900", "--hide-scrollbars", "--force-color-profile=srgb", "about:blank"]);
        browser.arg(format!("--user-data-dir={}", profile.path().display()));
        browser.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (from, to) = (theirs_in.as_raw_fd(), theirs_out.as_raw_fd());
        // It reads from 3 and writes to 4. Neither may be in the way of the other.
        unsafe {
            browser.pre_exec(move || {
                let (from, to) = (libc::fcntl(from, libc::F_DUPFD, 10), libc::fcntl(to, libc::F_DUPFD, 10));
                match libc::dup2(from, 3) == 3 && libc::dup2(to, 4) == 4 {
                    true => Ok(()),
                    false => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let process = browser.spawn().unwrap();
        let (listen, number, page) = (BufReader::new(listen), 0, Value::Null);
        Self { process, talk, listen, number, page, _profile: profile }
    }

    fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": parameters});
        if !self.page.is_null() {
            message["sessionId"] = self.page.clone();
        }
        self.talk.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut answer = Vec::new();
            assert!(self.listen.read_until(0, &mut answer).unwrap() > 0, "the browser has ended");
            answer.pop();
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert!(answer["method"] != "Runtime.exceptionThrown", "{answer}");
            if answer["id"] == self.number {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    fn show(&mut self, file: &Path) {
        self.page = Value::Null;
        let target = self.ask("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        self.page =
            self.ask("Target.attachToTarget", json!({"targetId": target, "flatten": true}))["sessionId"].clone();
        self.ask("Runtime.enable", json!({}));
        self.ask("Page.navigate", json!({"url": format!("file://{}", file.display())}));
        let end = Instant::now() + Duration::from_secs(30);
        while self.evaluate("document.readyState + location.protocol") != "completefile:" {
            assert!(Instant::now() < end, "the page was not loaded");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn evaluate(&mut self, script: &str) -> Value {
        let result = self.ask("Runtime.evaluate", json!({"expression": script, "returnByValue": true}));
        assert!(result["exceptionDetails"].is_null(), "{script}: {result}");
        result["result"]["value"].clone()
    }

    /// Points at the middle of a cell of a region, and reads what is shown then.
    fn point_at(&mut self, canvas: u64, cell: u64) -> Value {
        self.evaluate(&format!("document.querySelectorAll('canvas')[{canvas}].scrollIntoView({{block: 'center'}})"));
        let place = self.evaluate(&format!(
            "(() => {{ const box = document.querySelectorAll('canvas')[{canvas}].getBoundingClientRect();
            return [box.left + ({cell} + .5) * step, box.top + step / 2] }})()"
        ));
        self.ask("Input.dispatchMouseEvent", json!({"type": "mouseMoved", "x": place[0], "y": place[1]}));
        self.evaluate(
            "(() => { const tip = document.getElementById('tip'), shown = {};
            for (const line of tip.querySelectorAll('dd')) shown[line.className] = line.textContent;
            return { visible: tip.style.display === 'block', title: tip.querySelector('b')?.textContent, ...shown } })()",
        )
    }

    fn screenshot(&mut self, name: &str) {
        if let Some(folder) = std::env::var_os("SOLOAD_PICTURES") {
            let size = self.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]");
            let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
            let parameters = json!({"captureBeyondViewport": true, "clip": clip});
            let picture = self.ask("Page.captureScreenshot", parameters)["data"].as_str().unwrap().to_owned();
            let file = File::create(Path::new(&folder).join(name)).unwrap();
            let mut decode = Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(file).spawn().unwrap();
            decode.stdin.take().unwrap().write_all(picture.as_bytes()).unwrap();
            assert!(decode.wait().unwrap().success());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn fixture(name: &str) -> String {
    common::fixture(name).to_str().unwrap().into()
}

#[test]
fn pointing_at_a_cell_tells_section_symbol_and_reason() {
    let Some(command) = program(&["chromium", "chromium-browser", "google-chrome"], "chromium") else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let mut browser = Browser::start(&command);

    let path = file("pages.html");
    out(["pages", &fixture("demo"), "--html", path.to_str().unwrap()]);
    browser.show(&path);
    let titles =
        browser.evaluate("[...document.querySelectorAll('h3')].map(head => head.firstChild.textContent.trim())");
    let titles: Vec<_> = titles.as_array().unwrap().iter().map(|title| title.as_str().unwrap()).collect();
    assert_eq!(titles, ["headers and tables", "code", "constants", "relocated constants", "variables", "zeros"]);
    let code = browser.point_at(1, 0);
    assert!(code["visible"] == true && code["title"] == "page 0 of code: shared", "{code}");
    let text =
        |answer: &Value, what: &str| answer[what].as_str().unwrap_or_else(|| panic!("{what}: {answer}")).to_owned();
    assert!(text(&code, "section").split(' ').any(|name| name == ".text"), "{code}");
    assert!(text(&code, "symbol").starts_with("first is demo_"), "{code}");
    assert!(text(&code, "reason").starts_with("read"), "{code}");
    let relocated = browser.point_at(3, 1);
    assert!(text(&relocated, "reason").starts_with("relocation wrote here: 512 relative"), "{relocated}");
    assert_eq!(text(&relocated, "section"), ".data.rel.ro", "{relocated}");
    assert_eq!(text(&relocated, "symbol"), "none is exported here", "{relocated}");
    browser.screenshot("pages-html.png");
    // The constructor's page, and one that nobody has touched.
    let zeros = [browser.point_at(5, 0), browser.point_at(5, 3)];
    assert!(
        text(&zeros[0], "reason") == "a constructor wrote here" && text(&zeros[0], "section") == ".bss",
        "{zeros:?}"
    );
    assert!(text(&zeros[1], "reason").starts_with("nobody"), "{zeros:?}");
    // Beside all cells nothing is shown.
    browser.ask("Input.dispatchMouseEvent", json!({"type": "mouseMoved", "x": 2, "y": 2}));
    assert_eq!(browser.evaluate("document.getElementById('tip').style.display"), "none");

    // A whole process: the browser itself, which has many libraries.
    let path = file("process.html");
    out(["pages", &browser.process.id().to_string(), "--html", path.to_str().unwrap()]);
    browser.show(&path);
    let names = browser.evaluate("[...document.querySelectorAll('h2')].map(head => head.textContent)");
    assert!(names.as_array().unwrap().iter().any(|name| name.as_str().unwrap().ends_with("/libc.so.6")), "{names}");
    let first = browser.point_at(0, 0);
    assert!(first["visible"] == true, "{first}");

    let path = file("share.html");
    out(["share", &fixture("demo"), "-n", "4", "--with", "both", "--html", path.to_str().unwrap()]);
    browser.show(&path);
    assert_eq!(browser.evaluate("document.querySelectorAll('table').length"), 2);
    assert_eq!(
        browser.evaluate("[...document.querySelectorAll('svg text.p')].map(text => text.textContent).join()"),
        "4 processes with dlopen,4 processes with soload"
    );
    browser.screenshot("share-html.png");
}

#[test]
fn every_picture_can_be_drawn_and_shows_something() {
    let Some(convert) = program(&["rsvg-convert"], "librsvg2-bin") else { return };
    let folder = tempfile::tempdir().unwrap();
    let own = std::process::id().to_string();
    let demo = fixture("demo");
    let pictures: [(&str, &[&str]); 3] = [
        ("share", &["share", &demo, "-n", "4", "--with", "both"]),
        ("pages", &["pages", &demo]),
        ("process", &["pages", &own]),
    ];
    for (name, arguments) in pictures {
        let svg = folder.path().join(format!("{name}.svg"));
        out([arguments, &["--svg", svg.to_str().unwrap()]].concat());
        let keep = std::env::var_os("SOLOAD_PICTURES").map_or(folder.path().to_owned(), PathBuf::from);
        let png = keep.join(format!("{name}.png"));
        let output = Command::new(&convert).arg(&svg).arg("-o").arg(&png).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let bytes = fs::read(&png).unwrap();
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        // Width and height stand in the first chunk; an empty picture of that size takes some two thousand bytes.
        assert!(bytes.starts_with(b"\x89PNG") && number(16) == 980 && number(20) > 200, "{name}");
        assert!(bytes.len() > 8_000, "{name}: {} bytes", bytes.len());
    }
}
