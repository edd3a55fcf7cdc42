//! The dynamic symbol table of one object, and looking a name up in it the way glibc's `do_lookup_x` does.

use std::cmp::Reverse;

use super::Source;
use super::dynamic::SymbolEntries;
use super::gnu::Gnu;
use super::hash::{HashQuality, Table};
use super::rows::{Plain, Row, Rows};
use super::versions::{Index, Numbered, Version, Versions};
use super::view::{ByteOrder, Class, View};
use super::wanted::Name;
pub(crate) use super::wanted::{Wanted, WantedVersion};
use crate::addr::Vaddr;
use crate::error::{At, ErrorKind};
use crate::sys::Bytes;

const STB_LOCAL: u8 = 0;
const STB_GLOBAL: u8 = 1;
const STB_WEAK: u8 = 2;
const STB_GNU_UNIQUE: u8 = 10;
const STT_TLS: u8 = 6;
const STT_GNU_IFUNC: u8 = 10;
const SHN_UNDEF: u16 = 0;
const SHN_ABS: u16 = 0xfff1;
const STV_PROTECTED: u8 = 3;

/// One entry of the symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) name: u32,
    info: u8,
    other: u8,
    section: u16,
    pub(crate) value: u64,
    pub(crate) size: u64,
}

impl Symbol {
    /// An entry of the layout that is loaded.
    #[inline(always)]
    pub(super) fn of(entry: &Row) -> Self {
        let [word, value, size] = entry.map(u64::from_le_bytes);
        Self {
            name: word as u32,
            info: (word >> 32) as u8,
            other: (word >> 40) as u8,
            section: (word >> 48) as u16,
            value,
            size,
        }
    }

    #[inline]
    fn bind(&self) -> u8 {
        self.info >> 4
    }

    #[inline]
    pub(crate) fn kind(&self) -> u8 {
        self.info & 15
    }

    #[inline]
    pub(crate) fn is_defined(&self) -> bool {
        self.section != SHN_UNDEF
    }

    #[inline]
    pub(crate) fn is_weak(&self) -> bool {
        self.bind() == STB_WEAK
    }

    #[inline]
    pub(crate) fn is_unique(&self) -> bool {
        self.bind() == STB_GNU_UNIQUE
    }

    #[inline]
    pub(crate) fn is_absolute(&self) -> bool {
        self.section == SHN_ABS
    }

    #[inline]
    pub(crate) fn is_ifunc(&self) -> bool {
        self.kind() == STT_GNU_IFUNC
    }

    #[inline]
    pub(crate) fn is_tls(&self) -> bool {
        self.kind() == STT_TLS
    }

    #[inline]
    pub(crate) fn is_protected(&self) -> bool {
        self.other & 3 == STV_PROTECTED
    }

    /// Whether it is a definition that others may bind to, at an address in its object: no IFUNC, not thread-local or unique.
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        // Global or weak, of no type, an object or a function.
        self.is_visible_at_address() && matches!(self.info, 0x10..=0x12 | 0x20..=0x22)
    }

    /// The same, or an IFUNC.
    #[inline(always)]
    pub(super) fn has_address(&self) -> bool {
        self.is_visible_at_address() && matches!(self.info, 0x10..=0x12 | 0x1a | 0x20..=0x22 | 0x2a)
    }

    #[inline(always)]
    fn is_visible_at_address(&self) -> bool {
        let visible = matches!(self.other & 3, 0 | STV_PROTECTED);
        self.section != SHN_UNDEF && self.section != SHN_ABS && self.value != 0 && visible
    }

    /// Whether it is a definition that other objects can see.
    #[inline]
    pub(crate) fn is_exported(&self) -> bool {
        self.is_defined() && !self.binds_locally()
    }

    /// A reference to it never leaves its own object: a local symbol, or one of hidden or internal visibility.
    #[inline]
    pub(crate) fn binds_locally(&self) -> bool {
        self.bind() == STB_LOCAL || matches!(self.other & 3, 1 | 2)
    }

    /// Whether other objects may bind to it (`extensible` symbols of NOTYPE, OBJECT, FUNC, COMMON, TLS, IFUNC type).
    #[inline]
    fn is_candidate(&self, wanted: &Wanted<'_>) -> bool {
        // An undefined symbol with a value is an executable's PLT entry: the function's address for everybody, but
        // no target for another PLT slot.
        let callable = self.is_defined() || !wanted.for_call;
        callable && self.may_be_bound_to()
    }

    /// Whether it is what other objects may bind to, if it is a definition.
    #[inline]
    fn may_be_bound_to(&self) -> bool {
        // Value 0 means "not here" except where 0 is a value: absolute symbols and the start of a TLS block.
        let has_value = self.value != 0 || self.section == SHN_ABS || self.kind() == STT_TLS;
        let kind = matches!(self.kind(), 0..=2 | 5 | STT_TLS | STT_GNU_IFUNC);
        let visible = matches!(self.bind(), STB_GLOBAL | STB_WEAK | STB_GNU_UNIQUE) && !self.binds_locally();
        has_value && kind && visible
    }
}

