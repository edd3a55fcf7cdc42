//! `soload warm`: has libraries and programs read into memory in pieces of up to 2 MiB, and shows what touching their code
//! costs before and after.
//!
//! JSON: `{"schema": 1, "command": "warm", "libraries": […]}`, for each file `name` and `path`, `page_size`, `before` and
//! `after`, each with `pages` (of code), `huge` (of these in pages of 2 MiB), `minor_faults`, `major_faults` and
//! `microseconds` (to touch all), and `mapped_by` (processes that have the file mapped), else `error`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use comfy_table::Cell;
use serde_json::{Map, Value, json};
use soload::{Error, ErrorKind, Mapping, PageSize, Resolver, Warming, Warmth};

use super::print::{self, BOLD, DIM, WARN};
use super::{Loading, Outcome, Status, memory};

/// Read libraries and programs into memory in pieces of up to 2 MiB, where the file system gives them
///
/// Has the kernel forget the files and read them anew; who loads or runs them after that has fewer and cheaper faults and
/// smaller page tables, with any loader. Needs no privilege. What running processes have mapped stays in the pages it is in.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Libraries: paths, or names that are searched for as dlopen does; or programs, by path
    #[arg(value_name = "LIB", required = true)]
    libraries: Vec<OsString>,
    /// Also all that they need
    #[arg(long)]
    closure: bool,
    #[command(flatten)]
    loading: Loading,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What there is to say of one file.
struct Warmed {
    name: OsString,
    path: PathBuf,
    warming: Warming,
    mapped_by: Vec<u32>,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let mut status = Status::Done;
    let (mut documents, mut warmed) = (Vec::new(), Vec::<Warmed>::new());
    let processes = Processes::now();
    for (name, file) in files(args) {
        if let Ok(path) = &file
            && warmed.iter().any(|known| known.path == *path)
        {
            continue;
        }
        let read = file.and_then(|path| Ok((Warming::of(&path)?, path)));
        match read {
            Ok((warming, path)) => {
                let mapped_by = processes.that_map(&path);
                let own = Warmed { name, path, warming, mapped_by };
                documents.push(own.json());
                warmed.push(own);
            }
            Err(error) => {
                status = Status::Failed;
                documents.extend(print::refusal(&name, &error, args.json, out)?);
            }
        }
    }
    if args.json {
        print::write_json(out, &json!({"schema": 1, "command": "warm", "libraries": documents}))?;
    } else if !warmed.is_empty() {
        write_all(out, &warmed)?;
    }
    Ok(status)
}

/// The files to be read, each with the name it is known by.
fn files(args: &Args) -> Vec<(OsString, Result<PathBuf, Error>)> {
    let mut all = Vec::new();
    for name in &args.libraries {
        match args.loading.options().files(name).or_else(|error| files_of_program(name.as_ref(), error)) {
            Ok(files) => {
                let count = if args.closure { usize::MAX } else { 1 };
                let names = std::iter::once(name.clone()).chain(files.iter().skip(1).map(|path| path.clone().into()));
                all.extend(names.zip(files.iter().cloned().map(Ok)).take(count));
            }
            Err(error) => all.push((name.clone(), Err(error))),
        }
    }
    all
}

/// A file that is run and not opened, such as a program, with all that comes into its process.
fn files_of_program(path: &Path, error: Error) -> Result<Vec<PathBuf>, Error> {
    if !matches!(error.kind(), ErrorKind::Foreign { what: "type", .. }) || error.object() != path {
        return Err(error);
    }
    let closure = Resolver::new().resolve(path)?;
    let needed = closure.objects.iter().skip(1).filter_map(|object| object.path.clone());
    Ok([path.to_owned()].into_iter().chain(needed).collect())
}

/// Which processes have a file mapped, as far as they may be looked at.
struct Processes(BTreeMap<(u64, u64), Vec<u32>>);

impl Processes {
    fn now() -> Self {
        let mut all: BTreeMap<_, Vec<u32>> = BTreeMap::new();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for process in processes.filter(|process| *process != std::process::id()) {
            let mut files: Vec<_> =
                Mapping::all_of(process).unwrap_or_default().iter().map(|own| (own.device, own.inode)).collect();
            files.sort_unstable();
            files.dedup();
            files.into_iter().for_each(|file| all.entry(file).or_default().push(process));
        }
        Self(all)
    }

    fn that_map(&self, path: &Path) -> Vec<u32> {
        let Ok(meta) = path.metadata() else { return Vec::new() };
        let (major, minor) = (libc::major(meta.dev()) as u64, libc::minor(meta.dev()) as u64);
        self.0.get(&(major << 32 | minor, meta.ino())).cloned().unwrap_or_default()
    }
}

fn write_all(out: &mut impl Write, warmed: &[Warmed]) -> io::Result<()> {
    writeln!(out, "{BOLD}Touching all code, before and now{BOLD:#}\n")?;
    let size = |pages: u64| match pages {
        0 => memory::number_cell(0),
        pages => Cell::new(print::Size(pages * PageSize::native().bytes())),
    };
    let faults = |warmth: &Warmth| memory::number_cell((warmth.minor_faults + warmth.major_faults) as usize);
    let time = |warmth: &Warmth| Cell::new(print::milliseconds(warmth.time));
    let mut table = print::table(&["library", "code", "faults", "now", "time", "now", "in pages of 2 MiB", "now"]);
    for Warmed { path, warming: Warming { before, after, .. }, .. } in warmed {
        let name = path.file_name().map_or(path.as_path(), Path::new);
        table.add_row([
            Cell::new(print::path(name)),
            size(before.pages),
            faults(before),
            faults(after),
            time(before),
            time(after),
            size(before.huge),
            size(after.huge),
        ]);
    }
    print::align_right(&mut table, 1..8);
    print::write_table(out, &table)?;
    writeln!(out)?;
    let mapped = warmed.iter().filter(|own| !own.mapped_by.is_empty()).count();
    if mapped > 0 {
        let (files, have) = (print::plural(mapped, "file"), if mapped == 1 { "is" } else { "are" });
        writeln!(
            out,
            "  {WARN}{files} {have} mapped by running processes: what they have touched stays as it is.{WARN:#}"
        )?;
    }
    let possible = |own: &&Warmed| own.warming.after.huge_possible > 0 && own.mapped_by.is_empty();
    if warmed.iter().any(|own| possible(&own)) && warmed.iter().filter(possible).all(|own| own.warming.after.huge == 0)
    {
        writeln!(out, "  {WARN}The file system, or the kernel, gives no pages of 2 MiB for files.{WARN:#}")?;
    }
    writeln!(out, "  {DIM}Faults by getrusage, huge pages by PAGEMAP_SCAN, in a mapping of this process.{DIM:#}\n")
}

impl Warmed {
    fn json(&self) -> Value {
        let warmth = |warmth: &Warmth| {
            json!({
                "pages": warmth.pages,
                "huge": warmth.huge,
                "minor_faults": warmth.minor_faults,
                "major_faults": warmth.major_faults,
                "microseconds": warmth.time.as_nanos() as f64 / 1e3,
            })
        };
        let mut object = Map::new();
        print::put_path(&mut object, "name", self.name.as_ref());
        print::put_path(&mut object, "path", &self.path);
        object.insert("page_size".into(), PageSize::native().bytes().into());
        object.insert("before".into(), warmth(&self.warming.before));
        object.insert("after".into(), warmth(&self.warming.after));
        object.insert("mapped_by".into(), self.mapped_by.clone().into());
        object.into()
    }
}
