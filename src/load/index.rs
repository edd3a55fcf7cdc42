//! Which objects of a scope may define a name: tables over all their hashes, so that not every object is asked.
//!
//! A reference in a closure of two hundred objects would otherwise ask some fifty of them before one answers. The table
//! only chooses whom to ask; the object itself decides, by names and versions, as ever.

use super::scope::Provider;
use crate::arch::native;
use crate::file::symbols::Symbols;
use crate::sys;

/// Hashes of exported names, each leading to the symbol that has it.
///
/// Open addressing: where several objects export a name, the first one was entered first and is met first.
pub(crate) struct Index {
    /// In the upper bits some of the hash, in the lower ones one more than the number of the export; 0 is a free slot. A
    /// table is written once for many a load, and each page of it costs as much as a hundred look-ups: so a slot is small,
    /// and what it leads to may have another hash.
    slots: Vec<u32>,
    /// Whose exports have the numbers of each block.
    blocks: Vec<Block>,
}

/// The exports of an object are numbered from the start of a block.
struct Block {
    /// The object's rank in the scope.
    rank: u32,
    /// What is added to the number of an export, to have that of the symbol.
    plus: u32,
}

/// Numbers in one block.
const BLOCK: usize = 128;
/// Bits of a slot for the number: two million exports. The widest real scope has some hundreds of thousands.
const NUMBER_BITS: u32 = 21;
const NUMBER_MASK: u32 = (1 << NUMBER_BITS) - 1;
/// Slots that are looked at for one hash. Names that are not made for it need as many as there are objects that have them.
const PROBES_MAX: usize = 4096;

impl Index {
    /// The table over the objects of `order` from number `from` on, if it pays for about `references` look-ups.
    pub(super) fn of(providers: &[Provider<'_>], order: &[usize], from: usize, references: usize) -> Option<Self> {
        let asked = order.get(from..)?;
        let symbols = asked.iter().map(|number| providers[*number].symbols);
        let exports = exports(symbols.clone())?;
        // A look-up asks half of the objects on the way, mostly a word of a small table each; an export that is entered
        // is a miss or two of the cache. What a look-up reads by the table can be asked of memory beforehand. So a table
        // pays from about two questions for each export on.
        let questions = references.saturating_mul(asked.len()) / 2;
        if questions <= exports.saturating_mul(2) { None } else { Self::over(symbols, from) }
    }

    /// The table over the names of all `objects`, the first of which has rank `from`. None if one of them has the old hash
    /// table only, out of which it could not be entered without reading every name; or if it would not serve.
    pub(crate) fn over<'a>(objects: impl Iterator<Item = &'a Symbols> + Clone, from: usize) -> Option<Self> {
        let exports = exports(objects.clone())?;
        if exports > NUMBER_MASK as usize {
            return None;
        }
        let mut index = Self { slots: vec![0; exports + exports / 2 + 1], blocks: Vec::new() };
        sys::populate(&mut index.slots);
        for (rank, symbols) in (u32::try_from(from).ok()?..).zip(objects) {
            let hashes = symbols.hashes()?;
            let number = (index.blocks.len() * BLOCK) as u32;
            let plus = (symbols.count() - hashes.len() as u32).wrapping_sub(number);
            index.blocks.extend((0..hashes.len().div_ceil(BLOCK)).map(|_| Block { rank, plus }));
            for (hash, number) in hashes.zip(number..) {
                index.enter(hash, number)?;
            }
        }
        Some(index)
    }

    /// Where a name of that hash is looked for first. The lowest bit is not known of all hashes.
    #[inline(always)]
    fn start(&self, hash: u32) -> usize {
        // Fibonacci hashing: the low bits of the names' own hash are worn by the objects' bucket counts.
        let spread = (hash | 1).wrapping_mul(0x9e37_79b9);
        ((u64::from(spread) * self.slots.len() as u64) >> 32) as usize
    }

