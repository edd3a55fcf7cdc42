//! `soload ask`: has a worker of `soload serve` call a function.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use soload::{Server, Snapshots};

use super::call::{Type, Value};
use super::print;
use super::{Outcome, Status};

/// Have a worker of `soload serve` call a function
///
/// The worker is a fork of the server, with its libraries loaded, and this command's standard input, output, error and
/// directory. With --main the exit code is what the function returns; a worker that was killed gives 128 and the signal's
/// number.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where the server listens [default: soload.sock in $XDG_RUNTIME_DIR or /run/user/UID]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    asked: Asked,
}

// What the server is sent: it reads it as it was typed. (No documentation: it would become that of the command.)
#[derive(clap::Parser)]
pub(super) struct Asked {
    /// Call it as `int main(int argc, char **argv)`, with arguments as they are
    #[arg(long)]
    pub(super) main: bool,
    /// The type of the result; i32 is C's int
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Type::I32, conflicts_with = "main")]
    pub(super) ret: Type,
    /// The version of the function that is meant, of several
    #[arg(long, value_name = "VERSION")]
    pub(super) symbol_version: Option<OsString>,
    /// The function, of the first library that has it
    #[arg(value_name = "SYMBOL")]
    pub(super) symbol: OsString,
    /// Arguments as TYPE:VALUE (see `soload call --help`); with --main as they are, after -- if they begin with a hyphen
    #[arg(value_name = "ARG")]
    pub(super) arguments: Vec<OsString>,
}

impl Asked {
    /// The arguments as values, where they are.
    pub(super) fn values(&self) -> Result<Vec<Value>, String> {
        let value = |typed: &OsString| {
            Value::parse(typed).map_err(|why| format!("{}: {why}", soload::Escaped(typed.as_encoded_bytes())))
        };
        self.arguments.iter().map(value).collect()
    }

    /// The same, as it is typed.
    fn typed(&self) -> Vec<OsString> {
        let mut typed = vec!["ask".into()];
        match self.main {
            true => typed.push("--main".into()),
            false => typed.push(format!("--ret={}", self.ret).into()),
        }
        if let Some(version) = &self.symbol_version {
            typed.extend(["--symbol-version".into(), version.clone()]);
        }
        typed.extend(["--".into(), self.symbol.clone()]);
        typed.extend(self.arguments.iter().cloned());
        typed
    }
}

/// Where the server listens.
pub(super) fn socket(named: Option<&Path>) -> Result<PathBuf, String> {
    let usual = || Some(Snapshots::default_directory()?.with_file_name("soload.sock"));
    named.map(Path::to_owned).or_else(usual).ok_or_else(|| {
        "there is no directory for this login session (XDG_RUNTIME_DIR is not set): name a socket of your own with --socket"
            .into()
    })
}

pub(super) fn run(args: &Args) -> Outcome {
    let checked = if args.asked.main { Ok(()) } else { args.asked.values().map(drop) };
    if let Err(problem) = checked {
        print::complain(problem);
        return Ok(Status::Usage);
    }
    let socket = match socket(args.socket.as_deref()) {
        Ok(socket) => socket,
        Err(problem) => {
            print::complain(problem);
            return Ok(Status::Failed);
        }
    };
    let status = match Server::request(&socket, &args.asked.typed()) {
        Ok(status) => status,
        Err(error) => {
            print::complain_of(&error);
            return Ok(Status::Failed);
        }
    };
    if let Some(number) = status.signal() {
        let name = Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string());
        print::complain(format_args!("the worker was ended by {name}"));
        return Ok(Status::Exit((128 + number).clamp(129, 255) as u8));
    }
    Ok(Status::Exit(status.code().unwrap_or(1) as u8))
}
