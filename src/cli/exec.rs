//! `soload exec`: runs a program with the drop-in in front of the C library's `dlopen`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use soload::Escaped;

use super::print;
use super::{Outcome, Status};

const DROP_IN: &str = "libsoload_dl.so";
/// What AddressSanitizer goes by.
const SANITIZER: &str = "ASAN_OPTIONS";

/// Run a program whose dlopen is soload
///
/// Puts libsoload_dl.so into LD_PRELOAD, after what is there, and becomes the program: the exit code is the program's,
/// or 127 if it cannot be run. Programs built with AddressSanitizer are told by ASAN_OPTIONS that they need not be first. The drop-in is looked for beside this command and in ../lib, unless SOLOAD_DL says where
/// it is.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print a line for each library that the program opens (sets SOLOAD_LOG=trace)
    #[arg(long)]
    trace: bool,
    /// Share relocated pages through the snapshots in DIR, or in the directory of this login session (sets SOLOAD_SNAPSHOTS)
    #[arg(
        long,
        value_name = "DIR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = super::directory_or_default()
    )]
    snapshots: Option<PathBuf>,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let [program, arguments @ ..] = &args.program[..] else { return Ok(Status::Usage) };
    let preload = match drop_in().and_then(|path| preload(&path)) {
        Ok(preload) => preload,
        Err(problem) => {
            print::complain(problem);
            return Ok(Status::NotRun);
        }
    };
    let mut command = Command::new(program);
    command.args(arguments).env("LD_PRELOAD", preload).env(SANITIZER, sanitizer());
    if args.trace {
        command.env("SOLOAD_LOG", "trace");
    }
    if let Some(named) = &args.snapshots {
        match super::snapshot::directory(Some(named)) {
            // The program may change its directory.
            Ok(directory) => command.env("SOLOAD_SNAPSHOTS", std::path::absolute(&directory).unwrap_or(directory)),
            Err(problem) => {
                print::complain(problem);
                return Ok(Status::NotRun);
            }
        };
    }
    let error = command.exec();
    let why = match error.kind() {
        io::ErrorKind::NotFound if program.as_bytes().contains(&b'/') => {
            "no such file, or its interpreter is missing".into()
        }
        io::ErrorKind::NotFound => "not found in PATH".to_owned(),
        _ => error.to_string(),
    };
    print::complain(format_args!("{}: cannot be run: {why}", Escaped(program.as_bytes())));
    Ok(Status::NotRun)
}

/// Where the drop-in is.
fn drop_in() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("SOLOAD_DL").filter(|path| !path.is_empty()) {
        // The program may change its directory before it starts others.
        let path = std::path::absolute(&path).unwrap_or_else(|_| path.into());
        return match path.is_file() {
            true => Ok(path),
            false => Err(format!("{}: no such file: SOLOAD_DL must be the path of {DROP_IN}", print::path(&path))),
        };
    }
    let command = env::current_exe().map_err(|error| format!("cannot find where this command is: {error}"))?;
    let folder = command.parent().unwrap_or(Path::new("/"));
    let places = [folder.join(DROP_IN), folder.join("../lib").join(DROP_IN)];
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        format!(
            "{DROP_IN} is neither in {folder} nor in {folder}/../lib: build it with `cargo build -p soload_dl`, or set \
             SOLOAD_DL to its path",
            folder = print::path(folder)
        )
    })
}

/// The sanitizer's options with one more: it would otherwise refuse to run behind something that is preloaded. What was
/// set already comes last, so that it counts.
fn sanitizer() -> OsString {
    let mut options = OsString::from("verify_asan_link_order=0");
    if let Some(set) = env::var_os(SANITIZER).filter(|set| !set.is_empty()) {
        options.push(":");
        options.push(set);
    }
    options
}

/// `LD_PRELOAD` with the drop-in behind what is there: some libraries insist on being first.
fn preload(drop_in: &Path) -> Result<OsString, String> {
    let drop_in = drop_in.as_os_str();
    if drop_in.as_bytes().iter().any(|byte| b" :".contains(byte)) {
        let path = Escaped(drop_in.as_bytes());
        return Err(format!("{path}: LD_PRELOAD cannot name a path with a space or a colon: set SOLOAD_DL to another"));
    }
    let mut preload = env::var_os("LD_PRELOAD").unwrap_or_default();
    if !preload.as_bytes().split(|byte| b" :".contains(byte)).any(|path| OsStr::from_bytes(path) == drop_in) {
        if !preload.is_empty() {
            preload.push(":");
        }
        preload.push(drop_in);
    }
    Ok(preload)
}