/// Everything of one object that binding goes by: symbols, names, versions, hash table.
#[derive(Clone)]
pub(crate) struct Symbols {
    table: View,
    strings: View,
    pub(crate) versions: Versions,
    hash: Table,
}

impl Symbols {
    pub(crate) fn read(entries: &SymbolEntries, source: &dyn Source, class: Class) -> Result<Box<Self>, ErrorKind> {
        Self::read_with(entries, source, class, false)
    }

    /// The same for an object that the C library has loaded by these entries: its versions are read once one is asked for.
    pub(crate) fn read_loaded(entries: &SymbolEntries, source: &dyn Source, class: Class) -> Result<Self, ErrorKind> {
        Self::read_with(entries, source, class, true).map(|symbols| *symbols)
    }

    fn read_with(
        entries: &SymbolEntries,
        source: &dyn Source,
        class: Class,
        late: bool,
    ) -> Result<Box<Self>, ErrorKind> {
        let strings = strings(entries, source)?;
        let entry = entry_size(class);
        if let Some(size) = entries.syment.get().filter(|size| *size != entry) {
            return Err(ErrorKind::malformed("DT_SYMENT", At::Object, entry, size));
        }
        let at =
            entries.symtab.get().ok_or_else(|| ErrorKind::malformed("DT_SYMTAB", At::Object, "an address", "none"))?;
        let table = source.require("DT_SYMTAB", at, None)?;
        let hash = Table::read(entries, source)?;
        let count = u64::from(hash.count());
        if count * entry > table.len() {
            let expected = format!("room for the {count} symbols of the hash table");
            return Err(ErrorKind::malformed(
                "DT_SYMTAB",
                At::Vaddr(Vaddr(at)),
                expected,
                format_args!("{:#x} bytes", table.len()),
            ));
        }
        let versions = Versions::read(entries, source, &strings, late)?;
        Ok(Box::new(Self { table, strings, versions, hash }))
    }

    /// Those of an object that has none.
    pub(crate) fn none() -> Self {
        let nothing = View::new(Bytes::from_static(&[]), Class::Elf64, ByteOrder::Little);
        Self { table: nothing.clone(), strings: nothing, versions: Versions::default(), hash: Table::None }
    }

    /// Reads what has been left for later: where the one who asks may not take memory or wait.
    pub(crate) fn read_now(&self) {
        let _: &Numbered = &self.versions;
    }

    /// Symbol number `index`; `None` past the end of the table's segment.
    #[inline(always)]
    pub(crate) fn get(&self, index: u32) -> Option<Symbol> {
        // The one layout that is looked at by the million, without asking at every field which layout it is.
        if self.table.class != Class::Elf64 || self.table.order != ByteOrder::Little {
            return self.get_foreign(index);
        }
        self.table.bytes().as_chunks().0.as_chunks().0.get(index as usize).map(Symbol::of)
    }

