//! `soload trace`: which pages of a library a program touches and writes: while it is loaded, by its constructors, later.
//!
//! JSON: `{"schema": 1, "command": "trace", "path", "page_size", "process", "end", "before", "constructors", "phases": […], "regions":
//! […]}`: `end` is `exit`, `unloaded` or `lost`, `before` the pages that were there before they were watched, `constructors` a number; for each
//! phase `name` (`load`, `constructors`, `run`), `microseconds`, and `minor_faults` and `major_faults` of the whole process;
//! for each region `content`, `start` (as the file states it), `pages` (one letter for each: the phase in which it was first
//! written, as a capital, else first read; `.` untouched), and for each phase `read` (pages first touched by reading),
//! `written` (pages first written) and `again` (pages written in an earlier phase and again), in `phases`.

#[cfg(target_arch = "x86_64")]
mod tracee;
#[cfg(target_arch = "x86_64")]
mod watch;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anstyle::Style;
use comfy_table::Cell;
use serde_json::{Map, Value, json};
use soload::{Forecast, Image, PageSize, Plan};

use super::load::With;
use super::memory::{self, Region};
use super::print::{self, BAD, BOLD, DIM, GOOD, NOTE, WARN, plural};
use super::{Loading, Outcome, Status, demo};

/// Run a program and show which pages of a library it touches and writes, and when
///
/// The pages are counted by the kernel: each one touched is seen, none that only lies beside one. Without PROGRAM, a process
/// of this command loads the library; without LIB, the demonstration plugin.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The library: a path, or a name that is searched for as dlopen does
    #[arg(value_name = "LIB")]
    library: Option<OsString>,
    /// The loader to use, without PROGRAM
    #[arg(long, value_enum, default_value_t = With::Soload)]
    with: With,
    /// Have the process call this function, without arguments, without PROGRAM
    #[arg(long, value_name = "SYMBOL", conflicts_with = "program")]
    call: Option<String>,
    #[command(flatten)]
    loading: Loading,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The program to run, and its arguments
    #[arg(value_name = "PROGRAM", last = true)]
    program: Vec<OsString>,
}

/// When something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Load,
    Constructors,
    Run,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Load, Self::Constructors, Self::Run];

    fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Constructors => "constructors",
            Self::Run => "run",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Load => WARN,
            Self::Constructors => NOTE,
            Self::Run => BAD,
        }
    }
}

/// What became of one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Life {
    /// When it was first touched, and when it was first written.
    touched: Option<Phase>,
    written: Option<Phase>,
    /// Written in that phase, after it had been written in an earlier one.
    again: [bool; 3],
}

impl Life {
    /// `l` read in loading, `L` written in loading, and so on.
    fn letter(self) -> char {
        let letter = |phase: Phase| phase.name().chars().next().unwrap_or('?');
        match (self.written, self.touched) {
            (Some(phase), _) => letter(phase).to_ascii_uppercase(),
            (None, Some(phase)) => letter(phase),
            (None, None) => '.',
        }
    }

    fn note(&mut self, phase: Phase, written: bool) {
        self.touched = self.touched.or(Some(phase));
        if written {
            self.again[phase as usize] = self.written.is_some();
            self.written = self.written.or(Some(phase));
        }
    }
}

/// What one phase cost the whole process.
struct Cost {
    phase: Phase,
    time: Duration,
    minor: u64,
    major: u64,
}

