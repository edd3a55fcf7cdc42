//! Why a snapshot was not used: always a reason, never an error.

use std::fmt;
use std::path::Path;

use crate::error::{ErrorKind, shown};

/// Why libraries were relocated in this process though snapshots were asked for.
///
/// ```
/// let refusal = soload::Refusal::Place("the addresses of liba.so are taken in this process".into());
/// assert_eq!(refusal.to_string(), "no place: the addresses of liba.so are taken in this process");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The process runs with rights that its starter does not have (`AT_SECURE`).
    Privileged,
    /// A library, or what it would be bound to, is nothing that can be shared.
    Unsuitable(String),
    /// The addresses that the session has for a library are not to be had in this process.
    Place(String),
    /// The directory, or something in it, is not safe or not to be used.
    Folder(String),
    /// A snapshot is damaged, outdated, or made for something else.
    Snapshot(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Privileged => {
                f.write_str("not used: the process runs with rights that its starter does not have (AT_SECURE)")
            }
            Self::Unsuitable(why) => write!(f, "cannot be shared: {why}"),
            Self::Place(why) => write!(f, "no place: {why}"),
            Self::Folder(why) => write!(f, "directory refused: {why}"),
            Self::Snapshot(why) => write!(f, "snapshot refused: {why}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// The same as an error, for whoever asked for the snapshot itself.
    pub(crate) fn kind(self) -> ErrorKind {
        ErrorKind::Snapshot { what: self.to_string() }
    }

    pub(crate) fn unsuitable(object: &Path, why: impl fmt::Display) -> Self {
        Self::Unsuitable(format!("{}: {why}", shown(object)))
    }

    pub(crate) fn snapshot(why: impl fmt::Display) -> Self {
        Self::Snapshot(why.to_string())
    }
}

/// What snapshots did for one open.
///
/// ```
/// // SAFETY: zlib's constructors are sound.
/// if let Ok(library) = unsafe { soload::Library::new("libz.so.1") } {
///     assert!(!matches!(library.snapshot(), soload::SnapshotUse::Used { .. }), "nobody asked for one");
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SnapshotUse {
    /// None was asked for, or nothing had to be loaded.
    #[default]
    Unasked,
    /// Pages come from a snapshot.
    Used {
        /// This open has made it first.
        made: bool,
    },
    /// Relocated in this process alone.
    Refused(Refusal),
}

impl fmt::Display for SnapshotUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked => f.write_str("no snapshot asked for"),
            Self::Used { made: true } => f.write_str("by a snapshot made now"),
            Self::Used { made: false } => f.write_str("by a snapshot"),
            Self::Refused(refusal) => write!(f, "without snapshot, {refusal}"),
        }
    }
}
