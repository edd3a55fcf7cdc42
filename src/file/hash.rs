//! The two hash tables a symbol can be found by: `DT_GNU_HASH` and the gABI's `DT_HASH`.

use std::cell::Cell;

use super::Source;
use super::dynamic::SymbolEntries;
use super::gnu::{Bloom, Gnu};
use super::view::{ByteOrder, Class, View};
use crate::addr::Vaddr;
use crate::arch::native::{self, GnuHash};
use crate::error::{At, ErrorKind};

/// Symbols in one chain. Linkers make tables in which a chain has a handful; one that is as long as this makes every
/// look-up slow, whatever it was made for.
pub(crate) const CHAIN_MAX: u32 = 4096;

/// What the hash of no bytes is.
const GNU_START: u32 = 5381;

/// The powers of 33, by which the bytes of a step weigh.
const POWERS: [u32; 17] = {
    let mut powers = [1u32; 17];
    let mut at = 1;
    while at < 17 {
        powers[at] = powers[at - 1].wrapping_mul(33);
        at += 1;
    }
    powers
};

/// The last bytes of sixteen, as many as the place says.
const LAST: [u128; 16] = {
    let mut masks = [0; 16];
    let mut at = 1;
    while at < 16 {
        masks[at] = u128::MAX << (128 - 8 * at);
        at += 1;
    }
    masks
};

/// The hash that `DT_GNU_HASH` goes by: `h * 33 + byte`. `None` if there is a NUL in the name, as in no symbol's.
#[inline]
pub(crate) fn gnu(name: &[u8]) -> Option<u32> {
    let (steps, rest) = name.as_chunks::<16>();
    let Some(last) = name.last_chunk::<16>() else { return gnu_of_few(name) };
    let (mut hash, mut zeros) = (GnuHash::of(GNU_START), native::zeros_of_sixteen(*last));
    for step in steps {
        zeros |= native::zeros_of_sixteen(*step);
        hash = hash.and(*step, POWERS[16]);
    }
    // Of the last sixteen, those that have been counted become zeroes in front.
    let last = u128::from_le_bytes(*last) & LAST[rest.len()];
    (zeros == 0).then(|| hash.and(last.to_le_bytes(), POWERS[rest.len()]).value())
}

/// The same of fewer than sixteen bytes.
fn gnu_of_few(name: &[u8]) -> Option<u32> {
    let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) else {
        let each = |hash: u32, byte: &u8| (*byte != 0).then(|| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)));
        return name.iter().try_fold(GNU_START, each);
    };
    // The first eight, with zeroes in front, and the last eight.
    let zeroes = 16 - name.len();
    let first = u64::from_le_bytes(*first).unbounded_shl(8 * zeroes as u32);
    let all = (u128::from(u64::from_le_bytes(*last)) << 64 | u128::from(first)).to_le_bytes();
    let has_nul = native::zeros_of_sixteen(all) >> zeroes != 0;
    (!has_nul).then(|| GnuHash::of(GNU_START).and(all, POWERS[name.len()]).value())
}

/// The string at the start of `bytes`, without its NUL, and its hash, in one go. `None` if it does not end.
#[inline]
pub(crate) fn string_with_gnu(bytes: &[u8]) -> Option<(&[u8], u32)> {
    let mut hash = GnuHash::of(GNU_START);
    let mut len = 0;
    // Sixteen bytes a step: one after another each multiplication would wait for the one before.
    while let Some(step) = bytes.get(len..).and_then(|rest| rest.first_chunk::<16>()) {
        let zeros = native::zeros_of_sixteen(*step);
        if zeros != 0 {
            let count = zeros.trailing_zeros() as usize;
            let last = if count == 0 { 0 } else { u128::from_le_bytes(*step) << (128 - 8 * count) };
            let hash = hash.and(last.to_le_bytes(), POWERS[count]);
            return Some((&bytes[..len + count], hash.value()));
        }
        hash = hash.and(*step, POWERS[16]);
        len += 16;
    }
    let mut hash = hash.value();
    for (count, byte) in bytes[len..].iter().enumerate() {
        if *byte == 0 {
            return Some((&bytes[..len + count], hash));
        }
        hash = hash.wrapping_mul(33).wrapping_add(u32::from(*byte));
    }
    None
}

/// The gABI's hash (chapter 5, "Hash Table"), also of version names.
pub(crate) fn sysv(name: &[u8]) -> u32 {
    name.iter().fold(0, |hash: u32, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(*byte));
        let high = hash & 0xf000_0000;
        (hash ^ (high >> 24)) & !high
    })
}

