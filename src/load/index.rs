//! Which objects of a scope may define a name: tables over the hashes of their names, so that not every object is asked.
//!
//! A reference in a closure of two hundred objects would otherwise ask some fifty of them before one answers. The table
//! only chooses whom to ask; the object itself decides, by names and versions, as ever.

use std::ops::RangeFrom;

use super::scope::Provider;
use crate::arch::native;
use crate::file::relocations::SetBits;
use crate::file::symbols::Symbols;
use crate::sys::Zeros;

/// Hashes of exported names, each leading to the symbol that has it.
///
/// Open addressing: where several objects export a name, the first one was entered first and is met first.
pub(crate) struct Index {
    /// In the upper bits some of the hash, in the lower ones one more than the number of the export; 0 is a free slot. A
    /// table is written for one load, and each page of it costs as much as some ten look-ups: so a slot is small,
    /// and what it leads to may have another hash.
    slots: Zeros<u32>,
    /// Whose exports have the numbers of each block.
    blocks: Vec<Block>,
    /// If only names of these hashes were entered.
    wanted: Option<Filter>,
}

/// Who looks for symbols in a scope, and about how often an object is asked whether it has one.
#[derive(Default)]
pub(crate) struct Demand<'a> {
    pub(crate) questions: usize,
    pub(crate) by: Vec<&'a Symbols>,
}

impl<'a> Demand<'a> {
    /// Adds an object that refers to symbols so often, behind `before` of all the objects that are `asked`.
    pub(crate) fn add(&mut self, symbols: &'a Symbols, references: usize, before: usize, asked: usize) {
        // What others have is met half-way, on average; for what it has itself, all are asked that stand before it.
        let exports = symbols.hashes().map_or(0, |hashes| hashes.len());
        let others = if exports > 0 { (symbols.count() as usize).saturating_sub(exports) } else { references };
        let of_others = references.min(others);
        let own = (references - of_others).min(exports);
        let questions = (of_others.saturating_mul(asked) / 2).saturating_add(own.saturating_mul(before));
        self.questions = self.questions.saturating_add(questions);
        self.by.push(symbols);
    }
}

/// Hashes, and a few others: two bits for each, in one word.
pub(crate) struct Filter {
    words: Vec<u64>,
    /// What the upper bits are shifted by that say which word it is.
    shift: u32,
}

/// Bits of a filter for each hash: about one in fifty of the others passes. Each that does costs as much as a look-up.
const BITS: usize = 16;

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
/// Questions for each export from which on a table pays.
const PAYS: usize = 4;
/// Slots that are looked at for one hash. Names that are not made for it need as many as there are objects that have them.
const PROBES_MAX: usize = 4096;

impl Index {
    /// The table over the objects of `order` from number `from` on, if it pays.
    pub(super) fn of(providers: &[Provider<'_>], order: &[usize], from: usize, demand: &Demand<'_>) -> Option<Self> {
        let asked = order.get(from..)?;
        // They have more exports than they are.
        if demand.questions <= asked.len().saturating_mul(PAYS) {
            return None;
        }
        let symbols = asked.iter().map(|number| providers[*number].symbols);
        let exports = exports(symbols.clone())?;
        // A question is mostly a word of a small table; an export that is entered is a miss or two of the cache, and where
        // nobody has asked the object yet, a page to be mapped. What a look-up reads can be asked of memory beforehand, with
        // a table and without.
        if demand.questions <= exports.saturating_mul(PAYS) {
            return None;
        }
        match Filter::of(&demand.by, exports) {
            Some(wanted) => Self::over_wanted(symbols, from, wanted),
            None => Self::over(symbols, from),
        }
    }

    /// The table over the names of all `objects`, the first of which has rank `from`. None if one of them has the old hash
    /// table only, out of which it could not be entered without reading every name; or if it would not serve.
    pub(crate) fn over<'a>(objects: impl Iterator<Item = &'a Symbols> + Clone, from: usize) -> Option<Self> {
        let mut index = Self::for_entries(exports(objects.clone())?, None);
        for (rank, symbols) in (u32::try_from(from).ok()?..).zip(fetched(objects)) {
            let hashes = symbols.hashes()?;
            let numbers = index.number(rank, symbols, hashes.len());
            for (hash, number) in hashes.zip(numbers) {
                index.enter(hash, number)?;
            }
        }
        Some(index)
    }

