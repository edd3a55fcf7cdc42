//! `soload pages`: what backs every page of a library in a process, or of all libraries of one, one cell a page.
//!
//! JSON: `{"schema": 1, "command": "pages", "process", "path", "page_size", "bias", "regions": […]}`, for each region
//! `content`, `start` and `bias` (addresses), and `pages`: one letter for each, as the legend has them. Of a whole process
//! `libraries`, each with `path`, `bias` and `regions`, and `others`: files with code that could not be shown, and why.

mod look;
mod picture;
mod text;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::load::With;
use super::print::{self, DIM};
use super::share::workers::Workers;
use super::{Loading, Outcome, Status, demo};
use look::{Look, Seen, Subject};

/// Show what backs every page of a library, one cell a page
///
/// Loads the library in a process of its own, together with a second one to share with; or, with --pid, looks at a
/// running process. A number instead of a library shows all libraries of that process. Without either, shows the
/// demonstration plugin.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The library: a path, or a name that is searched for as dlopen does; or the number of a process
    #[arg(value_name = "LIB|PID")]
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

/// What is shown.
enum Shown {
    Library(Box<Subject>),
    /// All that a process has loaded, and why other files of it are not shown.
    Process(u32, Vec<Subject>, Vec<String>),
}

impl Shown {
    fn subjects(&self) -> &[Subject] {
        match self {
            Self::Library(subject) => std::slice::from_ref(&**subject),
            Self::Process(_, subjects, _) => subjects,
        }
    }

    fn look(&self) -> Result<Vec<Seen<'_>>, String> {
        self.subjects().iter().map(Subject::look).collect()
    }

    fn write(&self, out: &mut impl Write, seen: &[Seen<'_>]) -> io::Result<()> {
        match (self, seen) {
            (Self::Library(_), [seen]) => text::write_one(out, seen),
            (Self::Process(_, _, others), seen) => text::write_all(out, seen, others),
            _ => Ok(()),
        }
    }
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let Some((asked, _plugin)) = demo::asked(args.library.as_ref()) else { return Ok(Status::Failed) };
    // Only held: the processes end when it is dropped.
    let mut workers = None;
    let shown = match process_asked(args, &asked) {
        Some(process) => process_shown(process),
        None => library_shown(args, &asked, &mut workers),
    };
    let answer = shown.and_then(|shown| {
        let seen = shown.look()?;
        let looks = looks_of(&seen);
        draw(args, &seen)?;
        Ok((json_of(&shown, &seen), text_of(&shown, &seen), looks, shown))
    });
    let (document, text, mut looks, mut shown) = match answer {
        Ok(answer) => answer,
        Err(reason) => {
            print::complain(reason);
            return Ok(Status::Failed);
        }
    };
    if args.json {
        print::write_json(out, &document)?;
        return Ok(Status::Done);
    }
    out.write_all(&text)?;
    while let Some(seconds) = args.watch {
        out.flush()?;
        std::thread::sleep(Duration::from_secs(seconds.max(1).into()));
        // A process may have loaded more.
        let again = match shown {
            Shown::Process(process, ..) => process_shown(process),
            Shown::Library(subject) => Ok(Shown::Library(subject)),
        };
        let seen = again.and_then(|again| {
            let seen = again.look()?;
            let now = looks_of(&seen);
            Ok((text_of(&again, &seen), now, again))
        });
        let (text, now, again) = match seen {
            Ok(seen) => seen,
            Err(reason) => {
                writeln!(out, "{DIM}{reason}{DIM:#}")?;
                break;
            }
        };
        if io::stdout().is_terminal() {
            write!(out, "\x1b[H\x1b[2J")?;
        }
        out.write_all(&text)?;
        writeln!(
            out,
            "  {DIM}{} changed since the last look.{DIM:#}",
            print::plural(look::changed(&looks, &now), "page")
        )?;
        (looks, shown) = (now, again);
    }
    Ok(Status::Done)
}

