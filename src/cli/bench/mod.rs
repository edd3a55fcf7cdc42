//! `soload bench`: what opening a library costs by soload and by dlopen, side by side, in fresh processes that take turns.
//!
//! JSON: `{"schema": 1, "command": "bench", "rounds", "first_open", "libraries": […]}`. `first_open` has, for each loader,
//! how many microseconds the first open of a process takes longer than the second. A library has `name` and either
//! `error` or `path` and `reports`: `mode` (`own`: with all that it needs loaded before, `before` objects; `cold`: with
//! the C library alone), and `loaders`, by name: `error`, or `microseconds` (with `--cpu` those that the process runs) and
//! `ratio` (to `dlopen` in the same round), each with `median` and the interval `low` to `high` (95 %), `faults`, `calls`
//! (system calls, `null` if they could not be counted), `private_bytes`, and `stages` (microseconds by name). A `path` that
//! is not UTF-8 is lossy; `path_bytes` has it in hexadecimal then.

#[allow(unsafe_code)] // asks for being traced before a program starts, and reads what the kernel says of a call
mod calls;
mod list;
mod report;
mod rounds;
mod statistics;
mod table;
#[allow(unsafe_code)] // loads libraries, and so runs their constructors
mod worker;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::demo::Plugin;
use super::print::{self, BOLD};
use super::{Outcome, Status};
use report::{Mode, Report, Time};
use rounds::{Clock, Contestant, Run};
use statistics::Median;
use worker::Loader;

/// Measure what opening libraries costs, beside dlopen
///
/// Each loader opens the library in a fresh process, in turn, and the order rotates from round to round. Times are medians,
/// ratios the median over the rounds; constructors are part of them. Before the clock, each loader has opened a small
/// library; what that costs is said separately. The files are read anew first, as `soload warm --closure` does it, as far
/// as no process has them mapped: what they come in does not depend on who read them before.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Libraries: paths, or names that are searched for as dlopen does
    #[arg(value_name = "LIB", required_unless_present_any = ["table", "first"])]
    libraries: Vec<OsString>,
    /// Only with all that LIB needs loaded before the clock
    #[arg(long, conflicts_with = "cold")]
    own: bool,
    /// Only with nothing but the C library loaded before the clock
    #[arg(long)]
    cold: bool,
    /// Measure 22 well-known libraries, as far as they are installed, and compare each class with what is aimed at
    #[arg(long, conflicts_with = "libraries")]
    table: bool,
    /// Measure only what the first open in a process costs
    #[arg(long, conflicts_with_all = ["libraries", "table"])]
    first: bool,
    /// How often each loader has its turn, after one that does not count
    #[arg(long, value_name = "N", default_value_t = 31, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rounds: u16,
    /// Compare the time that the processes run instead of the time that passes: where other programs run too
    #[arg(long)]
    cpu: bool,
    /// Also measure soload with functions that are bound when they are first called, as by RTLD_LAZY
    #[arg(long)]
    lazy: bool,
    /// Also measure soload with relocated pages from snapshots, which the round that does not count makes
    #[arg(long)]
    snapshots: bool,
    /// Also measure a fork of a process that has the library open, as `soload serve` makes them: fork, exit and wait
    #[arg(long)]
    fork: bool,
    /// A program that measures another loader, named like that (may be repeated): benches/peers of the source has some
    #[arg(long, value_name = "PROGRAM")]
    peer: Vec<PathBuf>,
    #[command(flatten)]
    job: worker::Job,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One library in the modes asked for.
struct Library {
    name: OsString,
    measured: Result<(PathBuf, Vec<Report>), String>,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    if let (Some(loader), Some(library)) = (args.job.loader(), args.libraries.first()) {
        return args.job.run(loader, library, out);
    }
    match measure(args, out) {
        Ok(status) => Ok(status),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(error),
        Err(error) => {
            print::complain(format_args!("cannot measure: {error}"));
            Ok(Status::Failed)
        }
    }
}

