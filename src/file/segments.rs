//! The segments of an image: program headers once their claims about the file have been checked.

use super::dynamic::Dynamic;
use super::elf::{ProgramHeader, segment_type as pt};
use super::view::View;
use std::ops::Range;

use smallvec::SmallVec;

use crate::addr::{FileOffset, PageSize, Protection, Vaddr};
use crate::error::{At, ErrorKind};

/// The largest block of thread-local storage, and its largest alignment: every thread would have one.
const TLS_MAX: u64 = 1 << 30;

/// A `PT_LOAD` whose bytes lie in the file and whose addresses follow those of the one before.
///
/// ```
/// let image = soload::Image::open("/proc/self/exe".as_ref())?;
/// assert!(image.segments().iter().any(|segment| segment.flags.execute));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of its program header.
    pub header: usize,
    /// Where its first byte is in the file (`p_offset`).
    pub offset: FileOffset,
    /// Where its first byte is in the image (`p_vaddr`).
    pub vaddr: Vaddr,
    /// Bytes that come from the file (`p_filesz`).
    pub file_size: u64,
    /// Bytes it has in memory (`p_memsz`); those past `file_size` are zero.
    pub memory_size: u64,
    /// `p_align`.
    pub align: u64,
    /// `p_flags`.
    pub flags: Protection,
}

impl Segment {
    /// The address after its last byte.
    #[must_use]
    pub fn end(&self) -> Vaddr {
        Vaddr(self.vaddr.0 + self.memory_size)
    }

    /// The address after its last byte that comes from the file.
    #[must_use]
    pub fn file_end(&self) -> Vaddr {
        Vaddr(self.vaddr.0 + self.file_size)
    }

    /// The end of the last page it touches, if pages are as large as they may be (`p_align`).
    fn page_end(&self) -> Option<u64> {
        self.end().0.checked_next_multiple_of(self.align.max(1))
    }

    /// Whether `len` bytes from `vaddr` on lie in it.
    #[must_use]
    pub fn contains(&self, vaddr: Vaddr, len: u64) -> bool {
        vaddr >= self.vaddr && vaddr.checked_add(len).is_some_and(|end| end <= self.end())
    }
}

/// Where notes are in the file, and how they are aligned.
pub(crate) struct NoteSegment {
    pub(super) range: Range<u64>,
    pub(super) align: u64,
}

/// What the program headers say, checked.
pub(super) struct Headers {
    pub(super) segments: SmallVec<[Segment; 4]>,
    pub(super) dynamic: Option<ProgramHeader>,
    /// Boxed, as few objects have these two.
    pub(super) interpreter: Option<Box<ProgramHeader>>,
    pub(super) tls: Option<Box<ProgramHeader>>,
    pub(super) relro: Option<Range<Vaddr>>,
    pub(super) eh_frame: Option<Vaddr>,
    pub(super) notes: SmallVec<[NoteSegment; 2]>,
    /// `None`: no `PT_GNU_STACK`, which leaves it to the machine's default.
    pub(super) stack: Option<Protection>,
}

