//! `soload load`: loads libraries, binds everything, runs constructors, unloads; without a name, shows the plugin.
//!
//! JSON: `{"schema": 1, "command": "load", "with": "soload" | "dlopen", "libraries": […]}`, for each library `name` as
//! given, `ok`, and if so `path`, `loaded` and `adopted` (objects that were loaded now, and that were there before;
//! `adopted` is `null` with dlopen), `microseconds` (to open it), `stages` (`name`, `microseconds`), `snapshot` (`null` if none was asked
//! for, else `used`, `made` and `refused`, the reason), `kept` (why it is still mapped after it was closed: nothing, if it was unloaded), with `--verbose` `plan` (see `memory.rs`); if not,
//! `error` (`kind`, `message`, `object`, `needed_by`, `help`). A `name`, `path` or `object` that is not UTF-8 is lossy;
//! `name_bytes`, `path_bytes` or `object_bytes` has it in hexadecimal then.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use soload::{Closed, Error, Escaped, Forecast, Image, Library, PageSize, Plan, SnapshotUse};

use super::dlopen::{self, HostLibrary};
use super::memory::{self, Region};
use super::print::{self, BAD, BOLD, GOOD};
use super::{Loading, Outcome, Status, demo};

/// Load libraries: bind every symbol, run constructors, unload
///
/// Prints one line for each library. Without LIB, loads the demonstration plugin that is built into this command, calls
/// it, and shows the plan, the time of each stage, and what backs every page.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Libraries: paths, or names that are searched for as dlopen does
    #[arg(value_name = "LIB")]
    libraries: Vec<OsString>,
    /// The loader to use
    #[arg(long, value_enum, default_value_t = With::Soload)]
    with: With,
    #[command(flatten)]
    loading: Loading,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also show the time of each stage and what backs every page
    #[arg(short, long)]
    verbose: bool,
}

/// Whose work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum With {
    /// The loader of this command
    Soload,
    /// The C library's dlopen, with RTLD_NOW
    Dlopen,
}

/// What there is to say of a library that was loaded.
pub(super) struct Loaded {
    pub(super) path: PathBuf,
    pub(super) time: Duration,
    loaded: u64,
    adopted: Option<u64>,
    pub(super) stages: Vec<(&'static str, Duration)>,
    pub(super) memory: Option<(Plan, Vec<Region>)>,
    kept: Vec<String>,
    snapshot: SnapshotUse,
}

/// Why a library was not loaded.
pub(super) enum Refused {
    Soload(Error),
    Dlopen(String),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Soload(error)
    }
}

pub(super) fn run(args: Args, out: &mut impl Write) -> Outcome {
    match args.with {
        With::Dlopen if !args.loading.search_dir.is_empty() => {
            print::complain("--search-dir: dlopen has no such thing; set LD_LIBRARY_PATH instead");
            return Ok(Status::Usage);
        }
        With::Dlopen if args.libraries.is_empty() => {
            print::complain("--with dlopen: name a library; the demonstration is about soload");
            return Ok(Status::Usage);
        }
        With::Soload if args.libraries.is_empty() => return demo::show(&args.loading, args.json, out),
        _ => {}
    }
    let mut status = Status::Done;
    let mut documents = Vec::new();
    for name in &args.libraries {
        let answer = match args.with {
            With::Soload => with_soload(name, &args.loading, args.verbose, |_| Ok(())).map(|(loaded, ())| loaded),
            With::Dlopen => with_dlopen(name),
        };
        if answer.is_err() {
            status = Status::Failed;
        }
        if args.json {
            documents.push(json_of(name, &answer));
        } else {
            write_line(out, name, &answer)?;
            write_more(out, &answer)?;
        }
    }
    if args.json {
        let with = if args.with == With::Soload { "soload" } else { "dlopen" };
        print::write_json(out, &document(with, documents))?;
    }
    Ok(status)
}

/// `command` stands first: `soload compare` looks for it behind what libraries print.
pub(super) fn document(with: &str, libraries: Vec<Value>) -> Value {
    json!({"command": "load", "schema": 1, "with": with, "libraries": libraries})
}

/// Loads a library with soload, uses it, looks at its pages if `look`, and unloads it.
pub(super) fn with_soload<T>(
    name: &OsStr,
    loading: &Loading,
    look: bool,
    use_it: impl FnOnce(&Library) -> Result<T, Error>,
) -> Result<(Loaded, T), Refused> {
    let start = Instant::now();
    // SAFETY: whoever names a library on the command line vouches for its code.
    let library = unsafe { loading.options().open(name) }?;
    let time = start.elapsed();
    let used = use_it(&library)?;
    let path = library.path().to_owned();
    let snapshot = library.snapshot();
    let memory = if look { memory_of(&library, &path)? } else { None };
    let loaded = library.objects().filter(|(_, ours)| *ours).count() as u64;
    let adopted = library.objects().count() as u64 - loaded;
    // A library that was loaded before this brings nothing.
    let (stages, loaded) = match library.stages() {
        [] => (Vec::new(), 0),
        stages => (stages.to_vec(), loaded),
    };
    let kept = match library.close()? {
        Closed::Unloaded => Vec::new(),
        Closed::StillMapped { reasons } => reasons.iter().map(ToString::to_string).collect(),
    };
    Ok((Loaded { path, time, loaded, adopted: Some(adopted), stages, memory, kept, snapshot }, used))
}

