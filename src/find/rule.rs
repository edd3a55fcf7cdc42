//! By which rule a library was looked for in some place: what messages say of every candidate.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Candidate, shown};

/// The rule by which a library was looked for in some place.
///
/// ```
/// use soload::Rule;
/// let rule = Rule::Runpath { of: "libplug.so".into(), item: "$ORIGIN/deps".into() };
/// assert_eq!(rule.to_string(), "RUNPATH of libplug.so");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// The name has a slash: it is the path.
    AsGiven,
    /// A directory the caller gave.
    SearchDir,
    /// `DT_RPATH` of the object that asks, or of one that brought it in.
    Rpath {
        /// The object that has it.
        of: PathBuf,
        /// The item of it, as written.
        item: String,
    },
    /// The environment variable `LD_LIBRARY_PATH`.
    LibraryPath {
        /// The item of it, as written.
        item: String,
    },
    /// `DT_RUNPATH` of the object that asks.
    Runpath {
        /// The object that has it.
        of: PathBuf,
        /// The item of it, as written.
        item: String,
    },
    /// The index that `ldconfig` writes.
    Cache {
        /// The subdirectory of `glibc-hwcaps` that the entry is for, such as `x86-64-v3`.
        level: Option<String>,
    },
    /// A directory built into the loader.
    Default,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsGiven => f.write_str("path as given"),
            Self::SearchDir => f.write_str("OpenOptions::search_dir"),
            Self::Rpath { of, .. } => write!(f, "RPATH of {}", shown(of)),
            Self::LibraryPath { .. } => f.write_str("LD_LIBRARY_PATH"),
            Self::Runpath { of, .. } => write!(f, "RUNPATH of {}", shown(of)),
            Self::Cache { level: None } => f.write_str("ld.so.cache"),
            Self::Cache { level: Some(level) } => write!(f, "ld.so.cache ({})", shown(Path::new(level))),
            Self::Default => f.write_str("default directory"),
        }
    }
}

/// A [`Rule`] that borrows, for as long as nobody asked for it.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    AsGiven,
    SearchDir,
    Rpath { of: &'a Path, item: &'a [u8] },
    LibraryPath { item: &'a [u8] },
    Runpath { of: &'a Path, item: &'a [u8] },
    Cache { level: Option<&'a [u8]> },
    Default,
}

impl Place<'_> {
    pub(super) fn rule(self) -> Rule {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self {
            Self::AsGiven => Rule::AsGiven,
            Self::SearchDir => Rule::SearchDir,
            Self::Rpath { of, item } => Rule::Rpath { of: of.into(), item: text(item) },
            Self::LibraryPath { item } => Rule::LibraryPath { item: text(item) },
            Self::Runpath { of, item } => Rule::Runpath { of: of.into(), item: text(item) },
            Self::Cache { level } => Rule::Cache { level: level.map(text) },
            Self::Default => Rule::Default,
        }
    }
}

/// A candidate that lost.
pub(super) fn lost(path: &[u8], place: Place<'_>, reason: String) -> Candidate {
    Candidate { path: OsStr::from_bytes(path).into(), rule: place.rule().to_string(), reason }
}
