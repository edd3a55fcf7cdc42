//! Symbol versions: which versions an object defines and needs, and which one each of its symbols has.

use std::ops::Deref;
use std::sync::OnceLock;

use super::dynamic::SymbolEntries;
use super::view::View;
use super::{Source, Strings};
use crate::addr::Vaddr;
use crate::error::{At, ErrorKind};
use crate::sys::Bytes;

/// Version indices are 15 bits wide (LSB core, "Symbol Versioning").
const INDEX_MASK: u16 = 0x7fff;
const HIDDEN: u16 = 0x8000;
const VER_FLG_BASE: u16 = 1;

/// Versions that room is made for at once, however many a file says that it has.
const ROOM: u64 = 256;
const VER_FLG_WEAK: u16 = 2;

/// One version, as its index in `DT_VERSYM` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// ELF hash of the name; never 0 for an index that is in use.
    pub(crate) hash: u32,
    /// Offset of the name in the string table.
    pub(crate) name: u32,
    /// Only exact references match (`vna_other` bit 15).
    pub(crate) hidden: bool,
}

/// A version that a needed object must define (`DT_VERNEED`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requirement {
    /// Offset of the needed object's name in the string table.
    pub(crate) file: u32,
    pub(crate) version: Version,
    pub(crate) index: u16,
    /// Missing is no error.
    pub(crate) weak: bool,
}

/// The versions that one object defines and needs.
#[derive(Clone, Default)]
pub(crate) struct Numbered {
    by_index: Vec<Option<Version>>,
    pub(crate) requirements: Vec<Requirement>,
    /// Index and name (offset) of the versions defined here, the base version (the file's own name) left out.
    defined: Vec<(u16, Version)>,
}

/// The version tables of one object.
#[derive(Clone, Default)]
pub(crate) struct Versions {
    /// `DT_VERSYM`: one half-word for each symbol. Looked at only if the object has any version, as glibc does.
    of_symbols: Option<View>,
    pub(crate) defines_any: bool,
    numbered: OnceLock<Numbered>,
    /// What they are read by when they are first asked for.
    unread: Option<Box<(Tables, View)>>,
}

/// Where versions are listed.
#[derive(Clone, Default)]
struct Tables {
    definitions: Option<Table>,
    requirements: Option<Table>,
}

#[derive(Clone)]
struct Table {
    view: View,
    vaddr: u64,
    count: Option<u64>,
}

/// The version index of a symbol, and whether the definition is hidden from unversioned references.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Index {
    pub(crate) number: u16,
    pub(crate) hidden: bool,
}

impl Index {
    #[inline(always)]
    pub(super) fn of(raw: u16) -> Self {
        Self { number: raw & INDEX_MASK, hidden: raw & HIDDEN != 0 }
    }
}

impl Versions {
    /// Of an object that the C library has loaded by the same tables, and that keeps them, they are read `late`: nobody
    /// compares the versions of most. Where one is odd, there are none.
    pub(super) fn read(
        entries: &SymbolEntries,
        source: &dyn Source,
        strings: &View,
        late: bool,
    ) -> Result<Self, ErrorKind> {
        let tables = Tables::find(entries, source)?;
        let (numbered, unread) = match late {
            true => (OnceLock::new(), tables.has_any().then(|| Box::new((tables, strings.clone())))),
            false => (tables.read(strings)?.into(), None),
        };
        let defines_any = entries.verdef.get().is_some();
        let versym = entries.versym.get().filter(|_| defines_any || entries.verneed.get().is_some());
        let of_symbols = versym.map(|versym| source.require("DT_VERSYM", versym, None)).transpose()?;
        Ok(Self { of_symbols, defines_any, numbered, unread })
    }

    /// The version index of symbol number `symbol`.
    #[inline]
    pub(crate) fn index(&self, symbol: u32) -> Option<Index> {
        let raw = self.of_symbols.as_ref()?.u16(u64::from(symbol) * 2)?;
        Some(Index::of(raw))
    }

    /// The half-words of all symbols, if there are any.
    pub(super) fn halves(&self) -> &[[u8; 2]] {
        self.of_symbols.as_ref().map_or(&[], |view| view.bytes().as_chunks().0)
    }

    /// The same, to be kept.
    pub(super) fn held(&self) -> Bytes {
        self.of_symbols.as_ref().map_or(Bytes::from_static(&[]), View::held)
    }

    #[cfg(test)]
    pub(super) fn is_unread(&self) -> bool {
        self.numbered.get().is_none() && self.unread.is_some()
    }

    #[cold]
    fn numbered_late(&self) -> &Numbered {
        let read = |(tables, strings): &(Tables, View)| tables.read(strings).ok();
        self.numbered.get_or_init(|| self.unread.as_deref().and_then(read).unwrap_or_default())
    }
}

impl Deref for Versions {
    type Target = Numbered;

    #[inline]
    fn deref(&self) -> &Numbered {
        match self.numbered.get() {
            Some(numbered) => numbered,
            None => self.numbered_late(),
        }
    }
}

impl Tables {
    fn find(entries: &SymbolEntries, source: &dyn Source) -> Result<Self, ErrorKind> {
        let table = |what, vaddr: Option<u64>, count| {
            let view = |vaddr| Ok(Table { view: source.require(what, vaddr, None)?, vaddr, count });
            vaddr.map(view).transpose()
        };
        Ok(Self {
            definitions: table("DT_VERDEF", entries.verdef.get(), entries.verdefnum.get())?,
            requirements: table("DT_VERNEED", entries.verneed.get(), entries.verneednum.get())?,
        })
    }

