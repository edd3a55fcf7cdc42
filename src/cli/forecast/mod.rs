//! `soload forecast`: which pages loading makes private, and why, told from the file alone.
//!
//! JSON: `{"schema": 1, "command": "forecast", "page_size", "libraries": […], "total": {…}}`. For each library `name`
//! and, if it could be read, `path`, `pages` (all), `file_pages`, `private`, `relro` (of the private ones), `by_cause`
//! (pages that each cause writes to; one page may have several) and `regions` (see `memory.rs`, with `by_cause`), else
//! `error`; with `--snapshots` also `snapshot` (see `snapshots.rs`, or `error`). `total` sums up; with `--processes`, `processes` and `bytes` (private pages for each process, and all other
//! pages of the files once). With `--check`, `{"schema": 1, "command": "forecast", "check": {…}}`: see `check.rs`.

mod check;
#[allow(unsafe_code)] // loads the library whose pages are measured
mod measure;
mod snapshots;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use comfy_table::{Cell, Table};
use serde_json::{Map, Value, json};
use soload::{Cause, Error, Forecast, Image, PageSize, Plan};

use super::load::With;
use super::memory::{self, Region};
use super::print::{self, BOLD, DIM, plural};
use super::{Loading, Outcome, Status, children};
use snapshots::Shared;

/// Say which pages loading a library makes private, and why, from the file alone
///
/// A page that relocation writes to is copied for each process; all others are shared. Nothing is loaded, unless with
/// --check. --snapshots also says what a snapshot shares of them, and what it leaves to each process: for that, one is made in
/// memory, of the library and all it needs, and nothing of them runs.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Libraries: paths, or names that are searched for as dlopen does; with --top and --check also directories
    #[arg(value_name = "LIB")]
    libraries: Vec<OsString>,
    /// Also all that they need, each once
    #[arg(long)]
    deps: bool,
    /// Say what N processes need
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    processes: u64,
    /// List the K libraries with the most private pages, of those named or in the directories named
    #[arg(long, value_name = "K", num_args = 0..=1, require_equals = true, default_missing_value = "20")]
    top: Option<usize>,
    /// Load each library in a process of its own, and compare page by page
    #[arg(long, conflicts_with_all = ["top", "deps"])]
    check: bool,
    /// The loader for --check
    #[arg(long, value_enum, default_value_t = With::Soload)]
    with: With,
    /// Also look into all directories below those named
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Seconds after which a process that loads a library for --check is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[arg(long, hide = true)]
    measure: bool,
    #[command(flatten)]
    loading: Loading,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What one file says.
struct Foretold {
    path: PathBuf,
    page: PageSize,
    regions: Vec<Region>,
    forecast: Forecast,
    relro: usize,
}

impl Foretold {
    fn read(path: &Path) -> Result<Self, Error> {
        let image = Image::open(path)?;
        let plan = Plan::of(&image, PageSize::native())?;
        let forecast = Forecast::of(&image, &plan)?;
        let relro = plan.relro.as_ref().map_or(0, |relro| forecast.count_in(relro));
        let regions = memory::regions(&plan, Some(&forecast));
        Ok(Self { path: path.to_owned(), page: plan.page, regions, forecast, relro })
    }

    fn pages(&self, counted: impl Fn(&&Region) -> bool) -> u64 {
        self.regions.iter().filter(counted).map(|region| pages_of(region, self.page)).sum()
    }

    fn sum(&self) -> Sum {
        let mut by_cause = Cause::ALL.map(|_| 0);
        for cause in Cause::ALL {
            by_cause[cause as usize] = self.forecast.count_by(cause) as u64;
        }
        Sum {
            pages: self.pages(|_| true),
            file: self.pages(|region| region.file.is_some()),
            private: self.forecast.pages.len() as u64,
            relro: self.relro as u64,
            by_cause,
        }
    }
}

/// Pages of one library, or of several.
#[derive(Clone, Copy, Default)]
struct Sum {
    pages: u64,
    file: u64,
    private: u64,
    relro: u64,
    by_cause: [u64; Cause::ALL.len()],
}

impl Sum {
    fn add(mut self, other: Self) -> Self {
        self.pages += other.pages;
        self.file += other.file;
        self.private += other.private;
        self.relro += other.relro;
        self.by_cause.iter_mut().zip(other.by_cause).for_each(|(sum, more)| *sum += more);
        self
    }

    /// Pages of memory that so many processes need at most: private ones each, the others once.
    fn for_processes(&self, processes: u64) -> u64 {
        (self.file - self.private).saturating_add(self.private.saturating_mul(processes))
    }

    fn json(&self, object: &mut Map<String, Value>) {
        let numbers =
            [("pages", self.pages), ("file_pages", self.file), ("private", self.private), ("relro", self.relro)];
        object.extend(numbers.map(|(name, number)| (name.to_owned(), number.into())));
        object.insert("by_cause".into(), memory::causes_json(self.by_cause));
    }
}

