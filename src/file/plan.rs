//! Which mappings an image needs: pure arithmetic on its segments, done before anything in the process changes.

use std::ops::Range;

use smallvec::SmallVec;

use super::image::Image;
use super::segments::Segment;
use crate::addr::{FileOffset, PageSize, Protection, Vaddr};
use crate::error::ErrorKind;

/// The largest range of addresses one object may ask for: 1 TiB, a hundred times the widest known.
const SPAN_MAX: u64 = 1 << 40;

/// The mappings that one image needs: exactly what the loader asks of `mmap` and `mprotect`.
///
/// ```
/// use soload::{Image, PageSize, Plan};
/// let image = Image::open("/proc/self/exe".as_ref())?;
/// let plan = Plan::of(&image, PageSize::new(4096).unwrap())?;
/// assert!(plan.maps().iter().all(|map| map.range.start.0 % 4096 == 0));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The page size it is made for.
    pub page: PageSize,
    /// The addresses to reserve, whole pages.
    pub span: Range<Vaddr>,
    /// What the start of the reservation must be a multiple of: the largest `p_align`.
    pub align: PageSize,
    maps: Vec<PlannedMap>,
    zeros: SmallVec<[Range<Vaddr>; 1]>,
    /// Whole pages that become read-only once everything is relocated.
    pub relro: Option<Range<Vaddr>>,
}

/// One mapping of a [`Plan`].
///
/// ```
/// use soload::{Image, PageSize, Plan};
/// let image = Image::open("/proc/self/exe".as_ref())?;
/// let plan = Plan::of(&image, PageSize::new(4096).unwrap())?;
/// assert_eq!(plan.maps()[0].file, Some(soload::FileOffset(0)));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMap {
    /// The program header it comes from.
    pub header: usize,
    /// Whole pages.
    pub range: Range<Vaddr>,
    /// The offset in the file that it maps privately, or `None` for zero pages.
    pub file: Option<FileOffset>,
    /// The protection it is mapped with, and keeps but for RELRO.
    pub protection: Protection,
}

impl Plan {
    /// Plans `image` for pages of `page` bytes.
    ///
    /// # Errors
    /// A segment whose address and file offset differ modulo the page, segments that share a page, or a span that no
    /// sound object has.
    pub fn of(image: &Image, page: PageSize) -> Result<Self, crate::Error> {
        Self::of_segments(image.segments(), image.relro(), page)
            .map_err(|kind| crate::Error::new(image.path().to_owned(), kind))
    }

