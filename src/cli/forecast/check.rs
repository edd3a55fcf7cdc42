//! `soload forecast --check`: the forecast of every library against what loading it really makes private.
//!
//! JSON: `libraries` (tried), `loaded`, `objects` (different files that were measured), `forecast`, `measured`, `missed`
//! and `extra` (pages), and `differences`: for each object with any, `path`, `missed` and `extra` as page addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use soload::Vaddr;

use super::Args;
use crate::cli::load::With;
use crate::cli::print::{self, BAD, BOLD, DIM, GOOD, WARN};
use crate::cli::{Outcome, Status, children};

/// Differences, and reasons for not loading, that are printed.
const LIST_MAX: usize = 20;

pub(super) fn run(args: &Args, libraries: &[PathBuf], out: &mut impl Write) -> Outcome {
    let command = std::env::current_exe()?;
    let arguments = |words: &[&str], library: &Path| {
        let mut arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        arguments.extend(args.loading.typed());
        arguments.extend(["--".into(), library.into()]);
        arguments
    };
    // The moment before constructors is soload's to tell; of dlopen it has to be seen from outside.
    let measure = |library: &Path| match args.with {
        With::Soload => {
            let arguments = arguments(&["forecast", "--measure", "--with", "soload"], library);
            Ok(match children::document(&command, arguments, args.timeout, r#"{"command":"measure""#)? {
                Ok((document, _)) if document["ok"] == true => Ok(document),
                Ok((document, _)) => Err(document["error"].as_str().unwrap_or_default().to_owned()),
                Err(reason) => Err(reason),
            })
        }
        With::Dlopen => {
            let mut arguments = arguments(&["trace", "--json", "--with", "dlopen"], library);
            arguments.retain(|argument| argument != "--");
            let traced = children::document(&command, arguments, args.timeout, r#"{"before":"#)?;
            let refused = |reason: String| match reason.starts_with("ended without") {
                true => "dlopen did not load it".into(),
                false => reason,
            };
            Ok(traced.map_err(refused).and_then(|(document, _)| relocated(&document)))
        }
    };
    let answers = match children::each(libraries, measure) {
        Ok(answers) => answers,
        Err(error) => {
            print::complain(format_args!("cannot start processes: {error}"));
            return Ok(Status::Failed);
        }
    };
    let report = Report::of(&answers, args.with, args.loading.snapshots.is_some());
    if args.json {
        print::write_json(out, &json!({"schema": 1, "command": "forecast", "check": report.json()}))?;
    } else {
        report.write(out)?;
    }
    Ok(if report.is_exact() && report.loaded > 0 { Status::Done } else { Status::Failed })
}

/// What tracing has seen of the pages that loading wrote to, compared with the forecast.
fn relocated(traced: &Value) -> Result<Value, String> {
    let path = PathBuf::from(traced["path"].as_str().unwrap_or_default());
    let size = traced["page_size"].as_u64().unwrap_or(1);
    let has_phase = |name| traced["phases"].as_array().is_some_and(|all| all.iter().any(|phase| phase["name"] == name));
    if traced["before"] != 0 {
        return Err("the kernel maps it, and it relocates itself: there is no moment before".into());
    }
    let wanted = match has_phase("load") {
        true => 'L',
        // Without constructors there is one phase only.
        false if traced["constructors"] == 0 && traced["end"] == "exit" => 'R',
        false => return Err("dlopen gave up while it was loading it".into()),
    };
    let mut measured = BTreeSet::new();
    for region in traced["regions"].as_array().into_iter().flatten().filter(|region| !region["forecast"].is_null()) {
        let (start, pages) = (region["start"].as_u64().unwrap_or(0), region["pages"].as_str().unwrap_or_default());
        let written = pages.chars().zip(0..).filter(|(letter, _)| *letter == wanted);
        measured.extend(written.map(|(_, index)| Vaddr(start + index * size)));
    }
    let forecast = super::measure::forecast(&path)?;
    Ok(json!({"objects": [super::measure::compare(&path, &measured, &forecast)]}))
}

struct Report {
    with: With,
    snapshots: bool,
    libraries: usize,
    loaded: usize,
    /// Each file once, however many libraries need it.
    objects: BTreeMap<String, Value>,
    refused: Vec<(PathBuf, String)>,
}

impl Report {
    fn of(answers: &[(PathBuf, Result<Value, String>)], with: With, snapshots: bool) -> Self {
        let mut report = Self {
            with,
            snapshots,
            libraries: answers.len(),
            loaded: 0,
            objects: BTreeMap::new(),
            refused: Vec::new(),
        };
        for (library, answer) in answers {
            match answer {
                Ok(document) => {
                    report.loaded += 1;
                    for object in document["objects"].as_array().into_iter().flatten() {
                        let path = object["path"].as_str().unwrap_or_default().to_owned();
                        // Whoever has a difference is the one to keep.
                        let kept = report.objects.entry(path).or_insert_with(|| object.clone());
                        if differs(object) {
                            *kept = object.clone();
                        }
                    }
                }
                Err(reason) => report.refused.push((library.clone(), reason.clone())),
            }
        }
        report
    }

    fn sum(&self, what: &str) -> u64 {
        let number = |object: &Value| object[what].as_u64().unwrap_or_else(|| count(&object[what]));
        self.objects.values().map(number).sum()
    }

    fn is_exact(&self) -> bool {
        self.sum("extra") == 0 && self.sum("missed") == 0
    }

    fn json(&self) -> Value {
        let differences: Vec<_> = self.objects.values().filter(|object| differs(object)).collect();
        json!({
            "libraries": self.libraries,
            "loaded": self.loaded,
            "objects": self.objects.len(),
            "forecast": self.sum("forecast"),
            "measured": self.sum("measured"),
            "missed": self.sum("missed"),
            "extra": self.sum("extra"),
            "differences": differences,
        })
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (who, how) = match self.with {
            With::Soload if self.snapshots => ("soload from a snapshot", "by /proc/self/pagemap"),
            With::Soload => ("soload", "by /proc/self/pagemap"),
            With::Dlopen => ("dlopen", "by userfaultfd and PAGEMAP_SCAN, from outside"),
        };
        let style = if self.is_exact() { GOOD } else { BAD };
        writeln!(
            out,
            "{BOLD}{} of {} libraries{BOLD:#} loaded by {who}, each in a process of its own",
            self.loaded, self.libraries
        )?;
        writeln!(out, "Measured after relocation and before constructors, page by page, {how}\n")?;
        for (what, number) in [
            ("objects measured", self.objects.len() as u64),
            ("pages forecast", self.sum("forecast")),
            ("pages measured", self.sum("measured")),
        ] {
            writeln!(out, "  {what:18} {number:>8}")?;
        }
        writeln!(out, "  {:18} {style}{:>8}{style:#}", "pages missed", self.sum("missed"))?;
        writeln!(out, "  {:18} {style}{:>8}{style:#}", "pages extra", self.sum("extra"))?;
        let differing: Vec<_> = self.objects.iter().filter(|(_, object)| differs(object)).collect();
        if !differing.is_empty() {
            writeln!(out)?;
        }
        for (path, object) in differing.iter().take(LIST_MAX) {
            let (missed, extra) = (count(&object["missed"]), count(&object["extra"]));
            writeln!(out, "  {WARN}{missed} missed, {extra} extra{WARN:#}  {}", print::path(path.as_ref()))?;
        }
        if differing.len() > LIST_MAX {
            writeln!(out, "  and {} more; --json has all", differing.len() - LIST_MAX)?;
        }
        if !self.refused.is_empty() {
            writeln!(out, "\n{DIM}{} could not be loaded:{DIM:#}", self.refused.len())?;
            for (library, reason) in self.refused.iter().take(LIST_MAX) {
                let reason = soload::Escaped(reason.as_bytes()).to_string();
                let reason: String = reason.chars().take(100).collect();
                writeln!(out, "  {}\n    {DIM}{reason}{DIM:#}", print::path(library))?;
            }
            if self.refused.len() > LIST_MAX {
                writeln!(out, "  and {} more; `soload compare` explains them", self.refused.len() - LIST_MAX)?;
            }
        }
        Ok(())
    }
}

fn count(list: &Value) -> u64 {
    list.as_array().map_or(0, |list| list.len() as u64)
}

fn differs(object: &Value) -> bool {
    count(&object["missed"]) + count(&object["extra"]) > 0
}
