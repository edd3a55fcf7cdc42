//! Which pages relocation is known to write to, and which of them are worth copying together: arithmetic on a plan.

use std::ops::Range;

use crate::addr::Vaddr;
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{FileOffset, PageSize, Protection};
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
    fn pages_are_copied_together_where_many_that_are_written_to_follow_one_another() {
        let mut pages =
            [vec![false; WORTHWHILE], vec![true; WORTHWHILE], vec![false], vec![true; WORTHWHILE - 1]].concat();
        let runs = |pages: &[bool]| {
            let range = Vaddr(0x1000)..Vaddr(0x1000 * (1 + pages.len() as u64));
            let written = Written { range, shift: 12, pages: pages.into() };
            written.runs().map(|run| (run.start.0 >> 12, run.end.0 >> 12)).collect::<Vec<_>>()
        };
        let n = WORTHWHILE as u64;
        assert_eq!(runs(&pages), [(1 + n, 1 + 2 * n)]);
        pages.push(true);
        assert_eq!(runs(&pages), [(1 + n, 1 + 2 * n), (2 + 2 * n, 2 + 3 * n)]);
    }
}