    /// The same over those names that are `wanted`.
    fn over_wanted<'a>(
        objects: impl Iterator<Item = &'a Symbols> + Clone,
        from: usize,
        wanted: Filter,
    ) -> Option<Self> {
        let mut chosen: Vec<u64> = Vec::new();
        for symbols in fetched(objects.clone()) {
            let choose = |hashes: &[[u8; 4]]| {
                let bits = hashes.iter().enumerate();
                bits.fold(0, |bits, (at, hash)| bits | u64::from(wanted.has(u32::from_le_bytes(*hash))) << at)
            };
            chosen.extend(symbols.gnu()?.hashes().chunks(64).map(choose));
        }
        let entries = chosen.iter().map(|bits| bits.count_ones() as usize).sum();
        let mut index = Self::for_entries(entries, Some(wanted));
        let mut chosen = &chosen[..];
        for (rank, symbols) in (u32::try_from(from).ok()?..).zip(objects) {
            let table = symbols.gnu()?;
            let hashes = table.hashes();
            let numbers = index.number(rank, symbols, hashes.len());
            for (chunk, first) in hashes.chunks(64).zip(numbers.step_by(64)) {
                let (bits, others) = chosen.split_first()?;
                chosen = others;
                // Slots are all over a table that is larger than the near caches.
                let names =
                    || SetBits(*bits).filter_map(|bit| Some((u32::from_le_bytes(*chunk.get(bit as usize)?), bit)));
                names().for_each(|(hash, _)| index.prefetch(hash));
                for (hash, bit) in names() {
                    index.enter(hash, first + bit)?;
                }
            }
        }
        Some(index)
    }

    fn for_entries(entries: usize, wanted: Option<Filter>) -> Self {
        Self { slots: Zeros::new(entries + entries / 2 + 1), blocks: Vec::new(), wanted }
    }

    /// Numbers the exports of the next object.
    fn number(&mut self, rank: u32, symbols: &Symbols, exports: usize) -> RangeFrom<u32> {
        let first = (self.blocks.len() * BLOCK) as u32;
        let plus = (symbols.count() - exports as u32).wrapping_sub(first);
        self.blocks.extend((0..exports.div_ceil(BLOCK)).map(|_| Block { rank, plus }));
        first..
    }

    /// Where a name of that hash is looked for first.
    #[inline(always)]
    fn start(&self, hash: u32) -> usize {
        ((u64::from(spread(hash)) * self.slots.len() as u64) >> 32) as usize
    }

    /// Whether names of that hash were entered.
    #[inline(always)]
    pub(super) fn knows(&self, hash: u32) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.has(hash))
    }

    pub(super) fn enter(&mut self, hash: u32, number: u32) -> Option<()> {
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

impl Filter {
    /// What `all` look for, if that is little beside so many exports.
    fn of(all: &[&Symbols], exports: usize) -> Option<Self> {
        // Of an object that exports nothing it is not known how many symbols it has.
        let is_known = |one: &&Symbols| one.exports_any() && one.gnu().is_some();
        let names = all.iter().try_fold(0, |names, one| is_known(one).then(|| names + one.count() as usize));
        let names = names.filter(|names| (1..exports / 2).contains(names))?;
        let mut filter = Self::for_names(names);
        for one in all {
            one.each_hash(|hash| filter.add(hash));
        }
        Some(filter)
    }

    /// The names that `objects` have for others; `None` if one of them has the old hash table only.
    pub(crate) fn of_exports<'a>(objects: impl Iterator<Item = &'a Symbols> + Clone) -> Option<Self> {
        let mut filter = Self::for_names(exports(objects.clone())?);
        objects.flat_map(Symbols::hashes).for_each(|hashes| hashes.for_each(|hash| filter.add(hash)));
        Some(filter)
    }

    /// One for so many names.
    fn for_names(names: usize) -> Self {
        let words = (names * BITS / 64).next_power_of_two().max(2);
        Self { words: vec![0; words], shift: 64 - words.trailing_zeros() }
    }

    #[inline(always)]
    fn add(&mut self, hash: u32) {
        let (word, bits) = self.place(hash);
        self.words[word] |= bits;
    }

    #[inline(always)]
    fn place(&self, hash: u32) -> (usize, u64) {
        let spread = u64::from(hash | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((spread >> self.shift) as usize, 1 << (spread >> 38 & 63) | 1 << (spread >> 32 & 63))
    }

    /// Whether a name of that hash may be among them; its lowest bit does not count.
    #[inline(always)]
    pub(super) fn has(&self, hash: u32) -> bool {
        let (word, bits) = self.place(hash);
        self.words.get(word).is_some_and(|word| word & bits == bits)
    }
}

/// Asks memory for what will be read of each object while those before it are gone through: where there are hundreds, each
/// begins with pages that the processor has not seen for long.
fn fetched<'a>(objects: impl Iterator<Item = &'a Symbols> + Clone) -> impl Iterator<Item = &'a Symbols> {
    const AHEAD: usize = 4;
    const LINES: usize = 8;
    let mut ahead = objects.clone().skip(AHEAD);
    objects.inspect(move |_| {
        let soon = ahead.next().and_then(Symbols::gnu);
        soon.iter().flat_map(|table| table.hashes().iter().step_by(16).take(LINES)).for_each(native::prefetch);
    })
}

