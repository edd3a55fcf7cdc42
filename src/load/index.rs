//! Which objects of a scope may define a name: tables over all their hashes, so that not every object is asked.
//!
//! A reference in a closure of two hundred objects would otherwise ask some fifty of them before one answers. The table
//! only chooses whom to ask; the object itself decides, by names and versions, as ever.

use super::scope::Provider;
use crate::arch::native;
use crate::file::symbols::Symbols;
use crate::sys;

/// Exports of one scope: the widest real one has some hundreds of thousands.
const EXPORTS_MAX: usize = 1 << 24;

/// Hashes of exported names, each with the rank in the scope of an object that has it, and with the name's symbol.
///
/// Open addressing: where several objects export a name, the first one was entered first and is met first.
pub(crate) struct Index {
    /// In the upper half the hash, its lowest bit set: 0 is a free slot. In the lower half the rank, and above it one more
    /// than the number of the symbol; 0 if that is too large, or if the object has several of that hash.
    slots: Vec<u64>,
    shift: u32,
}

/// Bits for the rank: as many as a group may have objects, and what the program started with.
const RANK_BITS: u32 = 13;
const RANK_MASK: u32 = (1 << RANK_BITS) - 1;

impl Index {
    /// The table over the objects of `order` from number `from` on, if it pays for about `references` look-ups.
    pub(super) fn of(providers: &[Provider<'_>], order: &[usize], from: usize, references: usize) -> Option<Self> {
        let asked = order.get(from..)?;
        let symbols = asked.iter().map(|number| providers[*number].symbols);
        let exports = exports(symbols.clone())?;
        // A look-up asks half of the objects on the way, mostly a word of a small table each; an export that is entered
        // is a miss or two of the cache. What a look-up reads by the table can be asked of memory beforehand. So a table
        // pays from about three questions for two exports on.
        let questions = references.saturating_mul(asked.len());
        if questions.saturating_mul(2) <= exports.saturating_mul(3) { None } else { Self::over(symbols, from) }
    }

    /// The table over the names of all `objects`, the first of which has rank `from`. None if one of them has the old hash
    /// table only, out of which it could not be entered without reading every name.
    pub(crate) fn over<'a>(objects: impl ExactSizeIterator<Item = &'a Symbols> + Clone, from: usize) -> Option<Self> {
        let exports = exports(objects.clone())?;
        if exports > EXPORTS_MAX || from + objects.len() >= RANK_MASK as usize {
            return None;
        }
        let size = (exports * 3 / 2).next_power_of_two().max(2);
        let mut index = Self { slots: vec![0; size], shift: 32 - size.trailing_zeros() };
        sys::populate(&mut index.slots);
        for (rank, symbols) in (from..).zip(objects) {
            let hashes = symbols.hashes()?;
            let first = symbols.count() - hashes.len() as u32;
            for (hash, symbol) in hashes.zip(first..) {
                index.enter(hash | 1, rank as u32, symbol);
            }
        }
        Some(index)
    }

    fn start(&self, key: u32) -> usize {
        // Fibonacci hashing: the low bits of the names' own hash are worn by the objects' bucket counts.
        (key.wrapping_mul(0x9e37_79b9) >> self.shift) as usize
    }

    fn enter(&mut self, key: u32, rank: u32, symbol: u32) {
        let mask = self.slots.len() - 1;
        let mut at = self.start(key);
        while self.slots[at] != 0 {
            let (known, found) = halves(self.slots[at]);
            if known == key && found & RANK_MASK == rank {
                // Another name, perhaps, of another chain: the table does not say which lowest bit is whose.
                self.slots[at] = slot(key, rank);
                return;
            }
            at = (at + 1) & mask;
        }
        let symbol = symbol.checked_add(1).and_then(|symbol| symbol.checked_mul(1 << RANK_BITS)).unwrap_or(0);
        self.slots[at] = slot(key, symbol | rank);
    }

    /// Prefetches the slot where a search for that hash begins.
    pub(super) fn prefetch(&self, gnu_hash: u32) {
        self.slots.get(self.start(gnu_hash | 1)).into_iter().for_each(native::prefetch);
    }

    /// Calls `ask` with the ranks of the objects that may define a name of that hash, in order, until it answers; with each
    /// the only symbol that it can be, if that is known.
    #[inline(always)]
    pub(super) fn find<T>(&self, gnu_hash: u32, mut ask: impl FnMut(usize, Option<u32>) -> Option<T>) -> Option<T> {
        let key = gnu_hash | 1;
        let mask = self.slots.len() - 1;
        let mut at = self.start(key);
        // A third of the slots is free at least.
        while self.slots[at] != 0 {
            let (known, found) = halves(self.slots[at]);
            if known == key {
                let answer = ask((found & RANK_MASK) as usize, (found >> RANK_BITS).checked_sub(1));
                if answer.is_some() {
                    return answer;
                }
            }
            at = (at + 1) & mask;
        }
        None
    }
}

#[inline(always)]
fn slot(key: u32, found: u32) -> u64 {
    u64::from(key) << 32 | u64::from(found)
}

#[inline(always)]
fn halves(slot: u64) -> (u32, u32) {
    ((slot >> 32) as u32, slot as u32)
}

/// How many names others may look for in `objects`; `None` if one of them does not say.
pub(crate) fn exports<'a>(mut objects: impl Iterator<Item = &'a Symbols>) -> Option<usize> {
    objects.try_fold(0usize, |exports, symbols| exports.checked_add(symbols.hashes()?.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::image::Image;
    use crate::file::symbols::Wanted;

    #[test]
    fn each_name_leads_to_its_symbol_or_to_the_object_alone() {
        // The C library has names whose hashes differ in the lowest bit only: strtok and strtol.
        let libc = crate::maps::address_space().into_iter().find(|map| map.path.ends_with("/libc.so.6")).unwrap();
        let image = Image::open(libc.path.as_ref()).unwrap();
        let symbols = image.symbols(&image.source()).unwrap().unwrap();
        let index = Index::over([&symbols].into_iter(), 3).unwrap();
        let hash = |name: &[u8]| Wanted::by_name(name, None).unwrap().gnu_hash();
        assert_eq!(hash(b"strtok") | 1, hash(b"strtol") | 1);
        let (mut exact, mut all) = (0, 0);
        for number in symbols.count() - symbols.hashes().unwrap().len() as u32..symbols.count() {
            let name = symbols.string(symbols.get(number).unwrap().name).unwrap();
            let found = index.find(hash(name), |rank, only| Some((rank, only))).unwrap();
            assert_eq!(found.0, 3);
            assert!(found.1.is_none_or(|only| only == number), "{}", String::from_utf8_lossy(name));
            (exact, all) = (exact + usize::from(found.1.is_some()), all + 1);
        }
        assert!(all > 1000 && exact * 4 > all * 3, "{exact} of {all}");
        assert_eq!(index.find(hash(b"no such name"), |rank, _| Some(rank)), None);
    }
}
