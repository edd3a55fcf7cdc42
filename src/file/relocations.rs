//! Relocations: `DT_RELR`, `DT_REL`, `DT_RELA` and `DT_JMPREL` as one sequence, in the order they are applied.

use smallvec::SmallVec;

use super::Source;
use super::dynamic::Dynamic;
use super::elf::{EM_MIPS, tag};
use super::view::{ByteOrder, Class, View};
use crate::addr::{PageSize, Vaddr};
use crate::arch::native;
use crate::error::{At, ErrorKind};

/// One relocation, whichever table it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relocation {
    pub(crate) place: Vaddr,
    pub(crate) what: What,
    pub(crate) symbol: u32,
    /// `None`: the addend is the word that stands at the place.
    pub(crate) addend: Option<i64>,
    /// From `DT_JMPREL`: may wait for the first call.
    pub(crate) plt: bool,
}

/// What the relocation does: a number of the machine's psABI, or the one thing that RELR can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A packed relative relocation.
    Relr,
    /// A type of `DT_REL` or `DT_RELA`.
    Type(u32),
}

/// Place, type and symbol, and addend, as they stand in the tables that are loaded by the million.
pub(crate) type Entry = [[u8; 8]; 3];

/// How many relocations are announced at once: with all that they read they fit into the fastest cache.
pub(crate) const AHEAD: usize = 64;

/// How far ahead of the one that is applied they are fetched, in relocations: two kilobytes. The processor sees that a table is
/// read from one end to the other, but begins anew at each page; and large tables come from main memory.
const FETCHED: usize = 85;

/// Fetches those that will be applied some time after number `at`: of four that follow one another each line of the cache.
#[inline(always)]
pub(crate) fn fetch(entries: &[Entry], at: usize) {
    let four = [entries.get(at + FETCHED), entries.get(at + FETCHED + 2)];
    four.into_iter().flatten().for_each(native::prefetch);
}

/// Calls `each` with the places of all `entries`.
pub(crate) fn each_place(entries: &[Entry], mut each: impl FnMut(Vaddr)) {
    // Where the next one stands does not depend on what has been read: to look at each costs less than to ask where to go on.
    for (at, four) in entries.chunks(4).enumerate() {
        fetch(entries, 4 * at);
        four.iter().for_each(|[place, ..]| each(Vaddr(u64::from_le_bytes(*place))));
    }
}

/// How many walks through one table wait for memory together.
const WALKS: usize = 8;

/// A walk through relative relocations, from page to page.
struct Walk<'a> {
    /// Those that are left. At its end it has none, unless one is of another type.
    entries: &'a [Entry],
    number: u64,
    page: PageSize,
}

impl Walk<'_> {
    fn place(&self, at: usize) -> Option<u64> {
        let [place, info, _] = self.entries.get(at)?.map(u64::from_le_bytes);
        (info == self.number).then_some(place)
    }
}

impl Iterator for Walk<'_> {
    type Item = Vaddr;

    #[inline(always)]
    fn next(&mut self) -> Option<Vaddr> {
        let (place, page) = (self.place(0)?, self.page);
        // The page has no more words than that: where the one after so many is in the next page, all between are in this one
        // and that. Where it is further off, there may be pages between.
        let mut leap = (page.bytes() - (place - page.down(place))) as usize / 8;
        let near = |ahead: u64| page.down(ahead).wrapping_sub(page.down(place)) <= page.bytes();
        while leap > 1 && !self.place(leap).is_some_and(near) {
            leap /= 2;
        }
        self.entries = self.entries.get(leap.max(1)..).unwrap_or_default();
        Some(Vaddr(place))
    }
}

/// Who applies relocations.
pub(crate) trait Apply {
    type Error;

    /// Is told which will come next, [`AHEAD`] at most.
    fn expect(&mut self, _entries: &[Entry]) {}

    /// Applies some that `entries` begins with and that need no thought, if it can; answers how many that was. Those of
    /// `DT_JMPREL` (`plt`) may wait.
    fn run(&mut self, entries: &[Entry], plt: bool) -> usize;