/// Fibonacci hashing: the low bits of the names' own hash are worn by the objects' bucket counts. The lowest one is not known
/// of all hashes.
#[inline(always)]
fn spread(hash: u32) -> u32 {
    (hash | 1).wrapping_mul(0x9e37_79b9)
}

/// What a slot has of a hash: the low bits, but for the lowest, because the high ones say where the slot is.
#[inline(always)]
fn part(hash: u32) -> u32 {
    (hash >> 1) << NUMBER_BITS
}

/// How many names others may look for in `objects`; `None` if one of them does not say, or if there are too many.
pub(crate) fn exports<'a>(mut objects: impl Iterator<Item = &'a Symbols>) -> Option<usize> {
    let exports = objects.try_fold(0usize, |exports, symbols| exports.checked_add(symbols.hashes()?.len()));
    exports.filter(|exports| *exports <= NUMBER_MASK as usize)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::path::Path;

    use crate::file::image::Image;
    use crate::file::symbols::Wanted;

    /// The file of an object that this process has.
    pub(in crate::load) fn path(name: &str) -> String {
        crate::maps::address_space().into_iter().find(|map| map.path.ends_with(name)).unwrap().path
    }

    pub(in crate::load) fn symbols_of(file: &Path) -> Symbols {
        let image = Image::open(file).unwrap();
        *image.symbols(&image.source()).unwrap().unwrap()
    }

    /// The tables of an object that this process has.
    pub(in crate::load) fn symbols(name: &str) -> Symbols {
        symbols_of(path(name).as_ref())
    }

    fn hash(name: &[u8]) -> u32 {
        Wanted::by_name(name, None).unwrap().gnu_hash()
    }

    #[test]
    fn each_name_leads_to_its_symbol() {
        // The C library has names of one hash, versions of one name, and such that differ in the lowest bit only: strtok and
        // strtol.
        let symbols = symbols("/libc.so.6");
        let table = symbols.gnu().unwrap();
        let index = Index::over([&symbols, &symbols].into_iter(), 3).unwrap();
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
    fn whether_there_is_a_name_of_a_hash_is_told_without_its_lowest_bit() {
        let (libc, libgcc) = (symbols("/libc.so.6"), symbols("/libgcc_s.so.1"));
        let own: Vec<u32> = libc.hashes().unwrap().map(|hash| hash | 1).collect();
        let table = libc.gnu().unwrap();
        assert!(own.iter().all(|hash| table.has_either(*hash) && table.has_either(*hash & !1)));
        let others: Vec<u32> = libgcc.hashes().unwrap().filter(|hash| !own.contains(&(hash | 1))).collect();
        assert!(others.len() > 50 && others.iter().all(|hash| !table.has_either(*hash)));
    }

    #[test]
    fn the_first_of_its_hash_is_the_one_that_a_search_meets_first() {
        // The C library has versions of one name.
        let libc = symbols("/libc.so.6");
        let table = libc.gnu().unwrap();
        let (mut first, mut later) = (0, 0);
        for number in libc.count() - table.hashes().len() as u32..libc.count() {
            let hash = hash(libc.string(libc.get(number).unwrap().name).unwrap());
            let found = table.first(table.start(hash).unwrap(), hash).unwrap().unwrap();
            assert_eq!(table.is_first_of_hash(number), found == number, "{number}");
            *if found == number { &mut first } else { &mut later } += 1;
        }
        assert!(first > 1000 && later > 20, "{first} {later}");
        assert!(!table.is_first_of_hash(0) && !table.is_first_of_hash(u32::MAX));
    }

    #[test]
    fn what_others_have_is_asked_of_half_of_all_and_what_an_object_has_of_those_before_it() {
        let libc = symbols("/libc.so.6");
        let exports = libc.hashes().unwrap().len();
        let others = libc.count() as usize - exports;
        let questions = |references, before, asked| {
            let mut demand = Demand::default();
            demand.add(&libc, references, before, asked);
            demand.questions
        };
        assert_eq!(questions(others, 3, 10), others * 10 / 2);
        assert_eq!(questions(others + 100, 3, 10), others * 10 / 2 + 100 * 3);
        assert_eq!(questions(usize::MAX, 0, 10), others * 10 / 2);
        assert_eq!(questions(usize::MAX, 3, 10), others * 10 / 2 + exports * 3);
    }

    #[test]
    fn a_table_of_what_is_wanted_has_all_that_is_and_little_else() {
        let (libc, libgcc) = (symbols("/libc.so.6"), symbols("/libgcc_s.so.1"));
        let demand = Demand { questions: usize::MAX, by: vec![&libgcc] };
        let file = std::path::PathBuf::new();
        let provider = |symbols| Provider { symbols, bias: crate::addr::Bias::default(), file: &file };
        let index = Index::of(&[provider(&libc), provider(&libgcc)], &[0, 1], 0, &demand).unwrap();
        let name = |of: &Symbols, number| of.string(of.get(number).unwrap().name).unwrap().to_vec();
        for number in 1..libgcc.count() {
            let name = name(&libgcc, number);
            assert!(index.knows(hash(&name)));
            let defined = libgcc.get(number).unwrap().is_defined();
            assert!(!defined || index.matches(hash(&name)).any(|found| found == (1, number)));
        }
        let abort = index.matches(hash(b"abort")).find(|(rank, number)| *rank == 0 && name(&libc, *number) == b"abort");
        assert!(abort.is_some(), "libgcc needs it");
        let others = (1..libc.count()).filter(|number| index.knows(hash(&name(&libc, *number)))).count();
        assert!(others < libc.count() as usize / 20, "{others} of {}", libc.count());
    }

    #[test]
    fn names_made_to_share_a_place_are_no_table() {
        let mut index = Index { slots: Zeros::new(1 << 14), blocks: Vec::new(), wanted: None };
        let entered = (0..1 << 14).take_while(|number| index.enter(0x1234, *number).is_some()).count();
        assert_eq!(entered, PROBES_MAX);
    }
}
