//! What may be typed after `soload ldd`.

use std::ffi::OsString;
use std::path::PathBuf;

use soload::{Bindings, Error, Resolver};

/// Show what programs and libraries need, where the loader finds it, and why there
///
/// Nothing of the files is run or mapped for execution. Exit codes: 0 all is found, 1 a library, version or interpreter
/// is missing, 2 a file cannot be inspected; of several files the worst.
#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools)] // flags of a command are just that
pub(in crate::cli) struct Args {
    /// ELF files: programs and shared objects
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// How to print: as a `tree`, in load order (`flat`), as glibc's `ldd` does, as `json` (one line for each file), for
    /// Graphviz (`dot`), or a line for each object, with %n name, %p path, %w why there, %s soname, %u user, %f FILE
    #[arg(long, value_parser = Format::parse, default_value = "tree")]
    format: Format,
    /// The same as --format=flat: one line for each object, in the order in which they are loaded
    #[arg(long, conflicts_with = "format")]
    flat: bool,
    /// The same as --format=json
    #[arg(long, conflicts_with_all = ["format", "flat"])]
    json: bool,
    /// Show only how the library NAME (or part of a name) comes in
    #[arg(long, value_name = "NAME", conflicts_with_all = ["format", "flat", "json"])]
    pub(super) why: Option<String>,
    /// Show for each library the item of the search path that led to it, and every place where it was not
    #[arg(long)]
    pub(super) explain: bool,
    /// Show only what is missing
    #[arg(long)]
    pub(super) only_missing: bool,
    /// Show only what the file itself needs (--max-depth 1)
    #[arg(long)]
    direct: bool,
    /// Show needs to a depth of N
    #[arg(long, value_name = "N", conflicts_with = "direct")]
    max_depth: Option<usize>,
    /// Show only which of the files need the library LIB, a name or a path, and through which others
    #[arg(long, value_name = "LIB", conflicts_with_all = ["why", "only_missing"])]
    pub(super) reverse: Option<OsString>,
    /// Resolve as for PROGRAM, once it runs, opening the files as plug-ins: what it has serves them too
    #[arg(long, value_name = "PROGRAM")]
    pub(super) as_loaded_by: Option<PathBuf>,
    /// Show symbols that several objects define: which definition wins, and who gets another than its own
    #[arg(long)]
    pub(super) duplicates: bool,
    /// Look into directories, for all ELF files in them
    #[arg(short = 'R', long)]
    pub(super) recursive: bool,
    /// Show the versions that each object needs, and who defines them
    #[arg(short, long)]
    pub(super) versions: bool,
    /// Bind all symbols, and show those that are undefined
    #[arg(short = 'r', long)]
    pub(super) function_relocs: bool,
    /// Bind the symbols of variables, and show those that are undefined
    #[arg(short, long)]
    pub(super) data_relocs: bool,
    /// Show what the file needs directly and does not use
    #[arg(short, long)]
    pub(super) unused: bool,
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

/// How an answer is written.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Format {
    Tree,
    Flat,
    Ldd,
    Json,
    Dot,
    Custom(String),
}

impl Format {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "tree" => Self::Tree,
            "flat" => Self::Flat,
            "ldd" => Self::Ldd,
            "json" => Self::Json,
            "dot" => Self::Dot,
            text if text.contains('%') => Self::Custom(text.into()),
            _ => {
                return Err("expected tree, flat, ldd, json, dot, or a text with %n, %p, %w, %s, %u or %f in it".into());
            }
        })
    }
}

impl Args {
    pub(super) fn format(&self) -> &Format {
        match (self.flat, self.json) {
            (true, _) => &Format::Flat,
            (_, true) => &Format::Json,
            _ => &self.format,
        }
    }

    pub(super) fn resolver(&self) -> Result<Resolver, Error> {
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
    pub(super) fn fails(&self, bindings: Option<&Bindings>) -> bool {
        let relocs = self.function_relocs || self.data_relocs;
        bindings.is_some_and(|bindings| {
            relocs && bindings.undefined.iter().any(|reference| !reference.weak)
                || self.unused && !bindings.unused.is_empty()
        })
    }

    pub(super) fn depth(&self) -> usize {
        if self.direct { 1 } else { self.max_depth.unwrap_or(usize::MAX) }
    }
}