    /// Applies one of type `number` with a stated addend, if there is nothing special about it; answers whether that was
    /// all.
    fn quickly(&mut self, place: Vaddr, number: u32, symbol: u32, addend: i64) -> bool;

    /// Applies any.
    fn any(&mut self, relocation: &Relocation) -> Result<(), Self::Error>;
}

/// The relocation tables of one object.
#[derive(Clone)]
pub(crate) struct Relocations {
    relr: Option<View>,
    tables: SmallVec<[Table; 2]>,
    /// How many are relative, as the file states.
    relative: u64,
    mips64: bool,
}

#[derive(Clone)]
struct Table {
    view: View,
    has_addend: bool,
    plt: bool,
}

impl Relocations {
    pub(crate) fn read(dynamic: &Dynamic, source: &dyn Source, class: Class, machine: u16) -> Result<Self, ErrorKind> {
        let word = class.word();
        let table = |what: &str, at: Option<u64>, size: Option<u64>, entry: u64, stated: Option<u64>| {
            let (Some(at), Some(size)) = (at, size.filter(|size| *size > 0)) else { return Ok(None) };
            if let Some(stated) = stated.filter(|stated| *stated != entry) {
                return Err(ErrorKind::malformed(format!("{what}ENT"), At::Object, entry, stated));
            }
            if size % entry != 0 {
                let expected = format!("a multiple of the entry size {entry}");
                return Err(ErrorKind::malformed(format!("{what}SZ"), At::Object, expected, format_args!("{size:#x}")));
            }
            source.require(what, at, Some(size)).map(Some)
        };
        let plt_has_addend = match dynamic.pltrel.get() {
            Some(tag::DT_REL) => false,
            Some(tag::DT_RELA) => true,
            Some(other) if dynamic.jmprel.get().is_some() => {
                return Err(ErrorKind::malformed("DT_PLTREL", At::Object, "DT_REL (17) or DT_RELA (7)", other));
            }
            _ => dynamic.rela.get().is_some() || dynamic.rel.get().is_none(),
        };
        // Some linkers count the PLT's relocations into the table before them; each is applied once.
        let without_plt = |at: Option<u64>, size: Option<u64>, addend: bool| match (at, size, dynamic.jmprel.get()) {
            (Some(at), Some(size), Some(plt)) if addend == plt_has_addend => {
                let covered = at.checked_add(size) == plt.checked_add(dynamic.pltrelsz.get().unwrap_or(0)) && plt >= at;
                Some(if covered { plt - at } else { size })
            }
            _ => size,
        };
        let relasz = without_plt(dynamic.rela.get(), dynamic.relasz.get(), true);
        let relsz = without_plt(dynamic.rel.get(), dynamic.relsz.get(), false);
        let rela = table("DT_RELA", dynamic.rela.get(), relasz, 3 * word, dynamic.relaent.get())?;
        let rel = table("DT_REL", dynamic.rel.get(), relsz, 2 * word, dynamic.relent.get())?;
        let plt_entry = if plt_has_addend { 3 } else { 2 } * word;
        let plt = table("DT_JMPREL", dynamic.jmprel.get(), dynamic.pltrelsz.get(), plt_entry, None)?;
        let relr = table("DT_RELR", dynamic.relr.get(), dynamic.relrsz.get(), word, dynamic.relrent.get())?;
        let mut tables = SmallVec::new();
        let mut add = |view: Option<View>, has_addend, plt| {
            if let Some(view) = view {
                tables.push(Table { view, has_addend, plt });
            }
        };
        add(rel, false, false);
        add(rela, true, false);
        add(plt, plt_has_addend, true);
        let (relative, mips64) = (dynamic.relacount.get().unwrap_or(0), machine == EM_MIPS && class == Class::Elf64);
        Ok(Self { relr, tables, relative, mips64 })
    }