impl Headers {
    pub(super) fn check(headers: impl IntoIterator<Item = ProgramHeader>, file_size: u64) -> Result<Self, ErrorKind> {
        let mut checked = Self {
            segments: SmallVec::new(),
            dynamic: None,
            interpreter: None,
            tls: None,
            relro: None,
            eh_frame: None,
            notes: SmallVec::new(),
            stack: None,
        };
        let mut relro = None;
        for header in headers {
            let header = &header;
            match header.kind {
                pt::PT_LOAD if header.memory_size > 0 => {
                    let segment = segment(header, file_size, checked.segments.last())?;
                    checked.segments.push(segment);
                }
                pt::PT_GNU_STACK => checked.stack = Some(header.flags),
                pt::PT_DYNAMIC => checked.dynamic = Some(*in_file(header, file_size)?),
                pt::PT_INTERP => checked.interpreter = Some(Box::new(*in_file(header, file_size)?)),
                pt::PT_TLS => checked.tls = Some(Box::new(*thread_local(header, file_size)?)),
                pt::PT_GNU_RELRO if header.memory_size > 0 => relro = Some(*header),
                pt::PT_GNU_EH_FRAME => checked.eh_frame = Some(header.vaddr),
                pt::PT_NOTE => checked.notes.extend(header.file_end().map(|end| {
                    let (range, align) = (header.offset..end, header.align);
                    NoteSegment { range, align }
                })),
                _ => {}
            }
        }
        // These three describe parts of segments; a part that sticks out would be read or protected elsewhere.
        let parts = [checked.dynamic.as_ref(), checked.tls.as_deref(), relro.as_ref()];
        for header in parts.into_iter().flatten() {
            let is_relro = header.kind == pt::PT_GNU_RELRO;
            let inside = |segment: &Segment| match is_relro {
                // Its end may be rounded up to a page, past the end of the segment, as lld does.
                true => {
                    segment.contains(header.vaddr, 1)
                        && segment.page_end() >= header.end().map(|end| end.0).or(Some(u64::MAX))
                }
                // A TLS template's zero part takes no room in the image.
                false => segment.contains(header.vaddr, header.file_size),
            };
            let is_empty = !is_relro && header.file_size == 0;
            if !is_empty && !checked.segments.is_empty() && !checked.segments.iter().any(inside) {
                return Err(header.malformed("p_vaddr", "an address inside a PT_LOAD segment", header.vaddr.0));
            }
        }
        checked.relro = relro.and_then(|header| Some(header.vaddr..header.end()?));
        Ok(checked)
    }

    /// Whether relocation is going to write to each page of the dynamic section, `at`, all of which is the file's: on the first
    /// some of its entries become addresses (`is_rebased`), on the second, if there is one, linkers let the global offset table
    /// follow.
    pub(super) fn dynamic_is_written(&self, at: &ProgramHeader, page: PageSize) -> bool {
        let Some(end) = at.vaddr.checked_add(at.file_size) else { return false };
        let is_inside = |segment: &Segment| {
            segment.flags.write && end <= segment.file_end() && segment.contains(at.vaddr, at.file_size)
        };
        let few = at.file_size > 0 && page.down(end.0 - 1) - page.down(at.vaddr.0) <= page.bytes();
        at.flags.write && few && self.segments.iter().any(is_inside)
    }

    /// How many bytes of its segment stand before `offset` in the file.
    pub(super) fn before(&self, offset: u64) -> Option<u64> {
        self.segments.iter().filter_map(|segment| offset.checked_sub(segment.offset.0)).min()
    }

    /// The dynamic section is read from the file but used in memory: both must be the same bytes.
    pub(super) fn check_dynamic_place(&self) -> Result<(), ErrorKind> {
        match &self.dynamic {
            Some(header) if header.file_size > 0 && !self.segments.is_empty() => {
                let found = locate(&self.segments, header.vaddr).map(|(offset, _)| offset.0);
                match found {
                    Some(offset) if offset == header.offset => Ok(()),
                    found => {
                        let expected = format!("{:#x}, as p_vaddr lies in the file", found.unwrap_or(0));
                        Err(header.malformed("p_offset", expected, header.offset))
                    }
                }
            }
            _ => Ok(()),
        }
    }

    /// The functions and arrays to run must lie in segments that allow it.
    pub(super) fn check_functions(&self, dynamic: &Dynamic) -> Result<(), ErrorKind> {
        for (what, function) in [("DT_INIT", dynamic.init), ("DT_FINI", dynamic.fini)] {
            let at = function.get().unwrap_or(0);
            if at != 0 && self.around(at, 1).is_none_or(|segment| !segment.flags.execute) {
                let expected = "an address in an executable segment";
                return Err(ErrorKind::malformed(what, At::Object, expected, format_args!("{at:#x}")));
            }
        }
        let arrays = [
            ("DT_INIT_ARRAY", dynamic.init_array, dynamic.init_arraysz),
            ("DT_FINI_ARRAY", dynamic.fini_array, dynamic.fini_arraysz),
        ];
        for (what, at, size) in arrays {
            if let (Some(at), Some(size)) = (at.get(), size.get())
                && size > 0
                && self.around(at, size).is_none()
            {
                let found = format!("{at:#x} + {size:#x} bytes");
                return Err(ErrorKind::malformed(what, At::Object, "an array inside one segment", found));
            }
        }
        Ok(())
    }