/// The hash table of one object. Every walk ends: at the end of the chain, of the table, or of the symbols.
#[derive(Clone)]
pub(crate) enum Table {
    Gnu {
        bloom: View,
        bloom_mask: u32,
        bloom_shift: u32,
        buckets: View,
        bucket_count: u32,
        /// Index of the first symbol that is in the table.
        first: u32,
        chain: View,
    },
    Sysv {
        buckets: View,
        bucket_count: u32,
        chain: View,
        count: u32,
    },
    None,
}

/// How well a hash table serves those who look for a symbol in it.
///
/// ```
/// # if let Ok(image) = soload::Image::open("/lib/x86_64-linux-gnu/libz.so.1".as_ref()) {
/// let quality = image.hash_quality()?.unwrap();
/// assert!(quality.compared_if_found >= 1.0);
/// # }
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct HashQuality {
    /// Whether it is `DT_GNU_HASH`, which most questions for what is not there end at without a look at any symbol.
    pub gnu: bool,
    /// Its chains.
    pub buckets: u32,
    /// Those of them that are empty.
    pub empty_buckets: u32,
    /// The symbols in it.
    pub symbols: u32,
    /// The symbols in its longest chain.
    pub longest_chain: u32,
    /// Symbols that are looked at on the way to one that is there, on average.
    pub compared_if_found: f64,
    /// The share of questions for what is not there that its Bloom filter lets through, from 0 to 1; 1 without one.
    pub passed_if_absent: f64,
}

impl Table {
    /// How well it serves. Chains are gone along as far as a search would go.
    pub(crate) fn quality(&self) -> Option<HashQuality> {
        let (buckets, bucket_count) = match self {
            Self::Gnu { buckets, bucket_count, .. } | Self::Sysv { buckets, bucket_count, .. } => {
                (buckets, *bucket_count)
            }
            Self::None => return None,
        };
        let (mut symbols, mut empty, mut longest, mut compared) = (0u32, 0, 0, 0u64);
        for bucket in 0..bucket_count {
            let length = self.chain_length(buckets.u32(u64::from(bucket) * 4).unwrap_or(0));
            empty += u32::from(length == 0);
            longest = longest.max(length);
            symbols = symbols.saturating_add(length);
            compared += u64::from(length) * u64::from(length + 1) / 2;
            // Chains that share symbols could go on for ever.
            if u64::from(symbols) > self.len() {
                return None;
            }
        }
        let passed_if_absent = match self {
            Self::Gnu { bloom, .. } => {
                let words = bloom.bytes();
                let set: u64 = words.iter().map(|byte| u64::from(byte.count_ones())).sum();
                // Two bits are asked for.
                (set as f64 / (words.len() * 8).max(1) as f64).powi(2)
            }
            Self::Sysv { .. } | Self::None => 1.0,
        };
        Some(HashQuality {
            gnu: matches!(self, Self::Gnu { .. }),
            buckets: bucket_count,
            empty_buckets: empty,
            symbols,
            longest_chain: longest,
            compared_if_found: if symbols == 0 { 0.0 } else { compared as f64 / f64::from(symbols) },
            passed_if_absent,
        })
    }

    /// The symbols that there is room for.
    fn len(&self) -> u64 {
        match self {
            Self::Gnu { chain, .. } | Self::Sysv { chain, .. } => chain.len() / 4,
            Self::None => 0,
        }
    }

    /// The symbols in the chain that begins with number `start`.
    fn chain_length(&self, start: u32) -> u32 {
        match self {
            Self::Gnu { first, chain, .. } if start >= *first => {
                let hashes = (start - first..).map_while(|at| chain.u32(u64::from(at) * 4)).take(CHAIN_MAX as usize);
                let mut length = 0;
                for hash in hashes {
                    length += 1;
                    if hash & 1 == 1 {
                        break;
                    }
                }
                length
            }
            Self::Sysv { chain, .. } => {
                let next = |index: &u32| chain.u32(u64::from(*index) * 4).filter(|next| *next != 0);
                let start = Some(start).filter(|start| *start != 0);
                std::iter::successors(start, next).take(CHAIN_MAX as usize).count() as u32
            }
            Self::Gnu { .. } | Self::None => 0,
        }
    }

    /// Reads the header and checks that every bucket leads into the table.
    pub(crate) fn read(entries: &SymbolEntries, source: &dyn Source) -> Result<Self, ErrorKind> {
        match (entries.gnu_hash.get(), entries.hash.get()) {
            (Some(at), _) => Self::read_gnu(at, source),
            (None, Some(at)) => Self::read_sysv(at, source),
            (None, None) => Ok(Self::None),
        }
    }

