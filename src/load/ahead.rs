//! Look-ups that come next are prepared together: what they are going to read is asked of memory for all of them at once.
//!
//! A look-up reads some six places, each found by the one before and far from it. One look-up after another mostly waits
//! for memory; here the first places of all are asked for, then the second of all, and so on, so that memory answers many
//! at once. What is learnt on the way is the addresses of the object's own definitions, which need no name, and who need not
//! be asked for the others; everything else is decided by the look-ups themselves.

use super::index::Index;
use super::scope::{Own, Providers};
use crate::file::gnu::TooLong;
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
    /// There is no such symbol, or it has no name.
    Nothing,
    /// It is a plain definition of the object's own, of this hash but for the lowest bit; nobody who is asked before has such a
    /// name.
    Own {
        hash: u32,
        address: u64,
    },
    Name {
        name: Name<'a>,
        first: First,
    },
}

/// Where the search for a name begins. Kept small: there are many at a time.
#[derive(Clone, Copy)]
pub(super) struct First {
    rank: u32,
    /// The rank of the object that is likely to have it, and the symbol, 0 if that is not known: then it is where the chain
    /// begins, for the moment.
    likely: u32,
    symbol: u32,
}

impl First {
    /// Nobody has been found yet.
    const NOBODY: Self = Self::at(u32::MAX);
    const fn at(rank: u32) -> Self {
        Self { rank, likely: rank, symbol: 0 }
    }

    /// All who have this rank or a later one are asked.
    pub(super) fn from(rank: usize) -> Self {
        // There are not so many objects in any process.
        Self::at(rank as u32)
    }

    /// The rank of the first object that can have it, of those that are asked by filters of their own.
    #[inline(always)]
    pub(super) fn rank(self) -> usize {
        self.rank as usize
    }

    /// The rank of the first object that has a symbol of the name's hash, and the first of those, if that is known.
    #[inline(always)]
    pub(super) fn likely(self) -> Option<(usize, u32)> {
        (self.symbol != 0).then_some((self.likely as usize, self.symbol))
    }
}

/// Names that nobody has been found for: their hashes, and which of those that are expected they are.
struct Asking {
    names: [(u32, u8); AHEAD],
    count: usize,
}

const _: () = assert!(AHEAD <= u8::MAX as usize);

impl Asking {
    const NONE: Self = Self { names: [(0, 0); AHEAD], count: 0 };

    #[inline(always)]
    fn push(&mut self, name: (u32, u8)) {
        if let Some(place) = self.names.get_mut(self.count) {
            *place = name;
            self.count += 1;
        }
    }

    fn names(&self) -> &[(u32, u8)] {
        self.names.get(..self.count).unwrap_or_default()
    }
}

impl<'a> Providers<'a> {
    /// Prepares the look-ups of these symbols of object `own`, [`AHEAD`] of them at most.
    pub(super) fn expect(&mut self, own: &Own<'a>, numbers: impl Iterator<Item = u32>) {
        let mut all = std::mem::take(&mut self.expected.all);
        all.clear();
        all.reserve_exact(AHEAD);
        let mut last = 0;
        for number in numbers {
            // Relative ones have none, and references to one follow one another.
            if number != 0 && number != last {
                own.prefetch(number);
                all.push((number, Known::Nothing));
                last = number;
            }
        }
        // Of its own definitions the hash is known, and is all that is read as a rule.
        for (number, known) in &mut all {
            let Some(symbol) = own.rows.get(*number) else { continue };
            match own.definition(*number, &symbol) {
                Some((hash, address)) => {
                    self.prefetch(hash);
                    *known = Known::Own { hash, address };
                }
                None => own.rows.prefetch_name(&symbol),
            }
        }
        let before = self.before(own);
        let mut asking = Asking::NONE;
        for (at, (number, known)) in all.iter_mut().enumerate() {
            if matches!(known, Known::Own { hash, .. } if before.have_none(*hash)) {
                continue;
            }
            *known = match own.rows.get(*number).and_then(|symbol| own.rows.name(&symbol)) {
                Some(name) => {
                    let hash = name.gnu_hash();
                    self.prefetch(hash);
                    asking.push((hash, at as u8));
                    Known::Name { name, first: self.first(hash) }
                }
                None => Known::Nothing,
            };
        }
        self.find_first(asking, &mut all);
        self.expected = Expected { all, next: 0 };
    }

