//! `soload compare`: which libraries dlopen loads and soload does not, each tried in a process of its own.
//!
//! JSON: `{"schema": 1, "command": "compare", "of_dlopen", "of_both", "thread_local": […], "failures": […], "extra": […],
//! "neither"}`: the numbers of libraries that dlopen loads, that both load, and that neither does; then those that only
//! dlopen loads (`thread_local`: because of thread-local storage, which soload lacks so far) and those that only soload
//! loads (`extra`), each with `library` and `reason`; what is not UTF-8 is lossy, and in hexadecimal in `library_bytes`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::num::NonZeroUsize;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};
use soload::Escaped;

use super::print::{self, BAD, BOLD, GOOD, WARN};
use super::{Loading, Outcome, Status};

/// Compare soload with dlopen: which libraries does each load?
///
/// Loads each library with dlopen(RTLD_NOW) and with soload, each time in a process of its own.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Libraries, or directories of which every *.so* file is taken; the system's library directory without this
    #[arg(value_name = "DIR|LIB")]
    places: Vec<PathBuf>,
    /// Also take the files of all directories below DIR
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Seconds after which a process that loads a library is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(flatten)]
    loading: Loading,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a process that loads one library with one loader came to.
enum Answer {
    Loaded,
    Failed { reason: String, thread_local: bool },
}

/// What became of one library.
struct Compared {
    library: PathBuf,
    dlopen: Answer,
    soload: Answer,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let usual = PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let places = if args.places.is_empty() { std::slice::from_ref(&usual) } else { &args.places };
    let mut libraries = BTreeSet::new();
    for place in places {
        if let Err(error) = collect(place, args.recursive, &mut libraries) {
            print::complain(format_args!("{}: {error}", print::path(place)));
            return Ok(Status::Failed);
        }
    }
    let compared = match try_all(args, libraries.into_iter().collect()) {
        Ok(compared) => compared,
        Err(error) => {
            print::complain(format_args!("cannot start processes: {error}"));
            return Ok(Status::Failed);
        }
    };
    let report = Report::of(&compared);
    if args.json { print::write_json(out, &report.json())? } else { report.write(out)? }
    Ok(if report.failures.is_empty() && report.extra.is_empty() { Status::Done } else { Status::Failed })
}

/// The libraries that a place stands for. Each file is taken once, by the path without symbolic links.
fn collect(place: &Path, recursive: bool, libraries: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    if !place.is_dir() {
        // A name without a slash is for the loaders to find.
        libraries.insert(place.into());
        return Ok(());
    }
    for entry in std::fs::read_dir(place)? {
        let entry = entry?;
        let path = entry.path();
        // Symbolic links to directories are not followed: what they lead to may lead back.
        if recursive && entry.file_type()?.is_dir() {
            collect(&path, recursive, libraries)?;
        }
        let name = entry.file_name();
        let named = name.as_encoded_bytes().windows(3).any(|part| part == b".so");
        if named && path.is_file() {
            libraries.extend(path.canonicalize());
        }
    }
    Ok(())
}

/// Tries every library with both loaders, on all cores.
fn try_all(args: &Args, libraries: Vec<PathBuf>) -> io::Result<Vec<Compared>> {
    let command = std::env::current_exe()?;
    let next = AtomicUsize::new(0);
    let compared = Mutex::new(Vec::with_capacity(libraries.len()));
    let failure = Mutex::new(None);
    let progress = io::stderr().is_terminal();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZeroUsize::get) {
            scope.spawn(|| {
                while let Some(library) = libraries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let answers = try_one(&command, args, library, "dlopen")
                        .and_then(|dlopen| Ok((dlopen, try_one(&command, args, library, "soload")?)));
                    match answers {
                        Ok((dlopen, soload)) => {
                            let mut compared = lock(&compared);
                            compared.push(Compared { library: library.clone(), dlopen, soload });
                            if progress {
                                let _ = write!(io::stderr(), "\r{} of {} ", compared.len(), libraries.len());
                            }
                        }
                        Err(error) => *lock(&failure) = Some(error),
                    }
                }
            });
        }
    });
    if progress {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    let mut compared = std::mem::take(&mut *lock(&compared));
    compared.sort_by(|a, b| a.library.cmp(&b.library));
    Ok(compared)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Has a process of its own load `library` with one loader.
fn try_one(command: &Path, args: &Args, library: &Path, with: &str) -> io::Result<Answer> {
    let mut arguments: Vec<OsString> = ["load", "--json", "--with", with].map(OsString::from).into();
    if with == "soload" {
        arguments.extend(args.loading.typed());
    }
    // A file, not a pipe: whatever the library prints, its process never waits for us.
    let mut output = tempfile::tempfile()?;
    let mut process = Command::new(command)
        .args(arguments)
        .arg("--")
        .arg(library)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(Stdio::null())
        .spawn()?;
    let end = Instant::now() + Duration::from_secs(args.timeout);
    let status = loop {
        match process.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < end => thread::sleep(Duration::from_millis(2)),
            None => {
                process.kill()?;
                process.wait()?;
                let reason = format!("did not end within {} seconds", args.timeout);
                return Ok(Answer::Failed { reason, thread_local: false });
            }
        }
    };
    answer_of(status, &mut output)
}

