//! A plan carried out: one reservation, the image's segments inside it, and words read and written with their bounds checked.
//!
//! # Safety
//! Relocation writes memory that no Rust reference ever points to. Two rules keep it so: [`Mapping::write`] checks that
//! its target lies in a segment that is writable now, and [`MappedImage`] hands out bytes of segments that are never
//! writable.

use std::fs::File;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use smallvec::SmallVec;

use super::written::Written;
use crate::addr::{Addr, Bias, Protection, Vaddr};
use crate::error::{At, ErrorKind};
use crate::file::Source;
use crate::file::image::Image;
use crate::file::plan::{Plan, PlannedMap};
use crate::file::relocations::{self, Entry};
use crate::file::view::View;
use crate::sys::{Bytes, Laid, Reservation};

/// An image in memory. Dropping the last owner unmaps it.
pub(crate) struct Mapping {
    reservation: Reservation,
    bias: Bias,
    parts: SmallVec<[Part; 5]>,
    /// The largest part that is writable, where nearly all relocated words are.
    data: Range<u64>,
    relro: Option<Range<Vaddr>>,
    /// Segments that are not writable are writable (and not executable) now, for text relocations.
    text_is_open: AtomicBool,
    /// It has text relocations at all.
    writes_text: bool,
}

/// Where an image shall lie, and which of its pages are there relocated already.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    /// Anywhere, if nothing is said.
    pub(crate) start: Option<Addr>,
    pub(crate) kept: Option<Kept<'a>>,
}

/// What somebody has kept of an object's file, which is still that file.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'a> {
    /// Relocated pages.
    pub(crate) pages: &'a File,
    /// Mappings of the plan by number, and where in that their pages are. Zeros follow what they are behind there, too.
    pub(crate) at: &'a [(u32, u64)],
}

impl Place<'_> {
    /// The relocated pages of mapping number `index` of the plan: their file, and where in it they are.
    fn kept(&self, index: usize) -> Option<(&File, u64)> {
        let kept = self.kept?;
        let (_, at) = kept.at.iter().find(|(number, _)| *number as usize == index)?;
        Some((kept.pages, *at))
    }
}

/// The pages of one segment: what comes from the file and the zero pages after it.
struct Part {
    range: Range<u64>,
    protection: Protection,
}

impl Part {
    /// Whether it is read and never written, text relocations aside.
    fn is_constant(&self) -> bool {
        self.protection.read && !self.protection.write
    }
}