    /// Prefetches where a table says who has a name of that hash.
    #[inline(always)]
    fn prefetch(&self, hash: u32) {
        self.index.iter().for_each(|table| table.prefetch(hash));
    }

    /// Where the search for a name of that hash goes on that has come so far.
    #[inline(always)]
    fn next(&self, first: First, hash: u32) -> First {
        let mut filters = self.filters.get(first.rank()..).unwrap_or_default().iter();
        match (filters.position(|filter| filter.may_have(hash)), &self.index) {
            (Some(skipped), _) => {
                let rank = first.rank() + skipped;
                self.asked[rank].table.as_ref().inspect(|table| table.prefetch_bucket(hash));
                First::from(rank)
            }
            // Who need not be asked is not learnt by a table over the others: a name that it has not is asked of all.
            (None, Some(index)) => self.first_in(index, hash),
            (None, None) => First::NOBODY,
        }
    }

    /// Where the search for a name of that hash begins among the objects that a table is about.
    fn first_in(&self, index: &Index, hash: u32) -> First {
        let leading = self.leading();
        let (likely, symbol) = index.matches(hash).next().unwrap_or((leading, 0));
        First { rank: leading as u32, likely: likely as u32, symbol }
    }

    /// Finds the first symbol of each name's hash in the first object that has such, and asks memory for it and its name.
    fn find_first(&self, mut asking: Asking, all: &mut [(u32, Known<'a>)]) {
        // Filters let others pass: whoever turns out to have no such name is not the last one to be asked.
        while asking.count > 0 {
            for (hash, at) in asking.names() {
                if let Some((_, Known::Name { first, .. })) = all.get_mut(usize::from(*at)) {
                    *first = self.next(*first, *hash);
                }
            }
            // Who has the old hash table only is asked when its turn comes.
            let by_filters = &self.asked[..self.filters.len()];
            let table = |first: &First| by_filters.get(first.rank()).and_then(|asked| asked.table.as_ref());
            for (hash, at) in asking.names() {
                let Some((_, Known::Name { first, .. })) = all.get_mut(usize::from(*at)) else { continue };
                if let Some((rank, symbol)) = first.likely() {
                    self.prefetch_symbol(rank, symbol);
                } else if let Some(table) = table(first) {
                    first.likely = table.start(*hash).inspect(|start| table.prefetch(*start)).unwrap_or(u32::MAX);
                }
            }
            let mut misled = Asking::NONE;
            for (hash, at) in asking.names() {
                let Some((_, Known::Name { first, .. })) = all.get_mut(usize::from(*at)) else { continue };
                let Some(table) = table(first).filter(|_| first.likely().is_none()) else { continue };
                match table.first(first.likely, *hash) {
                    Ok(Some(symbol)) => {
                        (first.likely, first.symbol) = (first.rank, symbol);
                        self.prefetch_symbol(first.rank(), symbol);
                    }
                    Ok(None) => {
                        *first = First::at(first.rank + 1);
                        misled.push((*hash, *at));
                    }
                    Err(TooLong) => {}
                }
            }
            asking = misled;
        }
        for (_, known) in &*all {
            if let Known::Name { first, .. } = known
                && let Some((rank, symbol)) = first.likely()
                && let Some(rows) = self.asked.get(rank).map(|asked| &asked.rows)
                && let Some(symbol) = rows.get(symbol)
            {
                rows.prefetch_name(&symbol);
            }
        }
    }

    /// Prefetches what an object has of a symbol but its name.
    #[inline(always)]
    fn prefetch_symbol(&self, rank: usize, symbol: u32) {
        self.asked.get(rank).into_iter().for_each(|asked| asked.rows.prefetch(symbol));
    }

    /// What [`Self::expect`] learns, of one symbol. Number 0 is none.
    pub(super) fn learn(&self, own: &Own<'a>, number: u32) -> Known<'a> {
        let Some(symbol) = own.rows.get(number).filter(|_| number != 0) else { return Known::Nothing };
        if let Some((hash, address)) = own.definition(number, &symbol)
            && self.before(own).have_none(hash)
        {
            return Known::Own { hash, address };
        }
        let named = |name: Name<'a>| Known::Name { name, first: self.first_of(name.gnu_hash()) };
        own.rows.name(&symbol).map_or(Known::Nothing, named)
    }

    /// The first symbol of that hash in the first object that has such.
    fn first_of(&self, hash: u32) -> First {
        let mut first = self.first(hash);
        loop {
            first = self.next(first, hash);
            let table = self.asked[..self.filters.len()].get(first.rank()).and_then(|asked| asked.table.as_ref());
            let Some(table) = table.filter(|_| first.likely().is_none()) else { return first };
            match table.start(hash).map_or(Ok(None), |start| table.first(start, hash)) {
                Ok(Some(symbol)) => return First { likely: first.rank, symbol, ..first },
                Ok(None) => first = First::at(first.rank + 1),
                Err(TooLong) => return first,
            }
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
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::addr::{Addr, Bias, Vaddr};
    use crate::file::image::Image;
    use crate::file::symbols::{Symbols, Wanted};
    use crate::load::index::tests::{path, symbols, symbols_of};
    use crate::load::index::{Demand, Filter};
    use crate::load::scope::{Definition, Provider, Rules};

    #[test]
    fn what_was_prepared_is_found_as_if_it_had_not_been_and_who_has_it_not_is_not_asked() {
        let all = ["/libgcc_s.so.1", "/ld-linux-x86-64.so.2", "/libc.so.6"].map(symbols);
        let file = PathBuf::new();
        let providers = || {
            let provider = |symbols| Provider { symbols, bias: Bias::default(), file: &file };
            let rules = Rules { settled: &|_| None, own: &|_| None };
            let demand = Demand::default();
            Providers::new(all.iter().map(provider).collect(), &[0, 1, 2], &demand, None, rules)
        };
        let (mut prepared, mut plain) = (providers(), providers());
        let referring = &all[0];
        let undefined = (1..referring.count()).filter(|number| !referring.get(*number).unwrap().is_defined());
        let undefined: Vec<u32> = undefined.collect();
        let own = prepared.own(0, false);
        let (mut found, mut skipped) = (0, 0);
        for run in undefined.chunks(AHEAD) {
            prepared.expect(&own, run.iter().copied());
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

    /// How many references of all these objects find something, prepared or not: the same. Of the first `led` there is a
    /// filter, of the others a table if there is much to ask (`questions`).
    fn found_prepared_as_plainly(all: &[Symbols], led: usize, questions: usize) -> usize {
        let (file, order): (_, Vec<usize>) = (PathBuf::new(), (0..all.len()).collect());
        let filter = Filter::of_exports(all[..led].iter());
        let providers = |leading, questions| {
            // Each lies elsewhere: an address says whose it is.
            let bias = |number| Bias::between(Addr(number << 32), Vaddr(0));
            let provider = |(number, symbols)| Provider { symbols, bias: bias(number), file: &file };
            let rules = Rules { settled: &|_| None, own: &|_| None };
            let demand = Demand { questions, by: all.iter().collect() };
            Providers::new(all.iter().enumerate().map(provider).collect(), &order, &demand, leading, rules)
        };
        let leading = filter.as_ref().filter(|_| led > 0).map(|filter| (filter, led));
        let (mut prepared, mut plain) = (providers(leading, questions), providers(None, 0));
        let mut alone = providers(leading, questions);
        assert_eq!(prepared.index.is_some(), questions > 0 && all[led..].iter().all(|one| one.gnu().is_some()));
        let mut count = 0;
        for (from, referring) in all.iter().enumerate() {
            let own = prepared.own(from, false);
            for run in (1..referring.count()).collect::<Vec<_>>().chunks(AHEAD) {
                prepared.expect(&own, run.iter().copied());
                for number in run {
                    let symbol = referring.get(*number).unwrap();
                    let Some(text) = referring.name(&symbol).filter(|name| !name.text.is_empty()) else { continue };
                    let version = referring.version_of(*number).and_then(|version| referring.wanted(version));
                    let wanted = || Wanted::reference(text, version, false);
                    let found_by = |providers: &mut Providers<'_>, known| match known {
                        Known::Name { name, first } => {
                            assert_eq!(name.text, text.text);
                            let simple = providers.simple(&symbol, name, version.as_ref(), first);
                            let found = providers.bind_from(from, &symbol, &wanted(), false, first);
                            let both = simple
                                .zip(found)
                                .map(|(one, other)| (one.value, one.symbol) == (other.value, other.symbol));
                            assert!(simple.is_none() || both == Some(true), "{}", String::from_utf8_lossy(name.text));
                            found.map(|found| found.value.0 as u64)
                        }
                        Known::Own { address, .. } => Some(address),
                        Known::Nothing => panic!("{number}"),
                    };
                    let known = prepared.prepared(*number).unwrap();
                    let found = found_by(&mut prepared, known);
                    let known = alone.learn(&own, *number);
                    let at_once = found_by(&mut alone, known);
                    let plainly = plain.bind(from, &symbol, &wanted(), false).map(|found| found.value.0 as u64);
                    let named = String::from_utf8_lossy(text.text);
                    assert_eq!((found, at_once), (plainly, plainly), "{named} of object {from}");
                    count += usize::from(found.is_some());
                }
            }
        }
        count
    }

    #[test]
    fn of_two_versions_of_a_name_the_one_asked_for_is_found_without_more_ado_whichever_stands_first() {
        let libc = symbols("/libc.so.6");
        let (file, demand) = (PathBuf::new(), Demand::default());
        let rules = Rules { settled: &|_| None, own: &|_| None };
        let provider = Provider { symbols: &libc, bias: Bias::default(), file: &file };
        let providers = Providers::new(vec![provider], &[0], &demand, None, rules);
        let mut versions = Vec::new();
        for number in 1..libc.count() {
            let symbol = libc.get(number).unwrap();
            let name = libc.name(&symbol).unwrap();
            if name.text == b"memcpy" {
                let version = libc.version_of(number).and_then(|version| libc.wanted(version)).unwrap();
                let found = providers.simple(&symbol, name, Some(&version), providers.first_of(name.gnu_hash()));
                assert_eq!(found.map(|found| found.symbol), Some(symbol), "{}", String::from_utf8_lossy(version.name));
                versions.push(version.name);
            }
        }
        assert_eq!(versions.len(), 2);
    }

    #[test]
    fn who_is_led_to_by_filters_and_tables_is_whom_the_scope_has_first() {
        let all = ["/libgcc_s.so.1", "/ld-linux-x86-64.so.2", "/libc.so.6"].map(symbols);
        for led in 0..3 {
            for questions in [0, usize::MAX] {
                let found = found_prepared_as_plainly(&all, led, questions);
                assert!(found > 1000, "{found} with {led} led, {questions} questions");
            }
        }
        // One with the old hash table only, which has names of the last, is asked whatever the filters of others say.
        let library = |name: &str| symbols_of(&Path::new(env!("SOLOAD_TEST_LIBS")).join(name));
        let [libgcc, _, libc] = all;
        let all = [libgcc, libc, library("libhash_sysv.so"), library("libhash_gnu.so")];
        for led in 0..3 {
            assert!(found_prepared_as_plainly(&all, led, 0) > 1000, "{led} led");
        }
    }

    #[test]
    fn an_object_with_a_chain_that_is_too_long_is_not_passed_over() {
        // An object with more symbols than are looked at, none of which ends a chain, and a filter that lets all names pass.
        let file = Path::new("/usr/lib/x86_64-linux-gnu/libstdc++.so.6");
        let image = Image::open(file).unwrap();
        let mut bytes = std::fs::read(file).unwrap();
        let table = image.dynamic().unwrap().symbols.gnu_hash.get().unwrap() as usize;
        let number = |at: usize| u32::from_le_bytes(*bytes[table + at..].first_chunk().unwrap()) as usize;
        let (buckets, words) = (number(0), number(8));
        let chains = table + 16 + 8 * words + 4 * buckets;
        let count = symbols_of(file).hashes().unwrap().len();
        bytes[table + 16..][..8 * words].fill(0xff);
        bytes[chains..][..4 * count].iter_mut().step_by(4).for_each(|byte| *byte &= !1);
        let changed = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&changed, bytes).unwrap();
        let all = [path("/libgcc_s.so.1").as_ref(), changed.path(), path("/libc.so.6").as_ref()].map(symbols_of);
        let file = PathBuf::new();
        let providers = || {
            let provider = |symbols| Provider { symbols, bias: Bias::default(), file: &file };
            let rules = Rules { settled: &|_| None, own: &|_| None };
            Providers::new(all.iter().map(provider).collect(), &[0, 1, 2], &Demand::default(), None, rules)
        };
        let (mut prepared, mut plain) = (providers(), providers());
        let own = prepared.own(0, false);
        let mut given_up = 0;
        for number in (1..all[0].count()).filter(|number| !all[0].get(*number).unwrap().is_defined()) {
            prepared.expect(&own, [number].into_iter());
            let Some(Known::Name { name, first }) = prepared.prepared(number) else { panic!("{number}") };
            let symbol = all[0].get(number).unwrap();
            let (wanted, again) = (Wanted::reference(name, None, true), Wanted::reference(name, None, true));
            prepared.bind_from(0, &symbol, &wanted, false, first);
            plain.bind(0, &symbol, &again, false);
            assert_eq!(wanted.given_up.get(), again.given_up.get(), "{}", String::from_utf8_lossy(name.text));
            given_up += usize::from(wanted.given_up.get());
        }
        assert!(given_up > 0);
    }

    #[test]
    fn an_object_that_only_seems_to_have_a_name_does_not_end_the_preparation() {
        let [libgcc, loader, libc] = ["/libgcc_s.so.1", "/ld-linux-x86-64.so.2", "/libc.so.6"].map(path);
        // The same with a filter that lets all names pass.
        let mut bytes = std::fs::read(&loader).unwrap();
        let table = Image::open(loader.as_ref()).unwrap().dynamic().unwrap().symbols.gnu_hash.get().unwrap() as usize;
        let words = u32::from_le_bytes(*bytes[table + 8..].first_chunk().unwrap()) as usize;
        bytes[table + 16..][..8 * words].fill(0xff);
        let loader = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&loader, bytes).unwrap();
        let all = [libgcc.as_ref(), loader.path(), libc.as_ref()].map(symbols_of);
        let file = PathBuf::new();
        let provider = |symbols| Provider { symbols, bias: Bias::default(), file: &file };
        let rules = Rules { settled: &|_| None, own: &|_| None };
        let all_three = all.iter().map(provider).collect();
        let mut providers = Providers::new(all_three, &[0, 1, 2], &Demand::default(), None, rules);
        let own = providers.own(0, false);
        let (mut led_on, mut nobodys) = (0, 0);
        for number in (1..all[0].count()).filter(|number| !all[0].get(*number).unwrap().is_defined()) {
            providers.expect(&own, [number].into_iter());
            let Some(Known::Name { name, first }) = providers.prepared(number) else { panic!("{number}") };
            match first.likely() {
                Some((rank, symbol)) => {
                    assert_eq!(all[rank].string(all[rank].get(symbol).unwrap().name), Some(name.text));
                    led_on += usize::from(rank == 2);
                }
                // Nobody has it, and nobody is asked any more.
                None => {
                    assert!(all.iter().all(|one| one.find(&Wanted::reference(name, None, true)).is_none()));
                    assert!(first.rank() >= all.len());
                    nobodys += 1;
                }
            }
        }
        assert!(led_on > 10 && nobodys > 0, "{led_on} led on, {nobodys} of nobody");
    }

    #[test]
    fn what_was_prepared_for_one_object_is_forgotten_at_the_next() {
        let all = ["/libgcc_s.so.1", "/libc.so.6"].map(symbols);
        let file = PathBuf::new();
        let provider = |symbols| Provider { symbols, bias: Bias::default(), file: &file };
        let rules = Rules { settled: &|_| None, own: &|_| None };
        let demand = Demand::default();
        let mut providers = Providers::new(all.iter().map(provider).collect(), &[0, 1], &demand, None, rules);
        let own = providers.own(0, false);
        providers.expect(&own, 1..4);
        assert!(providers.prepared(2).is_some());
        // Its symbol of that number is another one, and not all relocation tables tell what comes next.
        providers.own(1, false);
        assert!(providers.prepared(2).is_none() && providers.prepared(3).is_none());
    }

    #[test]
    fn a_name_that_the_table_of_what_is_wanted_has_not_is_found_all_the_same() {
        let own = std::env::current_exe().unwrap();
        let all = ["/libgcc_s.so.1", own.to_str().unwrap(), "/libc.so.6"].map(symbols);
        let file = PathBuf::new();
        let provider = |symbols| Provider { symbols, bias: Bias::default(), file: &file };
        let rules = Rules { settled: &|_| None, own: &|_| None };
        // Made for what the first object looks for; the second looks for other names.
        let demand = Demand { questions: usize::MAX, by: vec![&all[0]] };
        let mut providers = Providers::new(all.iter().map(provider).collect(), &[0, 1, 2], &demand, None, rules);
        let own = providers.own(1, false);
        let (mut unknown, mut found) = (0, 0);
        for number in 1..all[1].count() {
            let symbol = all[1].get(number).unwrap();
            let name = all[1].name(&symbol).unwrap();
            if symbol.is_defined() || providers.index.as_ref().unwrap().knows(name.gnu_hash()) {
                continue;
            }
            providers.expect(&own, [number].into_iter());
            let Some(Known::Name { first, .. }) = providers.prepared(number) else { panic!("{number}") };
            let wanted = Wanted::reference(name, None, true);
            let definition = providers.bind_from(1, &symbol, &wanted, false, first);
            let there = all[2].find(&Wanted::reference(name, None, true)).is_some();
            assert!(definition.is_some() || !there, "{}", String::from_utf8_lossy(name.text));
            (unknown, found) = (unknown + 1, found + usize::from(definition.is_some()));
        }
        assert!(found > 10, "{found} of {unknown}");
    }

    #[test]
    fn nor_does_it_matter_that_another_name_is_where_the_table_would_have_it() {
        let all = ["/libc.so.6", "/libgcc_s.so.1"].map(symbols);
        let file = PathBuf::new();
        let provider = |symbols| Provider { symbols, bias: Bias::default(), file: &file };
        let rules = Rules { settled: &|_| None, own: &|_| None };
        let demand = Demand { questions: usize::MAX, by: vec![&all[1]] };
        let mut providers = Providers::new(all.iter().map(provider).collect(), &[0, 1], &demand, None, rules);
        let referring = (1..all[1].count()).filter_map(|number| all[1].get(number)).find(|symbol| !symbol.is_defined());
        let referring = referring.unwrap();
        let (table, mut misled) = (all[0].gnu().unwrap(), 0);
        let exported = all[0].count() - table.hashes().len() as u32;
        for number in exported + 1..all[0].count() {
            let name = all[0].name(&all[0].get(number).unwrap()).unwrap();
            let there = all[0].find(&Wanted::reference(name, None, false)).is_some();
            let index = providers.index.as_mut().unwrap();
            // The one before it in its chain stands where this name would, as one of nearly that hash might.
            let follows = table.hash_of(number - 1).unwrap() & 1 == 0;
            if !there || !follows || index.knows(name.gnu_hash()) || misled == 10 {
                continue;
            }
            index.enter(name.gnu_hash(), number - 1 - exported).unwrap();
            let index = providers.index.as_ref().unwrap();
            let first = providers.first_in(index, name.gnu_hash());
            // It may have been the one itself.
            if first.likely().is_none_or(|(rank, symbol)| rank > 0 || symbol == number) {
                continue;
            }
            let wanted = Wanted::reference(name, None, false);
            let found = providers.bind_from(1, &referring, &wanted, false, first);
            assert!(found.is_some(), "{}", String::from_utf8_lossy(name.text));
            // An object before that one may have it.
            assert!(providers.simple(&referring, name, None, first).is_none());
            misled += 1;
        }
        assert_eq!(misled, 10);
    }
}
