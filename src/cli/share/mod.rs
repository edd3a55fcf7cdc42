//! `soload share`: what one library costs several processes together, segment by segment.
//!
//! JSON: `{"schema": 1, "command": "share", "path", "page_size", "runs": […]}`, for each loader (`with`: `soload`,
//! `dlopen`, `snapshot`, `fork`, or `null` for processes that were there) `processes` (their ids), `objects` (the library and,
//! with `--closure`, all that it needs), `frames` (`counted` or `estimated`), and `segments`, each with `content`, `pages` (of one process), and, summed over the processes, in pages, `virtual`,
//! `resident`, `frames`, `copied`, `forecast` (`null` for zeros, which no file is behind) and `factor`; `total` likewise,
//! with `bytes` (of the frames) and `further_bytes` (what one more process costs).

mod chart;
pub(super) mod picture;
#[allow(unsafe_code)] // loads and calls the library
pub(super) mod workers;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use comfy_table::{Cell, Color};
use serde_json::{Value, json};
use soload::{Error, Forecast, Image, Mapping, PageMap, PageSize, Plan, Sharing, Snapshot};

use super::load::With;
use super::memory::{self, Region};
use super::print::{self, BOLD, DIM, WARN, plural};
use super::{Loading, Outcome, Status, demo};
use workers::Workers;

/// Show what one library costs several processes: which pages they share, and which each has to itself
///
/// Starts processes that load the library, or looks at running ones. Without LIB, the demonstration plugin is loaded.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The library: a path, or a name that is searched for as dlopen does
    #[arg(value_name = "LIB")]
    library: Option<OsString>,
    /// How many processes to start
    #[arg(short = 'n', long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    processes: u16,
    /// The loader that they use
    #[arg(long, value_enum, default_value_t = By::Soload)]
    with: By,
    /// Look at these running processes instead
    #[arg(long, value_name = "PID", value_delimiter = ',', conflicts_with_all = ["with", "processes", "call"])]
    pid: Vec<u32>,
    /// Have each process call this function, without arguments
    #[arg(long, value_name = "SYMBOL")]
    call: Option<String>,
    /// Count all that LIB needs, too
    #[arg(long)]
    closure: bool,
    /// Also draw it as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Also write it as a page for a browser
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[arg(long, hide = true)]
    hold: bool,
    #[arg(long, hide = true, value_name = "FD")]
    snapshot_fd: Option<i32>,
    #[arg(long, hide = true, value_name = "N", default_value_t = 0)]
    forks: u16,
    #[command(flatten)]
    loading: Loading,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// The loader of this command
    Soload,
    /// The C library's dlopen
    Dlopen,
    /// The loader of this command, with relocated pages that this process makes and hands over (see --snapshots for others)
    Snapshot,
    /// The loader of this command, in one process that the others are forks of (as by `soload serve`)
    Fork,
    /// dlopen, then soload
    Both,
    /// dlopen, soload, soload with a snapshot, and forks
    All,
}

impl By {
    fn loaders(self) -> &'static [How] {
        match self {
            Self::Soload => &[How::Soload],
            Self::Dlopen => &[How::Dlopen],
            Self::Snapshot => &[How::Snapshot],
            Self::Fork => &[How::Fork],
            Self::Both => &[How::Dlopen, How::Soload],
            Self::All => &[How::Dlopen, How::Soload, How::Snapshot, How::Fork],
        }
    }
}

/// How a process gets the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Soload,
    Dlopen,
    Snapshot,
    Fork,
}

impl From<With> for How {
    fn from(with: With) -> Self {
        match with {
            With::Soload => Self::Soload,
            With::Dlopen => Self::Dlopen,
        }
    }
}

fn name(how: How) -> &'static str {
    match how {
        How::Soload => "soload",
        How::Dlopen => "dlopen",
        How::Snapshot => "snapshot",
        How::Fork => "fork",
    }
}

/// What was seen of one library in several processes, or of several together.
struct Run {
    with: Option<How>,
    processes: Vec<u32>,
    /// How many libraries that is.
    objects: usize,
    segments: Vec<Segment>,
}

/// One segment of the library, or of several, as all processes have it.
struct Segment {
    content: &'static str,
    /// Pages of one process.
    pages: u64,
    sharing: Sharing,
    /// Pages of one process that are copied, by the forecast; `None` where no file is behind them.
    forecast: Option<u64>,
}