impl Mapping {
    /// Maps what `plan` says at `place`: where the file is shown already, or in a reservation of its own. Whatever fails,
    /// nothing of it stays.
    ///
    /// What is going to be written (`written`) is copied by the kernel in as few calls as that takes: a fault for each page
    /// is what loading a large library mostly consists of otherwise.
    pub(crate) fn new(
        plan: &Plan,
        image: &mut Image,
        place: Place<'_>,
        mut written: Option<Written>,
    ) -> Result<Self, ErrorKind> {
        let (start, size) = (plan.span.start, plan.span.end.0 - plan.span.start.0);
        let room = image.take_room().filter(|(room, _)| room.len() as u64 <= size);
        // What is mapped as several pieces cannot be moved in one.
        let there = |room: &Reservation| place.start.is_none_or(|wanted| room.start() == wanted);
        let room = room.filter(|(room, laid)| *laid == Laid::Nothing || there(room));
        let (in_place, laid) = (room.is_some(), room.as_ref().map_or(Laid::Nothing, |(_, laid)| *laid));
        let mut reservation = match (room, place.start) {
            (Some((room, _)), Some(wanted)) if room.start() != wanted => room.moved_to(wanted)?,
            (Some((room, _)), _) => room,
            (None, None) => Reservation::new(size, plan.align)?,
            (None, Some(wanted)) => Reservation::at(wanted, size)?,
        };
        let bias = Bias::between(reservation.start(), start);
        let mut parts: SmallVec<[Part; 5]> = SmallVec::new();
        for (index, map) in plan.maps().iter().enumerate() {
            let (offset, len) = (map.range.start.0 - start.0, map.range.end.0 - map.range.start.0);
            // Of a room that grows only what is there already is shown.
            let in_place = in_place && offset + len <= reservation.len() as u64;
            let shown = in_place && !map.protection.write && map.file.is_some_and(|from| from.0 == offset);
            match (place.kept(index), map.file) {
                // Zeros that are kept are kept, and mapped, with what they are behind.
                (Some(_), None) => {}
                (Some((file, from)), Some(_)) => {
                    let kept = |next: &&PlannedMap| next.file.is_none() && place.kept(index + 1).is_some();
                    let zeros = plan.maps().get(index + 1).filter(kept);
                    let zeros = zeros.map_or(0, |zeros| zeros.range.end.0 - zeros.range.start.0);
                    reservation.map_file(offset, len + zeros, map.protection, file, from, false)?;
                }
                (None, _) if laid == Laid::Whole => {}
                (None, Some(_)) if shown && laid == Laid::Constant => {}
                // The file is shown from its start on: what lies as far in as in the file stands there.
                (None, Some(_)) if shown && map.protection == Protection::READ => {}
                (None, Some(_)) if shown && reservation.protect(offset, len, map.protection).is_ok() => {}
                // Where no page may become executable (`PR_SET_MDWE`), what is mapped so from the file still is.
                (None, Some(from)) => {
                    let all = written.take_if(|written| written.covers(&map.range)).is_some();
                    reservation.map_file(offset, len, map.protection, &image.file().fd, from.0, all)?;
                }
                (None, None) => reservation.map_zeros(offset, len, map.protection)?,
            }
            let end = plan.maps().get(index + 1).map_or(plan.span.end.0, |next| next.range.start.0);
            let (behind, gap) = (offset + len, end - map.range.end.0);
            if gap > 0 && behind == reservation.len() as u64 {
                reservation.map_zeros(behind, gap, Protection::NONE)?;
            } else if gap > 0 && in_place {
                reservation.protect(behind, gap, Protection::NONE)?;
            }
            match parts.last_mut() {
                // File pages and zero pages of one segment are one range: a word may lie across.
                Some(part) if part.range.end == map.range.start.0 && part.protection == map.protection => {
                    part.range.end = map.range.end.0;
                }
                _ => parts.push(Part { range: map.range.start.0..map.range.end.0, protection: map.protection }),
            }
        }
        for run in written.iter().flat_map(Written::runs) {
            reservation.populate(run.start.0 - start.0, run.end.0 - run.start.0);
        }
        let writable = parts.iter().filter(|part| part.protection.write).map(|part| part.range.clone());
        let data = writable.max_by_key(|range| range.end - range.start).unwrap_or_default();
        let mapping = Self {
            reservation,
            bias,
            parts,
            data,
            relro: plan.relro.clone(),
            text_is_open: AtomicBool::new(false),
            writes_text: image.has_text_relocations(),
        };
        for zeros in plan.zeros() {
            // Kept pages are as they were left, their ends included.
            let number = plan.maps().iter().position(|map| map.range.contains(&zeros.start));
            if number.is_some_and(|number| place.kept(number).is_some()) {
                continue;
            }
            mapping.clear(plan, zeros)?;
        }
        // Tables that will be written, or may be, are read from the file.
        if image.has_text_relocations()
            || mapping.parts.iter().any(|part| !part.is_constant() && image.has_table_in(&part.range))
        {
            image.show_whole()?;
        }
        Ok(mapping)
    }

    /// Maps pages of our own from `start` on: `code`, to be executed, and behind it a table of so many bytes, which can be
    /// written until it is sealed.
    #[cfg(feature = "snapshots")]
    pub(crate) fn of_code(start: Addr, code: &[u8], table: u64) -> Result<Self, ErrorKind> {
        let page = crate::sys::page_size().bytes();
        let (split, writable) =
            ((code.len() as u64).next_multiple_of(page), Protection { write: true, ..Protection::READ });
        let end = (split + table).next_multiple_of(page);
        let mut reservation = Reservation::at(start, end)?;
        reservation.map_zeros(0, end, writable)?;
        let at = reservation.start().0 as *mut u8;
        // SAFETY: the first `code.len()` bytes of zero pages that have just been mapped, writable; nobody knows of them yet.
        unsafe { at.copy_from_nonoverlapping(code.as_ptr(), code.len()) };
        let executable = Protection { execute: true, ..Protection::READ };
        reservation.protect(0, split, executable)?;
        let parts = [(0..split, executable), (split..end, writable)];
        Ok(Self {
            bias: Bias::between(reservation.start(), Vaddr(0)),
            reservation,
            parts: parts.into_iter().map(|(range, protection)| Part { range, protection }).collect(),
            data: split..end,
            relro: Some(Vaddr(split)..Vaddr(end)),
            text_is_open: AtomicBool::new(false),
            writes_text: false,
        })
    }

