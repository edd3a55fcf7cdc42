//! Look-ups that come next are prepared together: what they are going to read is asked of memory for all of them at once.
//!
//! A look-up reads some six places, each found by the one before and far from it. One look-up after another mostly waits
//! for memory; here the first places of all are asked for, then the second of all, and so on, so that memory answers many
//! at once. Objects are gone through one by one, each with all the names, so that the filter of each is read in one go. What
//! is learnt on the way is the addresses of the object's own definitions, which need no name, and who need not be asked for
//! the others; everything else is decided by the look-ups themselves.

use std::num::NonZeroU32;
use std::ops::Range;

use super::scope::{Own, Providers};
use crate::file::relocations::AHEAD;
use crate::file::wanted::Name;

/// Look-ups that come next, by the numbers of the symbols.
#[derive(Default)]
pub(super) struct Expected<'a> {
    all: Vec<(u32, Known<'a>)>,
    /// They are asked for in the order in which they were expected: where that begins.
    next: usize,
}

/// What has been learnt of a symbol.
#[derive(Clone, Copy)]
pub(super) enum Known<'a> {
    /// Its address: it is a plain definition of the object's own, and nobody who is asked before has such a name.
    Own(u64),
    Name {
        name: Name<'a>,
        first: First,
    },
}

/// Where the search for a name begins. Kept small: there are many at a time.
#[derive(Clone, Copy)]
pub(super) struct First {
    rank: u32,
    likely: Option<(u32, NonZeroU32)>,
}

impl First {
    /// Nobody has been found yet.
    const NOBODY: Self = Self { rank: u32::MAX, likely: None };

    pub(super) fn new(rank: usize, likely: Option<(usize, u32)>) -> Self {
        // There are not so many objects in any process.
        Self {
            rank: rank as u32,
            likely: likely.and_then(|(rank, symbol)| Some((rank as u32, NonZeroU32::new(symbol)?))),
        }
    }

    /// The rank of the first object that can have it, of those that are asked by filters of their own.
    #[inline(always)]
    pub(super) fn rank(self) -> usize {
        self.rank as usize
    }

    /// The rank of the first object that has a symbol of the name's hash, and the first of those, if that is known.
    #[inline(always)]
    pub(super) fn likely(self) -> Option<(usize, u32)> {
        self.likely.map(|(rank, symbol)| (rank as usize, symbol.get()))
    }

    fn is_nobody(self) -> bool {
        self.rank == Self::NOBODY.rank
    }
}

/// Names that are looked for at once, [`AHEAD`] at most.
struct Names {
    count: usize,
    /// Which of those that are expected each of them is.
    at: [u8; AHEAD],
    hashes: [u32; AHEAD],
    first: [First; AHEAD],
}

const _: () = assert!(AHEAD <= u8::MAX as usize);

impl<'a> Providers<'a> {
    /// Prepares the look-ups of these symbols of object `own`, [`AHEAD`] of them at most.
    pub(super) fn expect(&mut self, own: &Own<'a>, numbers: &[u32]) {
        let symbols = own.symbols;
        numbers.iter().for_each(|number| symbols.prefetch(*number));
        // Of its own definitions the hash is known, and is all that is read as a rule.
        let mut definitions = [None; AHEAD];
        for (definition, number) in definitions.iter_mut().zip(numbers) {
            *definition = own.definition(*number);
            match definition {
                Some((hash, _)) => self.prefetch(*hash),
                None => symbols.prefetch_name(*number),
            }
        }
        let mut all = std::mem::take(&mut self.expected.all);
        all.clear();
        all.reserve_exact(AHEAD);
        let mut names = Names { count: 0, at: [0; AHEAD], hashes: [0; AHEAD], first: [First::NOBODY; AHEAD] };
        for (definition, number) in definitions.iter().zip(numbers) {
            if let Some((_, address)) = definition.filter(|(hash, _)| self.none_before(own.before, *hash)) {
                all.push((*number, Known::Own(address)));
            } else if let Some(name) = symbols.get(*number).and_then(|symbol| symbols.name(&symbol)) {
                self.prefetch(name.gnu_hash());
                (names.at[names.count], names.hashes[names.count]) = (all.len() as u8, name.gnu_hash());
                names.count += 1;
                all.push((*number, Known::Name { name, first: First::NOBODY }));
            }
        }
        self.find_first(&mut names);
        for (at, found) in names.at.iter().zip(&names.first).take(names.count) {
            if let (_, Known::Name { first, .. }) = &mut all[usize::from(*at)] {
                *first = *found;
            }
        }
        self.expected = Expected { all, next: 0 };
    }