    #[cold]
    fn get_foreign(&self, index: u32) -> Option<Symbol> {
        let table = &self.table;
        let at = u64::from(index) * entry_size(table.class);
        Some(match table.class {
            Class::Elf64 => Symbol {
                name: table.u32(at)?,
                info: table.u8(at + 4)?,
                other: table.u8(at + 5)?,
                section: table.u16(at + 6)?,
                value: table.u64(at + 8)?,
                size: table.u64(at + 16)?,
            },
            Class::Elf32 => Symbol {
                name: table.u32(at)?,
                value: table.u32(at + 4)?.into(),
                size: table.u32(at + 8)?.into(),
                info: table.u8(at + 12)?,
                other: table.u8(at + 13)?,
                section: table.u16(at + 14)?,
            },
        })
    }

    /// The name of a symbol.
    #[inline]
    pub(crate) fn name(&self, symbol: &Symbol) -> Option<Name<'_>> {
        Name::at(self.strings.bytes(), symbol.name)
    }

    /// A string of the string table.
    pub(crate) fn string(&self, offset: u32) -> Option<&[u8]> {
        self.strings.str_at(offset.into())
    }

    pub(crate) fn strings(&self) -> &View {
        &self.strings
    }

    /// How well the hash table serves.
    pub(crate) fn hash_quality(&self) -> Option<HashQuality> {
        self.hash.quality()
    }

    /// Whether the hash table has anything.
    pub(crate) fn exports_any(&self) -> bool {
        self.hashes().is_none_or(|hashes| hashes.len() > 0)
    }

    /// How many symbols the hash table covers.
    pub(crate) fn count(&self) -> u32 {
        self.hash.count()
    }

    /// The version that a reference by symbol number `index` asks for, or its definition has.
    pub(crate) fn version_of(&self, index: u32) -> Option<Version> {
        self.versions.index(index).and_then(|index| self.versions.at(index.number))
    }

    /// What a reference of each version index asks others for.
    pub(crate) fn wanted_versions(&self) -> Vec<Option<WantedVersion<'_>>> {
        let wanted = |index| self.versions.at(index).and_then(|version| self.wanted(version));
        (0..self.versions.indices()).map(wanted).collect()
    }

    /// The hashes of all names that others may look for, but for their lowest bit: it is set in the last of a chain. `None`
    /// if its hash table is of the old kind, which keeps none.
    pub(crate) fn hashes(&self) -> Option<impl ExactSizeIterator<Item = u32>> {
        self.hash.hashes()
    }

    /// Calls `each` with the hashes of the names of all symbols that the hash table covers, those that are only referred to
    /// included. The lowest bit is not known of all.
    pub(crate) fn each_hash(&self, mut each: impl FnMut(u32)) {
        let known = self.hashes().into_iter().flatten();
        let first = self.count() - self.hashes().map_or(0, |hashes| hashes.len() as u32);
        let names = (1..first).filter_map(|index| self.name(&self.get(index)?));
        names.for_each(|name| each(name.gnu_hash()));
        known.for_each(each);
    }

    /// Its hash table, for look-ups by the thousand; `None` if it is of the old kind.
    pub(crate) fn gnu(&self) -> Option<Gnu<'_>> {
        self.hash.gnu()
    }

    /// All that is looked at by the thousand, if it is in the layout that is loaded.
    pub(crate) fn rows(&self) -> Rows<'_> {
        let (table, strings, versions) = match (self.table.class, self.table.order) {
            (Class::Elf64, ByteOrder::Little) => {
                (self.table.bytes().as_chunks().0.as_chunks().0, self.strings.bytes(), self.versions.halves())
            }
            _ => (&[][..], &[][..], &[][..]),
        };
        Rows { symbols: self, table, strings, versions }
    }

    /// A version of this object's tables, as others are asked for it.
    pub(crate) fn wanted(&self, version: Version) -> Option<WantedVersion<'_>> {
        let name = self.string(version.name)?;
        Some(WantedVersion { name, hash: version.hash, exact: version.hidden })
    }

    /// The definition of `wanted` in this object, with its index.
    #[inline]
    pub(crate) fn find(&self, wanted: &Wanted<'_>) -> Option<(u32, Symbol)> {
        self.find_from(None, wanted)
    }

    /// What a look-up by name asks first, if it is in the layout that is loaded.
    pub(crate) fn plain(&self) -> Option<Plain> {
        let is_native = self.table.class == Class::Elf64 && self.table.order == ByteOrder::Little;
        is_native.then(|| Plain {
            table: self.table.held(),
            strings: self.strings.held(),
            versions: self.versions.held(),
        })
    }

    /// As [`Symbols::find`], for who may know the number of the first symbol whose hash is that of the name.
    pub(crate) fn find_from(&self, known: Option<u32>, wanted: &Wanted<'_>) -> Option<(u32, Symbol)> {
        let index = match self.gnu() {
            Some(table) if known.is_some() || table.may_have(wanted.gnu_hash) => self.find_in(&table, known, wanted),
            Some(_) => None,
            None => {
                let mut later = Later::default();
                let matches = |index| self.matches(index, wanted, &mut later).then_some(index);
                let found = self.hash.find(known, &wanted.given_up, wanted.gnu_hash, || wanted.sysv(), matches);
                found.or(later.alone())
            }
        }?;
        Some((index, self.get(index)?))
    }

    /// The number of the definition of `wanted`, by `table`, its hash table, which is known to have such a hash.
    #[inline]
    pub(crate) fn find_in(&self, table: &Gnu<'_>, known: Option<u32>, wanted: &Wanted<'_>) -> Option<u32> {
        let mut later = Later::default();
        let start = known.or_else(|| table.start(wanted.gnu_hash))?;
        let matches = |index| self.matches(index, wanted, &mut later);
        table.find_from(start, &wanted.given_up, wanted.gnu_hash, matches).or(later.alone())
    }

    /// Whether symbol number `index`, whose hash is the right one, is what is wanted, or may be if there is just one such.
    #[inline(always)]
    fn matches(&self, index: u32, wanted: &Wanted<'_>, later: &mut Later) -> bool {
        let Some(symbol) = self.get(index) else { return false };
        if !symbol.is_candidate(wanted) || !self.is_named(&symbol, wanted.name) {
            return false;
        }
        match self.suits(self.versions.index(index), wanted.version.as_ref(), wanted.default_version) {
            Suits::Yes => true,
            Suits::No => false,
            Suits::IfAlone => {
                later.first.get_or_insert(index);
                later.count += 1;
                false
            }
        }
    }

    /// The definition that has `vaddr`: of those at or below it the nearest, if it reaches that far (`dladdr`).
    pub(crate) fn at_or_below(&self, vaddr: u64) -> Option<(u32, Symbol)> {
        let all = (0..self.count()).filter_map(|index| Some((index, self.get(index)?)));
        let covers = |symbol: &Symbol| {
            let within = vaddr.wrapping_sub(symbol.value);
            symbol.value <= vaddr && (within < symbol.size || within == 0)
        };
        let fits =
            |symbol: &Symbol| symbol.is_exported() && !symbol.is_tls() && !symbol.is_absolute() && covers(symbol);
        // The first of several at one place.
        all.filter(|(_, symbol)| fits(symbol)).min_by_key(|(_, symbol)| Reverse(symbol.value))
    }

    /// Where entry number `index` stands in memory.
    pub(crate) fn entry(&self, index: u32) -> Option<*const u8> {
        let at = usize::try_from(u64::from(index) * entry_size(self.table.class)).ok()?;
        self.table.bytes().get(at..).map(<[u8]>::as_ptr)
    }

    /// Whether a symbol has that name: no need to look for the end of its own.
    #[inline]
    pub(crate) fn is_named(&self, symbol: &Symbol, name: &[u8]) -> bool {
        self.string_is(symbol.name, name)
    }

    /// Whether the string at `offset` is `text`: no need to look for its end.
    #[inline]
    fn string_is(&self, offset: u32, text: &[u8]) -> bool {
        string_is(self.strings.bytes(), offset, text)
    }

    /// Whether a definition of that version index serves a reference of that version.
    #[inline]
    pub(super) fn serves(&self, own: Option<Index>, wanted: Option<&WantedVersion<'_>>) -> bool {
        matches!(self.suits(own, wanted, false), Suits::Yes)
    }

    #[inline]
    fn suits(&self, own: Option<Index>, wanted: Option<&WantedVersion<'_>>, default_version: bool) -> Suits {
        // An object without versions satisfies every reference: it was versioned when the reference was linked.
        let Some(own) = own else { return Suits::Yes };
        match wanted {
            Some(version) => {
                let named = self.versions.at(own.number);
                let same =
                    named.is_some_and(|named| named.hash == version.hash && self.string_is(named.name, version.name));
                // A base definition, neither versioned nor hidden, also serves a reference that is not exact.
                if same || (!version.exact && named.is_none() && !own.hidden) { Suits::Yes } else { Suits::No }
            }
            None => {
                // Index 1 is the base; 2 is the first version, which old unversioned references mean.
                let oldest = if default_version { 2 } else { 3 };
                match own.number < oldest {
                    true => Suits::Yes,
                    false if own.hidden => Suits::No,
                    false => Suits::IfAlone,
                }
            }
        }
    }
}

