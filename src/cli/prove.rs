//! `soload prove`: what is said about mapping files and sharing libraries, shown live on this machine.
//!
//! JSON: `{"schema": 1, "command": "prove", "root", "claims": […]}`, for each claim `claim`, `measured`, `verdict`
//! (`pass`, `fail` or `cannot be seen`), `why` (it cannot be seen) and `by_hand` (common tools that show it).

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::{Value, json};
use soload::{Proof, Verdict};

use super::print::{self, BAD, BOLD, DIM, GOOD, WARN};
use super::{Outcome, Status, demo, share};

/// Columns that lines are wrapped to.
const WIDTH: usize = 96;

/// Show on this machine what is said about mapping files and sharing libraries
///
/// Each claim is put to the test; what was measured is printed with PASS or FAIL, or why it cannot be seen here. Fails if
/// a claim does.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A library that two processes load, to see that they share its code; the demonstration plugin without this
    #[arg(value_name = "LIB")]
    library: Option<OsString>,
    /// Where files to experiment with are made; some 300 MiB are needed for a moment
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also say how to see it with common tools
    #[arg(short, long)]
    verbose: bool,
}

/// One row of what is printed.
struct Row {
    claim: String,
    measured: String,
    verdict: Verdict,
    by_hand: &'static str,
}

impl From<Proof> for Row {
    fn from(proof: Proof) -> Self {
        Self { claim: proof.claim.into(), measured: proof.measured, verdict: proof.verdict, by_hand: proof.by_hand }
    }
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let scratch = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let mut rows = Vec::new();
    let mut show = |row: Row| {
        if !args.json {
            write_row(out, &row, args.verbose)?;
            out.flush()?;
        }
        rows.push(row);
        io::Result::Ok(())
    };
    for claim in Proof::all() {
        show(claim.run(&scratch).into())?;
    }
    show(of_library(args.library.as_ref()))?;
    let count = |verdict: fn(&Verdict) -> bool| rows.iter().filter(|row| verdict(&row.verdict)).count();
    let failed = count(|verdict| *verdict == Verdict::Fail);
    if args.json {
        let claims = rows.iter().map(json_of).collect::<Vec<_>>();
        print::write_json(out, &json!({"schema": 1, "command": "prove", "root": is_root(), "claims": claims}))?;
    } else {
        let passed = count(|verdict| *verdict == Verdict::Pass);
        let style = if failed == 0 { GOOD } else { BAD };
        writeln!(
            out,
            "{style}{passed} of {} claims hold{style:#}, {failed} fail, {} cannot be seen here.",
            rows.len(),
            { rows.len() - passed - failed }
        )?;
    }
    Ok(if failed == 0 { Status::Done } else { Status::Failed })
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Two processes that load one library have its code once.
fn of_library(library: Option<&OsString>) -> Row {
    let claim = "two processes that soload loads a library into have its code once".to_owned();
    let by_hand = "soload share -n 2 LIB";
    let cannot = |why: String| Row {
        claim: claim.clone(),
        measured: String::new(),
        verdict: Verdict::CannotBeSeen(why),
        by_hand,
    };
    let Some((library, _plugin)) = demo::asked(library) else { return cannot("there is no plugin".into()) };
    match share::code_of_two(&library) {
        Ok(Some((code, copied))) => {
            let how =
                if code.estimated { "not exclusive to either (frame numbers need root)" } else { "by frame number" };
            let measured = format!(
                "{}: {} pages of code mapped, {} in memory, {how}; {} pages copied in each",
                print::path(library.as_ref()),
                code.resident,
                code.frames,
                copied / 2
            );
            // The two have not run the same code: a page may be mapped in one of them only.
            let holds = code.resident > 0 && code.copied == 0 && code.frames < code.resident;
            let verdict = if holds { Verdict::Pass } else { Verdict::Fail };
            Row { claim, measured, verdict, by_hand }
        }
        Ok(None) => cannot(format!("{} could not be loaded twice", print::path(library.as_ref()))),
        Err(error) => cannot(error.to_string()),
    }
}

fn write_row(out: &mut impl Write, row: &Row, verbose: bool) -> io::Result<()> {
    let (style, word) = match row.verdict {
        Verdict::Pass => (GOOD, "PASS"),
        Verdict::Fail => (BAD, "FAIL"),
        Verdict::CannotBeSeen(_) => (WARN, " -- "),
    };
    writeln!(out, "{style}{word}{style:#}  {BOLD}{}{BOLD:#}", row.claim)?;
    if let Verdict::CannotBeSeen(why) = &row.verdict {
        for line in wrapped(&format!("cannot be seen here: {why}"), WIDTH - 6) {
            writeln!(out, "      {line}")?;
        }
    }
    for line in wrapped(&row.measured, WIDTH - 6) {
        writeln!(out, "      {line}")?;
    }
    if verbose && !row.by_hand.is_empty() {
        writeln!(out, "      {DIM}by hand: {}{DIM:#}", row.by_hand)?;
    }
    writeln!(out)
}

/// Text in lines of at most `width` characters, broken at blanks.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut().filter(|line| line.chars().count() + 1 + word.chars().count() <= width) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.into()),
        }
    }
    lines
}

fn json_of(row: &Row) -> Value {
    let (verdict, why) = match &row.verdict {
        Verdict::Pass => ("pass", None),
        Verdict::Fail => ("fail", None),
        Verdict::CannotBeSeen(why) => ("cannot be seen", Some(why)),
    };
    json!({"claim": row.claim, "measured": row.measured, "verdict": verdict, "why": why, "by_hand": row.by_hand})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_blanks_only() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a-long-word b", 3), ["a-long-word", "b"]);
        assert!(wrapped("", 3).is_empty());
    }
}
