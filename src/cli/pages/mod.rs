//! `soload pages`: what backs every page of a library in a process, one cell a page.
//!
//! JSON: `{"schema": 1, "command": "pages", "process", "path", "page_size", "regions": […]}`, for each region `content`,
//! `start` and `bias` (addresses), and `pages`: one letter for each, as the legend has them.

mod picture;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstyle::{AnsiColor, Color, Style};
use serde_json::{Map, Value, json};
use soload::{Bias, Cause, Error, Forecast, Image, Mapping, Page, PageMap, PageSize, PageState, Plan, Vaddr};

use super::demo::Plugin;
use super::load::With;
use super::memory::{self, Region};
use super::print::{self, BOLD, DIM};
use super::share::workers::Workers;
use super::{Loading, Outcome, Status};

/// Show what backs every page of a library, one cell a page
///
/// Loads the library in a process of its own, together with a second one to share with; or, with --pid, looks at a
/// running process. Without LIB, shows the demonstration plugin.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The library: a path, or a name that is searched for as dlopen does
    #[arg(value_name = "LIB")]
    library: Option<OsString>,
    /// A running process that has loaded it
    #[arg(long, value_name = "PID", requires = "library", conflicts_with = "with")]
    pid: Option<u32>,
    /// The loader to use
    #[arg(long, value_enum, default_value_t = With::Soload)]
    with: With,
    /// Have the process call this function, without arguments
    #[arg(long, value_name = "SYMBOL", conflicts_with = "pid")]
    call: Option<String>,
    /// Look again every so many seconds, until the process ends
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    watch: Option<u32>,
    /// Also draw it as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Also write it as a page for a browser: pointing at a cell tells section, symbol and reason
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    loading: Loading,
    /// Print JSON
    #[arg(long, conflicts_with = "watch")]
    json: bool,
}

/// What a page is, as a person wants to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Untouched,
    Shared,
    Exclusive,
    Relocated,
    Written,
    Swapped,
}

impl Look {
    const ALL: [Self; 6] =
        [Self::Untouched, Self::Shared, Self::Exclusive, Self::Relocated, Self::Written, Self::Swapped];

    /// A page by its state, and by whether relocation writes to it.
    fn of(page: Page, forecast: bool) -> Self {
        match page.state {
            PageState::Untouched => Self::Untouched,
            PageState::Shared => Self::Shared,
            PageState::Exclusive => Self::Exclusive,
            PageState::Copied if forecast => Self::Relocated,
            PageState::Copied => Self::Written,
            PageState::Swapped => Self::Swapped,
        }
    }

    /// Its letter, what it means, its colour in a terminal, and in a picture.
    fn legend(self) -> (char, &'static str, AnsiColor, &'static str) {
        match self {
            Self::Untouched => ('.', "untouched: addresses without memory", AnsiColor::BrightBlack, "#e6e9ec"),
            Self::Shared => ('s', "shared: the file's page, other processes have it too", AnsiColor::Green, "#2f8f6b"),
            Self::Exclusive => ('e', "exclusive: the file's page, only here now", AnsiColor::Cyan, "#8fd0b5"),
            Self::Relocated => ('R', "copied by relocation: this process's own", AnsiColor::Yellow, "#dd8a2e"),
            Self::Written => ('W', "copied by code that ran: this process's own", AnsiColor::Red, "#c4452f"),
            Self::Swapped => ('z', "swapped: a copy, moved out of memory", AnsiColor::Magenta, "#8a5ab5"),
        }
    }
}

/// A library as one process has it.
struct Seen {
    path: PathBuf,
    process: u32,
    bias: Bias,
    regions: Vec<(Region, Vec<Look>)>,
    forecast: Forecast,
}

/// What does not change while one looks again.
struct Subject {
    path: PathBuf,
    process: u32,
    bias: Bias,
    plan: Plan,
    forecast: Forecast,
}

