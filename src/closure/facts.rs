//! What deciding about dependencies goes by of one file, kept after the file was closed.

use crate::error::ErrorKind;
use crate::file::elf::{ET_DYN, ET_EXEC};
use crate::file::image::Image;
use crate::file::symbols;
use crate::file::versions::Versions;
use crate::file::view::{ByteOrder, Class};
use crate::sys::Identity;

/// A file's answers. Thousands of them are held at once, so no open file and no mapping is.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) identity: Identity,
    pub(super) kind: u16,
    class: Class,
    order: ByteOrder,
    machine: u16,
    os_abi: u8,
    pub(super) machine_name: String,
    pub(super) dynamic: bool,
    position_independent_executable: bool,
    pub(super) nodeflib: bool,
    pub(super) interpreter: Option<Box<[u8]>>,
    pub(super) soname: Option<Box<[u8]>>,
    pub(super) needed: Vec<Box<[u8]>>,
    pub(super) rpath: Option<Box<[u8]>>,
    pub(super) runpath: Option<Box<[u8]>>,
    pub(super) requirements: Vec<Required>,
    /// Whether it has a table of versions at all.
    pub(super) defines_any: bool,
    defined: Vec<(u32, Box<[u8]>)>,
}

/// A version that a needed object must define.
#[derive(Debug)]
pub(super) struct Required {
    /// The needed object, by the name under which it is needed.
    pub(super) file: Box<[u8]>,
    pub(super) version: Box<[u8]>,
    hash: u32,
    pub(super) weak: bool,
}

impl Facts {
    pub(super) fn of(image: &Image) -> Result<Self, ErrorKind> {
        let header = image.header();
        let names = image.names();
        let mut facts = Self {
            identity: image.identity(),
            kind: header.kind,
            class: header.class,
            order: header.order,
            machine: header.machine,
            os_abi: header.os_abi,
            machine_name: image.machine_name(),
            // A file of debug information has the header of a dynamic section, but no content for it.
            dynamic: image.dynamic().is_some_and(|dynamic| dynamic.strtab.is_some()),
            position_independent_executable: false,
            nodeflib: false,
            interpreter: image.interpreter().map(Into::into),
            soname: names.soname.clone(),
            needed: names.needed.clone(),
            rpath: names.rpath.clone(),
            runpath: names.runpath.clone(),
            requirements: Vec::new(),
            defines_any: false,
            defined: Vec::new(),
        };
        if let Some(dynamic) = image.dynamic() {
            facts.position_independent_executable = dynamic.position_independent_executable();
            facts.nodeflib = dynamic.nodeflib();
            if dynamic.verdef.is_some() || dynamic.verneed.is_some() {
                let strings = symbols::strings(dynamic, &image.source())?;
                let versions = Versions::read(dynamic, &image.source(), &strings)?;
                let text = |at: u32| -> Box<[u8]> { strings.str_at(at.into()).unwrap_or_default().into() };
                let required = versions.requirements.iter();
                facts.requirements = required
                    .map(|need| Required {
                        file: text(need.file),
                        version: text(need.version.name),
                        hash: need.version.hash,
                        weak: need.weak,
                    })
                    .collect();
                facts.defines_any = versions.defines_any;
                facts.defined = versions.definitions().iter().map(|own| (own.hash, text(own.name))).collect();
            }
        }
        Ok(facts)
    }

    /// Whether a program of `root`'s machine can have it as a library. Another class or machine is passed over in a
    /// search; anything else that is odd ends it, as in glibc (`open_verify`, `_dl_map_object_from_fd`).
    pub(super) fn suits(&self, root: &Self) -> Result<(), ErrorKind> {
        let foreign = |what, expected: String, found: String| Err(ErrorKind::Foreign { what, expected, found });
        if self.class != root.class {
            return foreign("class", class(root.class).into(), class(self.class).into());
        }
        if self.order != root.order {
            return foreign("byte order", order(root.order).into(), order(self.order).into());
        }
        if self.machine != root.machine {
            return foreign("machine", root.machine_name.clone(), self.machine_name.clone());
        }
        // 0 is System V, 3 the GNU extensions.
        if !matches!(self.os_abi, 0 | 3) {
            return foreign("system (EI_OSABI)", "0 (System V) or 3 (GNU)".into(), self.os_abi.to_string());
        }
        let found = match self.kind {
            ET_DYN if self.position_independent_executable => "a position-independent executable",
            ET_DYN if !self.dynamic => "an object without dynamic section",
            ET_DYN => return Ok(()),
            ET_EXEC => "an executable",
            1 => "a relocatable object (.o)",
            4 => "a core file",
            _ => "something else",
        };
        foreign("type", "a shared object".into(), found.into())
    }

    pub(super) fn defines(&self, required: &Required) -> bool {
        self.defined.iter().any(|(hash, name)| *hash == required.hash && *name == required.version)
    }

    /// Whether this process runs programs of its kind.
    pub(super) fn is_native(&self) -> bool {
        crate::arch::Machine::native().is_some_and(|native| native.number == self.machine)
            && self.class == Class::Elf64
            && self.order == ByteOrder::Little
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
