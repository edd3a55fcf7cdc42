//! What a file says: headers, segments, tables and strings, each checked once and then a value of its own type.

pub(crate) mod brief;
pub(crate) mod dynamic;
pub(crate) mod elf;
pub(crate) mod frames;
pub(crate) mod gnu;
pub(crate) mod hardening;
pub(crate) mod hash;
pub(crate) mod image;
pub(crate) mod inspect;
pub(crate) mod notes;
pub(crate) mod piece;
pub(crate) mod plan;
pub(crate) mod probes;
pub(crate) mod relocations;
mod room;
pub(crate) mod rows;
pub(crate) mod segments;
pub(crate) mod symbols;
pub(crate) mod versions;
pub(crate) mod view;
pub(crate) mod wanted;

use std::borrow::Cow;

use crate::addr::{Addr, Vaddr};
use crate::error::{At, ErrorKind};
use crate::sys::RegularFile;
use view::View;

/// A table of strings.
pub(crate) trait Strings {
    /// The string that starts at `at`, without its NUL; `None` if it does not end inside.
    fn string(&self, at: u64) -> Option<Cow<'_, [u8]>>;

    /// Whether a string that starts at `at` ends inside.
    fn ends(&self, at: u64) -> bool {
        self.string(at).is_some()
    }

    /// The bytes of the table.
    fn size(&self) -> u64;
}

impl Strings for View {
    fn string(&self, at: u64) -> Option<Cow<'_, [u8]>> {
        self.str_at(at).map(Cow::Borrowed)
    }

    fn ends(&self, at: u64) -> bool {
        // Where the table ends with a NUL, as tables do, every string in it ends.
        (self.bytes().last() == Some(&0) && at < self.len()) || self.str_at(at).is_some()
    }

    fn size(&self) -> u64 {
        self.len()
    }
}

/// Where tables are read from by the addresses the dynamic section gives: a file, or memory that nobody writes.
pub(crate) trait Source {
    /// The `len` bytes at `vaddr`; without `len`, all that follow it in its segment.
    fn table(&self, vaddr: Vaddr, len: Option<u64>) -> Option<View>;

    /// The same, with the error that says which table it was.
    fn require(&self, what: &str, vaddr: u64, len: Option<u64>) -> Result<View, ErrorKind> {
        self.table(Vaddr(vaddr), len).ok_or_else(|| {
            let found = match len {
                Some(len) => format!("{vaddr:#x} + {len:#x} bytes"),
                None => format!("{vaddr:#x}"),
            };
            ErrorKind::malformed(what, At::Object, "a range inside one segment's bytes of the file", found)
        })
    }
}

/// Where a file is always mapped.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
pub(crate) struct Home {
    pub(crate) start: Addr,
    /// Which library it is, as whoever keeps the place for it counts them.
    pub(crate) library: [u8; 32],
}

/// Where a file is always mapped, if it is: by the file, its build id as far as that is known before it is mapped, and the
/// bytes of address space that it takes.
pub(crate) type Homes<'a> = dyn for<'i> Fn(&RegularFile, BuildId<'i>, u64) -> Option<Home> + 'a;

/// The build id of a file, if it has one, for those who ask.
pub(crate) type BuildId<'i> = &'i (dyn Fn() -> Option<&'i [u8]> + 'i);