fn pages_of(region: &Region, page: PageSize) -> u64 {
    (region.range.end.0 - region.range.start.0) / page.bytes()
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    if args.measure {
        return measure::run(&args.libraries, &args.loading, out);
    }
    if args.with == With::Dlopen && !args.check {
        print::complain("--with: for --check alone; the forecast is the same for both loaders");
        return Ok(Status::Usage);
    }
    let shared = args.loading.snapshots.is_some();
    if shared && (args.top.is_some() || args.with == With::Dlopen) {
        print::complain("--snapshots: one is made for each library, for soload: not with --top or --with dlopen");
        return Ok(Status::Usage);
    }
    if args.loading.snapshots.as_ref().is_some_and(|directory| !directory.as_os_str().is_empty()) {
        print::complain("--snapshots: no directory is used: the snapshot is made in memory");
        return Ok(Status::Usage);
    }
    if args.check || args.top.is_some() {
        let usual = [children::usual_directory().into_os_string()];
        let places = if args.libraries.is_empty() { &usual[..] } else { &args.libraries };
        let mut libraries = BTreeSet::new();
        for place in places {
            if let Err(error) = children::collect(place.as_ref(), args.recursive, &mut libraries) {
                print::complain(format_args!("{}: {error}", print::path(place.as_ref())));
                return Ok(Status::Failed);
            }
        }
        let libraries: Vec<_> = libraries.into_iter().collect();
        return match args.top {
            Some(most) => top(args, &libraries, most, out),
            None => check::run(args, &libraries, out),
        };
    }
    if args.libraries.is_empty() {
        print::complain("name a library, such as `soload forecast libcrypto.so.3`, or use --top or --check");
        return Ok(Status::Usage);
    }
    let mut status = Status::Done;
    let mut seen = BTreeSet::new();
    let (mut total, mut documents) = (Sum::default(), Vec::new());
    for name in &args.libraries {
        let found = args.loading.options().files(name).and_then(|files| {
            let files = if args.deps { &files[..] } else { files.get(..1).unwrap_or_default() };
            files.iter().map(|file| Foretold::read(file)).collect::<Result<Vec<_>, _>>()
        });
        match found {
            Ok(mut foretold) => {
                let snapshot = shared.then(|| Shared::of(name, &args.loading));
                foretold.retain(|foretold| seen.insert(foretold.path.canonicalize().unwrap_or(foretold.path.clone())));
                total = foretold.iter().map(Foretold::sum).fold(total, Sum::add);
                if args.json {
                    let first = documents.len();
                    documents.extend(foretold.iter().map(|foretold| json_of(name, foretold)));
                    if let (Some(snapshot), Some(document)) = (&snapshot, documents.get_mut(first)) {
                        document["snapshot"] = match snapshot {
                            Ok(snapshot) => snapshot.json(args.processes),
                            Err(error) => json!({"error": print::json_of_error(error)}),
                        };
                    }
                } else if args.deps {
                    write_closure(out, name, &foretold)?;
                } else {
                    foretold.iter().try_for_each(|foretold| write_one(out, foretold, args.processes))?;
                }
                match snapshot {
                    Some(Ok(snapshot)) if !args.json => snapshot.write(out, args.processes)?,
                    Some(Err(error)) => {
                        status = Status::Failed;
                        if !args.json {
                            out.flush()?;
                            print::complain_of(&error);
                        }
                    }
                    _ => {}
                }
            }
            Err(error) => {
                status = Status::Failed;
                documents.extend(print::refusal(name, &error, args.json, out)?);
            }
        }
    }
    let page = PageSize::native().bytes();
    if args.json {
        let mut object = Map::new();
        total.json(&mut object);
        object.insert("processes".into(), args.processes.into());
        object.insert("bytes".into(), total.for_processes(args.processes).saturating_mul(page).into());
        print::write_json(
            out,
            &json!({"schema": 1, "command": "forecast", "page_size": page, "libraries": documents, "total": object}),
        )?;
    } else if args.deps || args.libraries.len() > 1 {
        write_sum(out, "In all", &total, args.processes)?;
    }
    Ok(status)
}

fn json_of(name: &OsString, foretold: &Foretold) -> Value {
    let mut object = Map::new();
    print::put_path(&mut object, "name", name.as_ref());
    print::put_path(&mut object, "path", &foretold.path);
    foretold.sum().json(&mut object);
    let regions = foretold.regions.iter().map(|region| {
        json!({
            "content": region.content,
            "start": region.range.start.0,
            "pages": pages_of(region, foretold.page),
            "private": region.forecast,
            "by_cause": memory::causes_json(region.causes.unwrap_or_default()),
        })
    });
    object.insert("regions".into(), regions.collect());
    object.into()
}

/// The columns of causes that say anything, and their cells.
fn cause_cells(counts: [u64; Cause::ALL.len()], shown: &[Cause]) -> impl Iterator<Item = Cell> {
    shown.iter().map(move |cause| memory::number_cell(counts[*cause as usize] as usize))
}