fn measure(args: &Args, out: &mut impl Write) -> Outcome {
    let Some(plugin) = Plugin::write() else { return Ok(Status::Failed) };
    let field = Field::of(args, plugin.path())?;
    let first = field.first_open()?;
    if !args.json {
        write_first(out, &first)?;
    }
    let listed = args.table.then(list::libraries).unwrap_or_default();
    let names = args.libraries.iter().cloned().chain(listed.into_iter().map(OsString::from));
    let mut libraries = Vec::new();
    for name in names {
        let library = Library { measured: field.library(&name)?, name };
        if !args.json {
            library.write(out)?;
            out.flush()?;
        }
        libraries.push(library);
    }
    if args.json {
        let document = json!({
            "schema": 1,
            "command": "bench",
            "rounds": args.rounds,
            "first_open": json_of_first(&first),
            "libraries": libraries.iter().map(Library::json).collect::<Vec<_>>(),
        });
        print::write_json(out, &document)?;
    } else if args.table {
        table::write(out, &libraries)?;
    }
    let failed = libraries.iter().any(|library| !library.is_measured()) && !args.table;
    Ok(if failed { Status::Failed } else { Status::Done })
}

/// Who takes part, and under which conditions.
struct Field {
    /// By name, with the program that measures it.
    loaders: Vec<(String, PathBuf, &'static [&'static str])>,
    /// Opened by each loader before the clock: what only the first open of a process costs is not the library's.
    warm_up: PathBuf,
    modes: &'static [Mode],
    rounds: usize,
    clock: Clock,
    /// Where snapshots are kept meanwhile.
    snapshots: tempfile::TempDir,
    /// Files that have been read anew.
    warmed: RefCell<BTreeSet<PathBuf>>,
}

impl Field {
    fn of(args: &Args, warm_up: PathBuf) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        let asked = [(args.lazy, Loader::SoloadLazy), (args.snapshots, Loader::Snapshot), (args.fork, Loader::Fork)];
        let asked = asked.into_iter().filter_map(|(asked, loader)| asked.then_some(loader));
        let known = [Loader::Dlopen, Loader::DlopenLazy, Loader::Soload].into_iter().chain(asked);
        let mut loaders: Vec<_> = known.map(|loader| (loader.name().to_owned(), own.clone(), &["bench"][..])).collect();
        loaders.extend(args.peer.iter().map(|program| {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            (name.into_owned(), program.clone(), &[][..])
        }));
        let modes = match (args.own, args.cold) {
            (true, _) => &[Mode::Own][..],
            (_, true) => &[Mode::Cold],
            _ => &[Mode::Own, Mode::Cold],
        };
        let clock = if args.cpu { Clock::Running } else { Clock::Passing };
        let (snapshots, warmed) = (tempfile::tempdir()?, RefCell::default());
        Ok(Self { loaders, warm_up, modes, rounds: args.rounds.into(), clock, snapshots, warmed })
    }

    fn contestants(&self, before: &[PathBuf], library: &Path) -> Vec<Contestant> {
        let contestant = |(name, program, first): &(String, PathBuf, &'static [&'static str])| Contestant {
            name: name.clone(),
            program: program.clone(),
            first,
            before: before.to_vec(),
            snapshots: (*name == Loader::Snapshot.name()).then(|| self.snapshots.path().to_owned()),
            library: library.into(),
        };
        self.loaders.iter().map(contestant).collect()
    }

    /// What the first open of a process takes, and the second one, of two copies of one small library.
    fn first_open(&self) -> io::Result<Vec<(Run, Run)>> {
        let copy = self.warm_up.with_file_name("libsecond.so");
        std::fs::copy(&self.warm_up, &copy)?;
        let first = self.contestants(&[], &copy);
        let second = self.contestants(std::slice::from_ref(&self.warm_up), &copy);
        // What is forked opens nothing.
        let opens = |contestant: &Contestant| contestant.name != Loader::Fork.name();
        let all: Vec<_> = first.into_iter().chain(second).filter(opens).collect();
        let mut first = rounds::run(&all, self.clock, self.rounds, "first open")?;
        let second = first.split_off(all.len() / 2);
        Ok(first.into_iter().zip(second).collect())
    }

    /// Has the file come in the largest pieces that there are, if it has not been seen to yet.
    fn read_anew(&self, file: &Path) {
        if self.warmed.borrow_mut().insert(file.to_owned()) {
            // Where that is not possible, it comes as it is, for all who take part.
            let _ = soload::Warming::of(file);
        }
    }

    /// Measures one library; the inner error is why it cannot be.
    fn library(&self, name: &OsString) -> io::Result<Result<(PathBuf, Vec<Report>), String>> {
        let files = soload::OpenOptions::new().files(name);
        let elsewhere = || soload::OpenOptions::new().files(list::out_of_the_way(&name.to_string_lossy())?).ok();
        let mut files = match files.map_err(|error| error.to_string()).or_else(|error| elsewhere().ok_or(error)) {
            Ok(files) => files.into_iter(),
            Err(reason) => return Ok(Err(reason)),
        };
        let path = files.next().unwrap_or_else(|| name.into());
        let needed: Vec<PathBuf> = files.collect();
        [&path].into_iter().chain(&needed).for_each(|file| self.read_anew(file));
        let mut reports = Vec::new();
        for mode in self.modes {
            let needed = if *mode == Mode::Own { &needed[..] } else { &[] };
            let before: Vec<_> = [&self.warm_up].into_iter().chain(needed).cloned().collect();
            let note = format!("{}, {}", name.display(), mode.name());
            let runs = rounds::run(&self.contestants(&before, &path), self.clock, self.rounds, &note)?;
            reports.push(Report { mode: *mode, before: needed.len(), runs });
        }
        Ok(Ok((path, reports)))
    }
}

