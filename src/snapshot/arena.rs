//! Placement: where in the address space the libraries of one session lie.
//!
//! All libraries of a session are packed into one *arena*, whose base is random: what is random in each process
//! otherwise becomes random in each session. Packed, because a slot of its own far away would cost each library, in each
//! process, page tables of its own.

use std::cell::OnceCell;
use std::collections::HashSet;

use super::manifest::Hash;
use super::refusal::Refusal;
use crate::addr::Addr;

/// Above the shadow of the address sanitizer, below where the kernel puts mappings by itself.
const BASE_FIRST: u64 = 0x1001_0000_0000;
const BASE_LAST: u64 = 0x5000_0000_0000;

/// Large pages, which large libraries should begin with.
const LARGE: u64 = 1 << 21;

/// The arena ends here: what has no room is loaded elsewhere.
const SIZE: u64 = 1 << 38;

/// Libraries of one session.
const SLOTS_MAX: usize = 1 << 16;

const PAGE: u64 = 4096;

/// The secret that a session's addresses follow from.
#[derive(Clone)]
pub(crate) struct Seed(pub(crate) Hash);

impl Seed {
    /// Where the arena begins.
    pub(crate) fn base(&self) -> u64 {
        let choices = (BASE_LAST - SIZE - BASE_FIRST) / LARGE;
        BASE_FIRST + self.number("base", 0) % choices * LARGE
    }

    /// What snapshots of the session are sealed with.
    pub(crate) fn secret(&self) -> Hash {
        blake3::derive_key("soload snapshot 1 seal", &self.0)
    }

    /// A number that nobody can guess who does not know the seed.
    fn number(&self, what: &str, index: u64) -> u64 {
        let mut text = what.as_bytes().to_vec();
        text.extend(index.to_le_bytes());
        let hash = blake3::keyed_hash(&self.0, &text);
        hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// A library that wants a slot: what it is, its bytes of address space, and what its start must be a multiple of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) id: Hash,
    pub(crate) len: u64,
    pub(crate) align: u64,
}

/// Which library lies where.
#[derive(Clone, Default)]
pub(crate) struct Slots {
    records: Vec<u8>,
    /// The number of each record, by the first bytes of its library: which are as good as random.
    by_id: Vec<(u64, u32)>,
    /// Where the arena begins, once that has been asked for.
    base: OnceCell<u64>,
}

/// Bytes of a record: library, offset in the arena, length, and a check.
pub(crate) const RECORD: usize = 64;

impl Slots {
    /// The slots that a registry has on record.
    pub(crate) fn read(records: Vec<u8>) -> Self {
        let all = records.as_chunks::<RECORD>().0.iter().take(SLOTS_MAX);
        let mut by_id: Vec<(u64, u32)> = (0..).zip(all).map(|(number, record)| (word(record, 0), number)).collect();
        by_id.sort_unstable();
        Self { records, by_id, base: OnceCell::new() }
    }

    /// The slot of a library: its offset and length. What is no record of this session's is passed over.
    fn slot(&self, id: &Hash, seed: &Seed) -> Option<(u64, u64)> {
        let start = word(id, 0);
        let from = self.by_id.partition_point(|(known, _)| *known < start);
        let same = self.by_id[from..].iter().take_while(|(known, _)| *known == start);
        let records = self.records.as_chunks::<RECORD>().0;
        same.filter_map(|(_, number)| records.get(*number as usize))
            .find_map(|record| (record.starts_with(id)).then(|| sound(record, seed))?)
    }

    /// Where `wanted` lies, if it has a slot.
    pub(crate) fn find(&self, wanted: &Wanted, seed: &Seed) -> Option<Addr> {
        let (offset, len) = self.slot(&wanted.id, seed)?;
        let start = self.base.get_or_init(|| seed.base()) + offset;
        (len == wanted.len && start.is_multiple_of(wanted.align)).then_some(Addr(start as usize))
    }

