//! `soload serve`: opens libraries once, and forks a worker for each request of `soload ask`.

use std::ffi::{CString, OsString};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use soload::{Error, Escaped, Library, Server};

use super::ask::{self, Asked};
use super::call::{self, Type, Value};
use super::print;
use super::{Loading, Outcome, Status};

/// Open libraries once, and fork a worker for each `soload ask`
///
/// Constructors run once, here; each worker finds the libraries as they are then, and shares all their pages until it writes
/// to them. Ends on SIGTERM, SIGINT and SIGHUP, and its workers with it. Only processes of the same user are served. A library
/// whose constructors start threads cannot be served: a fork has only one of them.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Libraries: paths, or names that are searched for as dlopen does
    #[arg(value_name = "LIB", required = true)]
    libraries: Vec<OsString>,
    /// Where to listen [default: soload.sock in $XDG_RUNTIME_DIR or /run/user/UID]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How many workers there may be at once; further requests wait
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    workers: u16,
    /// Seconds after which a worker is killed [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
    #[command(flatten)]
    loading: Loading,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let begun = Instant::now();
    // SAFETY: whoever names a library on the command line vouches for its code.
    let opened = args.libraries.iter().map(|name| unsafe { args.loading.options().open(name) });
    let libraries = match opened.collect::<Result<Vec<Library>, Error>>() {
        Ok(libraries) => libraries,
        Err(error) => {
            print::complain_of(&error);
            return Ok(Status::Failed);
        }
    };
    let took = begun.elapsed();
    let socket = match ask::socket(args.socket.as_deref()) {
        Ok(socket) => socket,
        Err(problem) => {
            print::complain(problem);
            return Ok(Status::Failed);
        }
    };
    let served = Server::bind(socket).map(|mut server| {
        server.workers(args.workers.into());
        if let Some(seconds) = args.timeout {
            server.time(Duration::from_secs(seconds.into()));
        }
        server
    });
    let mut server = match served {
        Ok(server) => server,
        Err(error) => {
            print::complain_of(&error);
            return Ok(Status::Failed);
        }
    };
    server.until(ending_signals()?.as_fd().try_clone_to_owned()?);
    let count = print::plural(libraries.len(), "library").replace("librarys", "libraries");
    writeln!(out, "{count} opened in {}, listening at {}", print::milliseconds(took), print::path(server.path()))?;
    out.flush()?;
    match server.run(|arguments| work(&libraries, arguments)) {
        Ok(()) => Ok(Status::Done),
        Err(error) => {
            print::complain_of(&error);
            // A thread that one of them has started may be in its code until the process has ended.
            std::mem::forget(libraries);
            Ok(Status::Failed)
        }
    }
}

/// What the server ends by; it gets them by reading, so that it ends in order.
fn ending_signals() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// A worker: does what was asked, and says what to exit with.
fn work(libraries: &[Library], arguments: &[OsString]) -> u8 {
    // The server's signals are its own.
    let _ = SigSet::all().thread_unblock();
    match answer(libraries, arguments) {
        Ok(code) => code,
        Err(Some(problem)) => {
            print::complain(problem);
            1
        }
        Err(None) => 1,
    }
}

/// The exit code; `None` if what is wrong has been said.
fn answer(libraries: &[Library], arguments: &[OsString]) -> Result<u8, Option<String>> {
    let asked = Asked::try_parse_from(arguments)
        .map_err(|error| Some(Escaped(error.kind().to_string().as_bytes()).to_string()))?;
    let mut refused = None;
    let mut find = |library| match call::find(library, &asked.symbol, asked.symbol_version.as_deref()) {
        Ok(address) => Some((library, address)),
        Err(error) => {
            refused.get_or_insert(error);
            None
        }
    };
    let Some((library, address)) = libraries.iter().find_map(&mut find) else {
        if let Some(error) = refused {
            print::complain_of(&error);
        }
        return Err(None);
    };
    if let Some(what) = call::no_function(library, &asked.symbol, address) {
        return Err(Some(format!("{}: expected a function, found {what}", Escaped(asked.symbol.as_bytes()))));
    }
    if asked.main {
        let texts = [&asked.symbol].into_iter().chain(&asked.arguments).map(|text| CString::new(text.as_bytes()));
        let texts = texts.collect::<Result<Vec<_>, _>>().map_err(|error| Some(error.to_string()))?;
        let mut pointers: Vec<_> = texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        let values = [Value::I32(texts.len() as i32), Value::Ptr(pointers.as_mut_ptr().expose_provenance())];
        // SAFETY: whoever asks vouches for the type, and is the user whose server it is.
        return match unsafe { call::call(address, &values, Type::I32) } {
            Value::I32(code) => Ok(code as u8),
            _ => Ok(0),
        };
    }
    let values = asked.values().map_err(Some)?;
    // SAFETY: as above.
    match unsafe { call::call(address, &values, asked.ret) } {
        Value::Void => Ok(0),
        answer => match writeln!(io::stdout(), "{answer}").and_then(|()| io::stdout().flush()) {
            Ok(()) => Ok(0),
            Err(error) => Err(Some(format!("cannot write the output: {error}"))),
        },
    }
}