    fn enter(&mut self, hash: u32, number: u32) -> Option<()> {
        let entry = part(hash) | Some(number + 1).filter(|number| *number <= NUMBER_MASK)?;
        let mut at = self.start(hash);
        for _ in 0..PROBES_MAX {
            let slot = self.slots.get_mut(at)?;
            if *slot == 0 {
                *slot = entry;
                return Some(());
            }
            at = if at + 1 < self.slots.len() { at + 1 } else { 0 };
        }
        None
    }

    /// Prefetches the slot where a search for that hash begins.
    pub(super) fn prefetch(&self, gnu_hash: u32) {
        self.slots.get(self.start(gnu_hash)).into_iter().for_each(native::prefetch);
    }

    /// Ranks of objects with symbols of theirs, among them all of that hash, in order. Those of another hash are few; before
    /// one of a later object come all of that hash of earlier ones.
    #[inline(always)]
    pub(super) fn matches(&self, gnu_hash: u32) -> Matches<'_> {
        Matches { index: self, at: self.start(gnu_hash), left: PROBES_MAX, part: part(gnu_hash) }
    }
}

/// See [`Index::matches`].
pub(super) struct Matches<'a> {
    index: &'a Index,
    at: usize,
    left: usize,
    part: u32,
}

impl Iterator for Matches<'_> {
    type Item = (usize, u32);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let slots = &self.index.slots[..];
        while self.left > 0 {
            let slot = *slots.get(self.at)?;
            // A third of the slots is free.
            if slot == 0 {
                return None;
            }
            self.left -= 1;
            self.at = if self.at + 1 < slots.len() { self.at + 1 } else { 0 };
            if slot & !NUMBER_MASK == self.part {
                let number = (slot & NUMBER_MASK) - 1;
                let block = self.index.blocks.get(number as usize / BLOCK)?;
                return Some((block.rank as usize, number.wrapping_add(block.plus)));
            }
        }
        None
    }
}

/// What a slot has of a hash: the low bits, but for the lowest, because the high ones say where the slot is.
#[inline(always)]
fn part(hash: u32) -> u32 {
    (hash >> 1) << NUMBER_BITS
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
    fn each_name_leads_to_its_symbol() {
        // The C library has names of one hash, versions of one name, and such that differ in the lowest bit only: strtok and
        // strtol.
        let libc = crate::maps::address_space().into_iter().find(|map| map.path.ends_with("/libc.so.6")).unwrap();
        let image = Image::open(libc.path.as_ref()).unwrap();
        let symbols = image.symbols(&image.source()).unwrap().unwrap();
        let table = symbols.gnu().unwrap();
        let index = Index::over([&symbols, &symbols].into_iter(), 3).unwrap();
        let hash = |name: &[u8]| Wanted::by_name(name, None).unwrap().gnu_hash();
        assert_eq!(hash(b"strtok") | 1, hash(b"strtol") | 1);
        let (mut same, mut all) = (0, 0);
        for number in symbols.count() - symbols.hashes().unwrap().len() as u32..symbols.count() {
            let name = symbols.string(symbols.get(number).unwrap().name).unwrap();
            let mut asked: Vec<_> = index.matches(hash(name)).collect();
            assert!(asked.contains(&(3, number)) && asked.contains(&(4, number)), "{}", String::from_utf8_lossy(name));
            all += asked.len();
            asked.retain(|(_, symbol)| table.hash_of(*symbol).unwrap() | 1 == hash(name) | 1);
            same += asked.len();
            assert!(asked.is_sorted());
        }
        assert!(all > 4000 && all - same < all / 50, "{same} of {all}");
        let other = hash(b"no such name");
        assert!(index.matches(other).all(|(_, symbol)| table.hash_of(symbol).unwrap() | 1 != other | 1));
    }

    #[test]
    fn names_made_to_share_a_place_are_no_table() {
        let mut index = Index { slots: vec![0; 1 << 14], blocks: Vec::new() };
        let entered = (0..1 << 14).take_while(|number| index.enter(0x1234, *number).is_some()).count();
        assert_eq!(entered, PROBES_MAX);
    }
}
