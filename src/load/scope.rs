//! Which definition a reference binds to: the objects of a scope, asked in order, by glibc's rules.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::ahead::{Expected, First};
use super::index::{Demand, Filter, Index};
use super::unique::{Unique, UniqueSymbols};
use crate::addr::{Addr, Bias};
use crate::file::gnu::{Bloom, Gnu};
use crate::file::image::Image;
use crate::file::rows::Rows;
use crate::file::symbols::{Symbol, Symbols, Wanted, WantedVersion};
use crate::file::wanted::Name;

/// An object that may define symbols for others.
#[derive(Clone, Copy)]
pub(crate) struct Provider<'a> {
    pub(crate) symbols: &'a Symbols,
    pub(crate) bias: Bias,
    pub(crate) file: &'a dyn Located,
}

/// What has a path, which messages alone ask for: of the program, the kernel has to be asked.
pub(crate) trait Located {
    fn path(&self) -> &Path;
}

impl Located for Image {
    fn path(&self) -> &Path {
        self.path()
    }
}

impl Located for PathBuf {
    fn path(&self) -> &Path {
        self
    }
}

/// A definition: which provider has it (its number in the list of all providers), and the symbol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition {
    pub(crate) provider: usize,
    pub(crate) symbol: Symbol,
    /// Where it is in this process. Of a thread-local symbol: its offset in its block.
    pub(crate) value: Addr,
}

impl Provider<'_> {
    /// Where `symbol` of this object lies: absolute symbols do not move with it.
    pub(crate) fn address(&self, symbol: &Symbol) -> Addr {
        match symbol.is_absolute() || symbol.is_tls() {
            true => Addr(symbol.value as usize),
            false => self.bias.at(crate::addr::Vaddr(symbol.value)),
        }
    }
}

/// Where a unique symbol is that an earlier group has settled.
pub(crate) type Settled<'a> = dyn Fn(&Wanted<'_>) -> Option<(Addr, Symbol)> + 'a;

/// The functions that loaded code gets from the loader, by name.
pub(crate) type Imports = fn(&[u8]) -> Option<Addr>;

/// All objects that references of one group may bind to.
pub(crate) struct Providers<'a> {
    pub(super) all: Vec<Provider<'a>>,
    /// In the order in which they are asked.
    pub(super) asked: Vec<Asked<'a>>,
    /// The filters of those that are asked by them, one beside the other.
    pub(super) filters: Vec<Bloom<'a>>,
    /// Where each of them stands in that order.
    ranks: Vec<usize>,
    /// What tells quickly that none of the first objects of that order has a name, and how many they are.
    leading: Option<(&'a Filter, usize)>,
    /// The table over the others.
    pub(super) index: Option<Index>,
    pub(super) expected: Expected<'a>,
    /// Unique symbols that this group is the first to use.
    pub(crate) unique: UniqueSymbols,
    /// Unique symbols that it uses and earlier groups have settled: what it would have been bound to, and whether everybody
    /// uses another definition.
    pub(crate) settled: BTreeMap<Unique, bool>,
    rules: Rules<'a>,
}

/// A provider in its place in the order.
pub(super) struct Asked<'a> {
    pub(super) number: usize,
    pub(super) rows: Rows<'a>,
    /// What tells quickly that it does not define a name.
    pub(super) table: Option<Gnu<'a>>,
}

/// What comes before the providers.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    /// Unique symbols that earlier groups have settled. Their owners stay for good.
    pub(crate) settled: &'a Settled<'a>,
    /// Functions that loaded code gets from the loader, before all others.
    pub(crate) own: &'a dyn Fn(&[u8]) -> Option<Addr>,
}

/// An object whose references are bound, as one that they may be bound to.
pub(crate) struct Own<'a> {
    pub(super) rows: Rows<'a>,
    base: u64,
    pub(super) table: Option<Gnu<'a>>,
    /// Whether it matters which of its symbols of one name is met first.
    has_unversioned: bool,
    /// How many objects are asked before it.
    pub(super) before: usize,
}

