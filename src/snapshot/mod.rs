//! Snapshots: the writable segments of libraries as relocation leaves them, kept for other processes to map.
//!
//! Relocation writes the same words in every process that has the library at the same address and binds it to the same
//! definitions, except where a word refers to what differs: objects of the host, thread-local storage, answers of IFUNC
//! resolvers. A snapshot has all pages, those words left as zero or as in the file, and the list of those words. Whoever
//! uses it maps the pages privately and writes only these.
//!
//! # Calls
//! A word that serves for nothing but calls may hold the address of a stub instead of the function's: code of a few bytes
//! at an address that is the same in all processes, which jumps by a table. Each process makes the stubs itself, and has
//! the addresses of functions on the one page of the table, not on a page of each library. A snapshot names the functions
//! by their symbols; an address that anybody could compare is never that of a stub.
//!
//! # What is checked, and what that costs
//! A snapshot that somebody else has made up is code of theirs in our process. So it is taken from a sealed memory file
//! that was handed over, or from a directory that only root or the user can write; header and list are hashed with the
//! session's secret each time (a few microseconds for each hundred kilobytes). The pages are not: hashing them would read
//! every page, which is what mapping saves, and protect from nobody but the owner of file and directory, who may as well
//! change the program. `soload snapshot verify` hashes them, and so does whoever makes them. No address that the loader
//! calls is taken from a snapshot: it names a relocation or symbol, and the library's file (or its trail) says the rest.
//!
//! # Trails
//! With pages at hand, to find the files is a third of a wide load. Of an open that has used a snapshot a directory has a
//! *trail*, unless it was for its own search paths to say where files are: which ones it came to, who needs whom, and what
//! everybody reads of them first. It is sealed with the session's secret, too, and holds for the very same files alone.
//!
//! Of each file it repeats the headers, the dynamic section and the arrays of functions, as far as they are short. Who
//! follows it does not read these in the file once more: with a snapshot, which constructors are called is what the trail
//! says that the file says. That it is the very file is told by device, inode, size and both times; that a word of the
//! arrays is a function, by the executable segments of the scope, as of one that was read.

mod arena;
mod bytes;
mod files;
mod folder;
mod manifest;
mod memory;
mod opened;
mod refusal;
mod remaining;
mod scope;
mod trail;

pub(crate) use arena::{Seed, Wanted, slots_for};
pub(crate) use bytes::List;
pub use files::{SnapshotFile, Snapshots};
pub(crate) use folder::Folder;
pub(crate) use manifest::key;
pub(crate) use manifest::{
    AS_IT_IS, FUNCTIONS_MAX, FileStamp, Function, HostWord, IDLE, IN_PLACE, ImportWord, LOADER, Manifest, Member,
    Pages, ResolvedWord, ThreadLocalWord, Unique,
};
pub use memory::Snapshot;
pub(crate) use opened::{Opened, content_hash, encode};
pub use refusal::{Refusal, SnapshotUse};
pub use remaining::{Fixup, Remaining};
pub(crate) use scope::{Fits, Provider, content_id, file_name, kind_number, kind_of, library_id, object_id, stubs_id};
pub(crate) use trail::{Around, END, Found, OpenTrail, Trail, trail_key};
