//! Why a library is still mapped though its handle was closed.

use std::path::PathBuf;

use super::module::Module;
use super::newcomer::Keep;
use super::registry::{Phase, State};
use crate::error::{Escaped, shown};

/// Why a library is still mapped after its handle was closed.
///
/// ```
/// let reason = soload::Reason::OtherHandles(2);
/// assert_eq!(reason.to_string(), "2 other handles are open");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// So many other handles to it are open.
    OtherHandles(usize),
    /// That library needs it.
    NeededBy(PathBuf),
    /// That library refers to symbols of it.
    BoundBy(PathBuf),
    /// It was linked (`-z nodelete`) or opened to stay.
    NoDelete,
    /// It defines that `STB_GNU_UNIQUE` symbol, which must stay the only one.
    UniqueSymbol(String),
    /// So many thread-local variables of it have still to be destroyed, by threads that are running.
    ThreadLocalDestructors(usize),
    /// Its constructors are still running.
    Initialising,
    /// The process is exiting.
    Exiting,
    /// The C library's own loader loaded it, and keeps it as long as it likes.
    OfTheHost,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherHandles(1) => f.write_str("1 other handle is open"),
            Self::OtherHandles(count) => write!(f, "{count} other handles are open"),
            Self::NeededBy(path) => write!(f, "{} needs it", shown(path)),
            Self::BoundBy(path) => write!(f, "{} refers to symbols of it", shown(path)),
            Self::NoDelete => f.write_str("it was linked or opened to stay (nodelete)"),
            Self::UniqueSymbol(name) => {
                write!(f, "it defines the process-wide unique symbol {}", Escaped(name.as_bytes()))
            }
            Self::ThreadLocalDestructors(count) => {
                write!(f, "threads have still to destroy {count} thread-local variables of it")
            }
            Self::Initialising => f.write_str("its constructors are still running"),
            Self::Exiting => f.write_str("the process is exiting"),
            Self::OfTheHost => f.write_str("the C library's loader loaded it"),
        }
    }
}

impl State {
    /// Why `module` is still there: all that keeps it.
    pub(super) fn reasons(&self, module: &Module) -> Vec<Reason> {
        let Some(entry) = self.entry(module.id) else { return Vec::new() };
        let mut reasons = Vec::new();
        match entry.phase {
            Phase::Abandoned => return reasons,
            // Its destructors run, or have run, though somebody had it open.
            Phase::Finishing(_) | Phase::Finished => reasons.push(Reason::Exiting),
            Phase::Entered(_) | Phase::Initialising(_) => reasons.push(Reason::Initialising),
            Phase::Ready => {}
        }
        if entry.handles > 0 {
            reasons.push(Reason::OtherHandles(entry.handles));
        }
        if entry.thread_destructors > 0 {
            reasons.push(Reason::ThreadLocalDestructors(entry.thread_destructors));
        }
        match &entry.keep {
            Some(Keep::NoDelete) => reasons.push(Reason::NoDelete),
            Some(Keep::Unique(index)) => {
                let symbols = &module.symbols;
                let name = symbols.get(*index).and_then(|symbol| symbols.string(symbol.name)).unwrap_or_default();
                reasons.push(Reason::UniqueSymbol(String::from_utf8_lossy(name).into_owned()));
            }
            None => {}
        }
        for other in self.entries.iter().filter(|other| other.id != module.id && other.is_live()) {
            if other.module.needs(module.id) {
                reasons.push(Reason::NeededBy(other.module.path().to_owned()));
            } else if other.uses().any(|id| id == module.id) {
                reasons.push(Reason::BoundBy(other.module.path().to_owned()));
            }
        }
        reasons
    }
}
