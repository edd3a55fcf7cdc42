//! `soload ldd`: what a program or library needs, as the loader will find it, without running any of it.

mod dot;
mod files;
mod glibc;
mod json;
mod symbols;
mod text;
pub(super) mod why;

use std::io::{self, Write};
use std::path::PathBuf;

use soload::{Bindings, Closure, Error, Resolver};

use super::print::{self, Inks};
use super::{Outcome, Status};
use text::Text;

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
    /// How to print: as a tree, in load order, as glibc's ldd does, as JSON (one line for each file), or
    /// for Graphviz
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
    /// Show the versions that each object needs, and who defines them
    #[arg(short, long)]
    versions: bool,
    /// Bind all symbols, and show those that are undefined
    #[arg(short = 'r', long)]
    function_relocs: bool,
    /// Bind the symbols of variables, and show those that are undefined
    #[arg(short, long)]
    data_relocs: bool,
    /// Show what the file needs directly and does not use
    #[arg(short, long)]
    unused: bool,
    /// Resolve as for a set-user-ID program, which ignores the environment
    #[arg(long)]
    secure: bool,
    /// Resolve in DIR as if it were the root of the file system: links stay inside, its cache and configuration count,
    /// and the environment does not
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Resolve as for a processor of this level, a name of a subdirectory of glibc-hwcaps (or `baseline`)
    #[arg(long, value_name = "LEVEL", value_parser = CPUS)]
    cpu: Option<String>,
    /// Resolve as the loader of this C library, whatever the file says
    #[arg(long, value_enum)]
    libc: Option<Libc>,
}

/// The levels that glibc knows, of all machines.
const CPUS: [&str; 12] =
    ["host", "baseline", "x86-64-v2", "x86-64-v3", "x86-64-v4", "power9", "power10", "z13", "z14", "z15", "z16", "z17"];

#[derive(Clone, Copy, clap::ValueEnum)]
enum Libc {
    Glibc,
    Musl,
    Bionic,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Tree,
    Flat,
    Ldd,
    Json,
    Dot,
}

impl Args {
    fn format(&self) -> Format {
        match (self.flat, self.json) {
            (true, _) => Format::Flat,
            (_, true) => Format::Json,
            _ => self.format,
        }
    }

    fn resolver(&self) -> Result<Resolver, Error> {
        let mut resolver = Resolver::new();
        resolver.secure(self.secure);
        if let Some(directory) = &self.root {
            resolver.root(directory)?;
        }
        if let Some(level) = self.cpu.as_ref().filter(|level| *level != "host") {
            resolver.cpu(level);
        }
        match self.libc {
            Some(Libc::Glibc) => resolver.libc(soload::Libc::Glibc),
            Some(Libc::Musl) => resolver.libc(soload::Libc::Musl),
            Some(Libc::Bionic) => resolver.libc(soload::Libc::Bionic),
            None => &mut resolver,
        };
        Ok(resolver)
    }

    /// Whether what was asked for about symbols is not as it should be.
    fn fails(&self, bindings: Option<&Bindings>) -> bool {
        let relocs = self.function_relocs || self.data_relocs;
        bindings.is_some_and(|bindings| {
            relocs && bindings.undefined.iter().any(|reference| !reference.weak)
                || self.unused && !bindings.unused.is_empty()
        })
    }

    fn depth(&self) -> usize {
        if self.direct { 1 } else { self.max_depth.unwrap_or(usize::MAX) }
    }
}

pub(super) fn run(args: &Args) -> Outcome {
    let (mut out, inks) = print::stdout()?;
    let resolver = match args.resolver() {
        Ok(resolver) => resolver,
        Err(error) => {
            complain(&error);
            return Ok(Status::Usage);
        }
    };
    let mut worst = Status::Done;
    let several = args.recursive || args.files.len() > 1;
    let mut number = 0;
    for file in files::all(&args.files, args.recursive, &resolver) {
        let resolved = resolver.resolve(&file.path);
        if resolved.as_ref().is_err_and(|error| file.is_beside_the_point(error)) {
            continue;
        }
        number += 1;
        let path = &file.path;
        let answer = resolved.and_then(|closure| {
            let bind = args.function_relocs || args.data_relocs || args.unused;
            let functions = args.function_relocs || args.unused;
            let bindings = if bind { Some(closure.bind(functions)?) } else { None };
            Ok((path, closure, bindings))
        });
        let status = match &answer {
            Ok((_, closure, bindings)) if closure.is_complete() && !args.fails(bindings.as_ref()) => Status::Done,
            Ok(_) => Status::Failed,
            Err(_) => Status::Usage,
        };
        worst = worst.max(status);
        let written = match &answer {
            Ok((path, closure, bindings)) => match args.format() {
                Format::Ldd => glibc::write(&mut out, path, closure, several, args.unused)
                    .and_then(|()| symbols::write_glibc(&mut out, closure, bindings.as_ref(), args)),
                Format::Dot => dot::write(&mut out, closure),
                Format::Json => print::write_json(&mut out, &json::of(path, closure, bindings.as_ref())),
                Format::Tree | Format::Flat => {
                    if number > 1 && !(args.only_missing && closure.is_complete()) {
                        writeln!(out)?;
                    }
                    write_text(&mut out, args, closure, inks)?;
                    symbols::write(&mut out, closure, bindings.as_ref(), args, inks)
                }
            },
            Err(error) if args.format() == Format::Json => print::write_json(&mut out, &json::of_error(error)),
            Err(error) if args.format() == Format::Ldd && several => glibc::write_header(&mut out, error.object()),
            Err(_) => Ok(()),
        };
        written?;
        let problems: &[Error] = answer.as_ref().map_or(&[], |(_, closure, _)| &closure.preload_problems);
        for error in problems.iter().chain(answer.as_ref().err()) {
            // In the order of what happened, if both go to the same terminal.
            out.flush()?;
            complain(error);
        }
    }
    out.flush()?;
    Ok(worst)
}

fn write_text(out: &mut impl Write, args: &Args, closure: &Closure, inks: Inks) -> io::Result<()> {
    let text = Text { closure, inks, depth: args.depth(), explain: args.explain };
    if let Some(name) = &args.why {
        return text.write_why(out, name.as_bytes());
    }
    if args.only_missing {
        return text.write_missing(out);
    }
    match args.format() {
        Format::Flat => text.write_flat(out),
        _ => text.write_tree(out),
    }
}

/// One line on standard error. If even that fails, there is nobody to tell.
fn complain(error: &Error) {
    let _ = io::stderr().write_all(format!("soload: {error}\n").as_bytes());
}
