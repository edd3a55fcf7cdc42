//! What the rounds came to, as text with a bar for each loader, and as JSON.

use std::io::{self, Write};

use comfy_table::{Cell, Color};
use serde_json::{Map, Value, json};
use soload::Escaped;

use super::rounds::{Measured, Run};
use super::statistics::Median;
use crate::cli::print::{self, BOLD, DIM, Size, plural};

/// Cells of the longest bar.
const BAR: f64 = 28.0;

/// What was open before the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// All that the library needs.
    Own,
    /// The C library alone.
    Cold,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Cold => "cold",
        }
    }
}

/// One library in one mode.
pub(super) struct Report {
    pub(super) mode: Mode,
    /// Objects that were opened before the clock, the C library's not counted.
    pub(super) before: usize,
    pub(super) runs: Vec<Run>,
}

impl Report {
    /// What was measured of the loader of that name.
    pub(super) fn of(&self, name: &str) -> Option<&Measured> {
        self.runs.iter().find(|run| run.name == name)?.measured.as_ref().ok()
    }

    /// The time of that loader as a part of that of `dlopen`.
    pub(super) fn ratio(&self, name: &str) -> Option<Median> {
        self.of(name)?.ratio(self.of("dlopen")?)
    }

    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match (self.mode, self.before) {
            (Mode::Own, before) => {
                writeln!(
                    out,
                    "\n  {BOLD}own cost{BOLD:#}, {} that it needs loaded before\n",
                    plural(before, "object")
                )?;
            }
            (Mode::Cold, _) => writeln!(out, "\n  {BOLD}with all that it needs{BOLD:#}\n")?,
        }
        let longest = self.runs.iter().filter_map(|run| Some(run.measured.as_ref().ok()?.time()?.value));
        let longest = longest.fold(0.0, f64::max);
        let mut table = print::table(&["loader", "time", "ratio", "95 %", "faults", "calls", "private", ""]);
        for run in &self.runs {
            match &run.measured {
                Ok(measured) => table.add_row(self.cells(run, measured, longest)),
                Err(_) => table.add_row([Cell::new(&run.name), Cell::new("fails").fg(Color::DarkRed)]),
            };
        }
        print::align_right(&mut table, 1..7);
        print::write_table(out, &table)?;
        for (name, reason) in self.runs.iter().filter_map(|run| Some((&run.name, run.measured.as_ref().err()?))) {
            writeln!(out, "\n  {name} fails: {}", Escaped(reason.as_bytes()))?;
        }
        for run in &self.runs {
            let Ok(measured) = &run.measured else { continue };
            let stages: Vec<String> =
                measured.stages().map(|(stage, time)| format!("{stage} {}", Time(time))).collect();
            if !stages.is_empty() {
                writeln!(out, "\n  {DIM}{} by stage:{DIM:#} {}", run.name, stages.join(", "))?;
            }
        }
        Ok(())
    }

    fn cells(&self, run: &Run, measured: &Measured, longest: f64) -> Vec<Cell> {
        let time = measured.time().map_or(0.0, |time| time.value);
        let ratio = self.ratio(&run.name).filter(|_| run.name != "dlopen");
        let number = |number: Option<f64>| number.map_or_else(String::new, |number| format!("{number:.0}"));
        let (value, interval) = match ratio {
            Some(Median { value, low, high }) => (format!("{value:.2}"), format!("{low:.2}-{high:.2}")),
            None => ("1".into(), String::new()),
        };
        let style = match ratio {
            Some(ratio) if ratio.high < 1.0 => Color::DarkGreen,
            Some(ratio) if ratio.low > 1.0 => Color::DarkRed,
            _ => Color::Reset,
        };
        let bar = "█".repeat((time / longest.max(1.0) * BAR).round().max(1.0) as usize);
        vec![
            Cell::new(&run.name),
            Cell::new(Time(time)),
            Cell::new(value).fg(style),
            Cell::new(interval),
            Cell::new(number(measured.faults())),
            Cell::new(measured.calls.map_or_else(|| "?".into(), |calls| calls.to_string())),
            Cell::new(measured.private().map_or_else(|| "?".into(), |bytes| Size(bytes as u64).to_string())),
            Cell::new(bar).fg(style),
        ]
    }

    pub(super) fn json(&self) -> Value {
        let loaders: Map<String, Value> = self.runs.iter().map(|run| (run.name.clone(), self.json_of(run))).collect();
        json!({"mode": self.mode.name(), "before": self.before, "loaders": loaders})
    }

    fn json_of(&self, run: &Run) -> Value {
        let measured = match &run.measured {
            Ok(measured) => measured,
            Err(reason) => return json!({"error": reason}),
        };
        let stages: Map<String, Value> =
            measured.stages().map(|(stage, time)| (stage.to_owned(), (time / 1e3).into())).collect();
        json!({
            "microseconds": measured.time().map(|time| of_median(time, 1e3)),
            "ratio": self.ratio(&run.name).map(|ratio| of_median(ratio, 1.0)),
            "faults": measured.faults(),
            "calls": measured.calls,
            "private_bytes": measured.private(),
            "stages": stages,
        })
    }
}

pub(super) fn of_median(median: Median, unit: f64) -> Value {
    json!({"median": median.value / unit, "low": median.low / unit, "high": median.high / unit})
}

/// Nanoseconds, as people write them.
pub(super) struct Time(pub(super) f64);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 / 1e3 {
            short if short < 100.0 => write!(f, "{short:.1} us"),
            medium if medium < 10_000.0 => write!(f, "{medium:.0} us"),
            long => write!(f, "{:.1} ms", long / 1e3),
        }
    }
}