    /// Prefetches where a table says who has a name of that hash.
    #[inline(always)]
    fn prefetch(&self, hash: u32) {
        self.index.iter().for_each(|table| table.prefetch(hash));
    }

    /// Finds the first object that can have each name, and asks memory for what it has of it.
    fn find_first(&self, names: &mut Names) {
        let leading = self.leading();
        self.ask_filters(0..leading, names, |hash| self.may_lead(hash));
        match &self.index {
            // Who need not be asked is not learnt by it: a name that it has not is asked of all.
            Some(index) => {
                for (first, hash) in names.first.iter_mut().zip(names.hashes).take(names.count) {
                    if first.is_nobody() {
                        *first = First::new(leading, index.matches(hash).next());
                    }
                }
            }
            None => self.ask_filters(leading..self.asked.len(), names, |_| true),
        }
        let table = |rank: usize| self.asked.get(rank)?.table.as_ref();
        let mut starts = [None; AHEAD];
        for at in (0..names.count).filter(|at| names.first[*at].likely.is_none()) {
            if let Some(table) = table(names.first[at].rank()) {
                starts[at] = table.start(names.hashes[at]).inspect(|start| table.prefetch(*start));
            }
        }
        for ((first, hash), start) in names.first.iter_mut().zip(names.hashes).zip(starts).take(names.count) {
            if let (Some(table), Some(start)) = (table(first.rank()), start) {
                *first = First::new(first.rank(), table.first(start, hash).map(|symbol| (first.rank(), symbol)));
            }
        }
        let found = || names.first[..names.count].iter().filter_map(|first| first.likely());
        let symbols = |rank: usize| self.all[self.asked[rank].number].symbols;
        found().for_each(|(rank, symbol)| symbols(rank).prefetch(symbol));
        found().for_each(|(rank, symbol)| symbols(rank).prefetch_name(symbol));
    }

    /// Asks the filters of the objects of these ranks for the names that nobody has been found for and that they `may` have.
    #[inline(always)]
    fn ask_filters(&self, ranks: Range<usize>, names: &mut Names, may: impl Fn(u32) -> bool) {
        let mut asking = [0u8; AHEAD];
        let mut count = 0;
        for at in 0..names.count {
            if names.first[at].is_nobody() && may(names.hashes[at]) {
                asking[count] = at as u8;
                count += 1;
            }
        }
        for (rank, asked) in ranks.clone().zip(&self.asked[ranks]) {
            let mut left = 0;
            for next in 0..count {
                let at = usize::from(asking[next]);
                // One without a filter has to be asked.
                if asked.table.as_ref().is_none_or(|table| table.may_have(names.hashes[at])) {
                    asked.table.as_ref().inspect(|table| table.prefetch_bucket(names.hashes[at]));
                    names.first[at] = First::new(rank, None);
                } else {
                    asking[left] = at as u8;
                    left += 1;
                }
            }
            count = left;
        }
    }

    /// What has been learnt of that symbol, if its look-up has been prepared.
    #[inline(always)]
    pub(super) fn prepared(&mut self, symbol: u32) -> Option<Known<'a>> {
        let Expected { all, next } = &mut self.expected;
        let rest = all.get(*next..)?;
        let at = rest.iter().position(|(number, _)| *number == symbol)?;
        *next += at;
        Some(rest[at].1)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::addr::Bias;
    use crate::file::symbols::Wanted;
    use crate::load::index::Demand;
    use crate::load::index::tests::symbols;
    use crate::load::scope::{Definition, Provider, Rules};

