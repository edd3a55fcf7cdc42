//! `soload snapshot`: makes, checks, lists and removes the relocated pages that processes share through a directory.
//!
//! JSON: `{"schema": 1, "command": "snapshot", "directory", "snapshots": […]}`, for each snapshot `name`, `bytes`, `made`
//! (seconds since 1970), `libraries` (their paths; `null` if it is damaged or of another format) and, when verified, `state`
//! (`rebuilt`: made anew it is the same, byte for byte; `sound`: its hashes fit, and it was made by another program;
//! `damaged`) and `problem`. `create` prints what `soload load --json` prints, for each library.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use comfy_table::Cell;
use serde_json::{Value, json};
use soload::{PageSize, SnapshotFile, Snapshots};

use super::print::{self, BAD, BOLD, DIM, GOOD, Size};
use super::{Outcome, Status};

/// Make, check, list and remove snapshots: relocated pages that processes share
///
/// Programs use them if SOLOAD_SNAPSHOTS names the directory when they start, or if they ask for it. Without DIR it is
/// $XDG_RUNTIME_DIR/soload or /run/user/UID/soload: in memory, and gone with the login session.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The directory [default: what SOLOAD_SNAPSHOTS names, or that of the login session]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Load each library once, in a process of its own, so that its snapshot is made (runs constructors)
    Create {
        /// Libraries: paths, or names that are searched for as dlopen does
        #[arg(value_name = "LIB", required = true)]
        libraries: Vec<OsString>,
    },
    /// Check every snapshot: owner, permissions, hashes of everything; then make it anew and compare (runs constructors)
    Verify,
    /// List the snapshots, and what each has the pages of
    List,
    /// Remove snapshots, the oldest first
    Purge {
        /// Leave so many bytes of the newest ones
        #[arg(long, value_name = "BYTES", default_value_t = 0)]
        keep: u64,
    },
    /// Begin a new session: new random addresses for every process that starts from now on; removes all snapshots
    Rotate,
}

/// The directory that is meant; an empty one stands for the default.
pub(super) fn directory(named: Option<&Path>) -> Result<PathBuf, String> {
    let named = named.filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned);
    let set = || std::env::var_os("SOLOAD_SNAPSHOTS").filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(set).or_else(Snapshots::default_directory).ok_or_else(|| {
        "there is no directory for this login session (XDG_RUNTIME_DIR is not set): name one of your own, by the \
         option or in SOLOAD_SNAPSHOTS"
            .into()
    })
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let opened = directory(args.dir.as_deref()).and_then(|path| match Snapshots::open(&path) {
        Ok(snapshots) => Ok((path, snapshots)),
        Err(error) => Err(error.to_string()),
    });
    let (path, snapshots) = match opened {
        Ok(opened) => opened,
        Err(problem) => {
            print::complain(problem);
            return Ok(Status::Failed);
        }
    };
    let removed = match &args.what {
        What::Create { libraries } => return create(&path, libraries, args.json, out),
        What::Verify => return verify(&path, &snapshots, args.json, out),
        What::List => return list(&path, &snapshots, args.json, out),
        What::Purge { keep } => snapshots.purge(*keep),
        What::Rotate => {
            let files = snapshots.files();
            snapshots.rotate().map(|()| files)
        }
    };
    match removed {
        Ok(files) => {
            let bytes = files.iter().map(|file| file.bytes).sum();
            if args.json {
                print::write_json(out, &document(&path, files.iter().map(|file| json_of(file, None)).collect()))?;
            } else {
                writeln!(out, "{} removed, {}", print::plural(files.len(), "snapshot"), Size(bytes))?;
            }
            Ok(Status::Done)
        }
        Err(error) => {
            print::complain_of(&error);
            Ok(Status::Failed)
        }
    }
}

/// Has another process of this command load `library`.
fn loaded(directory: &Path, library: &OsString, json: bool) -> io::Result<(bool, Vec<u8>)> {
    let mut typed = OsString::from("--snapshots=");
    typed.push(directory);
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("load").arg(typed).args(json.then_some("--json")).arg("--").arg(library);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    Ok((output.status.success(), output.stdout))
}

fn create(directory: &Path, libraries: &[OsString], json: bool, out: &mut impl Write) -> Outcome {
    let mut status = Status::Done;
    for library in libraries {
        let (ok, printed) = loaded(directory, library, json)?;
        out.write_all(&printed)?;
        status = status.max(if ok { Status::Done } else { Status::Failed });
    }
    Ok(status)
}