    fn read_gnu(at: u64, source: &dyn Source) -> Result<Self, ErrorKind> {
        let table = source.require("DT_GNU_HASH", at, None)?;
        let bad = |expected: &str, found: u64| {
            ErrorKind::malformed("DT_GNU_HASH", At::Vaddr(Vaddr(at)), expected, format_args!("{found:#x}"))
        };
        let cut = || bad("a header inside its segment", table.len());
        let header = |index: u64| table.u32(index * 4).ok_or_else(cut);
        let (bucket_count, first, bloom_count, bloom_shift) = (header(0)?, header(1)?, header(2)?, header(3)?);
        if bucket_count == 0 {
            return Err(bad("at least one bucket", 0));
        }
        // The bloom filter is addressed by a mask, so its size is a power of two.
        if !bloom_count.is_power_of_two() {
            return Err(bad("a number of bloom words that is a power of two", bloom_count.into()));
        }
        let bloom_len = u64::from(bloom_count) * table.class.word();
        let buckets_at = 16 + bloom_len;
        let chain_at = buckets_at + u64::from(bucket_count) * 4;
        let outside = || bad("tables inside its segment", bucket_count.into());
        let bloom = table.slice(16..buckets_at).ok_or_else(outside)?;
        let buckets = table.slice(buckets_at..chain_at).ok_or_else(outside)?;
        let range = |number: fn([u8; 4]) -> u32| {
            // Without a branch, for several at once. 0 is an empty bucket: one less is more than any number.
            let both = |(least, highest): (u32, u32), bucket: &[u8; 4]| {
                let number = number(*bucket);
                (least.min(number.wrapping_sub(1)), highest.max(number))
            };
            buckets.bytes().as_chunks().0.iter().fold((u32::MAX, 0), both)
        };
        let (least, highest) = match buckets.order {
            ByteOrder::Little => range(u32::from_le_bytes),
            ByteOrder::Big => range(u32::from_be_bytes),
        };
        let leads = |number: u32| number >= first && u64::from(number - first) * 4 < table.len() - chain_at;
        if let Some(number) =
            [least.wrapping_add(1), highest].into_iter().find(|number| *number != 0 && !leads(*number))
        {
            return Err(bad("a bucket that leads into the chains", number.into()));
        }
        // The highest bucket starts the last chain. Cut the chains where it ends: no walk can then leave the symbols.
        let mut len = 0;
        if highest >= first {
            len = u64::from(highest - first) * 4;
            while let Some(hash) = table.u32(chain_at + len) {
                len += 4;
                if hash & 1 == 1 {
                    break;
                }
            }
        }
        let chain = table.slice(chain_at..chain_at + len).ok_or_else(outside)?;
        Ok(Self::Gnu { bloom, bloom_mask: bloom_count - 1, bloom_shift, buckets, bucket_count, first, chain })
    }

    fn read_sysv(at: u64, source: &dyn Source) -> Result<Self, ErrorKind> {
        let table = source.require("DT_HASH", at, None)?;
        let bad = |expected: &str, found: u64| {
            ErrorKind::malformed("DT_HASH", At::Vaddr(Vaddr(at)), expected, format_args!("{found:#x}"))
        };
        let cut = || bad("a header inside its segment", table.len());
        let (bucket_count, count) = (table.u32(0).ok_or_else(cut)?, table.u32(4).ok_or_else(cut)?);
        if bucket_count == 0 {
            return Err(bad("at least one bucket", 0));
        }
        let chain_at = 8 + u64::from(bucket_count) * 4;
        let end = chain_at + u64::from(count) * 4;
        match (table.slice(8..chain_at), table.slice(chain_at..end)) {
            (Some(buckets), Some(chain)) => Ok(Self::Sysv { buckets, bucket_count, chain, count }),
            _ => Err(bad("tables inside its segment", count.into())),
        }
    }

    /// How many symbols the table knows of, the undefined ones before them included.
    pub(crate) fn count(&self) -> u32 {
        match self {
            Self::Gnu { first, chain, .. } => first.saturating_add((chain.len() / 4) as u32),
            Self::Sysv { count, .. } => *count,
            Self::None => 0,
        }
    }

    /// The hashes of all symbols in the table, but for their lowest bit: it is set in the last of a chain. `None` of the old
    /// kind, which keeps no hashes.
    pub(crate) fn hashes(&self) -> Option<impl ExactSizeIterator<Item = u32>> {
        let chain = match self {
            Self::Gnu { chain, .. } => Some(chain),
            Self::None => None,
            Self::Sysv { .. } => return None,
        };
        let order = chain.map_or(ByteOrder::Little, |chain| chain.order);
        let words = chain.map_or(&[][..], |chain| chain.bytes()).as_chunks::<4>().0;
        Some(words.iter().map(move |word| match order {
            ByteOrder::Little => u32::from_le_bytes(*word),
            ByteOrder::Big => u32::from_be_bytes(*word),
        }))
    }