impl Segment {
    /// Copied pages more, or fewer, than the forecast says for so many processes.
    fn difference(&self, processes: u64) -> Option<i64> {
        Some(self.sharing.copied as i64 - (self.forecast? * processes) as i64)
    }
}

impl Run {
    /// Counts what was seen of another library.
    fn add(&mut self, segments: Vec<Segment>) {
        self.objects += 1;
        for other in segments {
            match self.segments.iter_mut().find(|own| own.content == other.content) {
                Some(own) => {
                    own.pages += other.pages;
                    own.sharing = own.sharing.and(other.sharing);
                    own.forecast = own.forecast.zip(other.forecast).map(|(own, other)| own + other);
                }
                None => self.segments.push(other),
            }
        }
    }

    fn total(&self) -> Sharing {
        self.segments.iter().map(|segment| segment.sharing).fold(Sharing::default(), Sharing::and)
    }

    /// Pages that one more process like these would add. What a fork shares with its parent adds nothing.
    fn further(&self) -> u64 {
        self.total().own.div_ceil(self.processes.len().max(1) as u64)
    }
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let Some((asked, _plugin)) = demo::asked(args.library.as_ref()) else { return Ok(Status::Failed) };
    let first = args.with.loaders()[0];
    if args.hold {
        let job =
            workers::Job { how: first, snapshot: args.snapshot_fd, forks: args.forks, call: args.call.as_deref() };
        return workers::hold(&asked, &job, &args.loading, out);
    }
    let found = args.loading.options().files(&asked);
    let mut paths = match found {
        Ok(paths) => paths,
        Err(error) => {
            print::complain_of(&error);
            return Ok(Status::Failed);
        }
    };
    if !args.closure {
        paths.truncate(1);
    }
    let runs = if args.pid.is_empty() { started(args, &asked, &paths) } else { running(&args.pid, &paths) };
    let path = paths.into_iter().next().unwrap_or_else(|| PathBuf::from(&asked));
    let runs = match runs {
        Ok(runs) if !runs.is_empty() => runs,
        Ok(_) => return Ok(Status::Failed),
        Err(error) => {
            print::complain_of(&error);
            return Ok(Status::Failed);
        }
    };
    let pictures = [(&args.svg, picture::svg(&path, &runs)), (&args.html, picture::html(&path, &runs))];
    for (file, picture) in pictures.iter().filter_map(|(file, picture)| Some((file.as_ref()?, picture))) {
        if let Err(error) = std::fs::write(file, picture) {
            print::complain(format_args!("{}: {error}", print::path(file)));
            return Ok(Status::Failed);
        }
    }
    if args.json {
        print::write_json(out, &json_of(&path, &runs))?;
    } else {
        for run in &runs {
            write_run(out, &path, run)?;
        }
    }
    Ok(Status::Done)
}

/// How often each page of code that two processes have loaded is in memory, and how many such pages there are.
pub(super) fn code_of_two(library: &OsString) -> Result<Option<(Sharing, u64)>, Error> {
    let args = Args {
        library: Some(library.clone()),
        processes: 2,
        with: By::Soload,
        pid: Vec::new(),
        call: None,
        closure: false,
        svg: None,
        html: None,
        hold: false,
        snapshot_fd: None,
        forks: 0,
        loading: Loading::default(),
        json: false,
    };
    let files = args.loading.options().files(library)?;
    let runs = started(&args, library, files.get(..1).unwrap_or_default())?;
    let Some(run) = runs.first().filter(|run| run.processes.len() == 2) else { return Ok(None) };
    let code = run.segments.iter().filter(|segment| segment.content.ends_with("code"));
    let sharing = code.map(|segment| segment.sharing).fold(Sharing::default(), Sharing::and);
    Ok(Some((sharing, run.total().copied)))
}

/// Has each loader's processes load the library, and looks at them.
fn started(args: &Args, asked: &OsString, paths: &[PathBuf]) -> Result<Vec<Run>, Error> {
    let mut runs = Vec::new();
    for with in args.with.loaders() {
        match Workers::start(args.processes, *with, asked, args.call.as_deref(), &args.loading) {
            Ok(workers) => {
                let pids = workers.pids();
                runs.extend(look(&pids, paths, Some(*with), workers.snapshot.as_ref())?);
            }
            Err(reason) => print::complain(format_args!("{}: {reason}", name(*with))),
        }
    }
    Ok(runs)
}