    /// Has all of them applied, in order, until one fails.
    pub(crate) fn apply<A: Apply>(&self, apply: &mut A) -> Result<(), A::Error> {
        for relocation in self.relr() {
            apply.any(&relocation)?;
        }
        for table in &self.tables {
            // The one layout that is loaded by the million is read without asking at every word which layout it has.
            if let Some(mut rest) = table.entries() {
                let mut expected = rest.len();
                while let Some((entry, others)) = rest.split_first() {
                    let run = apply.run(rest, table.plt);
                    if run > 0 {
                        rest = &rest[run..];
                        continue;
                    }
                    if rest.len() <= expected {
                        let next = rest.len().min(AHEAD);
                        (0..next).step_by(4).for_each(|at| fetch(rest, at));
                        apply.expect(&rest[..next]);
                        expected = rest.len() - next;
                    }
                    rest = others;
                    let [place, info, addend] = entry.map(u64::from_le_bytes);
                    let (place, number, symbol) = (Vaddr(place), info as u32, (info >> 32) as u32);
                    let addend = addend as i64;
                    if !apply.quickly(place, number, symbol, addend) {
                        let (what, addend, plt) = (What::Type(number), Some(addend), table.plt);
                        apply.any(&Relocation { place, what, symbol, addend, plt })?;
                    }
                }
            } else {
                table.iter(self.mips64).try_for_each(|relocation| apply.any(&relocation))?;
            }
        }
        Ok(())
    }

    /// Calls `each` with all that are not relative, which is type `relative`, until it fails.
    pub(crate) fn try_each_symbolic<E>(
        &self,
        relative: u32,
        each: impl FnMut(&Relocation) -> Result<(), E>,
    ) -> Result<(), E> {
        struct Each<F>(u32, F);
        impl<E, F: FnMut(&Relocation) -> Result<(), E>> Apply for Each<F> {
            type Error = E;

            fn run(&mut self, entries: &[Entry], _: bool) -> usize {
                let relative = |entry: &&Entry| u64::from_le_bytes(entry[1]) == u64::from(self.0);
                entries.iter().take_while(relative).count()
            }

            fn quickly(&mut self, _: Vaddr, number: u32, _: u32, _: i64) -> bool {
                number == self.0
            }

            fn any(&mut self, relocation: &Relocation) -> Result<(), E> {
                if relocation.what == What::Relr { Ok(()) } else { (self.1)(relocation) }
            }
        }
        self.apply(&mut Each(relative, each))
    }

    /// Calls `each` with places of those that are relative, which is type `number`: with one in each page at least, if they come
    /// sorted, as linkers have them. Answers the others, in parts; those of a layout that is not loaded count as relative.
    pub(crate) fn sample_relative(&self, number: u32, page: PageSize, mut each: impl FnMut(Vaddr)) -> Vec<&[Entry]> {
        self.relr().for_each(|relocation| each(relocation.place));
        let mut parts = Vec::new();
        for table in &self.tables {
            let Some(entries) = table.entries() else {
                table.iter(self.mips64).for_each(|relocation| each(relocation.place));
                continue;
            };
            let relative = entries.len().min(usize::try_from(self.relative).unwrap_or(usize::MAX));
            let (relative, others) = entries.split_at(relative);
            let chunks = relative.chunks(relative.len().div_ceil(WALKS).max(1));
            let mut walks: SmallVec<[_; WALKS]> =
                chunks.map(|entries| Walk { entries, number: number.into(), page }).collect();
            while walks.iter_mut().filter_map(Iterator::next).map(&mut each).count() > 0 {}
            parts.extend(walks.iter().map(|walk| walk.entries).chain([others]).filter(|part| !part.is_empty()));
        }
        parts
    }

    /// Relocation number `index` of `DT_JMPREL`: what the entry of that number in the procedure linkage table jumps by.
    pub(crate) fn of_plt(&self, index: u64) -> Option<Relocation> {
        self.tables.iter().find(|table| table.plt)?.get(index, self.mips64)
    }

    /// How many of them refer to symbols, about: all but those that the file says are relative, and those that wait for the
    /// first call if they do (`lazy`).
    pub(crate) fn references(&self, lazy: bool) -> usize {
        let entries =
            |table: &Table| table.view.len() / (if table.has_addend { 3 } else { 2 } * table.view.class.word());
        let now = self.tables.iter().filter(|table| !(lazy && table.plt));
        now.map(entries).sum::<u64>().saturating_sub(self.relative) as usize
    }

