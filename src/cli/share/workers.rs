//! Processes that load a library and hold it until they are let go.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use soload::{Addr, Bias, Library, Vaddr};

use super::name;
use crate::cli::dlopen::HostLibrary;
use crate::cli::load::With;
use crate::cli::{Loading, Outcome, Status, memory, print};

/// What a worker says when it has loaded the library, whatever the library itself may print.
const READY: &str = "soload: the library is loaded ";

/// They end when this is dropped.
pub(in crate::cli) struct Workers {
    processes: Vec<Child>,
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
        with: With,
        library: &OsStr,
        call: Option<&str>,
        loading: &Loading,
    ) -> io::Result<Self> {
        let command = std::env::current_exe()?;
        let mut workers = Self { processes: Vec::new(), marks: Marks::default() };
        for _ in 0..count {
            let mut worker = Command::new(&command);
            worker.args(["share", "--hold", "--with", name(with)]).args(loading.typed());
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
    with: With,
    call: Option<&str>,
    loading: &Loading,
    out: &mut impl Write,
) -> Outcome {
    let held = match with {
        With::Soload => by_soload(library, call, loading),
        With::Dlopen => by_dlopen(library, call),
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

fn by_soload(library: &OsStr, call: Option<&str>, loading: &Loading) -> Result<Marks, String> {
    type Copied = (PathBuf, BTreeSet<Vaddr>);
    let seen: Arc<Mutex<Vec<Copied>>> = Arc::default();
    let notes = Arc::clone(&seen);
    let mut options = loading.options();
    options.before_constructors(move |path, bias| {
        if let (Ok(mut notes), Ok(pages)) = (notes.lock(), memory::copied_pages(path, bias, |_| true)) {
            notes.push((path.to_owned(), pages));
        }
    });
    // SAFETY: whoever names a library on the command line vouches for its code.
    let library = unsafe { options.open(library) }.map_err(|error| error.to_string())?;
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