/// The objects that are asked before one.
pub(super) struct Before<'s, 'a> {
    /// What tells quickly that none of those at the beginning has a name.
    filter: Option<&'a Filter>,
    led: &'s [Asked<'a>],
    /// The table that the others are in.
    table: Option<&'s Index>,
    others: &'s [Asked<'a>],
}

impl Before<'_, '_> {
    /// Whether none of them has a name of that hash, which the one after them has. The lowest bit of a hash is not known.
    #[inline(always)]
    pub(super) fn have_none(&self, hash: u32) -> bool {
        let none = |objects: &[Asked<'_>]| {
            objects.iter().all(|asked| asked.table.as_ref().is_some_and(|table| !table.has_either(hash)))
        };
        if self.filter.is_some_and(|filter| filter.has(hash)) && !none(self.led) {
            return false;
        }
        let before = self.led.len() + self.others.len();
        match self.table {
            Some(table) => table.knows(hash) && table.matches(hash).next().is_some_and(|(rank, _)| rank == before),
            None => none(self.others),
        }
    }
}

impl Own<'_> {
    /// The hash of symbol number `index`, which is `symbol`, but for its lowest bit, and the address that a reference by it
    /// binds to if nobody who is asked before has a name of that hash. That is told without the name, for a plain definition
    /// of the object's own.
    #[inline(always)]
    pub(super) fn definition(&self, index: u32, symbol: &Symbol) -> Option<(u32, u64)> {
        let table = self.table.as_ref()?;
        let value = self.rows.plain_own(index, symbol, || !self.has_unversioned || table.is_first_of_hash(index))?;
        Some((table.hash_of(index)?, self.base.wrapping_add(value)))
    }

    /// Prefetches what [`Self::definition`] reads.
    #[inline(always)]
    pub(super) fn prefetch(&self, index: u32) {
        self.rows.prefetch(index);
        self.table.iter().for_each(|table| table.prefetch(index));
    }
}

