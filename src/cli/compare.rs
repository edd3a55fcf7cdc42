//! `soload compare`: which libraries dlopen loads and soload does not, each tried in a process of its own.
//!
//! JSON: `{"schema": 1, "command": "compare", "of_dlopen", "of_both", "failures": […], "thread_local": […], "extra": […],
//! "neither": […]}`: the numbers of libraries that dlopen loads and that both load; then those that only dlopen loads
//! (`thread_local`: for want of thread-local storage), that only soload loads, and that neither loads, each with
//! `library` and the reasons, `soload` and `dlopen` (`null`: loaded). A `library` that is not UTF-8 is lossy;
//! `library_bytes` has it in hexadecimal then.

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

use super::print::{self, BAD, BOLD, DIM, GOOD, WARN};
use super::{Loading, Outcome, Status};

/// Compare soload with dlopen: which libraries does each load?
///
/// Loads each library with dlopen(RTLD_NOW) and with soload, each time in a process of its own. Fails if soload refuses
/// what dlopen loads (thread-local storage apart), or loads what dlopen refuses.
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
    /// Also list the libraries that neither loads
    #[arg(short, long)]
    verbose: bool,
}

/// What a process that loads one library with one loader came to.
enum Answer {
    Loaded,
    Failed { reason: String, how: How },
}

/// How loading failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Refused,
    /// For want of thread-local storage.
    ThreadLocal,
    /// The process crashed, hung, or ended without an answer.
    Died,
}

/// What became of one library.
struct Compared {
    library: PathBuf,
    dlopen: Answer,
    soload: Answer,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let usual = [usual_directory()];
    let places = if args.places.is_empty() { &usual[..] } else { &args.places };
    let mut libraries = BTreeSet::new();
    for place in places {
        if let Err(error) = collect(place, args.recursive, &mut libraries) {
            print::complain(format_args!("{}: {error}", print::path(place)));
            return Ok(Status::Failed);
        }
    }
    if libraries.is_empty() {
        print::complain("no file whose name has .so in these directories");
        return Ok(Status::Failed);
    }
    let compared = match try_all(args, libraries.into_iter().collect()) {
        Ok(compared) => compared,
        Err(error) => {
            print::complain(format_args!("cannot start processes: {error}"));
            return Ok(Status::Failed);
        }
    };
    let report = Report { compared: &compared };
    if args.json {
        print::write_json(out, &report.json())?
    } else {
        report.write(out, args.verbose)?
    }
    Ok(if report.shows_a_fault() { Status::Failed } else { Status::Done })
}

/// Where the system has its libraries: by machine on Debian and its kin.
fn usual_directory() -> PathBuf {
    let by_machine = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let candidates = [by_machine.as_str(), "/usr/lib64", "/usr/lib"].map(Path::new);
    candidates.into_iter().find(|directory| directory.is_dir()).unwrap_or(candidates[0]).into()
}

/// The libraries that a place stands for. Each file is taken once, by the path without symbolic links.
fn collect(place: &Path, recursive: bool, libraries: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    // A name without a slash is for the loaders to find.
    let is_name = !place.as_os_str().as_encoded_bytes().contains(&b'/') && !place.exists();
    if is_name || !place.metadata()?.is_dir() {
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
                let time = print::plural(args.timeout as usize, "second");
                let reason = format!("did not end within {time}");
                return Ok(Answer::died(reason));
            }
        }
    };
    answer_of(status, &mut output)
}

fn answer_of(status: ExitStatus, output: &mut File) -> io::Result<Answer> {
    if let Some(number) = status.signal() {
        let name = Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string());
        return Ok(Answer::died(format!("crashed: {name}")));
    }
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    // The library's code may have printed something before, and again on its way out.
    let text = String::from_utf8_lossy(&bytes);
    let start = text.rfind(r#"{"command":"load""#).unwrap_or(text.len());
    let mut documents = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
    let Some(Ok(document)) = documents.next() else {
        return Ok(Answer::died(format!("ended without an answer: {status}")));
    };
    let library = &document["libraries"][0];
    if library["ok"] == true {
        return Ok(match status.success() {
            true => Answer::Loaded,
            false => Answer::died(format!("loaded, but ended with {status}")),
        });
    }
    let error = &library["error"];
    let message = error["message"].as_str().unwrap_or_default();
    let needed_by = error["needed_by"].as_str().map(|user| format!(" (needed by {user})")).unwrap_or_default();
    Ok(Answer::Failed {
        reason: Escaped(format!("{message}{needed_by}").as_bytes()).to_string(),
        how: if error["kind"] == "ThreadLocal" { How::ThreadLocal } else { How::Refused },
    })
}