    /// The segment that has so many bytes at `vaddr`.
    #[inline(never)]
    fn around(&self, vaddr: u64, len: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.contains(Vaddr(vaddr), len))
    }
}

fn in_file(header: &ProgramHeader, file_size: u64) -> Result<&ProgramHeader, ErrorKind> {
    if header.file_end().is_none_or(|end| end > file_size) {
        let expected = format!("bytes within the file of {file_size:#x} bytes");
        return Err(header.malformed("p_offset + p_filesz", expected, header.offset.saturating_add(header.file_size)));
    }
    Ok(header)
}

/// A template of thread-local storage: every thread gets a block of its size.
fn thread_local(header: &ProgramHeader, file_size: u64) -> Result<&ProgramHeader, ErrorKind> {
    if header.file_size > header.memory_size {
        return Err(header.malformed(
            "p_filesz",
            format!("at most p_memsz {:#x}", header.memory_size),
            header.file_size,
        ));
    }
    if header.align > 1 && !header.align.is_power_of_two() || header.align > TLS_MAX {
        return Err(header.malformed("p_align", format!("a power of two, at most {TLS_MAX:#x}"), header.align));
    }
    if header.memory_size > TLS_MAX {
        return Err(ErrorKind::Limit { what: "bytes of PT_TLS", limit: TLS_MAX, found: header.memory_size });
    }
    in_file(header, file_size)
}

/// One `PT_LOAD`: gABI chapter 5, "Program Loading", plus what every linker does and every loader rests on.
fn segment(header: &ProgramHeader, file_size: u64, before: Option<&Segment>) -> Result<Segment, ErrorKind> {
    in_file(header, file_size)?;
    if header.file_size > header.memory_size {
        let expected = format!("at most p_memsz {:#x}", header.memory_size);
        return Err(header.malformed("p_filesz", expected, header.file_size));
    }
    if header.align > 1 {
        if !header.align.is_power_of_two() {
            return Err(header.malformed("p_align", "a power of two", header.align));
        }
        if header.vaddr.0 % header.align != header.offset % header.align {
            let expected = format!("p_offset {:#x} modulo p_align {:#x}", header.offset, header.align);
            return Err(header.malformed("p_vaddr", expected, header.vaddr.0));
        }
    }
    if header.end().is_none() {
        return Err(header.malformed("p_memsz", "an end within the address space", header.memory_size));
    }
    if let Some(before) = before.filter(|before| header.vaddr < before.end()) {
        let expected = format!("an address at or after {}, where the segment before ends", before.end());
        return Err(header.malformed("p_vaddr", expected, header.vaddr.0));
    }
    Ok(Segment {
        header: header.index,
        offset: FileOffset(header.offset),
        vaddr: header.vaddr,
        file_size: header.file_size,
        memory_size: header.memory_size,
        align: header.align,
        flags: header.flags,
    })
}

/// Bytes of a file, found by the addresses that its segments give them.
#[derive(Clone)]
pub(crate) struct FileImage<'a> {
    pub(crate) file: &'a View,
    pub(crate) segments: &'a [Segment],
}

impl FileImage<'_> {
    /// Where the byte at `vaddr` stands in the file, and how many follow it in the same segment.
    pub(crate) fn locate(&self, vaddr: Vaddr) -> Option<(FileOffset, u64)> {
        locate(self.segments, vaddr)
    }
}