impl<'a> Providers<'a> {
    /// A scope of which `demand` is made. Of the objects that are asked first there may be a filter (`leading`).
    pub(crate) fn new(
        all: Vec<Provider<'a>>,
        order: &[usize],
        demand: &Demand<'_>,
        leading: Option<(&'a Filter, usize)>,
        rules: Rules<'a>,
    ) -> Self {
        let index = Index::of(&all, order, leading.map_or(0, |(_, objects)| objects), demand);
        let mut ranks = vec![usize::MAX; all.len()];
        order.iter().enumerate().for_each(|(rank, number)| ranks[*number] = rank);
        let asked = |&number: &usize| {
            let symbols = all[number].symbols;
            Asked { number, rows: symbols.rows(), table: symbols.gnu() }
        };
        let asked: Vec<_> = order.iter().map(asked).collect();
        let (unique, settled) = (UniqueSymbols::default(), BTreeMap::new());
        let by_filters = if index.is_some() { leading.map_or(0, |(_, objects)| objects) } else { asked.len() };
        // One without a filter has to be asked.
        let bloom = |asked: &Asked<'a>| asked.table.as_ref().map_or(Bloom::ALL, |table| table.bloom);
        let filters = asked.iter().take(by_filters).map(bloom).collect();
        Self { all, asked, filters, ranks, leading, index, expected: Expected::default(), unique, settled, rules }
    }

    /// The provider of that number.
    pub(crate) fn get(&self, provider: usize) -> Option<Provider<'a>> {
        self.all.get(provider).copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// The files of the scope, in the order in which they are asked.
    pub(crate) fn searched(&self) -> impl Iterator<Item = &Path> {
        self.asked.iter().map(|asked| self.all[asked.number].file.path())
    }

    /// The first definition of `wanted`: in object `itself`, if there is one, then in the order of the scope from `first` on.
    #[inline]
    fn find(&mut self, wanted: &Wanted<'_>, itself: Option<usize>, first: First) -> Option<Definition> {
        let hash = wanted.gnu_hash();
        let may_have = |asked: &&Asked<'_>| asked.table.as_ref().is_none_or(|table| table.may_have(hash));
        let ask_any = |asked: &Asked<'_>| {
            let symbols = self.all[asked.number].symbols;
            let index = match &asked.table {
                Some(table) => symbols.find_in(table, None, wanted)?,
                None => symbols.find(wanted)?.0,
            };
            Some((asked.number, index))
        };
        // An object is asked from its first symbol of that hash on: the others follow in its chain. If it is led to once more,
        // that one may have been in the chain of a hash with another lowest bit, which the table does not tell: then the
        // object goes by its own table.
        let last = Cell::new(None);
        let ask_known = |(rank, symbol): (usize, u32)| {
            let asked = &self.asked[rank];
            let Some(table) = &asked.table else { return ask_any(asked) };
            if table.hash_of(symbol)? | 1 != hash | 1 {
                return None;
            }
            let known = Some(symbol).filter(|_| last.replace(Some(rank)) != Some(rank));
            let found = self.all[asked.number].symbols.find_in(table, known, wanted)?;
            Some((asked.number, found))
        };
        let leading = self.leading();
        let ask = |some: Option<&[Asked<'_>]>| some.unwrap_or_default().iter().filter(may_have).find_map(ask_any);
        let itself = || itself.and_then(|number| self.asked.get(self.ranks[number])).filter(may_have).and_then(ask_any);
        // Where the first symbol of that hash is known, the object is asked from there on.
        let known = first.likely().filter(|(rank, _)| *rank == first.rank()).map(|(_, symbol)| symbol);
        let prepared = || {
            let asked = self.asked.get(first.rank())?;
            let found = self.all[asked.number].symbols.find_in(asked.table.as_ref()?, Some(known?), wanted)?;
            Some((asked.number, found))
        };
        let next = first.rank() + usize::from(known.is_some());
        let early = || ask(self.asked.get(next..leading));
        let by_table = || self.index.as_ref().and_then(|table| table.matches(hash).find_map(ask_known));
        let is_known = self.index.as_ref().is_some_and(|index| index.knows(hash));
        // What a table says of a name that it is not about is of another.
        let rest = if self.index.is_some() { leading } else { next.max(leading) };
        let others = || if is_known { None } else { ask(self.asked.get(rest..)) };
        let (provider, index) = itself().or_else(prepared).or_else(early).or_else(by_table).or_else(others)?;
        let object = &self.all[provider];
        let symbol = object.symbols.get(index)?;
        let found = Definition { provider, symbol, value: object.address(&symbol) };
        Some(if found.symbol.is_unique() { self.find_unique(wanted, index, found) } else { found })
    }

    /// How many objects `leading` is about.
    #[inline(always)]
    pub(super) fn leading(&self) -> usize {
        self.leading.map_or(0, |(_, objects)| objects)
    }

    /// Whether one of those may have a name of that hash, whose lowest bit does not count.
    #[inline(always)]
    fn may_lead(&self, hash: u32) -> bool {
        self.leading.is_some_and(|(filter, _)| filter.has(hash))
    }

    /// The definition that everybody uses: the one found first, now or at an earlier load.
    fn find_unique(&mut self, wanted: &Wanted<'_>, index: u32, found: Definition) -> Definition {
        let own = Unique { hash: wanted.gnu_hash(), owner: found.provider as u32, index };
        if let Some((value, symbol)) = (self.rules.settled)(wanted) {
            self.settled.insert(own, value != found.value);
            return Definition { value, symbol, ..found };
        }
        let symbols = |owner: u32| self.all.get(owner as usize).map(|object| object.symbols);
        if let Some((first, symbol)) = self.unique.find(wanted, symbols) {
            let provider = first.owner as usize;
            return Definition { provider, symbol, value: self.all[provider].address(&symbol) };
        }
        self.unique.insert(own);
        found
    }

    /// What references of object `from` to itself go by. A symbolic object asks itself first.
    pub(crate) fn own(&mut self, from: usize, symbolic: bool) -> Own<'a> {
        // What has been prepared is another object's.
        self.expected = Expected::default();
        let Provider { symbols, bias, .. } = self.all[from];
        let before = if symbolic { 0 } else { self.ranks[from].min(self.asked.len()) };
        let (rows, table) = (symbols.rows(), symbols.gnu());
        let has_unversioned = table.as_ref().is_some_and(|table| rows.has_unversioned(table));
        Own { rows, base: bias.get() as u64, table, has_unversioned, before }
    }

