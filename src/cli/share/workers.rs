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
            How::Soload | How::Dlopen => None,
        };
        let command = std::env::current_exe()?;
        let mut workers = Self { processes: Vec::new(), snapshot, marks: Marks::default() };
        for _ in 0..count {
            let mut worker = Command::new(&command);
            worker.args(["share", "--hold", "--with", name(how)]).args(loading.typed());
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
            marks.push(Marks::of_json(&serde_json::from_str(&answer).unwrap_or_default()));
        }
        if progress {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        workers.marks = marks.into_iter().next().unwrap_or_default();
        Ok(workers)
    }

    pub(in crate::cli) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Child::id).collect()
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

/// What a worker does: loads the library, calls a function of it, says so, and waits for the end of its input.
pub(in crate::cli) fn hold(
    library: &OsStr,
    how: How,
    snapshot: Option<i32>,
    call: Option<&str>,
    loading: &Loading,
    out: &mut impl Write,
) -> Outcome {
    let held = match (how, snapshot) {
        (How::Dlopen, _) => by_dlopen(library, call),
        (How::Soload | How::Snapshot, None) => by_soload(library, None, call, loading),
        (How::Soload | How::Snapshot, Some(fd)) => {
            inherited(fd).and_then(|snapshot| by_soload(library, Some(&snapshot), call, loading))
        }
    };
    let marks = match held {
        Ok(marks) => marks,
        Err(reason) => {
            print::complain(reason);
            return Ok(Status::Failed);
        }
    };
    writeln!(out, "{READY}{}", marks.json())?;
    out.flush()?;
    let _ = io::stdin().lock().read(&mut [0]);
    std::process::exit(0)
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
    if let Some(snapshot) = snapshot {
        options.snapshot(snapshot);
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
