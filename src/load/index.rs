//! Which objects of a scope may define a name: tables over all their hashes, so that not every object is asked.
//!
//! A reference in a closure of two hundred objects would otherwise ask some fifty of them before one answers. The table
//! only chooses whom to ask; the object itself decides, by names and versions, as ever.

use super::scope::Provider;
use crate::file::symbols::Symbols;
use crate::sys;

/// Exports of one scope: the widest real one has some hundreds of thousands.
const EXPORTS_MAX: usize = 1 << 24;

/// Hashes of exported names, each with the rank in the scope of an object that has it.
///
/// Open addressing: where several objects export a name, the first one was entered first and is met first.
pub(crate) struct Index {
    /// The upper bits of the hash, and the rank + 1 in the lower ones; 0 is a free slot. Two names whose hashes differ in
    /// the others only cost a question too many.
    slots: Vec<u32>,
    shift: u32,
}

/// Bits of a slot that are the rank: as many as a group may have objects, and what the program started with.
const RANK_BITS: u32 = 13;
const RANK_MASK: u32 = (1 << RANK_BITS) - 1;

impl Index {
    /// The table over the objects of `order` from number `from` on, if it pays for about `references` look-ups.
    pub(super) fn of(providers: &[Provider<'_>], order: &[usize], from: usize, references: usize) -> Option<Self> {
        let asked = order.get(from..)?;
        let symbols = asked.iter().map(|number| providers[*number].symbols);
        let exports = exports(symbols.clone())?;
        // A look-up asks half of the objects on the way, mostly a word of a small table each; an export that is entered
        // is a miss or two of the cache, and its page may have to be faulted in. Measured, a table pays from some ten
        // questions for each export on.
        let walk = references.saturating_mul(asked.len());
        if walk <= exports.saturating_mul(24) { None } else { Self::over(symbols, from) }
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
            for hash in symbols.hashes()? {
                index.enter(hash | 1, rank as u32);
            }
        }
        Some(index)
    }

    fn start(&self, key: u32) -> usize {
        // Fibonacci hashing: the low bits of the names' own hash are worn by the objects' bucket counts.
        (key.wrapping_mul(0x9e37_79b9) >> self.shift) as usize
    }

    fn enter(&mut self, key: u32, rank: u32) {
        let mask = self.slots.len() - 1;
        let entry = key & !RANK_MASK | (rank + 1);
        let mut at = self.start(key);
        while self.slots[at] != 0 {
            if self.slots[at] == entry {
                return;
            }
            at = (at + 1) & mask;
        }
        self.slots[at] = entry;
    }

    /// The ranks of the objects that may define a name of that hash, in order.
    #[inline]
    pub(crate) fn candidates(&self, gnu_hash: u32) -> impl Iterator<Item = usize> {
        let key = gnu_hash | 1;
        let mask = self.slots.len() - 1;
        let start = self.start(key);
        (0..self.slots.len())
            .map(move |step| self.slots[(start + step) & mask])
            .take_while(|slot| *slot != 0)
            .filter(move |slot| (slot ^ key) & !RANK_MASK == 0)
            .map(|slot| ((slot & RANK_MASK) - 1) as usize)
    }
}

/// How many names others may look for in `objects`; `None` if one of them does not say.
pub(crate) fn exports<'a>(mut objects: impl Iterator<Item = &'a Symbols>) -> Option<usize> {
    objects.try_fold(0usize, |exports, symbols| exports.checked_add(symbols.hashes()?.len()))
}