fn running(pids: &[u32], paths: &[PathBuf]) -> Result<Vec<Run>, Error> {
    Ok(look(pids, paths, None, None)?.into_iter().collect())
}

/// Looks at the pages of the libraries in each of the processes; says which have not the first one, or cannot be looked at, and
/// why.
fn look(pids: &[u32], paths: &[PathBuf], with: Option<How>, snapshot: Option<&Snapshot>) -> Result<Option<Run>, Error> {
    let complain = |pid: u32, why: &dyn std::fmt::Display| print::complain(format_args!("process {pid}: {why}"));
    let mappings = |pid: &u32| Mapping::all_of(*pid).map(|all| (*pid, all)).map_err(|error| complain(*pid, &error));
    let mut processes: Vec<(u32, Vec<Mapping>)> = pids.iter().filter_map(|pid| mappings(pid).ok()).collect();
    let mut run: Option<Run> = None;
    for path in paths {
        let (seen, segments) = look_at(&processes, path, snapshot, |pid, why| match run {
            // What something needs may be there by another file.
            Some(_) if why.is_none() => {}
            _ => match why {
                Some(error) => complain(pid, error),
                None => complain(pid, &format_args!("has not loaded {}", print::path(path))),
            },
        })?;
        match &mut run {
            Some(run) if !seen.is_empty() => run.add(segments),
            Some(_) => {}
            None if seen.is_empty() => return Ok(None),
            None => {
                processes.retain(|(pid, _)| seen.contains(pid));
                run = Some(Run { with, processes: seen, objects: 1, segments });
            }
        }
    }
    Ok(run)
}

/// Looks at one library's pages in those of the processes that have it: which these are, and its segments. `complain` is told
/// of the others, and of what went wrong, if anything.
fn look_at(
    processes: &[(u32, Vec<Mapping>)],
    path: &std::path::Path,
    snapshot: Option<&Snapshot>,
    complain: impl Fn(u32, Option<&dyn std::fmt::Display>),
) -> Result<(Vec<u32>, Vec<Segment>), Error> {
    let (plan, regions, mut found) = {
        let image = Image::open(path)?;
        let plan = Plan::of(&image, PageSize::native())?;
        let forecast = Forecast::of(&image, &plan)?;
        let mut regions = memory::regions(&plan, Some(&forecast));
        if let Some(snapshot) = snapshot {
            // Only the words that are left are written.
            let written = snapshot.written_pages(path);
            for region in &mut regions {
                let within = written.iter().filter(|page| region.range.contains(page)).count();
                region.forecast = region.forecast.map(|_| within);
            }
        }
        let mut found = Vec::new();
        for (pid, mappings) in processes {
            match Mapping::bias_of(mappings, &image, &plan) {
                Some(bias) => found.push((*pid, bias)),
                None => complain(*pid, None),
            }
        }
        // The image is closed here: it has the file mapped, which would make its pages look shared.
        (plan, regions, found)
    };
    let mut maps: Vec<Vec<PageMap>> = Vec::new();
    found.retain(|(pid, bias)| {
        let of_region =
            |region: &Region| PageMap::of_process(*pid, bias.at(region.range.start)..bias.at(region.range.end));
        match regions.iter().map(of_region).collect::<Result<_, _>>() {
            Ok(pages) => {
                maps.push(pages);
                true
            }
            Err(error) => {
                complain(*pid, Some(&error));
                false
            }
        }
    });
    let segments = regions.iter().enumerate().map(|(index, region)| Segment {
        content: region.content,
        pages: (region.range.end.0 - region.range.start.0) / plan.page.bytes(),
        sharing: Sharing::of(&maps.iter().map(|pages| &pages[index]).collect::<Vec<_>>()),
        forecast: region.file.and(region.forecast).map(|count| count as u64),
    });
    let segments = segments.collect();
    Ok((found.into_iter().map(|(pid, _)| pid).collect(), segments))
}

