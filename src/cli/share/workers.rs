//! Processes that load a library and hold it until they are let go.

use std::ffi::{CString, OsStr};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use soload::Library;

use super::name;
use crate::cli::dlopen::HostLibrary;
use crate::cli::load::With;
use crate::cli::{Loading, Outcome, Status, print};

/// What a worker says when it has loaded the library, whatever the library itself may print.
const READY: &str = "soload: the library is loaded";

/// They end when this is dropped.
pub(in crate::cli) struct Workers(Vec<Child>);

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
        let mut workers = Self(Vec::new());
        for _ in 0..count {
            let mut worker = Command::new(&command);
            worker.args(["share", "--hold", "--with", name(with)]).args(loading.typed());
            if let Some(symbol) = call {
                worker.args(["--call", symbol]);
            }
            worker.arg("--").arg(library).stdin(Stdio::piped()).stdout(Stdio::piped());
            workers.0.push(worker.spawn()?);
        }
        for worker in &mut workers.0 {
            let output = worker.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            let mut lines = BufReader::new(output).split(b'\n');
            if !lines.any(|line| line.is_ok_and(|line| line.ends_with(READY.as_bytes()))) {
                return Err(io::Error::other("a process could not load the library"));
            }
        }
        Ok(workers)
    }

    pub(in crate::cli) fn pids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
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
    if let Err(reason) = held {
        print::complain(reason);
        return Ok(Status::Failed);
    }
    writeln!(out, "{READY}")?;
    out.flush()?;
    let _ = io::stdin().lock().read(&mut [0]);
    std::process::exit(0)
}

fn by_soload(library: &OsStr, call: Option<&str>, loading: &Loading) -> Result<(), String> {
    // SAFETY: whoever names a library on the command line vouches for its code.
    let library = unsafe { loading.options().open(library) }.map_err(|error| error.to_string())?;
    if let Some(symbol) = call {
        // SAFETY: as above; the help says that it is called without arguments.
        let function = unsafe { library.get::<extern "C" fn()>(symbol) }.map_err(|error| error.to_string())?;
        function();
    }
    std::mem::forget::<Library>(library);
    Ok(())
}

fn by_dlopen(library: &OsStr, call: Option<&str>) -> Result<(), String> {
    // SAFETY: as for soload.
    let library = unsafe { HostLibrary::open(library) }?;
    if let Some(symbol) = call {
        let name = CString::new(symbol).map_err(|error| error.to_string())?;
        let address = library.address(&name).ok_or_else(|| format!("{symbol}: no such symbol"))?;
        // SAFETY: as for soload; `dlsym` found the address.
        let function: extern "C" fn() = unsafe { std::mem::transmute(address) };
        function();
    }
    std::mem::forget(library);
    Ok(())
}