    /// Relocation number `number`, those of the packed kind not counted.
    #[cfg(feature = "snapshots")]
    pub(crate) fn get(&self, mut number: u64) -> Option<Relocation> {
        for table in &self.tables {
            let entry = if table.has_addend { 3 } else { 2 } * table.view.class.word();
            match table.view.len() / entry {
                count if number < count => {
                    let view = table.view.slice(number * entry..(number + 1) * entry)?;
                    return Table { view, ..*table }.iter(self.mips64).next();
                }
                count => number -= count,
            }
        }
        None
    }

    /// All but those of the packed kind, in order, so that [`Self::get`] finds the n-th.
    #[cfg(feature = "snapshots")]
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (u64, Relocation)> + '_ {
        (0..).zip(self.tables.iter().flat_map(|table| table.iter(self.mips64)))
    }

    /// All of them, in the order in which they are applied.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Relocation> + '_ {
        self.relr().chain(self.tables.iter().flat_map(|table| table.iter(self.mips64)))
    }

    /// The packed relative ones: an even word is an address, an odd one a bitmap of the words that follow (gABI,
    /// "Relative Relocation Table").
    fn relr(&self) -> impl Iterator<Item = Relocation> + '_ {
        let entries = self.relr.iter().flat_map(|view| {
            let word = view.class.word();
            (0..view.len() / word).filter_map(move |index| view.word(index * word))
        });
        let word = self.relr.as_ref().map_or(8, |view| view.class.word());
        let mut next = 0u64;
        entries.flat_map(move |entry| {
            let (base, bitmap) = if entry & 1 == 0 {
                next = entry.wrapping_add(word);
                (entry, 1)
            } else {
                let base = next;
                next = next.wrapping_add((word * 8 - 1) * word);
                (base, entry >> 1)
            };
            SetBits(bitmap).map(move |bit| Relocation {
                place: Vaddr(base.wrapping_add(u64::from(bit) * word)),
                what: What::Relr,
                symbol: 0,
                addend: None,
                plt: false,
            })
        })
    }
}

impl Table {
    /// All of them, if it has the one layout that is loaded by the million.
    fn entries(&self) -> Option<&[Entry]> {
        let is_native = self.has_addend && self.view.class == Class::Elf64 && self.view.order == ByteOrder::Little;
        is_native.then(|| self.view.bytes().as_chunks::<8>().0.as_chunks::<3>().0)
    }

    fn iter(&self, mips64: bool) -> impl Iterator<Item = Relocation> + '_ {
        let entry = if self.has_addend { 3 } else { 2 } * self.view.class.word();
        (0..self.view.len() / entry).filter_map(move |index| self.get(index, mips64))
    }

    /// Relocation number `index`.
    fn get(&self, index: u64, mips64: bool) -> Option<Relocation> {
        let (view, word) = (&self.view, self.view.class.word());
        let at = index.checked_mul(if self.has_addend { 3 } else { 2 } * word)?;
        let info = view.word(at.checked_add(word)?)?;
        let (symbol, number) = match view.class {
            // MIPS packs a symbol and up to three types into the bytes of r_info, whatever the byte order.
            Class::Elf64 if mips64 => (view.u32(at + word)?, u32::from(view.u8(at + word + 7)?)),
            Class::Elf64 => ((info >> 32) as u32, info as u32),
            Class::Elf32 => ((info >> 8) as u32, (info & 0xff) as u32),
        };
        Some(Relocation {
            place: Vaddr(view.word(at)?),
            what: What::Type(number),
            symbol,
            addend: if self.has_addend { Some(view.signed_word(at + 2 * word)?) } else { None },
            plt: self.plt,
        })
    }
}

/// The numbers of the bits that are set, lowest first.
pub(crate) struct SetBits(pub(crate) u64);

impl Iterator for SetBits {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let lowest = (self.0 != 0).then(|| self.0.trailing_zeros())?;
        self.0 &= self.0 - 1;
        Some(lowest)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::file::view::ByteOrder;

    /// A table of these, as many of which it says are relative.
    pub(crate) fn of_entries(entries: impl Iterator<Item = [u64; 3]>, relative: usize) -> Relocations {
        let bytes: Vec<u8> = entries.flatten().flat_map(u64::to_le_bytes).collect();
        let view = View::new(bytes.into(), Class::Elf64, ByteOrder::Little);
        let table = Table { view, has_addend: true, plt: false };
        Relocations { relr: None, tables: smallvec![table], relative: relative as u64, mips64: false }
    }

