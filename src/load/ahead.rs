//! Look-ups that come next are prepared together: what they are going to read is asked of memory for all of them at once.
//!
//! A look-up reads some six places, each found by the one before and far from it. One look-up after another mostly waits
//! for memory; here the first places of all are asked for, then the second of all, and so on, so that memory answers many
//! at once. Objects are gone through one by one, each with all the names, so that the filter of each is read in one go. What
//! is learnt on the way is who need not be asked; everything else is decided by the look-ups themselves.

use super::scope::{Own, Providers};
use crate::file::relocations::AHEAD;

/// A name that will be looked for, by its hash.
pub(super) struct Expected {
    hash: u32,
    /// The rank of the first object that can have it, of those that no table is about.
    first: usize,
}

/// Nobody has been found yet.
const NOBODY: usize = usize::MAX;

impl Providers<'_> {
    /// Prepares the look-ups of these symbols of object `own`, [`AHEAD`] of them at most.
    pub(super) fn expect(&mut self, own: &Own<'_>, numbers: &[u32]) {
        let symbols = own.symbols;
        numbers.iter().for_each(|number| symbols.prefetch(*number));
        // Of its own definitions the hash is known, and is all that is read as a rule.
        let (mut others, mut count) = ([0; AHEAD], 0);
        for number in numbers.iter().take(AHEAD) {
            match own.hash(*number) {
                Some(hash) => self.prefetch_slots(hash),
                None => {
                    symbols.prefetch_name(*number);
                    others[count] = *number;
                    count += 1;
                }
            }
        }
        let mut expected = std::mem::take(&mut self.expected);
        expected.clear();
        // Where there is a table of the whole scope, who need not be asked is not learnt: a name that it has not is asked of all.
        let first = if self.index.is_some() { self.leading() } else { NOBODY };
        for number in &others[..count] {
            if let Some(name) = symbols.get(*number).and_then(|symbol| symbols.name(&symbol)) {
                self.prefetch_slots(name.gnu_hash());
                expected.push(Expected { hash: name.gnu_hash(), first });
            }
        }
        let mut found = [None; AHEAD];
        for (found, expected) in found.iter_mut().zip(&mut expected) {
            *found = self.likely(expected.hash);
            if found.is_some() {
                expected.first = self.leading();
            }
        }
        if self.index.is_none() {
            self.ask_filters(&mut expected);
            let first = |expected: &Expected| {
                let asked = self.asked.get(expected.first)?;
                Some((self.all[asked.number].symbols, asked.table.as_ref()?))
            };
            let mut starts = [None; AHEAD];
            for (start, expected) in starts.iter_mut().zip(&expected) {
                if let Some((_, table)) = first(expected) {
                    *start = table.start(expected.hash).inspect(|start| table.prefetch(*start));
                }
            }
            for ((found, start), expected) in found.iter_mut().zip(starts).zip(&expected) {
                let here = || {
                    let (symbols, table) = first(expected)?;
                    Some((symbols, table.first(start?, expected.hash)?))
                };
                *found = found.or_else(here);
            }
        }
        found.iter().flatten().for_each(|(symbols, number)| symbols.prefetch(*number));
        found.iter().flatten().for_each(|(symbols, number)| symbols.prefetch_name(*number));
        (self.expected, self.next) = (expected, 0);
    }

    /// Finds the first object that can have each name.
    fn ask_filters(&self, expected: &mut [Expected]) {
        for (rank, asked) in self.asked.iter().enumerate().skip(self.leading()) {
            for expected in expected.iter_mut().filter(|expected| expected.first == NOBODY) {
                // One without a filter has to be asked.
                if asked.table.as_ref().is_none_or(|table| table.may_have(expected.hash)) {
                    expected.first = rank;
                    asked.table.as_ref().inspect(|table| table.prefetch_bucket(expected.hash));
                }
            }
        }
    }

    /// The rank of the first object to be asked for a name of that hash, of those that no table is about.
    #[inline(always)]
    pub(super) fn first_asked(&mut self, hash: u32) -> usize {
        // They are looked for in the order in which they were expected.
        let rest = self.expected.get(self.next..).unwrap_or_default();
        match rest.iter().position(|expected| expected.hash == hash) {
            Some(at) => {
                self.next += at;
                rest[at].first
            }
            None => self.leading(),
        }
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
    use crate::load::scope::{Provider, Rules};

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
                let name = referring.name(&symbol).unwrap();
                skipped += usize::from(prepared.first_asked(name.gnu_hash()) > 0);
                let version = referring.version_of(*number).and_then(|version| referring.wanted(version));
                let bind = |providers: &mut Providers<'_>| {
                    let definition = providers.bind(0, &symbol, &Wanted::reference(name, version, true), false)?;
                    Some((definition.provider, definition.value))
                };
                let definition = bind(&mut prepared);
                assert_eq!(definition, bind(&mut plain), "{}", String::from_utf8_lossy(name.text));
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
            let definition = providers.bind(1, &symbol, &Wanted::reference(name, None, true), false);
            let there = all[2].find(&Wanted::reference(name, None, true)).is_some();
            assert!(definition.is_some() || !there, "{}", String::from_utf8_lossy(name.text));
            (unknown, found) = (unknown + 1, found + usize::from(definition.is_some()));
        }
        assert!(found > 10, "{found} of {unknown}");
    }
}
