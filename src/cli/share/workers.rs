//! Processes that load a library and hold it until they are let go.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::ForkResult;
use serde_json::{Value, json};
use soload::{Addr, Bias, Library, Snapshot, SnapshotUse, Vaddr};

use super::{How, name};
use crate::cli::dlopen::HostLibrary;
use crate::cli::{Loading, Outcome, Status, memory, print};

/// What a worker says when it has loaded the library, whatever the library itself may print.
const READY: &str = "soload: the library is loaded ";

/// They end when this is dropped.
pub(in crate::cli) struct Workers {
    processes: Vec<Child>,
    /// Forks of the only process, if they are what is looked at.
    forks: Vec<u32>,
    /// What they were handed over.
    pub(super) snapshot: Option<Snapshot>,
    /// What the first of them saw while it loaded the library.
    pub(in crate::cli) marks: Marks,
}

/// The pages of a library that were copies at two moments.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Marks {
    /// After relocation and before constructors; `dlopen` has no such moment.
    pub(in crate::cli) relocated: Option<BTreeSet<Vaddr>>,
    /// After constructors.
    pub(in crate::cli) constructed: BTreeSet<Vaddr>,
}

impl Marks {
    fn json(&self) -> Value {
        let list = |pages: &BTreeSet<Vaddr>| pages.iter().map(|page| page.0).collect::<Vec<_>>();
        json!({"relocated": self.relocated.as_ref().map(list), "constructed": list(&self.constructed)})
    }

    fn of_json(document: &Value) -> Self {
        let pages = |list: &Value| Some(list.as_array()?.iter().filter_map(|page| page.as_u64().map(Vaddr)).collect());
        Self {
            relocated: pages(&document["relocated"]),
            constructed: pages(&document["constructed"]).unwrap_or_default(),
        }
    }
}