    fn has_any(&self) -> bool {
        self.definitions.is_some() || self.requirements.is_some()
    }

    fn read(&self, strings: &impl Strings) -> Result<Numbered, ErrorKind> {
        let mut numbered = Numbered::default();
        let room = self.definitions.as_ref().and_then(|table| table.count).unwrap_or(0).min(ROOM) as usize;
        if self.has_any() {
            // Some numbers more are of versions that it needs.
            numbered.by_index.resize(room + 8, None);
        }
        if let Some(table) = &self.definitions {
            numbered.defined.reserve(room);
            numbered.read_definitions(table, strings)?;
        }
        if let Some(table) = &self.requirements {
            numbered.read_requirements(table, strings)?;
        }
        Ok(numbered)
    }
}

impl Numbered {
    pub(super) fn read(
        entries: &SymbolEntries,
        source: &dyn Source,
        strings: &impl Strings,
    ) -> Result<Self, ErrorKind> {
        Tables::find(entries, source)?.read(strings)
    }

    fn read_definitions(&mut self, table: &Table, strings: &impl Strings) -> Result<(), ErrorKind> {
        let Table { view: table, vaddr: first, count } = table;
        let cut = |at: u64| malformed("DT_VERDEF", first.wrapping_add(at), "an entry inside its segment");
        let mut at = 0u64;
        // Offsets only go forward, so the count bounds the walk and the segment bounds the count.
        for _ in 0..count.unwrap_or(u64::MAX) {
            // `Elfxx_Verdef`: version and flags, index and count, and so on.
            let [first_two, next_two, hash, names, next] = table.u32s(at).ok_or_else(|| cut(at))?;
            let ([_, flags], [index, _]) = (table.halves(first_two), table.halves(next_two));
            let index = index & INDEX_MASK;
            if flags & VER_FLG_BASE == 0 {
                let name = table.u32(at + u64::from(names)).ok_or_else(|| cut(at))?;
                let version = Version { hash, name: check_name(strings, name, *first)?, hidden: false };
                self.set(index, version);
                self.defined.push((index, version));
            }
            if next == 0 {
                break;
            }
            at += u64::from(next);
        }
        Ok(())
    }

    fn read_requirements(&mut self, table: &Table, strings: &impl Strings) -> Result<(), ErrorKind> {
        let Table { view: table, vaddr: first, count } = table;
        let cut = |at: u64| malformed("DT_VERNEED", first.wrapping_add(at), "an entry inside its segment");
        let mut at = 0u64;
        for _ in 0..count.unwrap_or(u64::MAX) {
            // `Elfxx_Verneed`: version and count, and so on; `Elfxx_Vernaux`: hash, flags and index, and so on.
            let [first_two, file, names, next_file] = table.u32s(at).ok_or_else(|| cut(at))?;
            let [_, entries] = table.halves(first_two);
            let file = check_name(strings, file, *first)?;
            self.requirements.reserve(u64::from(entries).min(ROOM) as usize);
            let mut entry = at + u64::from(names);
            for _ in 0..entries {
                let [hash, two, name, next] = table.u32s(entry).ok_or_else(|| cut(entry))?;
                let [flags, other] = table.halves(two);
                let name = check_name(strings, name, *first)?;
                let version = Version { hash, name, hidden: other & HIDDEN != 0 };
                let index = other & INDEX_MASK;
                self.set(index, version);
                self.requirements.push(Requirement { file, version, index, weak: flags & VER_FLG_WEAK != 0 });
                if next == 0 {
                    break;
                }
                entry += u64::from(next);
            }
            if next_file == 0 {
                break;
            }
            at += u64::from(next_file);
        }
        Ok(())
    }

    fn set(&mut self, index: u16, version: Version) {
        let index = usize::from(index);
        if self.by_index.len() <= index {
            self.by_index.resize(index + 1, None);
        }
        self.by_index[index] = Some(version);
    }

    /// The version that an index stands for; indices 0 (local) and 1 (global) stand for none.
    #[inline]
    pub(crate) fn at(&self, index: u16) -> Option<Version> {
        self.by_index.get(usize::from(index)).copied().flatten()
    }

    /// More than the highest index that is in use.
    pub(crate) fn indices(&self) -> u16 {
        u16::try_from(self.by_index.len()).unwrap_or(u16::MAX)
    }

    /// Whether a version of that name is defined here.
    pub(crate) fn defines(&self, hash: u32, name: &[u8], strings: &impl Strings) -> bool {
        self.defined.iter().any(|(_, own)| own.hash == hash && strings.string(own.name.into()).as_deref() == Some(name))
    }

    /// The indices of the versions defined here.
    pub(crate) fn defined_indices(&self) -> impl Iterator<Item = u16> {
        self.defined.iter().map(|(index, _)| *index)
    }

    /// The versions defined here, as offsets of names.
    pub(crate) fn definitions(&self) -> impl Iterator<Item = &Version> {
        self.defined.iter().map(|(_, version)| version)
    }
}

fn check_name(strings: &impl Strings, name: u32, table: u64) -> Result<u32, ErrorKind> {
    match strings.ends(name.into()) {
        true => Ok(name),
        false => Err(malformed("version name", table, "a string inside DT_STRTAB")),
    }
}

fn malformed(what: &str, at: u64, expected: &str) -> ErrorKind {
    ErrorKind::malformed(what, At::Vaddr(Vaddr(at)), expected, "none")
}