    pub(crate) fn of_segments(
        segments: &[Segment],
        relro: Option<Range<Vaddr>>,
        page: PageSize,
    ) -> Result<Self, ErrorKind> {
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
            return Err(ErrorKind::malformed("PT_LOAD", crate::At::Object, "at least one segment", "none"));
        };
        let align = segments.iter().map(|segment| segment.align).max().unwrap_or(0).max(page.bytes());
        let align = PageSize::new(align).unwrap_or(page);
        let start = page.down(first.vaddr.0);
        let end = up(page, last, last.end().0)?;
        if end - start > SPAN_MAX {
            return Err(ErrorKind::Limit { what: "bytes of address space", limit: SPAN_MAX, found: end - start });
        }
        let mut plan = Self {
            page,
            span: Vaddr(start)..Vaddr(end),
            align,
            maps: Vec::with_capacity(segments.len() + 1),
            zeros: SmallVec::new(),
            relro: None,
        };
        for segment in segments {
            plan.add(segment)?;
        }
        // Whole pages only, and never a page that holds something outside: glibc rounds the same way. Linkers may round
        // the end up to pages larger than ours; what is behind the segment stays as it is.
        plan.relro = relro
            .map(|range| Vaddr(page.down(range.start.0))..Vaddr(page.down(range.end.0)))
            .map(|range| range.start..range.end.min(plan.segment_end(range.start).unwrap_or(range.end)))
            .filter(|range| range.start < range.end);
        Ok(plan)
    }

    fn add(&mut self, segment: &Segment) -> Result<(), ErrorKind> {
        let page = self.page;
        let field = |what: &str| format!("{what} of program header {}", segment.header);
        let hex = |number: u64| format!("{number:#x}");
        if page.offset(segment.vaddr.0) != page.offset(segment.offset.0) && segment.file_size > 0 {
            let expected = format!("p_offset {} modulo the page size {page}", segment.offset);
            return Err(ErrorKind::malformed(field("p_vaddr"), crate::At::Object, expected, segment.vaddr));
        }
        if segment.align > 1 && segment.align < page.bytes() {
            let expected = format!("at least the page size {page}");
            return Err(ErrorKind::malformed(field("p_align"), crate::At::Object, expected, hex(segment.align)));
        }
        let start = page.down(segment.vaddr.0);
        if let Some(before) = self.maps.last().filter(|before| before.range.end.0 > start) {
            let expected = format!("a page at or after {}, where the segment before ends", before.range.end);
            return Err(ErrorKind::malformed(field("p_vaddr"), crate::At::Object, expected, segment.vaddr));
        }
        let end = up(page, segment, segment.end().0)?;
        let mut zeros_from = start;
        if segment.file_size > 0 {
            let file_end = up(page, segment, segment.file_end().0)?;
            self.maps.push(PlannedMap {
                header: segment.header,
                range: Vaddr(start)..Vaddr(file_end),
                file: Some(FileOffset(page.down(segment.offset.0))),
                protection: segment.flags,
            });
            if segment.memory_size > segment.file_size && segment.file_end().0 < file_end {
                self.zeros.push(segment.file_end()..Vaddr(file_end));
            }
            zeros_from = file_end;
        }
        if zeros_from < end {
            self.maps.push(PlannedMap {
                header: segment.header,
                range: Vaddr(zeros_from)..Vaddr(end),
                file: None,
                protection: segment.flags,
            });
        }
        Ok(())
    }

    /// The mappings, in order of address. What lies between them stays reserved and inaccessible.
    ///
    /// ```
    /// use soload::{Image, PageSize, Plan};
    /// let image = Image::open("/proc/self/exe".as_ref())?;
    /// let plan = Plan::of(&image, PageSize::new(4096).unwrap())?;
    /// assert!(plan.maps().is_sorted_by_key(|map| map.range.start));
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn maps(&self) -> &[PlannedMap] {
        &self.maps
    }

    /// Bytes that must be zero though the file has others there: from the end of a segment's file part to its page's.
    ///
    /// ```
    /// use soload::{Image, PageSize, Plan};
    /// let image = Image::open("/proc/self/exe".as_ref())?;
    /// let plan = Plan::of(&image, PageSize::new(4096).unwrap())?;
    /// assert!(plan.zeros().iter().all(|zeros| plan.map_at(zeros.start).is_some_and(|map| map.range.end == zeros.end)));
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn zeros(&self) -> &[Range<Vaddr>] {
        &self.zeros
    }

    /// Asks for a place where code can be mapped in pages of 2 MiB: one that differs from its offset in the file by a
    /// multiple of that. Code for which there is no such place stays where it would be.
    pub(crate) fn align_for_huge_pages(&mut self) {
        const HUGE: PageSize = PageSize::HUGE;
        let fits = |map: &PlannedMap| {
            let same = |offset: FileOffset| HUGE.offset(offset.0) == HUGE.offset(map.range.start.0 - self.span.start.0);
            map.protection.execute && map.range.end.0 - map.range.start.0 >= HUGE.bytes() && map.file.is_some_and(same)
        };
        if self.maps.iter().any(fits) {
            self.align = PageSize::new(self.align.bytes().max(HUGE.bytes())).unwrap_or(HUGE);
        }
    }

    /// The pages that come from the file, with the protection that they have in the end.
    pub(crate) fn file_parts(&self) -> Vec<(Range<Vaddr>, Protection)> {
        let mut parts = Vec::with_capacity(self.maps.len() + 1);
        for map in self.maps.iter().filter(|map| map.file.is_some()) {
            let relro = self.relro.clone().unwrap_or(map.range.start..map.range.start);
            let clamp = |at: Vaddr| at.clamp(map.range.start, map.range.end);
            let (start, end) = (clamp(relro.start), clamp(relro.end));
            let all = [
                (map.range.start..start, map.protection),
                (start..end, Protection::READ),
                (end..map.range.end, map.protection),
            ];
            parts.extend(all.into_iter().filter(|(range, _)| !range.is_empty()));
        }
        parts
    }

    /// The end of the mappings of the segment that `vaddr` lies in.
    fn segment_end(&self, vaddr: Vaddr) -> Option<Vaddr> {
        let header = self.map_at(vaddr)?.header;
        self.maps.iter().rfind(|map| map.header == header).map(|map| map.range.end)
    }

    /// The mapping that `vaddr` lies in.
    #[must_use]
    pub fn map_at(&self, vaddr: Vaddr) -> Option<&PlannedMap> {
        self.maps.iter().find(|map| map.range.contains(&vaddr))
    }
}