/// Where the byte at `vaddr` stands in the file, and how many follow it in the same segment.
pub(super) fn locate(segments: &[Segment], vaddr: Vaddr) -> Option<(FileOffset, u64)> {
    let segment = segments.iter().find(|segment| vaddr >= segment.vaddr && vaddr < segment.file_end())?;
    let within = vaddr.0 - segment.vaddr.0;
    Some((FileOffset(segment.offset.0 + within), segment.file_size - within))
}

impl super::Source for FileImage<'_> {
    fn table(&self, vaddr: Vaddr, len: Option<u64>) -> Option<View> {
        let (offset, follows) = self.locate(vaddr)?;
        let len = len.unwrap_or(follows);
        (len <= follows).then(|| self.file.slice(offset.0..offset.0 + len)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::elf::Header;

    /// A program header of our own executable, changed.
    fn header(kind: u32, vaddr: u64, memory_size: u64) -> ProgramHeader {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let any = Header::read(&own).unwrap().program_headers(&own).unwrap().next().unwrap();
        let (offset, align) = (vaddr & 0xfff, 0x1000);
        ProgramHeader { kind, vaddr: Vaddr(vaddr), offset, file_size: 0, memory_size, align, ..any }
    }

    /// Headers of an object with these segments: flags, offset, address, size in the file and in memory.
    fn headers(segments: &[(&str, u64, u64, u64, u64)]) -> Headers {
        let load = |(flags, offset, vaddr, file_size, memory_size): &(&str, u64, u64, u64, u64)| {
            let has = |letter| flags.contains(letter);
            let flags = Protection { read: has('r'), write: has('w'), execute: has('x') };
            let (offset, file_size, align) = (*offset, *file_size, 0x1000);
            ProgramHeader { offset, file_size, align, flags, ..header(pt::PT_LOAD, *vaddr, *memory_size) }
        };
        Headers::check(segments.iter().map(load), 0x1_0000).unwrap()
    }

    #[test]
    fn a_dynamic_section_is_written_to_where_it_may_be_and_lies_on_two_pages() {
        let written = |segment: &str, flags: &str, start: u64, size: u64| {
            let headers = headers(&[("r", 0, 0, 0x1000, 0x1000), (segment, 0x2d00, 0x3d00, 0x2000, 0x3000)]);
            let flags = Protection { write: flags.contains('w'), ..Protection::READ };
            let at = ProgramHeader { flags, file_size: size, ..header(pt::PT_DYNAMIC, start, size) };
            headers.dynamic_is_written(&at, PageSize::new(0x1000).unwrap())
        };
        assert!(written("rw", "rw", 0x3e00, 0x200));
        assert!(written("rw", "rw", 0x3e00, 0x210), "its end is on the next page");
        assert!(written("rw", "rw", 0x3e00, 0x1200));
        assert!(!written("rw", "rw", 0x3e00, 0x1201), "its end is on the page after that");
        assert!(written("rw", "rw", 0x5000, 0xd00));
        assert!(!written("rw", "rw", 0x5000, 0xd01), "its end is among the zeros");
        assert!(!written("rw", "r", 0x3e00, 0x200), "it may not be written to");
        assert!(!written("r", "rw", 0x3e00, 0x200), "nor may its segment");
        assert!(!written("rw", "rw", 0x3e00, 0), "it is empty");
    }

    #[test]
    fn relro_may_end_with_the_last_page_of_its_segment() {
        // As lld links: the segment ends at 0x41098, RELRO at the end of that page.
        let load = header(pt::PT_LOAD, 0x405e0, 0xab8);
        let check = |end: u64| {
            let relro = header(pt::PT_GNU_RELRO, 0x405e0, end - 0x405e0);
            Headers::check([load, relro], 0x1000).map(|headers| headers.relro.is_some())
        };
        assert!(check(0x41098).unwrap() && check(0x42000).unwrap());
        assert!(check(0x42001).is_err());
    }
}