/// What backs the pages of an open library; nothing of one that the C library loaded.
fn memory_of(library: &Library, path: &Path) -> Result<Option<(Plan, Vec<Region>)>, Error> {
    let Some((bias, (_, true))) = library.bias().zip(library.objects().next()) else { return Ok(None) };
    let (plan, mut regions) = {
        let image = Image::open(path)?;
        let plan = Plan::of(&image, PageSize::native())?;
        let regions = memory::regions(&plan, Some(&Forecast::of(&image, &plan)?));
        // The image is closed here: it has the file mapped, which would make its pages look shared.
        (plan, regions)
    };
    Ok(memory::measure(&mut regions, bias).is_ok().then_some((plan, regions)))
}

fn with_dlopen(name: &OsStr) -> Result<Loaded, Refused> {
    let before = dlopen::objects_loaded();
    let start = Instant::now();
    // SAFETY: as for soload.
    let library = unsafe { HostLibrary::open(name) }.map_err(Refused::Dlopen)?;
    let time = start.elapsed();
    Ok(Loaded {
        path: library.path().unwrap_or_default(),
        time,
        loaded: dlopen::objects_loaded() - before,
        adopted: None,
        stages: Vec::new(),
        memory: None,
        kept: Vec::new(),
        snapshot: SnapshotUse::Unasked,
    })
}

/// One line for a library; its error on standard error.
fn write_line(out: &mut impl Write, name: &OsStr, answer: &Result<Loaded, Refused>) -> io::Result<()> {
    let name = print::path(name.as_ref());
    match answer {
        Ok(loaded) => {
            let objects = match loaded.adopted {
                Some(adopted) => format!("{} loaded, {adopted} adopted", loaded.loaded),
                None => format!("{} loaded", loaded.loaded),
            };
            let time = print::milliseconds(loaded.time);
            writeln!(out, "{GOOD}ok{GOOD:#}      {time:>11}  {objects:22}  {name}  {}", print::path(&loaded.path))?;
            match &loaded.snapshot {
                SnapshotUse::Unasked => Ok(()),
                shared => writeln!(out, "        {shared}"),
            }
        }
        Err(refused) => {
            writeln!(out, "{BAD}failed{BAD:#}{:39}{name}", "")?;
            // In the order of what happened, if both go to the same terminal.
            out.flush()?;
            complain_of(refused);
            Ok(())
        }
    }
}

/// Says on standard error why a library was not loaded.
pub(super) fn complain_of(refused: &Refused) {
    match refused {
        Refused::Soload(error) => print::complain_of(error),
        Refused::Dlopen(message) => print::complain(Escaped(message.as_bytes())),
    }
}

/// What `--verbose` adds, as far as it is known.
fn write_more(out: &mut impl Write, answer: &Result<Loaded, Refused>) -> io::Result<()> {
    let Ok(Loaded { stages, memory: Some((plan, regions)), kept, .. }) = answer else { return Ok(()) };
    write_stages(out, stages)?;
    writeln!(out, "\n{BOLD}Plan{BOLD:#}\n")?;
    memory::write_plan(out, plan, regions)?;
    writeln!(out, "\n{BOLD}Pages{BOLD:#}\n")?;
    memory::write_pages(out, regions)?;
    for reason in kept {
        writeln!(out, "  still mapped after closing: {reason}")?;
    }
    writeln!(out)
}

/// The time of each stage, with a bar.
pub(super) fn write_stages(out: &mut impl Write, stages: &[(&'static str, Duration)]) -> io::Result<()> {
    const BAR: f64 = 60.0;
    let total: Duration = stages.iter().map(|(_, time)| *time).sum();
    writeln!(out, "\n{BOLD}Time{BOLD:#} of each stage, {} in all\n", print::milliseconds(total))?;
    for (name, time) in stages {
        let share = if total.is_zero() { 0.0 } else { time.as_secs_f64() / total.as_secs_f64() };
        let bar = "#".repeat((share * BAR).round() as usize);
        writeln!(out, "{}", format!("  {name:12}  {:>10}  {bar}", print::milliseconds(*time)).trim_end())?;
    }
    Ok(())
}

/// The entry for one library; the head of this file explains it.
pub(super) fn json_of(name: &OsStr, answer: &Result<Loaded, Refused>) -> Value {
    let mut object = Map::new();
    print::put_path(&mut object, "name", name.as_ref());
    object.insert("ok".into(), answer.is_ok().into());
    match answer {
        Ok(loaded) => {
            print::put_path(&mut object, "path", &loaded.path);
            object.insert("loaded".into(), loaded.loaded.into());
            object.insert("adopted".into(), json!(loaded.adopted));
            object.insert("microseconds".into(), json!(microseconds(loaded.time)));
            let stages = loaded.stages.iter();
            let stages = stages.map(|(name, time)| json!({"name": name, "microseconds": microseconds(*time)}));
            object.insert("stages".into(), stages.collect());
            object.insert("kept".into(), json!(loaded.kept));
            object.insert("snapshot".into(), json_of_snapshot(&loaded.snapshot));
            if let Some((plan, regions)) = &loaded.memory {
                object.insert("plan".into(), memory::json_of(plan, regions));
            }
        }
        Err(Refused::Soload(error)) => {
            object.insert("error".into(), print::json_of_error(error));
        }
        Err(Refused::Dlopen(message)) => {
            object.insert("error".into(), json!({"kind": "Host", "message": message}));
        }
    }
    object.into()
}

fn json_of_snapshot(snapshot: &SnapshotUse) -> Value {
    match snapshot {
        SnapshotUse::Unasked => Value::Null,
        SnapshotUse::Used { made } => json!({"used": true, "made": made, "refused": null}),
        SnapshotUse::Refused(refusal) => json!({"used": false, "made": false, "refused": refusal.to_string()}),
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}
