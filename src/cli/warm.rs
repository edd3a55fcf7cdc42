//! `soload warm`: has the code of libraries read into memory in pages of 2 MiB, and shows the faults before and after.
//!
//! JSON: `{"schema": 1, "command": "warm", "libraries": […]}`, for each library `name` and `path`, `page_size`, `before` and
//! `after`, each with `pages` (of code), `huge` (of these in pages of 2 MiB), `minor_faults` and `major_faults` (to touch
//! all), and `mapped_by` (processes that have the file mapped), else `error`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use comfy_table::Cell;
use serde_json::{Map, Value, json};
use soload::{Mapping, PageSize, Warming, Warmth};

use super::print::{self, BOLD, DIM, GOOD, WARN};
use super::{Loading, Outcome, Status, memory};

/// Read the code of libraries into memory in pages of 2 MiB, where the file system gives them
///
/// Has the kernel forget the file and read it anew; who loads the library after that has fewer faults and smaller page
/// tables, with any loader. Needs no privilege. What running processes have mapped stays in the pages it is in.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Libraries: paths, or names that are searched for as dlopen does
    #[arg(value_name = "LIB", required = true)]
    libraries: Vec<OsString>,
    #[command(flatten)]
    loading: Loading,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What there is to say of one library.
struct Warmed {
    path: PathBuf,
    warming: Warming,
    mapped_by: Vec<u32>,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let mut status = Status::Done;
    let mut documents = Vec::new();
    for name in &args.libraries {
        let found = args.loading.options().files(name);
        let path = found.map(|files| files.into_iter().next().unwrap_or_else(|| PathBuf::from(name)));
        let warmed = path.and_then(|path| {
            let warming = Warming::of(&path)?;
            Ok(Warmed { mapped_by: mapped_by(&path), path, warming })
        });
        match warmed {
            Ok(warmed) if args.json => documents.push(json_of(name, &warmed)),
            Ok(warmed) => write_one(out, &warmed)?,
            Err(error) => {
                status = Status::Failed;
                documents.extend(print::refusal(name, &error, args.json, out)?);
            }
        }
    }
    if args.json {
        print::write_json(out, &json!({"schema": 1, "command": "warm", "libraries": documents}))?;
    }
    Ok(status)
}

/// The processes that have the file mapped, as far as they may be looked at.
fn mapped_by(path: &Path) -> Vec<u32> {
    let Ok(meta) = path.metadata() else { return Vec::new() };
    let (major, minor) = (libc::major(meta.dev()) as u64, libc::minor(meta.dev()) as u64);
    let is_it = |mapping: &Mapping| mapping.inode == meta.ino() && mapping.device == major << 32 | minor;
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    processes.filter(|process| Mapping::all_of(*process).is_ok_and(|all| all.iter().any(is_it))).collect()
}

fn write_one(out: &mut impl Write, warmed: &Warmed) -> io::Result<()> {
    let Warming { before, after, .. } = &warmed.warming;
    let size = |pages: u64| print::Size(pages * PageSize::native().bytes());
    writeln!(out, "{BOLD}{}{BOLD:#}: {} of code\n", print::path(&warmed.path), size(before.pages))?;
    let mut table = print::table(&["touching all of it", "minor faults", "major", "in pages of 2 MiB"]);
    for (when, warmth) in [("before", before), ("now", after)] {
        table.add_row([
            Cell::new(when),
            memory::number_cell(warmth.minor_faults as usize),
            memory::number_cell(warmth.major_faults as usize),
            if warmth.huge == 0 { memory::number_cell(0) } else { Cell::new(size(warmth.huge)) },
        ]);
    }
    print::align_right(&mut table, 1..4);
    print::write_table(out, &table)?;
    writeln!(out)?;
    match reason(&warmed.warming, warmed.mapped_by.len()) {
        Some(reason) => writeln!(out, "  {WARN}{reason}{WARN:#}")?,
        None if before.huge >= before.huge_possible => writeln!(out, "  {GOOD}It was warm already.{GOOD:#}")?,
        None => writeln!(out, "  {GOOD}Every process that loads it from now on finds it so.{GOOD:#}")?,
    }
    writeln!(out, "  {DIM}Faults by getrusage, huge pages by PAGEMAP_SCAN, in a mapping of this process.{DIM:#}\n")
}

/// Why not all that could be is in huge pages.
fn reason(warming: &Warming, processes: usize) -> Option<String> {
    let Warmth { huge, huge_possible, .. } = warming.after;
    match processes {
        _ if huge_possible == 0 => {
            Some("There is no whole block of 2 MiB in its code: there is nothing to gain.".into())
        }
        _ if huge >= huge_possible => None,
        0 if huge == 0 => Some("The file system, or the kernel, gives no pages of 2 MiB for files.".into()),
        0 => Some("Not all of it: memory may be fragmented. Try again later.".into()),
        1 => Some("Not all of it: a process has it mapped, and keeps the pages it has.".into()),
        _ => Some(format!("Not all of it: {processes} processes have it mapped, and keep the pages they have.")),
    }
}

fn json_of(name: &OsString, warmed: &Warmed) -> Value {
    let warmth = |warmth: &Warmth| {
        json!({
            "pages": warmth.pages,
            "huge": warmth.huge,
            "minor_faults": warmth.minor_faults,
            "major_faults": warmth.major_faults,
        })
    };
    let mut object = Map::new();
    print::put_path(&mut object, "name", name.as_ref());
    print::put_path(&mut object, "path", &warmed.path);
    object.insert("page_size".into(), PageSize::native().bytes().into());
    object.insert("before".into(), warmth(&warmed.warming.before));
    object.insert("after".into(), warmth(&warmed.warming.after));
    object.insert("mapped_by".into(), warmed.mapped_by.clone().into());
    object.into()
}