impl Subject {
    fn find(path: &Path, process: u32, with: With) -> Result<Self, String> {
        let text = |error: Error| error.to_string();
        let image = Image::open(path).map_err(text)?;
        let plan = Plan::of(&image, PageSize::native()).map_err(text)?;
        let forecast = match with {
            With::Soload => Forecast::of(&image, &plan),
            With::Dlopen => Forecast::of_dlopen(&image, &plan),
        };
        let mappings = Mapping::all_of(process).map_err(|error| format!("process {process}: {error}"))?;
        let bias = Mapping::bias_of(&mappings, &image, &plan);
        let bias = bias.ok_or_else(|| format!("process {process}: has not loaded {}", print::path(path)))?;
        Ok(Self { path: path.to_owned(), process, bias, forecast: forecast.map_err(text)?, plan })
        // The image is closed here: it has the file mapped, which would make its pages look shared.
    }

    fn look(&self) -> Result<Seen, String> {
        let of_region = |region: Region| {
            let range = self.bias.at(region.range.start)..self.bias.at(region.range.end);
            let map = PageMap::of_process(self.process, range)?;
            let at = |index: usize| Vaddr(region.range.start.0 + index as u64 * map.page.bytes());
            let looks = map.pages.iter().enumerate();
            let looks = looks.map(|(index, page)| Look::of(*page, self.forecast.pages.contains_key(&at(index))));
            let looks = looks.collect();
            Ok((region, looks))
        };
        let regions = memory::regions(&self.plan, Some(&self.forecast)).into_iter().map(of_region);
        let regions = regions.collect::<Result<_, soload::ErrorKind>>();
        Ok(Seen {
            path: self.path.clone(),
            process: self.process,
            bias: self.bias,
            regions: regions.map_err(|error| format!("process {}: {error}", self.process))?,
            forecast: self.forecast.clone(),
        })
    }
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let plugin;
    let asked = match &args.library {
        Some(library) => library.clone(),
        None => {
            let Some(written) = Plugin::write() else { return Ok(Status::Failed) };
            plugin = written;
            plugin.path().into_os_string()
        }
    };
    let path = match args.loading.options().files(&asked) {
        Ok(files) => files.into_iter().next().unwrap_or_else(|| PathBuf::from(&asked)),
        Err(error) => {
            print::complain_of(&error);
            return Ok(Status::Failed);
        }
    };
    let workers;
    let (process, with) = match args.pid {
        Some(pid) => (pid, With::Dlopen),
        None => {
            // Whether pages are shared shows only if there is somebody to share them with.
            workers = match Workers::start(2, args.with, &asked, args.call.as_deref(), &args.loading) {
                Ok(workers) => workers,
                Err(error) => {
                    print::complain(error);
                    return Ok(Status::Failed);
                }
            };
            (workers.pids()[0], args.with)
        }
    };
    let seen = Subject::find(&path, process, with).and_then(|subject| Ok((subject.look()?, subject)));
    let (mut seen, subject) = match seen {
        Ok(seen) => seen,
        Err(reason) => {
            print::complain(reason);
            return Ok(Status::Failed);
        }
    };
    if args.svg.is_some() || args.html.is_some() {
        let names = picture::Names::read(&path);
        let pictures = [(&args.svg, picture::svg(&seen, &names)), (&args.html, picture::html(&seen, &names))];
        for (file, picture) in pictures.iter().filter_map(|(file, picture)| Some((file.as_ref()?, picture))) {
            if let Err(error) = std::fs::write(file, picture) {
                print::complain(format_args!("{}: {error}", print::path(file)));
                return Ok(Status::Failed);
            }
        }
    }
    if args.json {
        print::write_json(out, &json_of(&seen))?;
        return Ok(Status::Done);
    }
    write_map(out, &seen)?;
    while let Some(seconds) = args.watch {
        out.flush()?;
        std::thread::sleep(Duration::from_secs(seconds.max(1).into()));
        seen = match subject.look() {
            Ok(seen) => seen,
            Err(reason) => {
                writeln!(out, "{DIM}{reason}{DIM:#}")?;
                break;
            }
        };
        if io::stdout().is_terminal() {
            write!(out, "\x1b[H\x1b[2J")?;
        }
        write_map(out, &seen)?;
    }
    Ok(Status::Done)
}

