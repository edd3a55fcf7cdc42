//! What deciding about dependencies goes by of one file, kept after the file was closed.

use crate::error::ErrorKind;
use crate::file::brief::Brief;
use crate::file::dynamic::{Dynamic, Names};
use crate::file::elf::{ET_DYN, ET_EXEC};
use crate::file::inspect::machine_name;
use crate::file::view::{ByteOrder, Class};
use crate::find::Libc;
use crate::sys::{Identity, RegularFile};

/// A file's answers. Thousands of them are held at once, so no open file and no mapping is.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) identity: Identity,
    /// Whether it is set-user-ID or set-group-ID.
    pub(super) set_user_id: bool,
    pub(super) brief: Brief,
    /// Whether there is anything for a loader to do: a file of debug information has the header of a dynamic section, but
    /// no content for it.
    pub(super) dynamic: bool,
}

impl Facts {
    pub(super) fn read(file: RegularFile, buffer: &mut Vec<u8>) -> Result<Self, ErrorKind> {
        let (identity, set_user_id) = (file.identity, file.mode & 0o6000 != 0);
        let brief = Brief::read(file, buffer)?;
        let dynamic = brief.dynamic.as_ref().is_some_and(|dynamic| dynamic.symbols.strtab.get().is_some());
        Ok(Self { identity, set_user_id, brief, dynamic })
    }

    pub(super) fn kind(&self) -> u16 {
        self.brief.header.kind
    }

    pub(super) fn names(&self) -> &Names {
        &self.brief.names
    }

    pub(super) fn nodeflib(&self) -> bool {
        self.brief.dynamic.as_ref().is_some_and(Dynamic::nodeflib)
    }

    /// Whether a program of `root`'s machine can have it as a library. Another class or machine is passed over in a
    /// search; anything else that is odd ends it, as in glibc (`open_verify`, `_dl_map_object_from_fd`).
    pub(super) fn suits(&self, root: &Self, libc: Libc) -> Result<(), ErrorKind> {
        let foreign = |what, expected: String, found: String| Err(ErrorKind::Foreign { what, expected, found });
        let (own, root) = (&self.brief.header, &root.brief.header);
        if own.class != root.class {
            return foreign("class", class(root.class).into(), class(own.class).into());
        }
        if own.order != root.order {
            return foreign("byte order", order(root.order).into(), order(own.order).into());
        }
        if own.machine != root.machine {
            return foreign("machine", machine_name(root.machine), machine_name(own.machine));
        }
        // musl takes whatever it can map.
        if libc == Libc::Musl && matches!(own.kind, ET_DYN | ET_EXEC) {
            return Ok(());
        }
        own.check_system()?;
        let is_executable = self.brief.dynamic.as_ref().is_some_and(Dynamic::position_independent_executable);
        let found = match own.kind {
            ET_DYN if is_executable => "a position-independent executable",
            ET_DYN if !self.dynamic => "an object without dynamic section",
            ET_DYN => return Ok(()),
            ET_EXEC => "an executable",
            1 => "a relocatable object (.o)",
            4 => "a core file",
            _ => "something else",
        };
        foreign("type", "a shared object".into(), found.into())
    }

    /// Whether this process runs programs of its kind.
    pub(super) fn is_native(&self) -> bool {
        let header = &self.brief.header;
        crate::arch::Machine::native().is_some_and(|native| native.number == header.machine)
            && header.class == Class::Elf64
            && header.order == ByteOrder::Little
    }
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Elf32 => "32-bit",
        Class::Elf64 => "64-bit",
    }
}

fn order(order: ByteOrder) -> &'static str {
    match order {
        ByteOrder::Little => "little-endian",
        ByteOrder::Big => "big-endian",
    }
}