    /// The table as look-ups by the thousand want it, if it is of the new kind and of the layout that is loaded.
    pub(crate) fn gnu(&self) -> Option<Gnu<'_>> {
        match self {
            Self::Gnu { bloom, bloom_mask, bloom_shift, buckets, first, chain, .. }
                if bloom.class == Class::Elf64 && bloom.order == ByteOrder::Little =>
            {
                let (mask, shift) = (*bloom_mask, (*bloom_shift).min(63));
                let bloom = Bloom { words: bloom.bytes().as_chunks().0, mask, shift };
                let (buckets, chain) = (buckets.bytes().as_chunks().0, chain.bytes().as_chunks().0);
                Some(Gnu { bloom, buckets, first: *first, chain })
            }
            Self::None => {
                Some(Gnu { bloom: Bloom { words: &[], mask: 0, shift: 0 }, buckets: &[], first: 0, chain: &[] })
            }
            _ => None,
        }
    }

    /// Calls `matches` with the index of each symbol that may have the name hashed, until it answers. Gives up, and sets
    /// `too_long`, when it has gone along [`CHAIN_MAX`] symbols. Whoever knows the first of them says so (`known`).
    #[inline]
    pub(crate) fn find<T>(
        &self,
        known: Option<u32>,
        too_long: &Cell<bool>,
        gnu_hash: u32,
        sysv_hash: impl FnOnce() -> u32,
        mut matches: impl FnMut(u32) -> Option<T>,
    ) -> Option<T> {
        match self {
            Self::Gnu { bloom, bloom_mask, bloom_shift, buckets, bucket_count, first, chain } => {
                let start = match known {
                    Some(known) => known,
                    None => {
                        let bits = if bloom.class == Class::Elf64 { 64 } else { 32 };
                        let word = bloom.word(u64::from((gnu_hash / bits) & bloom_mask) * u64::from(bits / 8))?;
                        let second = gnu_hash.checked_shr(*bloom_shift).unwrap_or(0);
                        if (word >> (gnu_hash % bits)) & (word >> (second % bits)) & 1 == 0 {
                            return None;
                        }
                        buckets.u32(u64::from(gnu_hash % bucket_count) * 4)?
                    }
                };
                if start < *first {
                    return None;
                }
                for index in start..start.saturating_add(CHAIN_MAX) {
                    let hash = chain.u32(u64::from(index - first) * 4)?;
                    if hash | 1 == gnu_hash | 1
                        && let found @ Some(_) = matches(index)
                    {
                        return found;
                    }
                    if hash & 1 == 1 {
                        return None;
                    }
                }
                too_long.set(true);
                None
            }
            Self::Sysv { buckets, bucket_count, chain, .. } => {
                let mut index = buckets.u32(u64::from(sysv_hash() % bucket_count) * 4)?;
                // It may also go round in a circle.
                for _ in 0..CHAIN_MAX {
                    if index == 0 {
                        return None;
                    }
                    if let found @ Some(_) = matches(index) {
                        return found;
                    }
                    index = chain.u32(u64::from(index) * 4)?;
                }
                too_long.set(true);
                None
            }
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is specified, byte by byte.
    fn by_bytes(name: &[u8]) -> u32 {
        name.iter().fold(GNU_START, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)))
    }

    #[test]
    fn a_name_hashed_sixteen_bytes_a_step_has_the_same_hash() {
        let text: Vec<u8> = (1..=255).collect();
        for len in 0..=255 {
            assert_eq!(gnu(&text[..len]), Some(by_bytes(&text[..len])), "{len} bytes");
            for at in 0..len {
                let mut text = text[..len].to_vec();
                text[at] = 0;
                assert_eq!(gnu(&text), None, "{len} bytes, number {at} is NUL");
            }
        }
    }

    #[test]
    fn a_string_hashed_sixteen_bytes_a_step_has_the_same_hash() {
        let text: Vec<u8> = (1..=255).chain([0]).collect();
        for start in 0..=255 {
            let (string, hash) = string_with_gnu(&text[start..]).unwrap();
            assert_eq!((string, hash), (&text[start..255], by_bytes(&text[start..255])), "from {start} on");
        }
        for len in 0..20 {
            let mut text = b"abcdefghijklmnopqrstuvwxyz".to_vec();
            text[len] = 0;
            assert_eq!(string_with_gnu(&text), Some((&text[..len], by_bytes(&text[..len]))));
            assert_eq!(string_with_gnu(&text[..len]), None, "without its end");
        }
    }

    #[test]
    fn the_hashes_are_those_of_the_specifications() {
        // The gABI's own figure for the hash of "printf" and the empty name.
        assert_eq!((sysv(b"printf"), sysv(b"")), (0x077905a6, 0));
        assert_eq!((gnu(b"printf"), gnu(b"")), (Some(0x156b2bb8), Some(5381)));
    }
}