impl Answer {
    fn died(reason: String) -> Self {
        Self::Failed { reason, how: How::Died }
    }
}

impl Compared {
    fn group(&self) -> Group {
        match (&self.dlopen, &self.soload) {
            (Answer::Loaded, Answer::Loaded) => Group::Both,
            (Answer::Loaded, Answer::Failed { how: How::ThreadLocal, .. }) => Group::ThreadLocal,
            (Answer::Loaded, Answer::Failed { .. }) => Group::Failure,
            (Answer::Failed { .. }, Answer::Loaded) => Group::Extra,
            (Answer::Failed { .. }, Answer::Failed { .. }) => Group::Neither,
        }
    }
}

/// The libraries by what became of them.
struct Report<'a> {
    compared: &'a [Compared],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Both,
    ThreadLocal,
    Failure,
    Extra,
    Neither,
}

impl<'a> Report<'a> {
    fn of(&self, group: Group) -> impl Iterator<Item = &'a Compared> {
        self.compared.iter().filter(move |compared| compared.group() == group)
    }

    fn count(&self, group: Group) -> usize {
        self.of(group).count()
    }

    fn of_dlopen(&self) -> usize {
        self.compared.len() - self.count(Group::Extra) - self.count(Group::Neither)
    }

    /// Whether the loaders judge a library differently. Where dlopen crashes, there is nothing to be like.
    fn shows_a_fault(&self) -> bool {
        let refused = |compared: &Compared| matches!(compared.dlopen, Answer::Failed { how: How::Refused, .. });
        self.count(Group::Failure) > 0 || self.of(Group::Extra).any(refused)
    }

    fn write(&self, out: &mut impl Write, verbose: bool) -> io::Result<()> {
        let style = if self.count(Group::Failure) == 0 { GOOD } else { BAD };
        let (both, all) = (self.count(Group::Both), self.of_dlopen());
        writeln!(out, "soload loads {style}{both} of {all}{style:#} libraries that dlopen loads.")?;
        let lists = [
            (Group::ThreadLocal, WARN, "fail for want of thread-local storage"),
            (Group::Failure, BAD, "fail"),
            (Group::Extra, WARN, "more are loaded by soload, but not by dlopen"),
            (Group::Neither, DIM, "more are loaded by neither"),
        ];
        for (group, style, what) in lists {
            let count = self.count(group);
            if count == 0 {
                continue;
            }
            if group == Group::Neither && !verbose {
                writeln!(out, "\n{style}{count}{style:#} {what}; --verbose lists them.")?;
                continue;
            }
            writeln!(out, "\n{style}{count}{style:#} {what}:\n")?;
            for Compared { library, dlopen, soload } in self.of(group) {
                writeln!(out, "  {BOLD}{}{BOLD:#}", print::path(library))?;
                for (loader, answer) in [("soload", soload), ("dlopen", dlopen)] {
                    if let Answer::Failed { reason, .. } = answer {
                        writeln!(out, "    {DIM}{loader}{DIM:#}  {reason}")?;
                    }
                }
            }
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let reason = |answer: &Answer| match answer {
            Answer::Loaded => Value::Null,
            Answer::Failed { reason, .. } => reason.as_str().into(),
        };
        let list = |group| -> Value {
            let entry = |compared: &Compared| {
                let mut object = Map::new();
                print::put_path(&mut object, "library", &compared.library);
                object.insert("soload".into(), reason(&compared.soload));
                object.insert("dlopen".into(), reason(&compared.dlopen));
                Value::from(object)
            };
            self.of(group).map(entry).collect()
        };
        json!({
            "schema": 1,
            "command": "compare",
            "of_dlopen": self.of_dlopen(),
            "of_both": self.count(Group::Both),
            "failures": list(Group::Failure),
            "thread_local": list(Group::ThreadLocal),
            "extra": list(Group::Extra),
            "neither": list(Group::Neither),
        })
    }
}