    /// Asks for pages of 2 MiB under the code. Nothing of it has been read by this mapping yet.
    pub(crate) fn prefer_huge_pages(&self, plan: &Plan) {
        let code = plan.maps().iter().filter(|map| map.protection.execute && map.file.is_some());
        for range in code.map(|map| &map.range) {
            self.reservation.prefer_huge_pages(range.start.0 - plan.span.start.0, range.end.0 - range.start.0);
        }
    }

    /// Clears the rest of a segment's last file page.
    fn clear(&self, plan: &Plan, zeros: &Range<Vaddr>) -> Result<(), ErrorKind> {
        let Some(map) = plan.map_at(zeros.start).filter(|map| zeros.end <= map.range.end) else { return Ok(()) };
        let page = plan.page.down(zeros.start.0);
        let (offset, len) = (page - plan.span.start.0, map.range.end.0 - page);
        // A zero part in a segment that is not writable is odd but sound: open it for the moment.
        let writable = Protection { read: true, write: true, execute: false };
        if !map.protection.write {
            self.reservation.protect(offset, len, writable)?;
        }
        let at = self.bias.at(zeros.start).0 as *mut u8;
        // SAFETY: the plan's zeros lie in the last file page of a segment that `new` has mapped into our reservation,
        // writable now; nobody has been handed a reference to it yet.
        unsafe { at.write_bytes(0, (zeros.end.0 - zeros.start.0) as usize) };
        if !map.protection.write {
            self.reservation.protect(offset, len, map.protection)?;
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn bias(&self) -> Bias {
        self.bias
    }

    /// All its addresses, holes included.
    pub(crate) fn range(&self) -> Range<Addr> {
        let start = self.reservation.start();
        start..Addr(start.0 + self.reservation.len())
    }

    /// Whether `addr` is in a segment that may be executed.
    pub(crate) fn is_code(&self, addr: Addr) -> bool {
        let vaddr = self.bias.vaddr(addr).0;
        self.parts.iter().any(|part| part.protection.execute && part.range.contains(&vaddr))
    }

    /// The word at `at`, which must lie in a segment that is writable now.
    #[inline(always)]
    pub(crate) fn read(&self, at: Vaddr, bytes: u8) -> Result<u64, ErrorKind> {
        let place = self.place(at, bytes)?;
        // SAFETY: `place` proved the bytes to lie in a mapped segment of ours that no reference points to.
        Ok(unsafe {
            match bytes {
                4 => place.cast::<u32>().read_unaligned().into(),
                _ => place.cast::<u64>().read_unaligned(),
            }
        })
    }

    /// Writes the low `bytes` (4 or 8) bytes of `value` at `at`, which must lie in a segment that is writable now.
    #[inline(always)]
    pub(crate) fn write(&self, at: Vaddr, bytes: u8, value: u64) -> Result<(), ErrorKind> {
        let place = self.place(at, bytes)?;
        // SAFETY: `place` proved the bytes to lie in a writable segment of ours that no reference points to; until the
        // group is published no other code knows of it.
        unsafe {
            match bytes {
                4 => place.cast::<u32>().write_unaligned(value as u32),
                _ => place.cast::<u64>().write_unaligned(value),
            }
        }
        Ok(())
    }

    /// Writes a word where nearly all relocated words are: in the largest writable segment. Answers whether `at` is there.
    #[inline(always)]
    pub(crate) fn write_data(&self, at: Vaddr, value: u64) -> bool {
        let inside = at.0 >= self.data.start && at.0 < self.data.end && self.data.end - at.0 >= 8;
        if inside {
            let place = self.bias.at(at).0 as *mut u64;
            // SAFETY: as in `write`: eight bytes of a writable segment of ours that no reference points to.
            unsafe { place.write_unaligned(value) };
        }
        inside
    }

    /// Writes `value` and the addend where the relocations say that `entries` begins with, as long as they are of this type
    /// and symbol (`r_info`) and in the largest writable segment. Answers how many that was.
    #[inline(always)]
    pub(crate) fn write_alike(&self, entries: &[Entry], alike: u64, value: u64) -> usize {
        // Four at a time: half of what they cost is asking about each.
        let all: &[[_; 4]] = entries.as_chunks().0;
        let write = |(number, four): &(usize, &[_; 4])| {
            relocations::fetch(entries, 4 * number);
            self.write_all(four, alike, value)
        };
        let fours = 4 * all.iter().enumerate().take_while(write).count();
        let rest = entries[fours..].as_chunks().0;
        fours + rest.iter().take_while(|one: &&[_; 1]| self.write_all(one, alike, value)).count()
    }

    /// The same for `entries` together: all are like that, and written, or none.
    #[inline(always)]
    fn write_all<const N: usize>(&self, entries: &[Entry; N], alike: u64, value: u64) -> bool {
        let Range { start, end } = self.data;
        let within = |place: [u8; 8]| u64::from_le_bytes(place).wrapping_sub(start);
        let last = entries.iter().fold(0, |last, [place, ..]| last.max(within(*place)));
        let alike = entries.iter().all(|[_, info, _]| u64::from_le_bytes(*info) == alike);
        let all = alike && end - start >= 8 && last <= end - start - 8;
        if all {
            let first = self.bias.at(Vaddr(start)).0 as *mut u8;
            for [place, _, addend] in entries {
                let at = first.wrapping_add(within(*place) as usize).cast::<u64>();
                // SAFETY: as in `write`: eight bytes of a writable segment of ours that no reference points to.
                unsafe { at.write_unaligned(value.wrapping_add(u64::from_le_bytes(*addend))) };
            }
        }
        all
    }

    /// Adds the bias to the word at `at`, if that can still be written when everything is sealed. Answers whether it can.
    #[inline]
    pub(crate) fn rebase(&self, at: Vaddr) -> bool {
        let word = if self.stays_writable(at) { self.read(at, 8).ok() } else { None };
        word.is_some_and(|word| self.write(at, 8, word.wrapping_add(self.bias.get() as u64)).is_ok())
    }

    /// Whether the word at `at` can still be written when everything is sealed.
    fn stays_writable(&self, at: Vaddr) -> bool {
        let inside = |part: &Part| part.protection.write && part.range.contains(&at.0) && part.range.end - at.0 >= 8;
        let sealed = |range: &Range<Vaddr>| at.0 < range.end.0 && at.0.saturating_add(8) > range.start.0;
        self.parts.iter().any(inside) && !self.relro.as_ref().is_some_and(sealed)
    }

    /// Writes a word that code of the object may be reading at this moment, whole. Answers whether it can.
    pub(crate) fn write_while_running(&self, at: Vaddr, value: u64) -> bool {
        let place = self.bias.at(at).0 as *mut AtomicU64;
        let fits = self.stays_writable(at) && place.is_aligned();
        if fits {
            // SAFETY: eight aligned bytes of a writable segment of ours, which no ordinary reference points to; the
            // object's code reads them in one load.
            unsafe { (*place).store(value, Ordering::Release) };
        }
        fits
    }

    #[inline(always)]
    fn place(&self, at: Vaddr, bytes: u8) -> Result<*mut u8, ErrorKind> {
        if self.data.contains(&at.0) && self.data.end - at.0 >= bytes.into() {
            return Ok(self.bias.at(at).0 as *mut u8);
        }
        self.rare_place(at, bytes)
    }

    #[cold]
    fn rare_place(&self, at: Vaddr, bytes: u8) -> Result<*mut u8, ErrorKind> {
        let inside = |part: &Part| {
            (part.protection.write || self.text_is_open.load(Ordering::Relaxed))
                && at.0 >= part.range.start
                && at.0 < part.range.end
                && part.range.end - at.0 >= bytes.into()
        };
        if self.parts.iter().any(inside) {
            return Ok(self.bias.at(at).0 as *mut u8);
        }
        Err(ErrorKind::malformed("relocated place", At::Vaddr(at), "an address in a writable segment", "none there"))
    }

    /// The `len` bytes at `vaddr`, or all that follow, of a segment that is never written.
    pub(crate) fn constant(self: &Arc<Self>, vaddr: Vaddr, len: Option<u64>) -> Option<Bytes> {
        let part = self.parts.iter().find(|part| part.range.contains(&vaddr.0) && part.is_constant())?;
        let follows = part.range.end - vaddr.0;
        let len = len.unwrap_or(follows);
        let start = NonNull::new(self.bias.at(vaddr).0 as *mut u8).filter(|_| len <= follows && !self.writes_text)?;
        // SAFETY: that many bytes at `vaddr` are mapped readable and, being neither writable nor subject to text
        // relocations, never written; the owner keeps them mapped.
        Some(unsafe { Bytes::new(start, len as usize, Arc::clone(self) as _) })
    }

    /// The words of an array inside one segment, as relocation has left them.
    pub(crate) fn words(&self, at: u64, size: u64) -> impl ExactSizeIterator<Item = usize> {
        let inside = |part: &Part| {
            part.protection.read
                && at >= part.range.start
                && at.checked_add(size).is_some_and(|end| end <= part.range.end)
        };
        let size = if self.parts.iter().any(inside) { size } else { 0 };
        let first = self.bias.at(Vaddr(at)).0 as *const usize;
        // SAFETY: the whole array lies in a readable segment of ours; it is read before any code of the object runs.
        (0..size as usize / size_of::<usize>()).map(move |index| unsafe { first.add(index).read_unaligned() })
    }

    /// A copy of bytes inside one segment, as relocation has left them.
    pub(crate) fn copy(&self, at: Vaddr, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        let inside = |part: &Part| {
            part.protection.read
                && at.0 >= part.range.start
                && at.0.checked_add(len).is_some_and(|end| end <= part.range.end)
        };
        if self.parts.iter().any(inside) {
            let from = self.bias.at(at).0 as *const u8;
            // SAFETY: the bytes lie in a readable segment of ours; no code of the object runs yet that could write them.
            unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        }
        bytes
    }

    /// Makes every segment writable, and none executable, so that text relocations can be applied.
    pub(crate) fn open_text(&self) -> Result<(), ErrorKind> {
        self.text_is_open.store(true, Ordering::Relaxed);
        self.protect_text(|_| Protection { read: true, write: true, execute: false })
    }

    /// Gives every segment its own protection back.
    pub(crate) fn close_text(&self) -> Result<(), ErrorKind> {
        self.text_is_open.store(false, Ordering::Relaxed);
        self.protect_text(|own| own)
    }

    fn protect_text(&self, wanted: impl Fn(Protection) -> Protection) -> Result<(), ErrorKind> {
        for part in self.parts.iter().filter(|part| !part.protection.write) {
            self.protect(&(Vaddr(part.range.start)..Vaddr(part.range.end)), wanted(part.protection))?;
        }
        Ok(())
    }

    /// Makes the pages of `PT_GNU_RELRO` read-only.
    pub(crate) fn seal(&self) -> Result<(), ErrorKind> {
        match &self.relro {
            Some(range) => self.protect(range, Protection::READ),
            None => Ok(()),
        }
    }

    fn protect(&self, range: &Range<Vaddr>, protection: Protection) -> Result<(), ErrorKind> {
        let start = self.bias.vaddr(self.reservation.start()).0;
        self.reservation.protect(range.start.0.wrapping_sub(start), range.end.0 - range.start.0, protection)
    }
}

/// Tables of an image that has been mapped: out of its own memory where that is never written, else out of the file.
pub(crate) struct MappedImage<'a> {
    pub(crate) mapping: &'a Arc<Mapping>,
    pub(crate) image: &'a Image,
}

impl Source for MappedImage<'_> {
    fn table(&self, vaddr: Vaddr, len: Option<u64>) -> Option<View> {
        let (_, follows) = self.image.source().locate(vaddr)?;
        let len = len.unwrap_or(follows);
        match self.mapping.constant(vaddr, Some(len)) {
            Some(bytes) if len <= follows => Some(View::new(bytes, self.image.class(), self.image.byte_order())),
            Some(_) => None,
            None => self.image.source().table(vaddr, Some(len)),
        }
    }
}