/// A number that is no file is a process.
fn process_asked(args: &Args, asked: &OsStr) -> Option<u32> {
    let number = asked.to_str()?.parse().ok()?;
    (args.pid.is_none() && args.library.is_some() && !Path::new(asked).exists()).then_some(number)
}

fn process_shown(process: u32) -> Result<Shown, String> {
    let (subjects, others) = Subject::all_of(process).map_err(|error| format!("process {process}: {error}"))?;
    match subjects.is_empty() {
        // A thread of the kernel, or a process that has just ended.
        true => Err(format!("process {process}: has no library that can be read{}", {
            others.first().map_or(String::new(), |first| format!(" ({first})"))
        })),
        false => Ok(Shown::Process(process, subjects, others)),
    }
}

fn library_shown(args: &Args, asked: &OsString, workers: &mut Option<Workers>) -> Result<Shown, String> {
    let files = args.loading.options().files(asked).map_err(|error| {
        let help = print::help(&error).map_or(String::new(), |help| format!("\n  help: {help}"));
        format!("{error}{help}")
    })?;
    let path = files.into_iter().next().unwrap_or_else(|| PathBuf::from(asked));
    if let Some(process) = args.pid {
        return Subject::find(&path, process, None).map(|subject| Shown::Library(Box::new(subject)));
    }
    // Whether pages are shared shows only if there is somebody to share them with.
    let started = Workers::start(2, args.with, asked, args.call.as_deref(), &args.loading);
    let started = workers.insert(started.map_err(|error| error.to_string())?);
    Subject::find(&path, started.pids()[0], Some(started.marks.clone()))
        .map(|subject| Shown::Library(Box::new(subject)))
}

fn draw(args: &Args, seen: &[Seen<'_>]) -> Result<(), String> {
    if args.svg.is_none() && args.html.is_none() {
        return Ok(());
    }
    let names: Vec<_> = seen.iter().map(|seen| picture::Names::read(&seen.subject.file)).collect();
    let pictures = [(&args.svg, picture::svg(seen)), (&args.html, picture::html(seen, &names))];
    for (file, picture) in pictures.iter().filter_map(|(file, picture)| Some((file.as_ref()?, picture))) {
        std::fs::write(file, picture).map_err(|error| format!("{}: {error}", print::path(file)))?;
    }
    Ok(())
}

fn looks_of(seen: &[Seen<'_>]) -> Vec<Look> {
    seen.iter().flat_map(Seen::looks).collect()
}

fn text_of(shown: &Shown, seen: &[Seen<'_>]) -> Vec<u8> {
    let mut text = Vec::new();
    // Into memory nothing fails.
    let _ = shown.write(&mut text, seen);
    text
}

fn json_of(shown: &Shown, seen: &[Seen<'_>]) -> Value {
    let regions = |seen: &Seen<'_>| {
        let regions = seen.regions.iter().map(|(region, looks)| {
            json!({
                "content": region.content,
                "start": region.range.start.0,
                "pages": looks.iter().map(|look| look.legend().0).collect::<String>(),
            })
        });
        regions.collect::<Value>()
    };
    let library = |object: &mut Map<String, Value>, seen: &Seen<'_>| {
        print::put_path(object, "path", &seen.subject.path);
        object.insert("bias".into(), seen.subject.bias.get().into());
        object.insert("regions".into(), regions(seen));
    };
    let mut object = Map::new();
    object.insert("schema".into(), 1.into());
    object.insert("command".into(), "pages".into());
    object.insert("process".into(), seen.first().map(|seen| seen.subject.process).into());
    object.insert("page_size".into(), soload::PageSize::native().bytes().into());
    match (shown, seen) {
        (Shown::Library(_), [seen]) => library(&mut object, seen),
        (Shown::Process(_, _, others), seen) => {
            let libraries = seen.iter().map(|seen| {
                let mut object = Map::new();
                library(&mut object, seen);
                Value::from(object)
            });
            object.insert("libraries".into(), libraries.collect());
            object.insert("others".into(), others.clone().into());
        }
        _ => {}
    }
    object.into()
}