/// For each loader, by how much the first open is longer than the second.
fn beyond(first: &[(Run, Run)]) -> impl Iterator<Item = (&str, Median)> {
    first.iter().filter_map(|(first, second)| {
        Some((&*first.name, first.measured.as_ref().ok()?.beyond(second.measured.as_ref().ok()?)?))
    })
}

fn write_first(out: &mut impl Write, first: &[(Run, Run)]) -> io::Result<()> {
    writeln!(out, "{BOLD}What the first open in a process takes beyond the second{BOLD:#}\n")?;
    let mut table = print::table(&["loader", "time", "95 %"]);
    for (name, median) in beyond(first) {
        table.add_row([
            name.to_owned(),
            Time(median.value).to_string(),
            format!("{:.1}-{:.1}", median.low / 1e3, median.high / 1e3),
        ]);
    }
    print::align_right(&mut table, 1..3);
    print::write_table(out, &table)?;
    // Only soload says what its stages take.
    let parts = first.iter().find_map(|(first, second)| {
        let (first, second) = (first.measured.as_ref().ok()?, second.measured.as_ref().ok()?);
        Some((first.stage("host")? - second.stage("host")?, first.faults()? - second.faults()?))
    });
    let Some((host, faults)) = parts else { return Ok(()) };
    let host = Time(host);
    writeln!(
        out,
        "\n  soload: {host} of that is for knowing what the C library has loaded; there are {faults:.0} page faults"
    )?;
    writeln!(out, "  more, nearly all of them for code and data of its own that are touched for the first time.")
}

fn json_of_first(first: &[(Run, Run)]) -> Value {
    let loaders: Map<String, Value> =
        beyond(first).map(|(name, median)| (name.to_owned(), report::of_median(median, 1e3))).collect();
    loaders.into()
}

impl Library {
    /// Whether there is a loader, for each mode, of which something can be said.
    fn is_measured(&self) -> bool {
        let any = |report: &Report| report.runs.iter().any(|run| run.measured.is_ok());
        self.measured.as_ref().is_ok_and(|(_, reports)| reports.iter().all(any))
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let name = print::path(Path::new(&self.name));
        match &self.measured {
            Ok((_, reports)) => {
                writeln!(out, "\n{BOLD}{name}{BOLD:#}")?;
                reports.iter().try_for_each(|report| report.write(out))
            }
            Err(reason) => writeln!(out, "\n{BOLD}{name}{BOLD:#} is left out: {}", soload::Escaped(reason.as_bytes())),
        }
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        print::put_path(&mut object, "name", Path::new(&self.name));
        match &self.measured {
            Ok((path, reports)) => {
                print::put_path(&mut object, "path", path);
                object.insert("reports".into(), reports.iter().map(Report::json).collect());
            }
            Err(reason) => {
                object.insert("error".into(), reason.as_str().into());
            }
        }
        object.into()
    }
}