    /// Gives each of `wanted` that has none a slot, and says what to put on record.
    ///
    /// In an order and with gaps that follow from the seed: whoever knows where one library is does not know the others.
    pub(crate) fn assign(&mut self, wanted: &[Wanted], seed: &Seed) -> Vec<u8> {
        let (mut known, mut end) = (0, 0);
        for record in self.records.as_chunks::<RECORD>().0.iter().take(SLOTS_MAX) {
            if let Some((offset, len)) = sound(record, seed) {
                (known, end) = (known + 1, end.max(offset + len));
            }
        }
        let mut new: Vec<&Wanted> = wanted.iter().filter(|wanted| self.slot(&wanted.id, seed).is_none()).collect();
        new.sort_by_key(|wanted| seed.number("order", u64::from_le_bytes(*wanted.id.first_chunk().unwrap_or(&[0; 8]))));
        let (mut records, mut given) = (Vec::with_capacity(new.len() * RECORD), HashSet::new());
        for wanted in new {
            let large = if wanted.len >= LARGE { LARGE } else { PAGE };
            let align = wanted.align.max(large);
            let gap = PAGE * (1 + seed.number("gap", known) % 16);
            let start = (end + gap).checked_next_multiple_of(align);
            let its_end = start.and_then(|start| start.checked_add(wanted.len)).filter(|end| *end <= SIZE);
            // An alignment beyond that of the base is met by no offset.
            let (Some(start), Some(its_end), true) = (start, its_end, align <= LARGE && known < SLOTS_MAX as u64)
            else {
                continue;
            };
            if given.insert(wanted.id) {
                let at = records.len();
                records.extend(wanted.id);
                records.extend(start.to_le_bytes());
                records.extend(wanted.len.to_le_bytes());
                let check = check(&records[at..], seed);
                records.extend(check);
                (known, end) = (known + 1, its_end);
            }
        }
        let mut all = std::mem::take(&mut self.records);
        // What a writer that was killed has begun is written over.
        all.truncate(all.len() - all.len() % RECORD);
        all.extend(&records);
        *self = Self::read(all);
        records
    }
}

/// The places of `wanted` in an arena of their own.
pub(crate) fn slots_for(wanted: &[Wanted], seed: &Seed) -> Result<Vec<Addr>, Refusal> {
    let mut slots = Slots::default();
    slots.assign(wanted, seed);
    let places = wanted.iter().map(|wanted| slots.find(wanted, seed)).collect::<Option<_>>();
    places.ok_or_else(|| Refusal::Place("an arena has no room for it".into()))
}

/// Offset and length in a record, if it is one of this session's.
fn sound(record: &[u8; RECORD], seed: &Seed) -> Option<(u64, u64)> {
    let (offset, len) = (word(record, 32), word(record, 40));
    let inside = offset.is_multiple_of(PAGE) && offset.checked_add(len).is_some_and(|end| end <= SIZE);
    (inside && record[48..] == check(&record[..48], seed)).then_some((offset, len))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn check(record: &[u8], seed: &Seed) -> [u8; 16] {
    let hash = blake3::keyed_hash(&seed.0, record);
    *hash.as_bytes().first_chunk().unwrap_or(&[0; 16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(number: u8, len: u64) -> Wanted {
        Wanted { id: [number; 32], len, align: PAGE }
    }

    fn sound_ones(records: &[u8], seed: &Seed) -> usize {
        let slots = Slots::read(records.to_vec());
        let libraries = records.chunks(RECORD).filter_map(|record| record.first_chunk::<32>());
        libraries.filter(|id| slots.slot(id, seed).is_some()).count()
    }

    #[test]
    fn slots_do_not_overlap_stay_where_they_are_and_lie_elsewhere_in_another_session() {
        let (seed, other) = (Seed([1; 32]), Seed([2; 32]));
        let all: Vec<Wanted> =
            (0..100).map(|number| wanted(number, 0x3000 + u64::from(number % 7) * 0x10_0000)).collect();
        let mut slots = Slots::default();
        let records = slots.assign(&all, &seed);
        assert_eq!(records.len(), 100 * RECORD);
        let mut ranges: Vec<(usize, u64)> =
            all.iter().map(|wanted| (slots.find(wanted, &seed).unwrap().0, wanted.len)).collect();
        let as_asked = ranges.clone();
        ranges.sort();
        assert_ne!(ranges, as_asked, "shuffled");
        assert!(ranges.windows(2).all(|pair| pair[0].0 as u64 + pair[0].1 + PAGE <= pair[1].0 as u64));
        assert!(ranges.iter().filter(|(_, len)| *len >= LARGE).all(|(start, _)| (*start as u64).is_multiple_of(LARGE)));

        let mut read = Slots::read(records.clone());
        assert!(all.iter().all(|wanted| read.find(wanted, &seed) == slots.find(wanted, &seed)));
        assert!(read.assign(&all, &seed).is_empty());
        let more = read.assign(&[wanted(200, 0x1000)], &seed);
        assert_eq!(more.len(), RECORD);
        assert!(read.find(&wanted(200, 0x1000), &seed).unwrap().0 > ranges.last().unwrap().0);
        assert_ne!(seed.base(), other.base());
        assert_eq!(sound_ones(&records, &other), 0, "another session's records are none");
    }

    #[test]
    fn a_record_that_was_tampered_with_is_passed_over() {
        let seed = Seed([1; 32]);
        let mut slots = Slots::default();
        let records = slots.assign(&[wanted(1, PAGE), wanted(2, PAGE)], &seed);
        for bit in 0..RECORD * 8 {
            let mut flipped = records.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sound_ones(&flipped, &seed), 1, "bit {bit}");
        }
        assert_eq!(sound_ones(&records[..RECORD + 5], &seed), 1, "torn at the end");
    }

    #[test]
    fn what_has_no_room_gets_no_slot() {
        let seed = Seed([1; 32]);
        let mut slots = Slots::default();
        let odd = Wanted { align: LARGE * 2, ..wanted(3, PAGE) };
        assert!(slots.assign(&[wanted(1, SIZE), wanted(2, u64::MAX), odd], &seed).is_empty());
        assert_eq!(slots.find(&odd, &seed), None);
    }
}