fn list(directory: &Path, snapshots: &Snapshots, json: bool, out: &mut impl Write) -> Outcome {
    let files = snapshots.files();
    let all: Vec<_> = files.iter().map(|file| (file, snapshots.libraries(&file.name))).collect();
    if json {
        let all = all.iter().map(|(file, libraries)| json_of(file, libraries.as_deref())).collect();
        print::write_json(out, &document(directory, all))?;
        return Ok(Status::Done);
    }
    let mut table = print::table(&["size", "library", "with", "snapshot"]);
    for (file, libraries) in &all {
        let (first, with) = match libraries.as_deref() {
            Some([first, rest @ ..]) => (print::path(first).to_string(), print::plural(rest.len(), "other")),
            Some([]) | None => ("damaged, or of another format".into(), String::new()),
        };
        table.add_row([Cell::new(Size(file.bytes)), Cell::new(first), Cell::new(with), Cell::new(short(&file.name))]);
    }
    print::align_right(&mut table, [0]);
    print::write_table(out, &table)?;
    let bytes = files.iter().map(|file| file.bytes).sum();
    let count = print::plural(files.len(), "snapshot");
    writeln!(out, "\n  {BOLD}{count}{BOLD:#}, {} in {}", Size(bytes), print::path(directory))?;
    Ok(Status::Done)
}

/// How a snapshot has stood the test.
enum State {
    /// Made anew, it is the same.
    Rebuilt,
    /// Its hashes fit; it was made by another program, so this one cannot make it.
    Sound,
    Damaged(String),
}

fn verify(directory: &Path, snapshots: &Snapshots, json: bool, out: &mut impl Write) -> Outcome {
    let mut status = Status::Done;
    let mut documents = Vec::new();
    for file in snapshots.files() {
        let (libraries, state) = match snapshots.verify(&file.name) {
            Ok(libraries) => {
                let state = match libraries.first() {
                    Some(first) => rebuild(directory, &file, first)?,
                    None => State::Sound,
                };
                (Some(libraries), state)
            }
            Err(error) => (None, State::Damaged(error.kind().to_string())),
        };
        let (word, problem) = match &state {
            State::Rebuilt => ("rebuilt", None),
            State::Sound => ("sound", None),
            State::Damaged(problem) => ("damaged", Some(problem)),
        };
        if problem.is_some() {
            status = Status::Failed;
        }
        if json {
            let mut object = json_of(&file, libraries.as_deref());
            object["state"] = word.into();
            object["problem"] = json!(problem);
            documents.push(object);
            continue;
        }
        let first = libraries.as_deref().and_then(<[PathBuf]>::first);
        let name = first.map_or_else(String::new, |path| print::path(path).to_string());
        let style = if problem.is_some() { BAD } else { GOOD };
        writeln!(out, "{style}{word:8}{style:#} {:>10}  {}  {name}", Size(file.bytes).to_string(), short(&file.name))?;
        if let Some(problem) = problem {
            writeln!(out, "         {problem}")?;
        }
    }
    if json {
        print::write_json(out, &document(directory, documents))?;
    } else {
        writeln!(
            out,
            "{DIM}rebuilt: made anew, it is the same byte for byte. sound: its hashes fit; another program made it.{DIM:#}"
        )?;
    }
    Ok(status)
}

/// Makes the snapshot of `library` anew, at the same addresses in another directory, and compares.
fn rebuild(directory: &Path, file: &SnapshotFile, library: &Path) -> io::Result<State> {
    let scratch = tempfile::tempdir()?;
    for part in ["seed", "registry"] {
        std::fs::copy(directory.join(part), scratch.path().join(part))?;
    }
    let (_, _) = loaded(scratch.path(), &library.into(), true)?;
    let page = PageSize::native().bytes();
    let Ok(anew) = std::fs::read(scratch.path().join(&file.name)) else { return Ok(State::Sound) };
    let kept = std::fs::read(directory.join(&file.name))?;
    Ok(match anew.iter().zip(&kept).position(|(a, b)| a != b) {
        None if anew.len() == kept.len() => State::Rebuilt,
        None => State::Damaged(format!(
            "made anew it is {} long, found {}",
            Size(anew.len() as u64),
            Size(kept.len() as u64)
        )),
        Some(at) => State::Damaged(format!("made anew it differs from page {} on", at as u64 / page)),
    })
}

fn short(name: &str) -> &str {
    name.get(..12).unwrap_or(name)
}

fn json_of(file: &SnapshotFile, libraries: Option<&[PathBuf]>) -> Value {
    let libraries = libraries.map(|all| all.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>());
    json!({"name": file.name, "bytes": file.bytes, "made": file.made.0, "libraries": libraries})
}

fn document(directory: &Path, snapshots: Vec<Value>) -> Value {
    let mut object = serde_json::Map::new();
    object.insert("schema".into(), 1.into());
    object.insert("command".into(), "snapshot".into());
    print::put_path(&mut object, "directory", directory);
    object.insert("snapshots".into(), snapshots.into());
    object.into()
}
