//! Loads ELF shared objects into a running Linux process by itself, without `dlopen`.
//!
//! Segments are mapped privately from the file, so that all processes share the pages of a library until one writes;
//! they are relocated and bound to what is in the process already, the C library above all. Using it is as easy as
//! `libloading`:
//!
//! ```
//! // SAFETY: libm's constructors are sound, and `cos` has that type.
//! unsafe {
//!     let library = soload::Library::new("libm.so.6")?;
//!     let cos = library.get::<extern "C" fn(f64) -> f64>(b"cos")?;
//!     assert_eq!(cos(0.0), 1.0);
//! }
//! # Ok::<(), soload::Error>(())
//! ```
//!
//! # Features
//!
//! `snapshots` has relocated pages shared by processes (`Snapshot`, `OpenOptions::snapshots`), `serve` has processes forked
//! that find libraries open (`Server`). `cli`, which is on by default, is the command, both of these, and all crates that only
//! the command needs: whoever wants the library alone says `default-features = false`.
//!
//! # The parts, in the order a library travels
//!
//! `file` reads what a file says, `find` decides which files are meant, `load` maps and relocates them, `process` knows
//! what is loaded, and `loader` is the pipeline on one screen. Modules marked with `allow(unsafe_code)` below are all
//! that hold unsafe code; each says at its head what it owns.

#![deny(unsafe_code)]

mod addr;
mod arch;
mod closure;
#[allow(unsafe_code)] // the C interface: called by foreign code, by the rules of <dlfcn.h>
pub mod dl;
mod error;
mod export;
mod file;
mod find;
#[allow(unsafe_code)] // pages of a library are replaced by copies of them
mod guard;
mod help;
#[allow(unsafe_code)] // the caller's handle: opening and asking are promises of the caller
mod library;
#[allow(unsafe_code)] // load::map writes relocated words, load::call runs foreign code; the rest of it has none
mod load;
mod loader;
#[cfg(test)]
#[allow(dead_code)] // the integration tests use the rest of it
#[path = "../tests/common/maps.rs"]
mod maps;
#[allow(unsafe_code)] // opening is a promise of the caller
mod options;
#[allow(unsafe_code)]
// process::host reads other objects' memory, process::hooks the process's start; the rest has none
mod process;
#[cfg(feature = "serve")]
mod serve;
#[allow(unsafe_code)]
// share::experiment has mappings and second processes to try things with, share::scan asks the kernel; the rest has none
mod share;
#[cfg(feature = "snapshots")]
mod sharing;
#[cfg(feature = "snapshots")]
mod snapshot;
#[allow(unsafe_code)] // stages::seal hands mapped frames to the unwinder; the rest has none
mod stages;
#[allow(unsafe_code)] // a symbol is a pointer that the caller gives a type
mod symbol;
#[allow(unsafe_code)] // owns every mapping that we create
mod sys;

pub use addr::{Addr, Bias, FileOffset, PageSize, Protection, Vaddr};
pub use arch::{Kind, Machine, RelocationType, TlsVariant};
pub use closure::{
    Auditor, Bindings, Closure, Need, Object, Resolver, Rivals, Role, SymbolDefinition, SymbolTrace, Tag, Unresolved,
    VersionProblem, VersionUse, Via,
};
pub use error::{At, Candidate, Error, ErrorKind, Escaped, Undefined};
pub use export::{Export, ExportKind};
pub use file::hardening::CompiledChecks;
pub use file::image::Image;
pub use file::inspect::{
    HashQuality, LifeFunctions, Outline, ProgramHeader, RelocationCount, SymbolCounts, VersionNeed,
};
pub use file::plan::{Plan, PlannedMap};
pub use file::segments::Segment;
pub use file::view::{ByteOrder, Class};
pub use find::{Libc, Rule};
pub use guard::Guard;
pub use library::{Closed, Library};
pub use options::OpenOptions;
pub use process::namespace::Namespace;
pub use process::reason::Reason;
#[cfg(feature = "serve")]
pub use serve::Server;
pub use share::{
    Cause, Claim, Forecast, Mapping, Page, PageMap, PageRun, PageScan, PageState, Proof, Sharing, Verdict, Warming,
    Warmth, Writes,
};
#[cfg(feature = "snapshots")]
pub use snapshot::{Fixup, Refusal, Remaining, Snapshot, SnapshotFile, SnapshotUse, Snapshots};
pub use symbol::{AsSymbolName, OwnedSymbol, Symbol};