    #[test]
    fn what_was_prepared_is_found_as_if_it_had_not_been_and_who_has_it_not_is_not_asked() {
        let all = ["/libgcc_s.so.1", "/ld-linux-x86-64.so.2", "/libc.so.6"].map(symbols);
        let file = PathBuf::new();
        let providers = || {
            let provider = |symbols| Provider { symbols, bias: Bias::default(), file: &file };
            let rules = Rules { settled: &|_| None, own: &|_| None };
            let demand = Demand { references: 0, by: Vec::new() };
            Providers::new(all.iter().map(provider).collect(), &[0, 1, 2], &demand, None, rules)
        };
        let (mut prepared, mut plain) = (providers(), providers());
        let referring = &all[0];
        let undefined = (1..referring.count()).filter(|number| !referring.get(*number).unwrap().is_defined());
        let undefined: Vec<u32> = undefined.collect();
        let own = prepared.own(0, false);
        let (mut found, mut skipped) = (0, 0);
        for run in undefined.chunks(AHEAD) {
            prepared.expect(&own, run);
            for number in run {
                let symbol = referring.get(*number).unwrap();
                let Some(Known::Name { name, first }) = prepared.prepared(*number) else { panic!("{number}") };
                assert_eq!(Some(name.text), referring.string(symbol.name));
                skipped += usize::from(first.rank() > 0);
                let version = referring.version_of(*number).and_then(|version| referring.wanted(version));
                let wanted = Wanted::reference(name, version, true);
                let found_as = |found: Definition| (found.provider, found.value);
                let definition = prepared.bind_from(0, &symbol, &wanted, false, first).map(found_as);
                let other = plain.bind(0, &symbol, &wanted, false).map(found_as);
                assert_eq!(definition, other, "{}", String::from_utf8_lossy(name.text));
                found += usize::from(definition.is_some());
            }
        }
        assert!(found > 10 && skipped >= found, "{found} found, {skipped} led past the first object");
    }

    #[test]
    fn a_name_that_the_table_of_what_is_wanted_has_not_is_found_all_the_same() {
        let own = std::env::current_exe().unwrap();
        let all = ["/libgcc_s.so.1", own.to_str().unwrap(), "/libc.so.6"].map(symbols);
        let file = PathBuf::new();
        let provider = |symbols| Provider { symbols, bias: Bias::default(), file: &file };
        let rules = Rules { settled: &|_| None, own: &|_| None };
        // Made for what the first object looks for; the second looks for other names.
        let demand = Demand { references: usize::MAX, by: vec![&all[0]] };
        let mut providers = Providers::new(all.iter().map(provider).collect(), &[0, 1, 2], &demand, None, rules);
        let own = providers.own(1, false);
        let (mut unknown, mut found) = (0, 0);
        for number in 1..all[1].count() {
            let symbol = all[1].get(number).unwrap();
            let name = all[1].name(&symbol).unwrap();
            if symbol.is_defined() || providers.index.as_ref().unwrap().knows(name.gnu_hash()) {
                continue;
            }
            providers.expect(&own, &[number]);
            let Some(Known::Name { first, .. }) = providers.prepared(number) else { panic!("{number}") };
            let wanted = Wanted::reference(name, None, true);
            let definition = providers.bind_from(1, &symbol, &wanted, false, first);
            let there = all[2].find(&Wanted::reference(name, None, true)).is_some();
            assert!(definition.is_some() || !there, "{}", String::from_utf8_lossy(name.text));
            (unknown, found) = (unknown + 1, found + usize::from(definition.is_some()));
        }
        assert!(found > 10, "{found} of {unknown}");
    }
}