impl Workers {
    /// Starts them, and waits until each has loaded the library.
    pub(in crate::cli) fn start(
        count: u16,
        how: impl Into<How>,
        library: &OsStr,
        call: Option<&str>,
        loading: &Loading,
    ) -> io::Result<Self> {
        let how = how.into();
        let snapshot = match how {
            How::Snapshot => Some(handed_over(library, loading)?),
            How::Soload | How::Dlopen | How::Fork => None,
        };
        // Those that are forked are the workers; the one that forks is none.
        let (count, forks) = if how == How::Fork { (1, count) } else { (count, 0) };
        let command = std::env::current_exe()?;
        let mut workers = Self { processes: Vec::new(), forks: Vec::new(), snapshot, marks: Marks::default() };
        for _ in 0..count {
            let mut worker = Command::new(&command);
            worker.args(["share", "--hold", "--with", name(how)]).args(loading.typed());
            worker.args(["--forks", &forks.to_string()]);
            if let Some(snapshot) = &workers.snapshot {
                worker.args(["--snapshot-fd", &snapshot.as_fd().as_raw_fd().to_string()]);
            }
            if let Some(symbol) = call {
                worker.args(["--call", symbol]);
            }
            worker.arg("--").arg(library).stdin(Stdio::piped()).stdout(Stdio::piped());
            workers.processes.push(worker.spawn()?);
        }
        let mut marks = Vec::new();
        let progress = io::stderr().is_terminal() && count > 8;
        for (index, worker) in workers.processes.iter_mut().enumerate() {
            if progress {
                let _ = write!(io::stderr(), "\r{index} of {count} ");
            }
            let output = worker.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
            // The library may have printed something without ending its line.
            let mut answers = lines.filter_map(|line| {
                let text = String::from_utf8_lossy(&line).into_owned();
                Some(text[text.rfind(READY)? + READY.len()..].to_owned())
            });
            let answer = answers.next().ok_or_else(|| io::Error::other("a process could not load the library"))?;
            let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
            let forks = answer["forks"].as_array().into_iter().flatten();
            workers.forks.extend(forks.filter_map(|id| u32::try_from(id.as_u64()?).ok()));
            marks.push(Marks::of_json(&answer));
        }
        if progress {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        workers.marks = marks.into_iter().next().unwrap_or_default();
        Ok(workers)
    }

    pub(in crate::cli) fn pids(&self) -> Vec<u32> {
        match &self.forks[..] {
            [] => self.processes.iter().map(Child::id).collect(),
            forks => forks.to_vec(),
        }
    }
}

/// A snapshot of the library, which processes started from here on inherit.
fn handed_over(library: &OsStr, loading: &Loading) -> io::Result<Snapshot> {
    let snapshot = loading.options().create_snapshot(library).map_err(|error| io::Error::other(error.to_string()))?;
    fcntl(&snapshot, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(snapshot)
}

/// The snapshot that this process has inherited as number `fd`.
fn inherited(fd: i32) -> Result<Snapshot, String> {
    // Opened anew: the number itself is not ours to close.
    let file = File::open(format!("/proc/self/fd/{fd}")).map_err(|error| error.to_string())?;
    Snapshot::from_fd(file.into()).map_err(|error| error.to_string())
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.processes {
            // The end of its input lets it go; it may be in a loop of the library's, which ends nothing.
            worker.stdin.take();
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// What a worker is told.
pub(in crate::cli) struct Job<'a> {
    pub(super) how: How,
    /// The number by which it has inherited a snapshot.
    pub(super) snapshot: Option<i32>,
    /// How many forks of it shall hold the library instead.
    pub(super) forks: u16,
    /// A function to be called.
    pub(super) call: Option<&'a str>,
}

/// What a worker does: loads the library, calls a function of it, says so, and waits for the end of its input.
pub(in crate::cli) fn hold(library: &OsStr, job: &Job<'_>, loading: &Loading, out: &mut impl Write) -> Outcome {
    let held = match (job.how, job.snapshot) {
        (How::Dlopen, _) => by_dlopen(library, job.call).map(|marks| (marks, Vec::new())),
        (How::Fork, _) => by_fork(library, job, loading),
        (How::Soload | How::Snapshot, None) => {
            by_soload(library, None, job.call, loading).map(|marks| (marks, Vec::new()))
        }
        (How::Soload | How::Snapshot, Some(fd)) => inherited(fd)
            .and_then(|snapshot| by_soload(library, Some(&snapshot), job.call, loading))
            .map(|marks| (marks, Vec::new())),
    };
    let (marks, forks) = match held {
        Ok(held) => held,
        Err(reason) => {
            print::complain(reason);
            return Ok(Status::Failed);
        }
    };
    let mut answer = marks.json();
    answer["forks"] = json!(forks);
    writeln!(out, "{READY}{answer}")?;
    out.flush()?;
    let _ = io::stdin().lock().read(&mut [0]);
    std::process::exit(0)
}

/// Has forks of this process call the function and hold the library, until it ends.
fn by_fork(library: &OsStr, job: &Job<'_>, loading: &Loading) -> Result<(Marks, Vec<i32>), String> {
    let marks = by_soload(library, None, None, loading)?;
    let mut forks = Vec::new();
    for _ in 0..job.forks {
        let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        if threads != 1 {
            return Err(format!("expected a process of one thread, found {threads}: a fork has only one of them"));
        }
        let (mut ready, told) = io::pipe().map_err(|error| error.to_string())?;
        // SAFETY: there is no other thread.
        match unsafe { nix::unistd::fork() }.map_err(|errno| errno.desc().to_owned())? {
            ForkResult::Parent { child } => {
                drop(told);
                forks.push(child.as_raw());
                ready.read_exact(&mut [0]).map_err(|_| "a fork could not call the function".to_owned())?;
            }
            ForkResult::Child => {
                let _ = set_pdeathsig(Signal::SIGKILL);
                let called = match job.call {
                    Some(_) => by_soload(library, None, job.call, loading).map(drop),
                    None => Ok(()),
                };
                match called.and_then(|()| (&told).write_all(b".").map_err(|error| error.to_string())) {
                    Ok(()) => drop(io::stdin().lock().read(&mut [0])),
                    Err(reason) => print::complain(reason),
                }
                // SAFETY: ends the process.
                unsafe { libc::_exit(0) }
            }
        }
    }
    Ok((marks, forks))
}

fn by_soload(
    library: &OsStr,
    snapshot: Option<&Snapshot>,
    call: Option<&str>,
    loading: &Loading,
) -> Result<Marks, String> {
    type Copied = (PathBuf, BTreeSet<Vaddr>);
    let seen: Arc<Mutex<Vec<Copied>>> = Arc::default();
    let notes = Arc::clone(&seen);
    let mut options = loading.options();
    match snapshot {
        Some(snapshot) => _ = options.snapshot(snapshot),
        // What is shown beside that is a load without, whatever the environment says.
        None if loading.snapshots.is_none() => _ = options.private(true),
        None => {}
    }
    options.before_constructors(move |path, bias| {
        if let (Ok(mut notes), Ok(pages)) = (notes.lock(), memory::copied_pages(path, bias, |_| true)) {
            notes.push((path.to_owned(), pages));
        }
    });
    // SAFETY: whoever names a library on the command line vouches for its code.
    let library = unsafe { options.open(library) }.map_err(|error| error.to_string())?;
    if let SnapshotUse::Refused(refusal) = library.snapshot() {
        return Err(refusal.to_string());
    }
    let bias = library.bias().unwrap_or_default();
    let constructed = memory::copied_pages(library.path(), bias, |_| true).unwrap_or_default();
    let mut seen = seen.lock().map_err(|error| error.to_string())?;
    let own = seen.iter().position(|(path, _)| path == library.path());
    let marks = Marks { relocated: own.map(|own| seen.swap_remove(own).1), constructed };
    if let Some(symbol) = call {
        // SAFETY: as above; the help says that it is called without arguments.
        let function = unsafe { library.get::<extern "C" fn()>(symbol) }.map_err(|error| error.to_string())?;
        function();
    }
    std::mem::forget::<Library>(library);
    Ok(marks)
}

fn by_dlopen(library: &OsStr, call: Option<&str>) -> Result<Marks, String> {
    // SAFETY: as for soload.
    let library = unsafe { HostLibrary::open(library) }?;
    let bias = Bias::between(Addr(library.bias()), Vaddr(0));
    let constructed = library.path().and_then(|path| memory::copied_pages(&path, bias, |_| true).ok());
    let marks = Marks { relocated: None, constructed: constructed.unwrap_or_default() };
    if let Some(symbol) = call {
        let name = CString::new(symbol).map_err(|error| error.to_string())?;
        let address = library.address(&name).ok_or_else(|| format!("{symbol}: no such symbol"))?;
        // SAFETY: as for soload; `dlsym` found the address.
        let function: extern "C" fn() = unsafe { std::mem::transmute(address) };
        function();
    }
    std::mem::forget(library);
    Ok(marks)
}
