//! Unique symbols (`STB_GNU_UNIQUE`): of all definitions of a name, the one that was bound to first is everybody's.

use std::collections::BTreeSet;

use crate::file::symbols::{Symbol, Symbols, Wanted};

/// The definition of a unique symbol that everybody uses: symbol number `index` of an owner, who is known by a number, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unique {
    /// The hash of its name, by which it is found: the name itself stays where its owner has it.
    pub(crate) hash: u32,
    pub(crate) owner: u32,
    pub(crate) index: u32,
}

impl Unique {
    /// Its name, where its owner has these `symbols`.
    pub(crate) fn name(self, symbols: &Symbols) -> Option<&[u8]> {
        symbols.string(symbols.get(self.index)?.name)
    }
}

/// A set of those.
#[derive(Clone, Debug, Default)]
pub(crate) struct UniqueSymbols(BTreeSet<Unique>);

impl FromIterator<Unique> for UniqueSymbols {
    fn from_iter<I: IntoIterator<Item = Unique>>(symbols: I) -> Self {
        Self(symbols.into_iter().collect())
    }
}

impl UniqueSymbols {
    pub(crate) fn insert(&mut self, symbol: Unique) {
        self.0.insert(symbol);
    }

    /// The one of that name, where each owner has the symbols that `symbols` says.
    pub(crate) fn find<'a>(
        &self,
        wanted: &Wanted<'_>,
        symbols: impl Fn(u32) -> Option<&'a Symbols>,
    ) -> Option<(Unique, Symbol)> {
        self.alike(wanted.gnu_hash()).find_map(|own| {
            let symbols = symbols(own.owner)?;
            let symbol = symbols.get(own.index).filter(|symbol| symbol.is_unique() && symbol.is_defined())?;
            symbols.is_named(&symbol, wanted.name).then_some((own, symbol))
        })
    }

    /// Whether there is one whose name has that hash.
    pub(crate) fn has_hash(&self, hash: u32) -> bool {
        self.alike(hash).next().is_some()
    }

    fn alike(&self, hash: u32) -> impl Iterator<Item = Unique> {
        let first = Unique { hash, owner: 0, index: 0 };
        self.0.range(first..).copied().take_while(move |own| own.hash == hash)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Unique> {
        self.0.iter().copied()
    }

    /// Adds all of `others`.
    pub(crate) fn append(&mut self, others: Self) {
        // Many at once, in order, take less time and memory than one after another.
        match self.0.is_empty() {
            true => *self = others,
            false => self.0.extend(others.0),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
