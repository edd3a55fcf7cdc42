//! Which objects of a scope may define a name: tables over all their hashes, so that not every object is asked.
//!
//! A reference in a closure of two hundred objects would otherwise ask some fifty of them before one answers. The table
//! only chooses whom to ask; the object itself decides, by names and versions, as ever.

use super::scope::{Asked, Provider};
use crate::sys;

/// Exports of one scope: the widest real one has some hundreds of thousands.
const EXPORTS_MAX: usize = 1 << 24;

/// Hashes of exported names, each with the rank in the scope of an object that has it.
///
/// Open addressing: where several objects export a name, the first one was entered first and is met first.
pub(super) struct Index {
    /// The upper bits of the hash, and the rank + 1 in the lower ones; 0 is a free slot. Two names whose hashes differ in
    /// the others only cost a question too many.
    slots: Vec<u32>,
    shift: u32,
}

/// Bits of a slot that are the rank: as many as a group may have objects, and what the program started with.
const RANK_BITS: u32 = 13;
const RANK_MASK: u32 = (1 << RANK_BITS) - 1;

impl Index {
    /// The table over `order`, if it pays for about `references` look-ups.
    pub(super) fn of(providers: &[Provider<'_>], order: &[usize], references: usize) -> Option<Self> {
        let mut exports = 0usize;
        for provider in order {
            // An object with the old hash table only cannot be entered without reading every name.
            exports = exports.checked_add(providers[*provider].symbols.hashes()?.len())?;
        }
        // A look-up asks half of the objects on the way, mostly a word of a small table each; an export that is entered
        // is a miss or two of the cache, and its page may have to be faulted in. Measured, a table pays from some ten
        // questions for each export on.
        let walk = references.saturating_mul(order.len());
        if walk <= exports.saturating_mul(24) || exports > EXPORTS_MAX || order.len() >= RANK_MASK as usize {
            return None;
        }
        let size = (exports * 3 / 2).next_power_of_two().max(2);
        let mut index = Self { slots: vec![0; size], shift: 32 - size.trailing_zeros() };
        sys::populate(&mut index.slots);
        for (rank, provider) in order.iter().enumerate() {
            let entries = providers[*provider].symbols.hashes()?;
            for hash in entries {
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
    pub(super) fn candidates(&self, gnu_hash: u32) -> impl Iterator<Item = usize> {
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

/// Which names none of the objects that are asked first defines: the C library and the like, which every look-up passes on
/// its way to where the name is.
pub(super) struct Filter {
    /// One bit for each of as many hashes as there are bits.
    bits: Vec<u64>,
    shift: u32,
    /// How many objects it stands for.
    pub(super) leading: usize,
}

/// Bits for each export: one name in sixteen is asked for in vain.
const BITS: usize = 16;

/// Exports of the objects that a filter stands for. Eight thousand make one that stays in a processor's first cache.
const LEADING_MAX: usize = 8192;

impl Filter {
    /// The filter for the first of `asked`, if it pays for about `references` look-ups.
    pub(super) fn of(asked: &[Asked<'_>], references: usize) -> Option<Self> {
        let mut exports = 0;
        let fits = |asked: &&Asked<'_>| {
            asked.table.as_ref().is_some_and(|table| {
                exports += table.hashes().len();
                exports <= LEADING_MAX.min(references)
            })
        };
        let leading = asked.iter().take_while(fits).count();
        if leading < 2 {
            return None;
        }
        let size = (exports.min(LEADING_MAX) * BITS).next_power_of_two().max(64);
        let mut filter = Self { bits: vec![0; size / 64], shift: 32 - size.trailing_zeros(), leading };
        for table in asked[..leading].iter().filter_map(|asked| asked.table.as_ref()) {
            for hash in table.hashes() {
                let bit = filter.bit(u32::from_le_bytes(*hash));
                filter.bits[bit / 64] |= 1 << (bit % 64);
            }
        }
        Some(filter)
    }

    /// The lowest bit of a hash does not count: tables keep another meaning there.
    #[inline(always)]
    fn bit(&self, hash: u32) -> usize {
        ((hash >> 1).wrapping_mul(0x9e37_79b9) >> self.shift) as usize
    }

    /// How many of the objects that are asked first need not be asked for a name of that hash.
    #[inline(always)]
    pub(super) fn skip(&self, hash: u32) -> usize {
        let bit = self.bit(hash);
        let set = self.bits.get(bit / 64).is_none_or(|word| word >> (bit % 64) & 1 == 1);
        if set { 0 } else { self.leading }
    }
}