fn write_one(out: &mut impl Write, foretold: &Foretold, processes: u64) -> io::Result<()> {
    let sum = foretold.sum();
    let shown: Vec<_> = Cause::ALL.into_iter().filter(|cause| sum.by_cause[*cause as usize] > 0).collect();
    writeln!(out, "{BOLD}{}{BOLD:#}\n", print::path(&foretold.path))?;
    let header: Vec<_> =
        ["content", "mapped", "pages", "private"].into_iter().chain(shown.iter().map(|c| c.name())).collect();
    let mut table = print::table(&header);
    for region in &foretold.regions {
        let mut cells = vec![
            Cell::new(region.content),
            Cell::new(region.before),
            Cell::new(pages_of(region, foretold.page)),
            memory::forecast_cell(region),
        ];
        cells.extend(cause_cells(region.causes.unwrap_or_default(), &shown));
        table.add_row(cells);
    }
    let mut cells =
        vec![Cell::new("total"), Cell::new(""), Cell::new(sum.pages), memory::number_cell(sum.private as usize)];
    cells.extend(cause_cells(sum.by_cause, &shown));
    table.add_row(cells);
    print::align_right(&mut table, 2..header.len());
    print::write_table(out, &table)?;
    if shown.len() > 1 {
        writeln!(out, "\n  {DIM}A page that several causes write to counts for each of them.{DIM:#}")?;
    }
    write_sum(out, "Loading", &sum, processes)
}

fn write_sum(out: &mut impl Write, who: &str, sum: &Sum, processes: u64) -> io::Result<()> {
    let page = PageSize::native().bytes();
    let size = |pages: u64| print::Size(pages.saturating_mul(page));
    let in_relro = match (sum.relro * 100).checked_div(sum.private) {
        Some(percent) => format!(" ({percent} % of it RELRO)"),
        None => String::new(),
    };
    let private = plural(sum.private as usize, "page");
    writeln!(
        out,
        "\n  {who} makes {private} of {} private: {} in each process{in_relro}.",
        sum.file,
        size(sum.private)
    )?;
    if processes > 1 {
        writeln!(
            out,
            "  {processes} processes: {processes} x {} private, and at most {} shared by all: {BOLD}{}{BOLD:#}.",
            size(sum.private),
            size(sum.file - sum.private),
            size(sum.for_processes(processes)),
        )?;
    }
    writeln!(out)
}

/// One row for each library: pages, private ones, by cause.
fn library_table<'a>(foretold: impl IntoIterator<Item = &'a Foretold>) -> Table {
    let causes = [Cause::Relative, Cause::Symbol, Cause::Ifunc, Cause::ThreadLocal];
    let header = ["library", "pages", "private", "RELRO", "KiB", "relative", "symbol", "ifunc", "TLS"];
    let mut table = print::table(&header);
    for foretold in foretold {
        let sum = foretold.sum();
        let mut cells = vec![
            Cell::new(print::path(foretold.path.file_name().unwrap_or_default().as_ref())),
            Cell::new(sum.file),
            memory::number_cell(sum.private as usize),
            memory::number_cell(sum.relro as usize),
            memory::number_cell((sum.private * foretold.page.bytes() / 1024) as usize),
        ];
        cells.extend(cause_cells(sum.by_cause, &causes));
        table.add_row(cells);
    }
    print::align_right(&mut table, 1..header.len());
    table
}

fn write_closure(out: &mut impl Write, name: &OsString, foretold: &[Foretold]) -> io::Result<()> {
    writeln!(out, "{BOLD}{}{BOLD:#} and what it needs\n", print::path(name.as_ref()))?;
    print::write_table(out, &library_table(foretold))
}

/// The libraries with the most private pages.
fn top(args: &Args, libraries: &[PathBuf], most: usize, out: &mut impl Write) -> Outcome {
    let answers = children::each(libraries, |library| Ok(Foretold::read(library)));
    let mut foretold: Vec<_> = answers?.into_iter().filter_map(|(_, answer)| answer.ok()).collect();
    let skipped = libraries.len() - foretold.len();
    let total = foretold.iter().map(Foretold::sum).fold(Sum::default(), Sum::add);
    foretold.sort_by_key(|foretold| std::cmp::Reverse(foretold.forecast.pages.len()));
    let read = foretold.len();
    foretold.truncate(most);
    if args.json {
        let documents: Vec<_> = foretold.iter().map(|one| json_of(&one.path.clone().into_os_string(), one)).collect();
        let mut object = Map::new();
        total.json(&mut object);
        let page = PageSize::native().bytes();
        print::write_json(
            out,
            &json!({"schema": 1, "command": "forecast", "page_size": page, "libraries": documents, "total": object,
                "read": read, "skipped": skipped}),
        )?;
        return Ok(Status::Done);
    }
    let skipped = if skipped == 0 { String::new() } else { format!("; {skipped} could not be read as one") };
    writeln!(
        out,
        "{BOLD}{most} of {}{BOLD:#}{skipped}\n",
        if read == 1 { "1 library".into() } else { format!("{read} libraries") }
    )?;
    print::write_table(out, &library_table(&foretold))?;
    write_sum(out, "All together, loading", &total, args.processes)?;
    Ok(Status::Done)
}