fn write_run(out: &mut impl Write, path: &std::path::Path, run: &Run) -> io::Result<()> {
    let count = run.processes.len() as u64;
    let who = plural(run.processes.len(), "process").replace("processs", "processes");
    let by = run.with.map_or(String::new(), |with| format!(", loaded by {}", name(with)));
    let total = run.total();
    let needs = match run.objects - 1 {
        0 => String::new(),
        1 => " and one object that it needs".into(),
        count => format!(" and {count} objects that it needs"),
    };
    writeln!(out, "{BOLD}{}{BOLD:#}{needs} in {who}{by}: pages of all together\n", print::path(path))?;
    let frames = if total.estimated { "frames (est.)" } else { "frames" };
    let mut table =
        print::table(&["segment", "virtual", "resident", frames, "shared", "copied", "forecast", "difference"]);
    for segment in &run.segments {
        let mut cells = vec![Cell::new(segment.content)];
        cells.extend(sharing_cells(&segment.sharing));
        cells.push(
            segment
                .forecast
                .map_or_else(|| Cell::new("-"), |forecast| memory::number_cell((forecast * count) as usize)),
        );
        cells.push(difference_cell(segment.difference(count)));
        table.add_row(cells);
    }
    let mut cells = vec![Cell::new("total")];
    cells.extend(sharing_cells(&total));
    let forecast: u64 = run.segments.iter().filter_map(|segment| segment.forecast).sum();
    cells.push(memory::number_cell((forecast * count) as usize));
    cells.push(difference_cell(run.segments.iter().map(|segment| segment.difference(count).or(Some(0))).sum()));
    table.add_row(cells);
    print::align_right(&mut table, 1..8);
    print::write_table(out, &table)?;
    chart::write(out, run)?;
    let size = |pages: u64| print::Size(pages * PageSize::native().bytes());
    writeln!(
        out,
        "\n  {who} see {} and hold {BOLD}{}{BOLD:#} of memory. Each further one costs {WARN}{}{WARN:#}.",
        size(total.resident),
        size(total.frames),
        size(run.further()),
    )?;
    let (how, what) = if total.estimated {
        ("estimated by the exclusive bit of /proc/PID/pagemap", "; frame numbers need root")
    } else {
        ("counted by the frame numbers of /proc/PID/pagemap", "")
    };
    writeln!(out, "  {DIM}Frames are {how}{what}. Page tables are not counted.{DIM:#}\n")
}

fn sharing_cells(sharing: &Sharing) -> [Cell; 5] {
    let factor = sharing.factor().map_or_else(|| Cell::new("-"), |factor| Cell::new(format!("{factor:.2} x")));
    [
        Cell::new(sharing.mapped),
        memory::number_cell(sharing.resident as usize),
        memory::number_cell(sharing.frames as usize),
        factor,
        memory::number_cell(sharing.copied as usize),
    ]
}

fn difference_cell(difference: Option<i64>) -> Cell {
    match difference {
        None => Cell::new("-"),
        Some(0) => Cell::new("exact").fg(Color::DarkGreen),
        Some(more) => Cell::new(format!("{more:+}")).fg(Color::DarkYellow),
    }
}

fn json_of(path: &std::path::Path, runs: &[Run]) -> Value {
    let page = PageSize::native().bytes();
    let sharing = |sharing: &Sharing| {
        json!({
            "virtual": sharing.mapped,
            "resident": sharing.resident,
            "frames": sharing.frames,
            "copied": sharing.copied,
            "factor": sharing.factor(),
        })
    };
    let runs = runs.iter().map(|run| {
        let count = run.processes.len() as u64;
        let segments = run.segments.iter().map(|segment| {
            let mut object = sharing(&segment.sharing);
            object["content"] = segment.content.into();
            object["pages"] = segment.pages.into();
            object["forecast"] = json!(segment.forecast.map(|forecast| forecast * count));
            object
        });
        let total = run.total();
        let mut sum = sharing(&total);
        sum["bytes"] = (total.frames * page).into();
        sum["further_bytes"] = (run.further() * page).into();
        json!({
            "with": run.with.map(name),
            "processes": run.processes,
            "objects": run.objects,
            "frames": if total.estimated { "estimated" } else { "counted" },
            "segments": segments.collect::<Vec<_>>(),
            "total": sum,
        })
    });
    let mut object = serde_json::Map::new();
    object.insert("schema".into(), 1.into());
    object.insert("command".into(), "share".into());
    print::put_path(&mut object, "path", path);
    object.insert("page_size".into(), page.into());
    object.insert("runs".into(), runs.collect());
    object.into()
}