/// All that was seen.
struct Report {
    path: PathBuf,
    process: i32,
    end: &'static str,
    /// Pages that were there before they were watched.
    before: usize,
    /// Functions that run when it is loaded.
    constructors: usize,
    costs: Vec<Cost>,
    regions: Vec<(Region, Vec<Life>)>,
    /// What could not be told, and why.
    notes: Vec<String>,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    if args.library.is_none() && !args.program.is_empty() {
        print::complain("name the library whose pages are to be watched: soload trace LIB -- PROGRAM");
        return Ok(Status::Usage);
    }
    let Some((asked, _plugin)) = demo::asked(args.library.as_ref()) else { return Ok(Status::Failed) };
    let path = match args.loading.options().files(&asked) {
        Ok(files) => files.into_iter().next().unwrap_or_else(|| PathBuf::from(&asked)),
        Err(error) => {
            print::complain_of(&error);
            return Ok(Status::Failed);
        }
    };
    out.flush()?; // The program writes to the same place.
    match trace(args, &asked, &path) {
        Ok(report) if args.json => print::write_json(out, &json_of(&report))?,
        Ok(report) => write_report(out, &report)?,
        Err(reason) => {
            print::complain(reason);
            return Ok(Status::Failed);
        }
    }
    Ok(Status::Done)
}

/// The program that loads the library: the one that was typed, or this one.
fn command(args: &Args, asked: &OsString) -> io::Result<Command> {
    if let [program, arguments @ ..] = &args.program[..] {
        let mut command = Command::new(program);
        command.args(arguments);
        return Ok(command);
    }
    let mut command = Command::new(std::env::current_exe()?);
    let with = if args.with == With::Dlopen { "dlopen" } else { "soload" };
    command.args(["share", "--hold", "--with", with]).args(args.loading.typed());
    if let Some(symbol) = &args.call {
        command.args(["--call", symbol]);
    }
    command.arg("--").arg(asked).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command)
}

#[cfg(not(target_arch = "x86_64"))]
fn trace(_: &Args, _: &OsString, _: &Path) -> Result<Report, String> {
    Err("trace knows the registers of x86-64 only".into())
}

#[cfg(target_arch = "x86_64")]
fn trace(args: &Args, asked: &OsString, path: &Path) -> Result<Report, String> {
    use std::os::unix::fs::MetadataExt;

    use tracee::{End, Subject};

    let text = |error: soload::Error| error.to_string();
    let image = Image::open(path).map_err(text)?;
    let plan = Plan::of(&image, PageSize::native()).map_err(text)?;
    let forecast = Forecast::of(&image, &plan).map_err(text)?;
    let meta = path.metadata().map_err(|error| format!("{}: {error}", print::path(path)))?;
    let constructors = image.constructors().map_err(text)?;
    let functions = constructors.len();
    let subject = Subject { image: &image, plan: &plan, constructors, identity: (meta.dev(), meta.ino()) };
    let command = command(args, asked).map_err(|error| error.to_string())?;
    let program = args.program.first().cloned().unwrap_or_else(|| "this command".into());
    let program = print::path(program.as_ref()).to_string();
    let traced = tracee::run(command, &subject).map_err(|reason| format!("{program}: {reason}"))?;
    let traced = traced.ok_or_else(|| format!("{program} has ended without loading {}", print::path(path)))?;

    let size = plan.page.bytes() as usize;
    let mut regions: Vec<_> = memory::regions(&plan, Some(&forecast))
        .into_iter()
        .map(|region| {
            let count = ((region.range.end.0 - region.range.start.0) as usize) / size;
            (region, vec![Life::default(); count])
        })
        .collect();
    let mut costs = Vec::new();
    let (mut time, mut faults) = (traced.watch.start, traced.watch.faults);
    let snapshots =
        [(Phase::Load, &traced.loaded), (Phase::Constructors, &traced.initialised), (Phase::Run, &traced.last)];
    for (phase, snapshot) in snapshots.into_iter().filter_map(|(phase, snapshot)| Some((phase, snapshot.as_ref()?))) {
        for (region, lives) in &mut regions {
            let touches = snapshot.touches(traced.watch.bias.at(region.range.start), lives.len(), size);
            for (life, touch) in lives.iter_mut().zip(touches) {
                if let Some(touch) = touch {
                    life.note(phase, touch.written);
                }
            }
        }
        // The kernel's count has been seen to go down by a few.
        let (minor, major) = (snapshot.faults.0.saturating_sub(faults.0), snapshot.faults.1.saturating_sub(faults.1));
        costs.push(Cost { phase, time: snapshot.since(time), minor, major });
        (time, faults) = (snapshot.at, snapshot.faults);
    }
    let mut notes = Vec::new();
    let later = "is counted in the phase after it";
    match &traced.without_breakpoints {
        Some(why) => notes.push(format!("When constructors run cannot be seen (debug registers: {why}): it {later}.")),
        None if functions == 0 => notes.push(format!("The library has no constructors: what loading does {later}.")),
        None if traced.loaded.is_none() => notes.push("None of its constructors was reached.".into()),
        None if traced.initialised.is_none() => {
            notes.push(format!("The last constructor did not return: what it does {later}."));
        }
        None => {}
    }
    let end = match traced.end {
        Some(End::Exit) => "exit",
        Some(End::Unloaded) => "unloaded",
        Some(End::Lost) | None => {
            notes.push("The process was killed, or became another program: what it did last was not seen.".into());
            "lost"
        }
    };
    if traced.watch.before > 0 {
        notes.push(format!("{} there before they were watched.", plural(traced.watch.before, "page")));
    }
    let process = traced.watch.process.as_raw();
    let before = traced.watch.before;
    Ok(Report { path: path.to_owned(), process, end, before, constructors: functions, costs, regions, notes })
}