    /// Who is asked before an object.
    pub(super) fn before(&self, own: &Own<'a>) -> Before<'_, 'a> {
        let (led, others) = self.asked[..own.before].split_at(self.leading().min(own.before));
        let table = self.index.as_ref().filter(|_| !others.is_empty());
        Before { filter: self.leading.map(|(filter, _)| filter), led, table, others }
    }

    /// What a reference by symbol `own` of object `from` binds to (`_dl_lookup_symbol_x`). A symbolic object
    /// (`DT_SYMBOLIC`) asks itself first.
    pub(crate) fn bind(
        &mut self,
        from: usize,
        own: &Symbol,
        wanted: &Wanted<'_>,
        symbolic: bool,
    ) -> Option<Definition> {
        let first = self.first(wanted.gnu_hash());
        self.bind_from(from, own, wanted, symbolic, first)
    }

    /// Where the search for a name of that hash begins, if it has not been prepared.
    pub(super) fn first(&self, hash: u32) -> First {
        First::from(if self.may_lead(hash) { 0 } else { self.leading() })
    }

    /// What a reference by symbol `own` binds to, where what is likely is right and has an address: of an IFUNC that of its
    /// resolver.
    #[inline(always)]
    pub(super) fn simple(
        &self,
        own: &Symbol,
        name: Name<'_>,
        version: Option<&WantedVersion<'_>>,
        first: First,
    ) -> Option<Definition> {
        let (rank, symbol) = first.likely()?;
        if own.binds_locally() || own.is_protected() || (!own.is_defined() && (self.rules.own)(name.text).is_some()) {
            return None;
        }
        let Asked { number: provider, rows, table } = self.asked.get(rank)?;
        let symbol = rows.simple(table.as_ref()?, symbol, name, version)?;
        Some(Definition { provider: *provider, symbol, value: self.all[*provider].address(&symbol) })
    }

    /// The same where the objects before the `first` are known not to have such a name, but for those that the table is about.
    #[inline]
    pub(super) fn bind_from(
        &mut self,
        from: usize,
        own: &Symbol,
        wanted: &Wanted<'_>,
        symbolic: bool,
        first: First,
    ) -> Option<Definition> {
        let itself = |all: &[Provider<'_>]| Definition { provider: from, symbol: *own, value: all[from].address(own) };
        if own.binds_locally() {
            return Some(itself(&self.all));
        }
        if !own.is_defined()
            && let Some(value) = (self.rules.own)(wanted.name)
        {
            return Some(Definition { provider: from, symbol: *own, value });
        }
        let found = self.find(wanted, symbolic.then_some(from), first);
        // A protected definition serves its own object, except that the address of a function is the one that an
        // executable's PLT entry has made its address for everybody, if that leads to it.
        match found {
            Some(found) if own.is_protected() && own.is_defined() && found.provider != from => {
                let canonical = !wanted.for_call && !found.symbol.is_defined() && {
                    let first = self.first(wanted.gnu_hash());
                    self.find(&wanted.called(), None, first).is_some_and(|called| called.provider == from)
                };
                Some(if canonical { found } else { itself(&self.all) })
            }
            found => found,
        }
    }
}