fn up(page: PageSize, segment: &Segment, number: u64) -> Result<u64, ErrorKind> {
    page.up(number).ok_or_else(|| {
        let what = format!("p_memsz of program header {}", segment.header);
        ErrorKind::malformed(what, crate::At::Object, "an end within the address space", format_args!("{number:#x}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: PageSize = PageSize::new(0x1000).unwrap();
    const RW: Protection = Protection { read: true, write: true, execute: false };

    fn segment(offset: u64, vaddr: u64, file_size: u64, memory_size: u64) -> Segment {
        Segment {
            header: 1,
            offset: FileOffset(offset),
            vaddr: Vaddr(vaddr),
            file_size,
            memory_size,
            align: 0x1000,
            flags: RW,
        }
    }

    fn ranges(plan: &Plan) -> Vec<(u64, u64, bool)> {
        plan.maps().iter().map(|map| (map.range.start.0, map.range.end.0, map.file.is_some())).collect()
    }

    #[test]
    fn the_zero_part_fills_the_last_file_page_and_then_pages_of_its_own() {
        let plan = Plan::of_segments(&[segment(0x2e10, 0x3e10, 0x200, 0x2000)], None, PAGE).unwrap();
        assert_eq!(ranges(&plan), [(0x3000, 0x5000, true), (0x5000, 0x6000, false)]);
        assert_eq!(plan.zeros(), [Vaddr(0x4010)..Vaddr(0x5000)]);
        assert_eq!(plan.maps()[0].file, Some(FileOffset(0x2000)));
    }

    #[test]
    fn a_file_part_that_ends_at_a_page_needs_no_zeroing() {
        let plan = Plan::of_segments(&[segment(0, 0, 0x1000, 0x1001)], None, PAGE).unwrap();
        assert_eq!(ranges(&plan), [(0, 0x1000, true), (0x1000, 0x2000, false)]);
        assert!(plan.zeros.is_empty());
    }

    #[test]
    fn segments_that_share_a_page_are_refused() {
        let error = Plan::of_segments(&[segment(0, 0, 0x10, 0x10), segment(0x800, 0x800, 8, 8)], None, PAGE);
        assert!(matches!(error, Err(ErrorKind::Malformed { .. })), "{error:?}");
    }

    #[test]
    fn relro_cuts_the_pages_of_the_file_into_parts() {
        let relro = Some(Vaddr(0x1000)..Vaddr(0x2000));
        let plan = Plan::of_segments(&[segment(0, 0, 0x4000, 0x6000)], relro, PAGE).unwrap();
        let parts = [(0, 0x1000, RW), (0x1000, 0x2000, Protection::READ), (0x2000, 0x4000, RW)];
        assert_eq!(plan.file_parts(), parts.map(|(start, end, protection)| (Vaddr(start)..Vaddr(end), protection)));
        let plan = Plan::of_segments(&[segment(0, 0, 0x4000, 0x4000)], None, PAGE).unwrap();
        assert_eq!(plan.file_parts(), [(Vaddr(0)..Vaddr(0x4000), RW)]);
    }

    #[test]
    fn code_of_two_megabytes_wants_a_place_for_huge_pages() {
        let code = Protection { read: true, write: false, execute: true };
        let align = |offset: u64, vaddr, size, flags| {
            let segments = [segment(0, 0, 0x1000, 0x1000), Segment { flags, ..segment(offset, vaddr, size, size) }];
            let mut plan = Plan::of_segments(&segments, None, PAGE).unwrap();
            plan.align_for_huge_pages();
            plan.align.bytes()
        };
        assert_eq!(align(0x1000, 0x1000, 4 << 20, code), 2 << 20);
        assert_eq!(align(0x1000, 0x1000, 1 << 20, code), 0x1000, "too little");
        assert_eq!(align(0x1000, 0x2000, 4 << 20, code), 0x1000, "no place fits");
        assert_eq!(align(0x1000, 0x1000, 4 << 20, RW), 0x1000, "no code");
    }

    #[test]
    fn relro_covers_whole_pages_only() {
        let relro = |start, end| {
            Plan::of_segments(&[segment(0, 0, 0x4000, 0x4000)], Some(Vaddr(start)..Vaddr(end)), PAGE).unwrap().relro
        };
        assert_eq!(relro(0x1010, 0x3000), Some(Vaddr(0x1000)..Vaddr(0x3000)));
        assert_eq!(relro(0x1010, 0x2fff), Some(Vaddr(0x1000)..Vaddr(0x2000)));
        assert_eq!(relro(0x1010, 0x1fff), None);
        // Made for larger pages: what follows the segment is not touched.
        assert_eq!(relro(0x1010, 0x1_0000), Some(Vaddr(0x1000)..Vaddr(0x4000)));
    }
}
