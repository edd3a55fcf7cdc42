//! The command line: one file for each subcommand, and how the command ends.

mod ask;
mod bench;
#[allow(unsafe_code)] // calls functions by the types that were typed
mod call;
mod children;
mod compare;
#[allow(unsafe_code)] // loads and calls the plugin whose source is test-libs/demo.c
mod demo;
#[allow(unsafe_code)] // the C functions of <dlfcn.h>
mod dlopen;
mod doctor;
mod exec;
mod forecast;
mod inspect;
mod ldd;
#[allow(unsafe_code)] // loads libraries, and so runs their constructors
mod load;
mod manual;
mod memory;
mod pages;
mod print;
mod prove;
#[allow(unsafe_code)] // loads libraries, and calls their functions in forks
mod serve;
mod share;
mod snapshot;
#[allow(unsafe_code)] // stops another process and has it make system calls
mod trace;
mod warm;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::TypedValueParser;
use clap::{CommandFactory, Parser, Subcommand};

/// Loads ELF shared objects into a running process without dlopen, and shows what happens.
#[derive(Parser)]
#[command(name = "soload", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 a library could not be loaded, called or read, 2 wrong usage.\n\
    NO_COLOR and CLICOLOR_FORCE are honoured.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Load(load::Args),
    Call(call::Args),
    Inspect(inspect::Args),
    Ldd(Box<ldd::Args>),
    Why(ldd::why::Args),
    Compare(compare::Args),
    Bench(bench::Args),
    Exec(exec::Args),
    Forecast(forecast::Args),
    Share(share::Args),
    Snapshot(snapshot::Args),
    Serve(serve::Args),
    Ask(ask::Args),
    Pages(pages::Args),
    Trace(trace::Args),
    Warm(warm::Args),
    Prove(prove::Args),
    Doctor(doctor::Args),
    Completions(manual::Completions),
    Man(manual::Man),
}

/// How a subcommand ends once it has said everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Done,
    /// A library could not be loaded, called or read.
    Failed,
    Usage,
    /// `exec` could not run the program.
    NotRun,
    /// What a worker has exited with.
    Exit(u8),
}

/// The error is that of writing to standard output; all others have been printed.
type Outcome = io::Result<Status>;

/// Where and how libraries are loaded.
#[derive(clap::Args, Clone, Debug, Default)]
struct Loading {
    /// Look in DIR before every other place, for the library and for all it needs (may be repeated)
    #[arg(long, value_name = "DIR")]
    search_dir: Vec<PathBuf>,
    /// Load libraries with segments that are writable and executable at once
    #[arg(long)]
    allow_wx: bool,
    /// Load libraries that ask for an executable stack (the stack stays as it is)
    #[arg(long)]
    allow_exec_stack: bool,
    /// Map code in pages of 2 MiB, where the file system gives them
    #[arg(long)]
    huge_pages: bool,
    /// Keep loaded code as it is, should somebody overwrite a file in place
    #[arg(long, value_enum, value_name = "HOW")]
    guard: Option<GuardBy>,
    /// Share relocated pages through the snapshots in DIR, or in the directory of this login session
    #[arg(
        long,
        value_name = "DIR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = directory_or_default(),
        conflicts_with = "private"
    )]
    snapshots: Option<PathBuf>,
    /// Share no relocated pages, whatever SOLOAD_SNAPSHOTS says: addresses are random in each process
    #[arg(long)]
    private: bool,
}

/// Reads what stands behind `--snapshots`: a directory, or nothing for the default. The parser of paths takes no empty one.
fn directory_or_default() -> impl TypedValueParser<Value = PathBuf> {
    clap::builder::OsStringValueParser::new().map(PathBuf::from)
}

/// What keeps loaded code as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum GuardBy {
    /// Writers wait until all pages are private
    Lease,
    /// A copy of the file in memory is loaded
    Snapshot,
}