/// Pages of a region of which something holds.
fn count(lives: &[Life], holds: impl Fn(&Life) -> bool) -> usize {
    lives.iter().filter(|life| holds(life)).count()
}

/// First touched by reading, first written, written again.
fn counts(lives: &[Life], phase: Phase) -> [usize; 3] {
    [
        count(lives, |life| life.touched == Some(phase) && life.written != Some(phase)),
        count(lives, |life| life.written == Some(phase)),
        count(lives, |life| life.again[phase as usize]),
    ]
}

const WIDTH: usize = 72;

fn write_report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(
        out,
        "{BOLD}{}{BOLD:#} in process {}, watched from its mapping on\n",
        print::path(&report.path),
        report.process
    )?;
    let phases = || Phase::ALL.into_iter().filter(|phase| report.costs.iter().any(|cost| cost.phase == *phase));
    let mut header = vec!["content".to_owned(), "pages".into()];
    // Short, so that all of it fits into a hundred columns.
    let short = |phase: Phase| if phase == Phase::Constructors { "ctor" } else { phase.name() };
    header.extend(phases().flat_map(|phase| [format!("{} r", short(phase)), format!("{} w", short(phase))]));
    header.extend(["untouched".into(), "forecast".into()]);
    let mut table = print::table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    let row = |content: &str, lives: &[Life], forecast: Option<usize>| {
        let mut cells = vec![Cell::new(content), Cell::new(lives.len())];
        for phase in phases() {
            let [read, written, _] = counts(lives, phase);
            cells.extend([memory::number_cell(read), memory::number_cell(written)]);
        }
        cells.push(memory::number_cell(count(lives, |life| life.touched.is_none())));
        cells.push(forecast.map_or_else(|| Cell::new("-"), memory::number_cell));
        cells
    };
    for (region, lives) in &report.regions {
        table.add_row(row(region.content, lives, region.file.and(region.forecast)));
    }
    let all: Vec<Life> = report.regions.iter().flat_map(|(_, lives)| lives.iter().copied()).collect();
    let forecast = report.regions.iter().filter_map(|(region, _)| region.file.and(region.forecast)).sum();
    table.add_row(row("total", &all, Some(forecast)));
    print::align_right(&mut table, 1..header.len());
    print::write_table(out, &table)?;
    writeln!(out)?;
    for (region, lives) in report.regions.iter().filter(|(_, lives)| lives.iter().any(|life| life.touched.is_some())) {
        writeln!(out, "  {BOLD}{}{BOLD:#}", region.content)?;
        for line in lives.chunks(WIDTH) {
            write!(out, "    ")?;
            for run in line.chunk_by(|a, b| a.letter() == b.letter()) {
                let style = run[0].written.or(run[0].touched).map_or(DIM, Phase::style);
                write!(out, "{style}{}{style:#}", run[0].letter().to_string().repeat(run.len()))?;
            }
            writeln!(out)?;
        }
    }
    writeln!(
        out,
        "\n  small letter: first read in that phase (r); capital: first written (w); {DIM}.{DIM:#} never touched\n"
    )?;
    for cost in &report.costs {
        let style = cost.phase.style();
        let letter = cost.phase.name().chars().next().unwrap_or('?');
        let [_, _, again] = counts(&all, cost.phase);
        let again = if again > 0 { format!("; {} written again", plural(again, "page")) } else { String::new() };
        writeln!(
            out,
            "  {style}{letter}{style:#} {:12} {:>11}  {}, {} major{again}",
            cost.phase.name(),
            print::milliseconds(cost.time),
            plural(cost.minor as usize, "minor fault"),
            cost.major,
        )?;
    }
    writeln!(out)?;
    if report.end == "unloaded" {
        writeln!(out, "  {GOOD}Until it was unloaded.{GOOD:#}")?;
    }
    for note in &report.notes {
        writeln!(out, "  {note}")?;
    }
    writeln!(
        out,
        "  {DIM}By userfaultfd (asynchronous write protection) and PAGEMAP_SCAN: each page touched is counted,\n  \
         none that only lies beside one (fault-around). A page read costs a fault that maps the page of\n  \
         the file, one written a fault that copies it. Not told by the kernel: the order within a phase,\n  \
         reads after the first, faults by page; faults are all of the process. Others are not watched.{DIM:#}"
    )
}