fn answer_of(status: ExitStatus, output: &mut File) -> io::Result<Answer> {
    if let Some(number) = status.signal() {
        let name = Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string());
        return Ok(Answer::Failed { reason: format!("crashed: {name}"), thread_local: false });
    }
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    // The library's code may have printed something before, and again on its way out.
    let text = String::from_utf8_lossy(&bytes);
    let start = text.rfind(r#"{"command":"load""#).unwrap_or(text.len());
    let mut documents = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
    let Some(Ok(document)) = documents.next() else {
        return Ok(Answer::Failed { reason: format!("ended without an answer: {status}"), thread_local: false });
    };
    let library = &document["libraries"][0];
    if library["ok"] == true {
        return Ok(match status.success() {
            true => Answer::Loaded,
            false => Answer::Failed { reason: format!("loaded, but ended with {status}"), thread_local: false },
        });
    }
    let error = &library["error"];
    let message = error["message"].as_str().unwrap_or_default();
    let needed_by = error["needed_by"].as_str().map(|user| format!(" (needed by {user})")).unwrap_or_default();
    Ok(Answer::Failed {
        reason: Escaped(format!("{message}{needed_by}").as_bytes()).to_string(),
        thread_local: error["kind"] == "ThreadLocal",
    })
}

/// The libraries by what became of them.
#[derive(Default)]
struct Report<'a> {
    of_dlopen: usize,
    of_both: usize,
    neither: usize,
    thread_local: Vec<(&'a Path, &'a str)>,
    failures: Vec<(&'a Path, &'a str)>,
    extra: Vec<(&'a Path, &'a str)>,
}

impl<'a> Report<'a> {
    fn of(compared: &'a [Compared]) -> Self {
        let mut report = Self::default();
        for Compared { library, dlopen, soload } in compared {
            match (dlopen, soload) {
                (Answer::Loaded, Answer::Loaded) => report.of_both += 1,
                (Answer::Loaded, Answer::Failed { reason, thread_local: true }) => {
                    report.thread_local.push((library, reason));
                }
                (Answer::Loaded, Answer::Failed { reason, .. }) => report.failures.push((library, reason)),
                (Answer::Failed { reason, .. }, Answer::Loaded) => report.extra.push((library, reason)),
                (Answer::Failed { .. }, Answer::Failed { .. }) => report.neither += 1,
            }
        }
        report.of_dlopen = report.of_both + report.thread_local.len() + report.failures.len();
        report
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { of_dlopen, of_both, neither, .. } = self;
        let style = if self.failures.is_empty() { GOOD } else { BAD };
        writeln!(out, "soload loads {style}{of_both} of {of_dlopen}{style:#} libraries that dlopen loads.")?;
        if *neither > 0 {
            writeln!(out, "Neither loads {neither} others.")?;
        }
        let lists = [
            ("wait for thread-local storage, which soload does not provide yet", WARN, &self.thread_local),
            ("fail", BAD, &self.failures),
            ("are loaded by soload, but not by dlopen, which says", WARN, &self.extra),
        ];
        for (what, style, list) in lists.into_iter().filter(|(.., list)| !list.is_empty()) {
            writeln!(out, "\n{style}{}{style:#} {what}:\n", list.len())?;
            for (library, reason) in list {
                writeln!(out, "  {BOLD}{}{BOLD:#}\n    {reason}", print::path(library))?;
            }
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let list = |list: &[(&Path, &str)]| -> Value {
            list.iter()
                .map(|(library, reason)| {
                    let mut object = Map::new();
                    print::put_path(&mut object, "library", library);
                    object.insert("reason".into(), (*reason).into());
                    Value::from(object)
                })
                .collect()
        };
        json!({
            "schema": 1,
            "command": "compare",
            "of_dlopen": self.of_dlopen,
            "of_both": self.of_both,
            "neither": self.neither,
            "thread_local": list(&self.thread_local),
            "failures": list(&self.failures),
            "extra": list(&self.extra),
        })
    }
}
