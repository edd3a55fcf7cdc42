//! The symbols of one object in the layout that is loaded, as look-ups by the thousand want them.

use std::cell::Cell;

use super::gnu::Gnu;
use super::symbols::{Symbol, Symbols, Wanted, WantedVersion, string_is};
use super::versions::Index;
use super::wanted::Name;
use crate::arch::native;
use crate::sys::Bytes;

/// An entry of the symbol table: name, type, binding, visibility and section in eight bytes; value; size.
pub(super) type Row = [[u8; 8]; 3];

/// Symbols, names and versions in the layout that is loaded: which layout it is need not be asked at every one. Of another
/// layout there are none.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) symbols: &'a Symbols,
    pub(super) table: &'a [Row],
    pub(super) strings: &'a [u8],
    pub(super) versions: &'a [[u8; 2]],
}

/// The same, held by who asks many objects for one definition each: all that most of these questions need.
pub(crate) struct Plain {
    pub(super) table: Bytes,
    pub(super) strings: Bytes,
    pub(super) versions: Bytes,
}

impl Plain {
    /// The value of symbol number `index`, if that is what is looked for and nothing has to be said of it but its address. If
    /// not, it may be what is looked for nevertheless.
    #[inline(always)]
    pub(crate) fn value(&self, index: u32, wanted: &Wanted<'_>) -> Option<u64> {
        let index = index as usize;
        let row = self.table.get(index * size_of::<Row>()..)?.first_chunk::<{ size_of::<Row>() }>()?;
        let symbol = Symbol::of(row.as_chunks().0.first_chunk()?);
        // A definition without version; the number of any other has to be compared.
        let suits = match self.versions.get(index * 2..).and_then(|halves| halves.first_chunk()) {
            Some(half) => wanted.version.is_none() && Index::of(u16::from_le_bytes(*half)).number < 2,
            None => true,
        };
        (suits && symbol.is_plain() && string_is(&self.strings, symbol.name, wanted.name)).then_some(symbol.value)
    }
}

impl<'a> Rows<'a> {
    /// Symbol number `index`; `None` past the end of the table's segment.
    #[inline(always)]
    pub(crate) fn get(&self, index: u32) -> Option<Symbol> {
        self.table.get(index as usize).map(Symbol::of)
    }

    /// The version index of symbol number `index`.
    #[inline(always)]
    pub(crate) fn version(&self, index: u32) -> Option<Index> {
        self.versions.get(index as usize).map(|raw| Index::of(u16::from_le_bytes(*raw)))
    }

    /// The name of a symbol.
    #[inline(always)]
    pub(crate) fn name(&self, symbol: &Symbol) -> Option<Name<'a>> {
        Name::at(self.strings, symbol.name)
    }

    /// Prefetches what [`Self::get`] and [`Self::version`] read.
    #[inline(always)]
    pub(crate) fn prefetch(&self, index: u32) {
        self.table.get(index as usize).into_iter().for_each(native::prefetch);
        self.versions.get(index as usize).into_iter().for_each(native::prefetch);
    }

    /// Prefetches a symbol's name.
    #[inline(always)]
    pub(crate) fn prefetch_name(&self, symbol: &Symbol) {
        let start = symbol.name as usize;
        [self.strings.get(start), self.strings.get(start + 64)].into_iter().flatten().for_each(native::prefetch);
    }

    /// Whether `table`, the object's, has a symbol without version though the object defines versions: it may be found for a
    /// name of any.
    pub(crate) fn has_unversioned(&self, table: &Gnu<'_>) -> bool {
        let of_table = self.versions.get(table.first as usize..self.symbols.count() as usize);
        let without = |raw: &[u8; 2]| u16::from_le_bytes(*raw) < 2;
        // All of them, so that many are compared at once.
        let count = of_table.map(|all| all.iter().map(|raw| u32::from(without(raw))).sum::<u32>());
        self.symbols.versions.defines_any && count != Some(0)
    }

    /// The value of symbol number `index`, which is `own`, if nothing has to be said of it but its address, and a reference by
    /// that number finds that very definition once this object is asked. `first` says whether it is the first of its hash there.
    #[inline(always)]
    pub(crate) fn plain_own(&self, index: u32, own: &Symbol, first: impl FnOnce() -> bool) -> Option<u64> {
        // Of an object that defines versions, a name without one may mean another definition than its own, and one that has
        // none serves a name of any.
        let found = || {
            let version = self.version(index).map_or(0, |index| index.number);
            (version < 2 || self.symbols.versions.at(version).is_some()) && first()
        };
        (own.is_plain() && (!self.symbols.versions.defines_any || found())).then_some(own.value)
    }

    /// The definition of this name that serves a reference of this version, if it has an address: the first of its hash in
    /// `table`, the object's, is number `index`, if that has this hash at all. If there is none, there may be one nevertheless.
    #[inline(always)]
    pub(crate) fn simple(
        &self,
        table: &Gnu<'_>,
        index: u32,
        name: Name<'_>,
        version: Option<&WantedVersion<'_>>,
    ) -> Option<Symbol> {
        let first = self.get(index)?;
        // Its hash is one more place of memory that is far away.
        match first.has_address() {
            true if self.suits(index, &first, name, version) => Some(first),
            true => {
                let suits = |index, symbol: &Symbol| self.suits(index, symbol, name, version);
                self.second(table, index, name.gnu_hash(), suits)
            }
            false => None,
        }
    }

    /// The same if another one stands before it.
    #[cold]
    fn second(&self, table: &Gnu<'_>, index: u32, hash: u32, suits: impl Fn(u32, &Symbol) -> bool) -> Option<Symbol> {
        // Who was led to another hash has not learnt that objects before this one have no such name.
        if table.hash_of(index)? | 1 != hash | 1 {
            return None;
        }
        let mut found = None;
        let ends = |index| {
            let symbol = self.get(index).filter(Symbol::has_address);
            found = symbol.filter(|symbol| suits(index, symbol));
            // What has no address may be the very one.
            found.is_some() || symbol.is_none()
        };
        table.find_from(index, &Cell::new(false), hash, ends)?;
        found
    }

    #[inline(always)]
    fn suits(&self, index: u32, symbol: &Symbol, name: Name<'_>, version: Option<&WantedVersion<'_>>) -> bool {
        string_is(self.strings, symbol.name, name.text) && self.symbols.serves(self.version(index), version)
    }
}