fn json_of(report: &Report) -> Value {
    let phases = report.costs.iter().map(|cost| {
        json!({
            "name": cost.phase.name(),
            "microseconds": cost.time.as_secs_f64() * 1e6,
            "minor_faults": cost.minor,
            "major_faults": cost.major,
        })
    });
    let of_phase = |lives: &[Life], phase: Phase| {
        let [read, written, again] = counts(lives, phase);
        (phase.name().to_owned(), json!({"read": read, "written": written, "again": again}))
    };
    let regions = report.regions.iter().map(|(region, lives)| {
        json!({
            "content": region.content,
            "start": region.range.start.0,
            "forecast": region.file.and(region.forecast),
            "pages": lives.iter().map(|life| life.letter()).collect::<String>(),
            "phases": report.costs.iter().map(|cost| of_phase(lives, cost.phase)).collect::<Map<_, _>>(),
        })
    });
    let mut object = Map::new();
    object.insert("schema".into(), 1.into());
    object.insert("command".into(), "trace".into());
    print::put_path(&mut object, "path", &report.path);
    object.insert("page_size".into(), PageSize::native().bytes().into());
    object.insert("process".into(), report.process.into());
    object.insert("end".into(), report.end.into());
    object.insert("before".into(), report.before.into());
    object.insert("constructors".into(), report.constructors.into());
    object.insert("phases".into(), phases.collect());
    object.insert("regions".into(), regions.collect());
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_letter_of_its_first_write_or_else_of_its_first_touch() {
        let mut life = Life::default();
        assert_eq!(life.letter(), '.');
        life.note(Phase::Load, false);
        assert_eq!(life.letter(), 'l');
        life.note(Phase::Constructors, true);
        assert_eq!((life.letter(), life.again), ('C', [false; 3]));
        life.note(Phase::Run, false);
        life.note(Phase::Run, true);
        assert_eq!((life.letter(), life.again), ('C', [false, false, true]));
        let lives = [life, Life::default()];
        assert_eq!(Phase::ALL.map(|phase| counts(&lives, phase)), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]);
    }
}
