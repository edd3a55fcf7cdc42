//! `DT_GNU_HASH` in the layout that is loaded, as look-ups by the thousand want it.

use std::cell::Cell;

use super::hash::CHAIN_MAX;
use crate::arch::native;

/// A GNU hash table of the layout that is loaded: what can be told by it without reading a name.
#[derive(Clone, Copy)]
pub(crate) struct Gnu<'a> {
    pub(crate) bloom: Bloom<'a>,
    pub(super) buckets: &'a [[u8; 4]],
    pub(super) first: u32,
    pub(super) chain: &'a [[u8; 4]],
}

/// The filter of a table, which most questions end at.
#[derive(Clone, Copy)]
pub(crate) struct Bloom<'a> {
    pub(super) words: &'a [[u8; 8]],
    pub(super) mask: u32,
    pub(super) shift: u32,
}

impl Bloom<'_> {
    /// One that lets all names pass.
    pub(crate) const ALL: Self = Self { words: &[[0xff; 8]], mask: 0, shift: 0 };

    /// Whether a name of that hash may be in the table: nearly all questions end here with a no.
    #[inline(always)]
    pub(crate) fn may_have(&self, hash: u32) -> bool {
        let (word, second) = self.word_for(hash);
        (word >> (hash % 64)) & second & 1 != 0
    }

    /// The word for a hash, and the same with the second bit that counts in the lowest place.
    #[inline(always)]
    fn word_for(&self, hash: u32) -> (u64, u64) {
        let word = self.words.get(((hash / 64) & self.mask) as usize).map_or(0, |word| u64::from_le_bytes(*word));
        (word, word >> ((u64::from(hash) >> self.shift) % 64))
    }
}

/// A chain of which not all symbols are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Gnu<'_> {
    /// See [`Bloom::may_have`].
    #[inline(always)]
    pub(crate) fn may_have(&self, hash: u32) -> bool {
        self.bloom.may_have(hash)
    }

    /// Whether there is a name of that hash, the lowest bit of which is not known.
    #[inline(always)]
    pub(crate) fn has_either(&self, hash: u32) -> bool {
        let (word, second) = self.bloom.word_for(hash);
        // Where nothing is shifted out of the hash its lowest bit counts for the second one, too.
        let may_have = (word >> ((hash % 64) & !1)) & 3 != 0 && (second & 1 != 0 || self.bloom.shift == 0);
        may_have && (self.has(hash & !1) || self.has(hash | 1))
    }

    #[inline(never)]
    fn has(&self, hash: u32) -> bool {
        let too_long = Cell::new(false);
        let first = || self.find_from(self.start(hash)?, &too_long, hash, |_| true);
        self.may_have(hash) && (first().is_some() || too_long.get())
    }

    /// The first symbol of the chain that a name of that hash is in, if there is one.
    #[inline(always)]
    pub(crate) fn start(&self, hash: u32) -> Option<u32> {
        let bucket = hash.checked_rem(self.buckets.len() as u32)?;
        Some(u32::from_le_bytes(self.buckets[bucket as usize])).filter(|start| *start >= self.first)
    }

    /// Prefetches what [`Self::start`] reads.
    #[inline(always)]
    pub(crate) fn prefetch_bucket(&self, hash: u32) {
        let bucket = hash.checked_rem(self.buckets.len() as u32).unwrap_or(0);
        self.buckets.get(bucket as usize).into_iter().for_each(native::prefetch);
    }

    /// Prefetches the hash of symbol number `index`.
    #[inline(always)]
    pub(crate) fn prefetch(&self, index: u32) {
        self.chain.get(index.wrapping_sub(self.first) as usize).into_iter().for_each(native::prefetch);
    }

    /// The first symbol of that hash from `start` on, in the same chain.
    #[inline(always)]
    pub(crate) fn first(&self, start: u32, hash: u32) -> Result<Option<u32>, TooLong> {
        let too_long = Cell::new(false);
        let found = self.find_from(start, &too_long, hash, |_| true);
        if found.is_none() && too_long.get() { Err(TooLong) } else { Ok(found) }
    }

    /// Calls `matches` with the index of each symbol of that hash from `start` on, until it answers. Gives up, and sets
    /// `too_long`, as [`Table::find`] does.
    #[inline(always)]
    pub(crate) fn find_from(
        &self,
        start: u32,
        too_long: &Cell<bool>,
        hash: u32,
        mut matches: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let rest = self.chain.get(start.checked_sub(self.first)? as usize..)?;
        for (index, entry) in (start..).zip(rest.iter().take(CHAIN_MAX as usize)) {
            let entry = u32::from_le_bytes(*entry);
            if entry | 1 == hash | 1 && matches(index) {
                return Some(index);
            }
            if entry & 1 == 1 {
                return None;
            }
        }
        too_long.set(rest.len() >= CHAIN_MAX as usize);
        None
    }

    /// The hashes of all symbols in the table, but for their lowest bit, as little-endian words.
    pub(crate) fn hashes(&self) -> &[[u8; 4]] {
        self.chain
    }

    /// Whether no symbol before number `index` in its chain has its hash.
    #[inline(never)]
    pub(crate) fn is_first_of_hash(&self, index: u32) -> bool {
        let before = index.checked_sub(self.first).and_then(|at| self.chain.split_at_checked(at as usize));
        let Some((before, [hash, ..])) = before else { return false };
        // The lowest bit marks the end of a chain, as which one that is too long counts.
        let same = |other: &[u8; 4]| (u32::from_le_bytes(*other) ^ u32::from_le_bytes(*hash)) < 2;
        let chain = before.iter().rev().take(CHAIN_MAX as usize).take_while(|other| other[0] & 1 == 0);
        !chain.into_iter().any(same)
    }

    /// The hash of symbol number `index`, but for its lowest bit, if it is in the table.
    #[inline(always)]
    pub(crate) fn hash_of(&self, index: u32) -> Option<u32> {
        self.chain.get(index.checked_sub(self.first)? as usize).map(|hash| u32::from_le_bytes(*hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_either_of_two_hashes_is_there_is_told_whatever_the_filter_shifts() {
        for shift in [0, 1, 6, 32] {
            for hash in [0x1234_5678_u32, 0x1234_5679] {
                let filter = 1u64 << (hash % 64) | 1 << ((u64::from(hash) >> shift) % 64);
                let (bloom, buckets, chain) =
                    ([filter.to_le_bytes()], [1u32.to_le_bytes()], [(hash | 1).to_le_bytes()]);
                let bloom = Bloom { words: &bloom, mask: 0, shift };
                let table = Gnu { bloom, buckets: &buckets, first: 1, chain: &chain };
                let either = [table.has_either(hash & !1), table.has_either(hash | 1), table.has_either(hash ^ 2)];
                assert_eq!(either, [true, true, false], "{hash:#x} by {shift}");
            }
        }
    }
}
