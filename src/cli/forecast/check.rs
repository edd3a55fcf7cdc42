//! `soload forecast --check`: the forecast of every library against what loading it really makes private.
//!
//! JSON: `libraries` (tried), `loaded`, `objects` (different files that were measured), `forecast`, `measured`, `missed`
//! and `extra` (pages), and `differences`: for each object with any, `path`, `missed` and `extra` as page addresses.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Args;
use crate::cli::load::With;
use crate::cli::print::{self, BAD, BOLD, DIM, GOOD, WARN};
use crate::cli::{Outcome, Status, children};

/// Differences, and reasons for not loading, that are printed.
const LIST_MAX: usize = 20;

pub(super) fn run(args: &Args, libraries: &[PathBuf], out: &mut impl Write) -> Outcome {
    let command = std::env::current_exe()?;
    let measure = |library: &Path| {
        let with = if args.with == With::Dlopen { "dlopen" } else { "soload" };
        let mut arguments: Vec<OsString> = ["forecast", "--measure", "--with", with].map(OsString::from).into();
        arguments.extend(args.loading.typed());
        arguments.extend(["--".into(), library.into()]);
        Ok(match children::document(&command, arguments, args.timeout, r#"{"command":"measure""#)? {
            Ok((document, _)) if document["ok"] == true => Ok(document),
            Ok((document, _)) => Err(document["error"].as_str().unwrap_or_default().to_owned()),
            Err(reason) => Err(reason),
        })
    };
    let answers = match children::each(libraries, measure) {
        Ok(answers) => answers,
        Err(error) => {
            print::complain(format_args!("cannot start processes: {error}"));
            return Ok(Status::Failed);
        }
    };
    let report = Report::of(&answers, args.with);
    if args.json {
        print::write_json(out, &json!({"schema": 1, "command": "forecast", "check": report.json()}))?;
    } else {
        report.write(out)?;
    }
    Ok(if report.is_exact() && report.loaded > 0 { Status::Done } else { Status::Failed })
}

struct Report {
    with: With,
    libraries: usize,
    loaded: usize,
    /// Each file once, however many libraries need it.
    objects: BTreeMap<String, Value>,
    refused: Vec<(PathBuf, String)>,
}

impl Report {
    fn of(answers: &[(PathBuf, Result<Value, String>)], with: With) -> Self {
        let mut report =
            Self { with, libraries: answers.len(), loaded: 0, objects: BTreeMap::new(), refused: Vec::new() };
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

    /// Constructors have run after dlopen: what they write to cannot be told from what was missed.
    fn is_exact(&self) -> bool {
        self.sum("extra") == 0 && (self.with == With::Dlopen || self.sum("missed") == 0)
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
        let (who, when) = match self.with {
            With::Soload => ("soload", "after relocation and before constructors"),
            With::Dlopen => ("dlopen", "after constructors"),
        };
        let style = if self.is_exact() { GOOD } else { BAD };
        writeln!(
            out,
            "{BOLD}{} of {} libraries{BOLD:#} loaded by {who}, each in a process of its own",
            self.loaded, self.libraries
        )?;
        writeln!(out, "Measured {when}, page by page, by /proc/self/pagemap\n")?;
        for (what, number) in [
            ("objects measured", self.objects.len() as u64),
            ("pages forecast", self.sum("forecast")),
            ("pages measured", self.sum("measured")),
        ] {
            writeln!(out, "  {what:18} {number:>8}")?;
        }
        let why = if self.with == With::Dlopen { "  written by constructors, or missed" } else { "" };
        writeln!(out, "  {:18} {style}{:>8}{style:#}{why}", "pages missed", self.sum("missed"))?;
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
