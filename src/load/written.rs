//! Which pages relocation is known to write to, and which of them are worth copying together: arithmetic on a plan.

use std::ops::Range;

use crate::addr::{Bias, PageSize, Vaddr};
use crate::file::plan::{Plan, PlannedMap};
use crate::file::relocations::{Relocations, each_place};

/// How many pages have to be copied for asking the kernel to copy them together. Asking costs about 5 µs in a process that
/// has not done so yet, and to know for which pages, looks at relocations; it saves 0.1 µs a page where memory is dear, and
/// 1 µs where exceptions are (`cargo bench --bench pages`).
const WORTHWHILE: usize = 64;

/// How many relocations may be looked at for each page that no relative one is on: of most libraries those are on nearly all.
/// A look costs some 2 ns, as what it reads is read again soon, and a page that is found saves what copying together does. With
/// fewer, libnode, with 528, takes 2 % longer; a page has no more than 512 words, so a file that does not say which
/// relocations are relative has all of them looked at.
const LOOKS: usize = 600;

/// Which pages relocation is known to write to, of the mapping that is mostly written to. It may write to others, too.
pub(crate) struct Written {
    range: Range<Vaddr>,
    shift: u32,
    pages: Vec<bool>,
}

impl Written {
    /// Of the pages of `plan`; `relative` is the type of relocations that have no symbol. `None` if they are few.
    ///
    /// All relative relocations count, and the others where they may tell of pages that are worth the looks.
    pub(crate) fn of(plan: &Plan, relocations: impl FnOnce() -> Option<Relocations>, relative: u32) -> Option<Self> {
        let len = |map: &&PlannedMap| map.range.end.0 - map.range.start.0;
        let of_file = plan.maps().iter().filter(|map| map.protection.write && map.file.is_some());
        let range = of_file.max_by_key(len)?.range.clone();
        let shift = plan.page.bytes().trailing_zeros();
        let count = ((range.end.0 - range.start.0) >> shift) as usize;
        if count < WORTHWHILE {
            return None;
        }
        let mut written = Self { range, shift, pages: vec![false; count] };
        plan.zeros().iter().for_each(|zeros| written.mark(zeros.start));
        let relocations = relocations()?;
        let others = relocations.sample_relative(relative, plan.page, |place| written.mark(place));
        let missing = written.pages.iter().filter(|page| !**page).count();
        if others.iter().map(|part| part.len()).sum::<usize>() <= missing.saturating_mul(LOOKS) {
            others.iter().for_each(|part| each_place(part, |place| written.mark(place)));
        }
        Some(written)
    }

    #[inline(always)]
    fn mark(&mut self, place: Vaddr) {
        // A word on two pages counts for its first.
        let page = (place.0.wrapping_sub(self.range.start.0) >> self.shift) as usize;
        self.pages.get_mut(page).into_iter().for_each(|written| *written = true);
    }

    /// Whether all pages of `range` are known to be written to.
    pub(crate) fn covers(&self, range: &Range<Vaddr>) -> bool {
        self.range == *range && self.pages.iter().all(|written| *written)
    }

    /// Where so many pages that are written to follow one another that it pays to copy them together.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Range<Vaddr>> {
        let mut end = self.range.start.0;
        let runs = self.pages.chunk_by(|a, b| a == b).map(move |run| {
            let start = end;
            end += (run.len() as u64) << self.shift;
            (run[0] && run.len() >= WORTHWHILE).then_some(Vaddr(start)..Vaddr(end))
        });
        runs.flatten()
    }

    /// Blocks that can be one huge page each, because all their pages are written to, of an object that lies there.
    pub(crate) fn blocks(&self, bias: Bias) -> Vec<Range<Vaddr>> {
        let Some(huge) = PageSize::new(1 << self.shift).and_then(PageSize::huge) else { return Vec::new() };
        let of_run = |run: Range<Vaddr>| {
            let start = bias.at(run.start).0 as u64;
            let first = run.start.0.saturating_add(huge.up(start).unwrap_or(start) - start);
            let count = run.end.0.saturating_sub(first) / huge.bytes();
            let block = move |number: u64| Vaddr(first + number * huge.bytes());
            (0..count).map(move |number| block(number)..block(number + 1))
        };
        self.runs().flat_map(of_run).collect()
    }

    /// Nothing more is to be done for these pages.
    pub(crate) fn done(&mut self, range: &Range<Vaddr>) {
        let page = |at: Vaddr| (at.0.saturating_sub(self.range.start.0) >> self.shift) as usize;
        let (start, end) = (page(range.start), page(range.end));
        if let Some(pages) = self.pages.get_mut(start..end) {
            pages.fill(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Addr, FileOffset, Protection};
    use crate::file::relocations::tests::of_entries;
    use crate::file::segments::Segment;

    const PAGE: PageSize = PageSize::new(0x1000).unwrap();

    #[test]
    fn relocations_by_symbols_are_looked_at_where_few_of_them_may_be_on_pages_without_relative_ones() {
        const RELATIVE: u32 = 8;
        let flags = Protection { write: true, ..Protection::READ };
        let (vaddr, memory_size) = (Vaddr(0), 100 * PAGE.bytes());
        let segment = Segment {
            header: 0,
            offset: FileOffset(0),
            vaddr,
            file_size: memory_size,
            memory_size,
            align: 0x1000,
            flags,
        };
        let plan = Plan::of_segments(&[segment], None, PAGE).unwrap();
        let written_to = |others: usize| {
            let relative = (0..90).map(|page| [page * PAGE.bytes(), RELATIVE.into(), 0]);
            let others = (0..others as u64).map(|number| [(90 + number % 5) * PAGE.bytes(), 7 << 32 | 1, 0]);
            let relocations = of_entries(relative.chain(others), 90);
            let written = Written::of(&plan, || Some(relocations), RELATIVE).unwrap();
            written.pages.iter().filter(|page| **page).count()
        };
        assert_eq!(written_to(0), 90);
        assert_eq!(written_to(10 * LOOKS), 95);
        assert_eq!(written_to(10 * LOOKS + 1), 90);
    }

    #[test]
    fn blocks_are_where_all_pages_of_a_huge_one_are_written_to() {
        let (page, huge) = (PAGE.bytes(), PageSize::HUGE.bytes());
        let written =
            |pages: Vec<bool>| Written { range: Vaddr(page)..Vaddr(page * (1 + pages.len() as u64)), shift: 12, pages };
        let starts = |written: &Written, start: u64| {
            let blocks = written.blocks(Bias::between(Addr(start as usize), Vaddr(0)));
            assert!(blocks.iter().all(|block| block.end.0 - block.start.0 == huge));
            blocks.iter().map(|block| block.start.0 / page).collect::<Vec<_>>()
        };
        let all = written(vec![true; 1100]);
        assert_eq!(starts(&all, huge), [512]);
        assert_eq!(starts(&all, huge - page), [1, 513]);
        assert_eq!(starts(&all, 2 * huge - 50 * page), [50, 562]);
        let mut gap = written(vec![true; 1100]);
        gap.done(&(Vaddr(600 * page)..Vaddr(601 * page)));
        assert_eq!(starts(&gap, huge - page), [1]);
        assert_eq!(starts(&gap, huge), Vec::<u64>::new());
        assert_eq!(starts(&written(vec![true; 511]), huge - page), Vec::<u64>::new());
        assert_eq!(starts(&written(vec![true; 512]), huge - page), [1]);
        assert_eq!(gap.runs().map(|run| run.start.0 / page..run.end.0 / page).collect::<Vec<_>>(), [1..600, 601..1101]);
    }
}