    fn places(words: &[u64]) -> Vec<u64> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let relr = View::new(bytes.into(), Class::Elf64, ByteOrder::Little);
        let all = Relocations { relr: Some(relr), tables: SmallVec::new(), relative: 0, mips64: false };
        all.iter().map(|relocation| relocation.place.0).collect()
    }

    #[test]
    fn a_bitmap_continues_where_the_address_or_bitmap_before_it_ended() {
        assert_eq!(places(&[0x1000, 0b1011]), [0x1000, 0x1008, 0x1018]);
        // Bit 63 of the first bitmap is the 63rd word after the address; the second goes on from there.
        assert_eq!(places(&[0x1000, 1 << 63 | 1, 0b11]), [0x1000, 0x1008 + 62 * 8, 0x1008 + 63 * 8]);
        assert_eq!(places(&[0x1000, 1, 0x2000]), [0x1000, 0x2000]);
    }

    #[test]
    fn a_sample_has_every_page_and_few_of_the_words_in_it() {
        const RELATIVE: u32 = 8;
        let page = PageSize::new(4096).unwrap();
        // `relative`: how many the file says are relative; `info`: what they are.
        let sampled_of = |places: &[u64], relative: usize, info: &dyn Fn(usize) -> u64| {
            let entry = |(number, place): (usize, &u64)| [*place, info(number), 0];
            let all = of_entries(places.iter().enumerate().map(entry), relative);
            let mut sampled = Vec::new();
            let others = all.sample_relative(RELATIVE, page, |place| sampled.push(place.0));
            others.iter().for_each(|entries| each_place(entries, |place| sampled.push(place.0)));
            sampled
        };
        let sampled = |places: &[u64]| sampled_of(places, places.len(), &|_| RELATIVE.into());
        let of_symbols = |places: &[u64], relative| sampled_of(places, relative, &|_| 7 << 32 | 1);
        let pages = |mut places: Vec<u64>| {
            places.iter_mut().for_each(|place| *place = page.down(*place));
            places.sort_unstable();
            places.dedup();
            places
        };
        let dense: Vec<u64> = (0..4096).map(|word| 0x1238 + word * 8).collect();
        assert!(sampled(&dense).len() <= 12 * WALKS);
        // Those that are none are looked at one by one, whatever the file says that they are.
        assert_eq!(of_symbols(&dense, 0), dense);
        assert_eq!(of_symbols(&dense, dense.len() + 1), dense);
        for (relative, from) in [(100, 100), (4096, 100), (50, 100), (u64::MAX as usize, 4095)] {
            let mut mixed = dense.clone();
            // The first that is not relative is far from the last one that is.
            mixed[from..].iter_mut().for_each(|place| *place += 0x10_0000);
            let info = |number: usize| if number < from { RELATIVE.into() } else { 7 << 32 | 1 };
            assert_eq!(pages(sampled_of(&mixed, relative, &info)), pages(mixed), "{relative} {from}");
        }
        // Each leads two pages on: there is nothing to leap to.
        let scattered: Vec<u64> = (0..500).map(|word| 0x1000 + word * 8192).collect();
        // Words far apart, pages without any, one word alone between full pages, words at odd places, downwards.
        let sparse: Vec<u64> = (0..500).map(|word| 0x1000 + word * 88).collect();
        let alone: Vec<u64> =
            dense[..512].iter().copied().chain([0x5000]).chain((0..512).map(|w| 0x6000 + w * 8)).collect();
        let odd: Vec<u64> = (0..3000).map(|word| 0x1003 + word * 9 + word / 100 * 5000).collect();
        let backwards = sparse.iter().rev().copied().collect();
        let few = vec![7];
        for places in [dense, sparse.clone(), alone, odd, backwards, scattered, vec![u64::MAX - 7, u64::MAX], few] {
            assert_eq!(pages(sampled(&places)), pages(places));
        }
        assert!(sampled(&sparse).len() <= 120);
    }
}