/// Why relocation writes to a page.
fn causes(forecast: &Forecast, page: Vaddr) -> Option<String> {
    let writes = forecast.pages.get(&page)?;
    let cause = |cause: Cause| format!("{} {}", writes.by(cause), cause.name());
    Some(writes.causes().map(cause).collect::<Vec<_>>().join(", "))
}

const WIDTH: usize = 72;

fn write_map(out: &mut impl Write, seen: &Seen) -> io::Result<()> {
    let blocks = shows_colours();
    writeln!(out, "{BOLD}{}{BOLD:#} in process {}, one cell a page\n", print::path(&seen.path), seen.process)?;
    for (region, looks) in &seen.regions {
        let count = |wanted: Look| looks.iter().filter(|look| **look == wanted).count();
        let counts = Look::ALL.into_iter().filter(|look| count(*look) > 0).map(|look| {
            let name = look.legend().1.split(':').next().unwrap_or_default();
            format!("{} {name}", count(look))
        });
        let counts = counts.collect::<Vec<_>>().join(", ");
        writeln!(out, "  {BOLD}{}{BOLD:#}  {DIM}{} {counts}{DIM:#}", region.content, region.before)?;
        if blocks { write_blocks(out, looks)? } else { write_letters(out, looks)? }
    }
    writeln!(out)?;
    for look in Look::ALL.into_iter().filter(|look| seen.regions.iter().any(|(_, looks)| looks.contains(look))) {
        let (letter, meaning, colour, _) = look.legend();
        let style = Style::new().fg_color(Some(Color::Ansi(colour)));
        let mark = if blocks { '█' } else { letter };
        writeln!(out, "  {style}{mark}{style:#}  {meaning}")?;
    }
    writeln!(out, "  {DIM}From /proc/{}/pagemap; relocation's pages by the forecast.{DIM:#}", seen.process)
}

/// Cells are told apart by colour alone, so only where there is some.
fn shows_colours() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    set("CLICOLOR_FORCE") || (io::stdout().is_terminal() && !set("NO_COLOR"))
}

fn write_letters(out: &mut impl Write, looks: &[Look]) -> io::Result<()> {
    for line in looks.chunks(WIDTH) {
        writeln!(out, "    {}", line.iter().map(|look| look.legend().0).collect::<String>())?;
    }
    Ok(())
}

/// Two lines of cells in one line of half blocks.
fn write_blocks(out: &mut impl Write, looks: &[Look]) -> io::Result<()> {
    for lines in looks.chunks(2 * WIDTH) {
        let (upper, lower) = lines.split_at(lines.len().min(WIDTH));
        write!(out, "    ")?;
        for (index, look) in upper.iter().enumerate() {
            let colour = |look: &Look| Some(Color::Ansi(look.legend().2));
            let style = Style::new().fg_color(colour(look)).bg_color(lower.get(index).and_then(colour));
            write!(out, "{style}▀{style:#}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn json_of(seen: &Seen) -> Value {
    let regions = seen.regions.iter().map(|(region, looks)| {
        json!({
            "content": region.content,
            "start": region.range.start.0,
            "pages": looks.iter().map(|look| look.legend().0).collect::<String>(),
        })
    });
    let mut object = Map::new();
    object.insert("schema".into(), 1.into());
    object.insert("command".into(), "pages".into());
    object.insert("process".into(), seen.process.into());
    print::put_path(&mut object, "path", &seen.path);
    object.insert("page_size".into(), seen.forecast.page.bytes().into());
    object.insert("bias".into(), seen.bias.get().into());
    object.insert("regions".into(), regions.collect());
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lines_of_cells_become_one_of_half_blocks() {
        let mut out = Vec::new();
        write_blocks(&mut out, &vec![Look::Shared; WIDTH * 3 + 1]).unwrap();
        let text = String::from_utf8(out).unwrap();
        let blocks: Vec<_> = text.lines().map(|line| line.matches('▀').count()).collect();
        assert_eq!(blocks, [WIDTH, WIDTH]);
    }
}