impl Loading {
    fn options(&self) -> soload::OpenOptions {
        let mut options = soload::OpenOptions::new();
        options.allow_writable_executable(self.allow_wx).allow_executable_stack(self.allow_exec_stack);
        options.huge_pages(self.huge_pages).guard(match self.guard {
            None => soload::Guard::Nothing,
            Some(GuardBy::Lease) => soload::Guard::Lease,
            Some(GuardBy::Snapshot) => soload::Guard::Snapshot,
        });
        for directory in &self.search_dir {
            options.search_dir(directory);
        }
        if let Some(directory) = &self.snapshots {
            options.snapshots(snapshot::directory(Some(directory)).unwrap_or_default());
        }
        if self.private {
            options.private(true);
        }
        options
    }

    /// The same, as it is typed.
    fn typed(&self) -> impl Iterator<Item = OsString> {
        let directories = self.search_dir.iter().flat_map(|directory| ["--search-dir".into(), directory.into()]);
        let flags = [
            (self.allow_wx, "--allow-wx"),
            (self.allow_exec_stack, "--allow-exec-stack"),
            (self.huge_pages, "--huge-pages"),
            (self.guard == Some(GuardBy::Lease), "--guard=lease"),
            (self.guard == Some(GuardBy::Snapshot), "--guard=snapshot"),
            (self.private, "--private"),
        ];
        let snapshots = self.snapshots.as_ref().map(|directory| {
            let mut typed = OsString::from("--snapshots=");
            typed.push(directory);
            typed
        });
        directories.chain(snapshots).chain(flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag.into()))
    }
}

pub(crate) fn main() -> ExitCode {
    let status = match Cli::try_parse() {
        Ok(cli) => run(cli.command),
        Err(answer) => print_answer(&answer),
    };
    match status {
        Ok(Status::Done) => ExitCode::SUCCESS,
        Ok(Status::Failed) => ExitCode::FAILURE,
        Ok(Status::Usage) => ExitCode::from(2),
        Ok(Status::NotRun) => ExitCode::from(127),
        Ok(Status::Exit(code)) => ExitCode::from(code),
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            print::complain(format_args!("cannot write the output: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Outcome {
    let mut out = anstream::AutoStream::auto(io::stdout().lock());
    let status = match command {
        Command::Load(args) => load::run(args, &mut out),
        Command::Call(args) => call::run(args, &mut out),
        Command::Inspect(args) => inspect::run(&args, &mut out),
        Command::Ldd(args) => ldd::run(&args),
        Command::Why(args) => ldd::why::run(&args),
        Command::Compare(args) => compare::run(&args, &mut out),
        Command::Bench(args) => bench::run(&args, &mut out),
        Command::Exec(args) => exec::run(&args),
        Command::Forecast(args) => forecast::run(&args, &mut out),
        Command::Share(args) => share::run(&args, &mut out),
        Command::Snapshot(args) => snapshot::run(&args, &mut out),
        Command::Serve(args) => serve::run(&args, &mut out),
        Command::Ask(args) => ask::run(&args),
        Command::Pages(args) => pages::run(&args, &mut out),
        Command::Trace(args) => trace::run(&args, &mut out),
        Command::Warm(args) => warm::run(&args, &mut out),
        Command::Prove(args) => prove::run(&args, &mut out),
        Command::Doctor(args) => doctor::run(&args, &mut out),
        Command::Completions(args) => manual::completions(&args, &mut out),
        Command::Man(args) => manual::page(&args, &mut out),
    }?;
    out.flush()?;
    Ok(status)
}

/// The answer of the parser itself: help, the version, or what is wrong with what was typed.
fn print_answer(answer: &clap::Error) -> Outcome {
    let status = if answer.use_stderr() { Status::Usage } else { Status::Done };
    let hostile = std::env::args_os().any(|typed| typed.to_string_lossy().chars().any(char::is_control));
    if hostile && status == Status::Usage {
        // The parser repeats what was typed; a file's name that a shell filled in must not change the terminal.
        let text = answer.to_string();
        let mut err = io::stderr().lock();
        for line in text.lines() {
            let _ = writeln!(err, "{}", soload::Escaped(line.as_bytes()));
        }
    } else {
        match answer.print() {
            // Nobody is there to be told.
            Err(_) if status == Status::Usage => {}
            printed => printed?,
        }
    }
    Ok(status)
}

/// The whole command line, for completions and manual pages.
fn definition() -> clap::Command {
    Cli::command()
}