/// Whether the string at `offset` of `strings` is `text`.
#[inline]
pub(super) fn string_is(strings: &[u8], offset: u32, text: &[u8]) -> bool {
    let start = offset as usize;
    let end = start + text.len();
    strings.get(end) == Some(&0) && strings.get(start..end) == Some(text)
}

/// Definitions of later versions: a reference without version takes one only if there is no other.
#[derive(Default)]
struct Later {
    first: Option<u32>,
    count: u32,
}

impl Later {
    fn alone(self) -> Option<u32> {
        self.first.filter(|_| self.count == 1)
    }
}

enum Suits {
    Yes,
    No,
    IfAlone,
}

pub(crate) fn entry_size(class: Class) -> u64 {
    match class {
        Class::Elf64 => 24,
        Class::Elf32 => 16,
    }
}

/// The string table, every string of which ends inside it.
pub(crate) fn strings(entries: &SymbolEntries, source: &dyn Source) -> Result<View, ErrorKind> {
    let at = entries.strtab.get().ok_or_else(|| ErrorKind::malformed("DT_STRTAB", At::Object, "an address", "none"))?;
    source.require("DT_STRTAB", at, entries.strsz.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::image::Image;

    /// Of each symbol its version, and all versions, as text.
    fn versions(symbols: &Symbols) -> Vec<String> {
        let text = |version: Version| symbols.wanted(version).map(|version| format!("{version:?}"));
        let of_symbols = (0..symbols.count()).map(|index| format!("{:?}", symbols.version_of(index).map(text)));
        let defined = symbols.versions.definitions().map(|version| format!("{version:?}"));
        let needed = symbols.versions.requirements.iter().map(|need| format!("{need:?}"));
        of_symbols.chain(defined).chain(needed).collect()
    }

    #[test]
    fn versions_that_are_read_late_are_those_that_are_read_at_once() {
        let libraries = std::fs::read_dir(env!("SOLOAD_TEST_LIBS")).unwrap();
        let mut with_versions = 0;
        for path in libraries.map(|entry| entry.unwrap().path()) {
            let Ok(image) = Image::open(&path) else { continue };
            let Some(entries) = image.dynamic().map(|dynamic| dynamic.symbols) else { continue };
            let (source, class) = (image.source(), image.class());
            let Ok(at_once) = Symbols::read(&entries, &source, class) else { continue };
            let late = Symbols::read_loaded(&entries, &source, class).unwrap();
            with_versions += usize::from(late.versions.is_unread());
            assert_eq!(versions(&late), versions(&at_once), "{}", path.display());
            assert!(!late.versions.is_unread() && !at_once.versions.is_unread());
        }
        assert!(with_versions > 20, "{with_versions}");
    }
}
