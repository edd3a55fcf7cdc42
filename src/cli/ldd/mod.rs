//! `soload ldd`: what a program or library needs, as the loader will find it, without running any of it.

mod files;
mod glibc;
mod json;
mod text;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use soload::{Closure, Error, Resolver};

use super::{Outcome, Status, print};

/// Show what programs and libraries need, where the loader finds it, and why there
///
/// Nothing of the files is run or mapped for execution. Exit codes: 0 all is found, 1 a library, version or interpreter
/// is missing, 2 a file cannot be inspected; of several files the worst.
#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools)] // flags of a command are just that
pub(super) struct Args {
    /// ELF files: programs and shared objects
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// How to print: as a tree, in load order, as glibc's ldd does, or as JSON (one line for each file)
    #[arg(long, value_enum, default_value = "tree")]
    format: Format,
    /// The same as --format=flat: one line for each object, in the order in which they are loaded
    #[arg(long, conflicts_with = "format")]
    flat: bool,
    /// The same as --format=json
    #[arg(long, conflicts_with_all = ["format", "flat"])]
    json: bool,
    /// Show only how the library NAME (or part of a name) comes in
    #[arg(long, value_name = "NAME", conflicts_with_all = ["format", "flat", "json"])]
    why: Option<String>,
    /// Show for each library the item of the search path that led to it, and every place where it was not
    #[arg(long)]
    explain: bool,
    /// Show only what is missing
    #[arg(long)]
    only_missing: bool,
    /// Show only what the file itself needs (--max-depth 1)
    #[arg(long)]
    direct: bool,
    /// Show needs to a depth of N
    #[arg(long, value_name = "N", conflicts_with = "direct")]
    max_depth: Option<usize>,
    /// Look into directories, for all ELF files in them
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Resolve as for a set-user-ID program, which ignores the environment
    #[arg(long)]
    secure: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Tree,
    Flat,
    Ldd,
    Json,
}

impl Args {
    fn format(&self) -> Format {
        match (self.flat, self.json) {
            (true, _) => Format::Flat,
            (_, true) => Format::Json,
            _ => self.format,
        }
    }

    fn depth(&self) -> usize {
        if self.direct { 1 } else { self.max_depth.unwrap_or(usize::MAX) }
    }
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let mut resolver = Resolver::new();
    resolver.secure(args.secure);
    let mut out = BufWriter::with_capacity(1 << 16, out);
    let mut worst = Status::Done;
    let several = args.recursive || args.files.len() > 1;
    for (number, file) in files::all(&args.files, args.recursive).enumerate() {
        let answer = file.and_then(|path| match resolver.resolve(&path) {
            Ok(closure) => Ok((path, closure)),
            Err(error) => Err(error),
        });
        let status = match &answer {
            Ok((_, closure)) if closure.is_complete() => Status::Done,
            Ok(_) => Status::Failed,
            Err(_) => Status::Usage,
        };
        worst = worst.max(status);
        let written = match &answer {
            Ok((path, closure)) => match args.format() {
                Format::Ldd => glibc::write(&mut out, path, closure, several),
                Format::Json => print::write_json(&mut out, &json::of(path, closure)),
                Format::Tree | Format::Flat => {
                    if number > 0 && !(args.only_missing && closure.is_complete()) {
                        writeln!(out)?;
                    }
                    write_text(&mut out, args, closure)
                }
            },
            Err(error) if args.format() == Format::Json => print::write_json(&mut out, &json::of_error(error)),
            Err(error) if args.format() == Format::Ldd && several => glibc::write_header(&mut out, error.object()),
            Err(_) => Ok(()),
        };
        written?;
        let problems: &[Error] = answer.as_ref().map_or(&[], |(_, closure)| &closure.preload_problems);
        for error in problems.iter().chain(answer.as_ref().err()) {
            // In the order of what happened, if both go to the same terminal.
            out.flush()?;
            complain(error);
        }
    }
    out.flush()?;
    Ok(worst)
}

fn write_text(out: &mut impl Write, args: &Args, closure: &Closure) -> io::Result<()> {
    if let Some(name) = &args.why {
        return text::write_why(out, closure, name.as_bytes());
    }
    if args.only_missing {
        return text::write_missing(out, closure, args.explain);
    }
    match args.format() {
        Format::Flat => text::write_flat(out, closure, args.explain),
        _ => text::write_tree(out, closure, args.depth(), args.explain),
    }
}

/// One line on standard error. If even that fails, there is nobody to tell.
fn complain(error: &Error) {
    let _ = writeln!(io::stderr(), "soload: {error}");
}
