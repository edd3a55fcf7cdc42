//! An opened file whose headers and dynamic section have been checked; its tables are read when they are asked for.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use smallvec::SmallVec;

use super::dynamic::{Dynamic, Names, Needed};
use super::elf::{ET_DYN, ET_EXEC, Header, ProgramHeader, tag};
use super::piece::{Arrays, Known, arrays_in, names_in_piece};
use super::plan::Plan;
use super::relocations::Relocations;
use super::segments::{FileImage, Headers, NoteSegment, Segment};
use super::symbols::{self, Symbols};
use super::view::{ByteOrder, Class, View};
use super::{Home, Homes, Source, frames, inspect, notes, room};
use crate::addr::{Protection, Vaddr};
use crate::arch::Machine;
use crate::error::{Error, ErrorKind};
use crate::sys::{self, Bytes, Identity, Laid, RegularFile, Reservation, Shown};

/// Bytes at the start of a file in which its header and program headers are, of nearly every file.
const HEAD: usize = 1024;

/// Bytes in which that is read, and after it what stands around the dynamic section and its names, of nearly every file.
const BUFFER: usize = 2048;

/// Bytes before the dynamic section that are read with it: in most libraries all that stands before it in its segment.
const FRONT: u64 = 4096;

/// Bytes of a dynamic section that are read; a larger one is refused.
const DYNAMIC_MAX: u64 = 2 << 20;

/// An ELF file of any machine, opened and validated; nothing of it is executed or mapped for execution.
///
/// ```
/// let image = soload::Image::open("/proc/self/exe".as_ref())?;
/// assert!(image.needed().any(|name| name.starts_with(b"libc.so")));
/// # Ok::<(), soload::Error>(())
/// ```
pub struct Image {
    path: PathBuf,
    file: RegularFile,
    header: Header,
    headers: Headers,
    /// The mappings that it is going to need in this process, if they had to be known before.
    plan: Option<Plan>,
    view: View,
    /// Where the view is, if that is where the object is going to be mapped.
    shown: Option<Shown>,
    #[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
    home: Option<Home>,
    dynamic: Option<Dynamic>,
    names: Names,
    /// Bytes of the file with the arrays of functions to run, and where they begin, if they have been read.
    arrays: Option<Arrays>,
}

impl Image {
    /// Opens and checks the file at `path`. Never waits for a FIFO or a device: only regular files are read.
    ///
    /// # Errors
    /// The file cannot be opened, is no regular file, no ELF file, or contradicts itself.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let read = RegularFile::open(path).and_then(|file| Self::read(path.to_owned(), file));
        read.map(|image| *image).map_err(|kind| Error::new(path, kind))
    }

    /// Checks an open file, the whole of which stays mapped for reading.
    pub(crate) fn read(path: PathBuf, file: RegularFile) -> Result<Box<Self>, ErrorKind> {
        let bytes = file.map()?;
        let header = Header::read(&bytes)?;
        let program_headers = header.program_headers(&bytes)?;
        let headers = Headers::check(program_headers, file.size)?;
        let entries = |at: &ProgramHeader| header.dynamic_entries(&bytes, at.offset, at).and_then(Dynamic::collect);
        let dynamic = headers.dynamic.as_ref().map(entries).transpose()?;
        let view = View::new(bytes, header.class, header.order);
        let (names, plan, shown, home, arrays) = (Names::default(), None, None, None, None);
        Box::new(Self { path, file, header, headers, plan, view, shown, home, dynamic, names, arrays }).checked(false)
    }

    /// The same for a file that is going to be loaded: it is shown where the object will be, if the file is one that can
    /// be, so that nothing has to be mapped or faulted in twice. What is known of it need not be read.
    pub(crate) fn read_in_place(
        path: PathBuf,
        file: RegularFile,
        known: Option<Known<'_>>,
        homes: &Homes<'_>,
    ) -> Result<Box<Self>, ErrorKind> {
        let mut buffer = [0; BUFFER];
        let head = match &known {
            Some(known) if !known.head.is_empty() => known.head,
            _ => {
                let len = file.read_into(0, &mut buffer[..HEAD])?;
                &buffer[..len]
            }
        };
        let header = Header::read_start(head, file.size)?;
        if header.headers_end() > head.len() as u64 {
            return Self::read(path, file);
        }
        let program_headers = header.program_headers(head)?;
        let mut headers = Headers::check(program_headers, file.size)?;
        let page = sys::page_size();
        // What cannot be planned is refused later, with its reason.
        let Ok(plan) = Plan::of_segments(&headers.segments, headers.relro.clone(), page) else {
            return Self::read(path, file);
        };
        let Some(room) = room::in_place(&plan) else { return Self::read(path, file) };
        let home = homes(&file, &|| notes::build_id(&headers.notes, head, header.order), room.len);
        if home.is_some() {
            // Nothing else is wanted of the notes of what is going to be loaded.
            headers.notes.clear();
        }
        let own = header.is_native() && home.is_none();
        let pieces = room::pieces(&plan, &room).filter(|_| header.is_native());
        // In its home, what is written to comes from elsewhere.
        let shown = pieces.and_then(|pieces| match home {
            Some(home) => file.map_constant(&room, home.start, pieces),
            None => file.map_pieces(&room, pieces),
        });
        let shown = shown.map_or_else(|| file.show(&room, home.map(|home| home.start)), Ok)?;
        let bytes = shown.bytes();
        let mut arrays = None;
        let dynamic = |at: &ProgramHeader| {
            if own
                && headers.dynamic_is_written(at, page)
                && let Some(bytes) = shown.copied(at.vaddr.0..at.vaddr.0.saturating_add(at.file_size))
            {
                return header.dynamic_entries(&bytes, 0, at).and_then(Dynamic::collect);
            }
            if let Some(known) = known.as_ref().filter(|known| !known.dynamic.is_empty()) {
                let (start, bytes) = known.arrays;
                arrays = (!bytes.is_empty()).then(|| (start, bytes.into()));
                // What it needs is known, too.
                let entries = header.dynamic_entries(known.dynamic, 0, at)?;
                return Dynamic::collect(entries.filter(|(key, _)| *key != tag::DT_NEEDED));
            }
            // Of its page the file's content is wanted just this once: reading it costs less than a fault. And, where relocated
            // pages may be had, of what stands close before it.
            let before = headers.before(at.offset).filter(|before| home.is_some() && *before <= FRONT).unwrap_or(0);
            let (start, len) = (at.offset - before, before as usize + at.file_size.min(DYNAMIC_MAX) as usize);
            let piece: Cow<'_, [u8]> = match buffer.get_mut(..len) {
                Some(room) => {
                    let read = file.read_into(start, room)?;
                    (&room[..read]).into()
                }
                None => file.read(start, len)?.into(),
            };
            let dynamic = header.dynamic_entries(&piece, before, at).and_then(Dynamic::collect)?;
            arrays = arrays_in(start, &piece, &dynamic, &headers.segments);
            Ok(dynamic)
        };
        let dynamic = headers.dynamic.as_ref().map(dynamic).transpose()?;
        let view = View::new(bytes, header.class, header.order);
        // Nor is anything else going to be looked at in the pages of the names.
        let mut read = || names_in_piece(dynamic.as_ref()?, &headers.segments, &file, &mut buffer);
        let names = known.map(|known| known.names).or_else(|| home.and_then(|_| read()));
        let (shown, plan, known, names) = (Some(shown), Some(plan), names.is_some(), names.unwrap_or_default());
        Box::new(Self { path, file, header, headers, plan, view, shown, home, dynamic, names, arrays }).checked(known)
    }

    /// `known`: the names of the dynamic section have been read.
    fn checked(mut self: Box<Self>, known: bool) -> Result<Box<Self>, ErrorKind> {
        // Tools that change names put them behind all else, where what is shown of the file may have ended.
        let strings = self.dynamic.as_ref().and_then(|dynamic| dynamic.symbols.strtab.get()).map(Vaddr);
        if !known && strings.is_some_and(|at| self.source().table(at, None).is_none()) {
            self.show_whole()?;
        }
        if let Some(dynamic) = &self.dynamic {
            self.headers.check_dynamic_place()?;
            if !known && (dynamic.symbols.strtab.get().is_some() || !dynamic.needed.is_empty()) {
                self.names = Names::read(dynamic, &symbols::strings(&dynamic.symbols, &self.source())?)?;
            }
            self.headers.check_functions(dynamic)?;
        }
        // From here on they are names.
        self.dynamic.iter_mut().for_each(|dynamic| dynamic.needed = SmallVec::new());
        Ok(self)
    }

    /// The mappings that it needs in this process; asked for once.
    pub(crate) fn take_plan(&mut self) -> Result<Plan, ErrorKind> {
        self.plan.take().map_or_else(|| Plan::of_segments(self.segments(), self.relro(), sys::page_size()), Ok)
    }

    /// The room in which the file is shown, for its segments to be mapped; `None` if it is not. There is nothing to be read from
    /// here on but what was, until [`Self::show_whole`].
    pub(crate) fn take_room(&mut self) -> Option<(Reservation, Laid)> {
        let shown = self.shown.take()?;
        self.view = View::new(Bytes::from_static(&[]), self.header.class, self.header.order);
        shown.into_room()
    }

    /// Maps the whole file for reading, unless it is.
    pub(crate) fn show_whole(&mut self) -> Result<(), ErrorKind> {
        if self.view.len() < self.file.size {
            self.view = View::new(self.file.map()?, self.header.class, self.header.order);
        }
        Ok(())
    }

    /// Whether this process could load it: a shared object for this machine.
    pub(crate) fn check_loadable(&self) -> Result<&Dynamic, ErrorKind> {
        let foreign = |what, expected: &str, found: String| {
            Err(ErrorKind::Foreign { what, expected: expected.to_owned(), found })
        };
        let Some(native) = Machine::native() else {
            return foreign("machine of this process", "one that soload can load for", "another".into());
        };
        if self.header.class != Class::NATIVE {
            return foreign("class", "64-bit", "32-bit".into());
        }
        if self.header.order != ByteOrder::Little {
            return foreign("byte order", "little-endian", "big-endian".into());
        }
        if self.header.machine != native.number {
            return foreign("machine", native.name, self.machine_name());
        }
        self.header.check_system()?;
        match (self.header.kind, &self.dynamic) {
            (ET_DYN, Some(dynamic)) if dynamic.position_independent_executable() => {
                foreign("type", "a shared object", "a position-independent executable".into())
            }
            (ET_DYN, Some(dynamic)) if dynamic.no_open() => {
                foreign("type", "an object that may be opened at run time", "DF_1_NOOPEN".into())
            }
            (ET_DYN, Some(dynamic)) => Ok(dynamic),
            (ET_DYN, None) => foreign("type", "a shared object", "an object without dynamic section".into()),
            (ET_EXEC, _) => foreign("type", "a shared object", "an executable".into()),
            (1, _) => foreign("type", "a shared object", "a relocatable object (.o)".into()),
            (4, _) => foreign("type", "a shared object", "a core file".into()),
            (other, _) => foreign("type", "a shared object", format!("e_type {other}")),
        }
    }

    /// Tables by address, out of the file.
    pub(crate) fn source(&self) -> FileImage<'_> {
        FileImage { file: &self.view, segments: &self.headers.segments }
    }

    /// The symbol table, read through `source`. `None` without dynamic section.
    pub(crate) fn symbols(&self, source: &dyn Source) -> Result<Option<Box<Symbols>>, ErrorKind> {
        self.dynamic().map(|dynamic| Symbols::read(&dynamic.symbols, source, self.header.class)).transpose()
    }

    pub(crate) fn relocations(&self, source: &dyn Source) -> Result<Option<Relocations>, ErrorKind> {
        let read = |dynamic| Relocations::read(dynamic, source, self.header.class, self.header.machine);
        self.dynamic().map(read).transpose()
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn file(&self) -> &RegularFile {
        &self.file
    }

    /// Where it is always mapped, if that was known when it was opened.
    #[cfg(feature = "snapshots")]
    pub(crate) fn home(&self) -> Option<Home> {
        self.home
    }

    pub(crate) fn identity(&self) -> Identity {
        self.file.identity
    }

    pub(crate) fn dynamic(&self) -> Option<&Dynamic> {
        self.dynamic.as_ref()
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// The names of what it needs, to be looked for while others are changed; to be given back.
    pub(crate) fn take_needed(&mut self) -> Needed {
        std::mem::take(&mut self.names.needed)
    }

    pub(crate) fn take_soname(&mut self) -> Option<Box<[u8]>> {
        self.names.soname.take()
    }

    pub(crate) fn give_needed_back(&mut self, names: Needed) {
        self.names.needed = names;
    }

    /// All program headers, as `<elf.h>` lays them out: read once more, which most objects need not.
    pub(crate) fn raw_headers(&self) -> Result<Vec<libc::Elf64_Phdr>, ErrorKind> {
        let head = self.file.read(0, usize::try_from(self.header.headers_end()).unwrap_or(usize::MAX))?;
        Ok(self.header.program_headers(&head)?.map(|header| header.raw()).collect())
    }

    /// The addresses of the program headers themselves, if they are in a segment.
    pub(crate) fn headers_at(&self) -> Option<std::ops::Range<Vaddr>> {
        let (at, end) = (self.header.headers_start(), self.header.headers_end());
        let has = |segment: &&Segment| segment.offset.0 <= at && end <= segment.offset.0 + segment.file_size;
        let segment = self.headers.segments.iter().find(has)?;
        let start = segment.vaddr.checked_add(at - segment.offset.0)?;
        Some(start..start.checked_add(end - at)?)
    }

    pub(crate) fn dynamic_header(&self) -> Option<&ProgramHeader> {
        self.headers.dynamic.as_ref()
    }

    pub(crate) fn tls_header(&self) -> Option<&ProgramHeader> {
        self.headers.tls.as_deref()
    }

    pub(crate) fn eh_frame_header(&self) -> Option<Vaddr> {
        self.headers.eh_frame
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    pub(crate) fn note_segments(&self) -> &[NoteSegment] {
        &self.headers.notes
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// 32-bit or 64-bit.
    #[must_use]
    pub fn class(&self) -> Class {
        self.header.class
    }

    /// Which byte of a number comes first.
    #[must_use]
    pub fn byte_order(&self) -> ByteOrder {
        self.header.order
    }

    /// What its machine means for relocation, if it is one that soload knows.
    #[must_use]
    pub fn machine(&self) -> Option<&'static Machine> {
        Machine::of(self.header.machine)
    }

    /// The machine's name, or its number (`e_machine`).
    #[must_use]
    pub fn machine_name(&self) -> String {
        inspect::machine_name(self.header.machine)
    }

    /// `e_type`: 2 an executable at a fixed address, 3 a shared object or position-independent executable.
    #[must_use]
    pub fn elf_type(&self) -> u16 {
        self.header.kind
    }

    /// The `PT_LOAD` segments, in order of address.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.headers.segments
    }

    /// The names of the libraries it needs (`DT_NEEDED`), in order.
    pub fn needed(&self) -> impl Iterator<Item = &[u8]> {
        self.names.needed.iter()
    }

    /// Its own name (`DT_SONAME`).
    #[must_use]
    pub fn soname(&self) -> Option<&[u8]> {
        self.names.soname.as_deref()
    }

    /// Where its needed libraries are looked for: `DT_RPATH`, inherited by them.
    #[must_use]
    pub fn rpath(&self) -> Option<&[u8]> {
        self.names.rpath.as_deref()
    }

    /// Where its needed libraries are looked for: `DT_RUNPATH`, not inherited.
    #[must_use]
    pub fn runpath(&self) -> Option<&[u8]> {
        self.names.runpath.as_deref()
    }

    /// The program that runs or loads it (`PT_INTERP`).
    #[must_use]
    pub fn interpreter(&self) -> Option<&[u8]> {
        self.headers.interpreter.as_ref().and_then(|header| self.view.str_at(header.offset))
    }

    /// What the stack may be used for (`PT_GNU_STACK`); `None` leaves it to the machine's default.
    #[must_use]
    pub fn stack(&self) -> Option<Protection> {
        self.headers.stack
    }

    /// Whether it asks for an executable stack, by `PT_GNU_STACK` or by leaving that out.
    #[must_use]
    pub fn wants_executable_stack(&self) -> bool {
        self.headers.stack.is_none_or(|stack| stack.execute)
    }

    /// Whether segments that are not writable must be written to relocate it (`DT_TEXTREL`).
    #[must_use]
    pub fn has_text_relocations(&self) -> bool {
        self.dynamic.as_ref().is_some_and(|dynamic| dynamic.textrel)
    }

    /// Whether it was linked to be bound at once (`-z now`).
    #[must_use]
    pub fn binds_now(&self) -> bool {
        self.dynamic.as_ref().is_some_and(|dynamic| dynamic.bind_now)
    }

    /// Size and alignment of its thread-local storage, in bytes, if it has any.
    #[must_use]
    pub fn thread_local(&self) -> Option<(u64, u64)> {
        self.headers.tls.as_ref().map(|header| (header.memory_size, header.align))
    }

    /// The build id that the linker gave it (`NT_GNU_BUILD_ID`).
    #[must_use]
    pub fn build_id(&self) -> Option<Vec<u8>> {
        notes::build_id(&self.headers.notes, self.view.bytes(), self.header.order).map(<[u8]>::to_vec)
    }

    /// The address of its unwind records, read through `source`, if they are fit to be registered.
    pub(crate) fn frames(&self, source: &dyn Source) -> Option<Vaddr> {
        frames::find(self, source)
    }

    /// The size of the section at `vaddr`, if the file has section headers and one says so. Nothing rests on them: they
    /// may have been stripped, or be wrong.
    pub(super) fn section_size(&self, vaddr: Vaddr) -> Option<u64> {
        let (at, len) = self.header.section_table()?;
        let table = self.file.read(at, len).ok()?;
        self.header.section_size(&View::new(table.into(), self.header.class, self.header.order), vaddr)
    }

    /// `len` bytes at `vaddr`, read from the file without mapping it.
    pub(crate) fn bytes_at(&self, vaddr: Vaddr, len: usize) -> Option<Cow<'_, [u8]>> {
        let (offset, follows) = self.source().locate(vaddr)?;
        let known = self.arrays.as_ref().and_then(|(start, bytes)| {
            let at = usize::try_from(offset.0.checked_sub(*start)?).ok()?;
            bytes.get(at..at.checked_add(len)?)
        });
        if let Some(known) = known.filter(|_| len as u64 <= follows) {
            return Some(Cow::Borrowed(known));
        }
        let read = self.file.read(offset.0, len).ok();
        read.filter(|bytes| bytes.len() == len && len as u64 <= follows).map(Cow::Owned)
    }

    /// Whether a table that loading reads, or the unwinder, lies in `range` of addresses.
    pub(crate) fn has_table_in(&self, range: &std::ops::Range<u64>) -> bool {
        let frames = self.headers.eh_frame.map(|at| at.0);
        let tables = self.dynamic().into_iter().flat_map(Dynamic::tables);
        tables.chain(frames).any(|table| range.contains(&table))
    }

    /// The range that is made read-only once relocation is done (`PT_GNU_RELRO`), as the file states it.
    #[must_use]
    pub fn relro(&self) -> Option<std::ops::Range<Vaddr>> {
        self.headers.relro.clone()
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("path", &self.path).field("machine", &self.machine_name()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;

    /// What the dynamic section of the file says: read in pieces, as that of an object that has a home, or out of the whole.
    fn read(path: &Path, at_home: bool) -> Result<String, String> {
        // Where it can be is another question.
        let home = Home { start: Addr(0), library: [0; 32] };
        said(RegularFile::open(path).and_then(|file| match at_home {
            true => Image::read_in_place(path.into(), file, None, &|_, _, _| Some(home)),
            false => Image::read(path.into(), file),
        }))
    }

    fn said(read: Result<Box<Image>, ErrorKind>) -> Result<String, String> {
        read.map(|image| format!("{:?} {:?}", image.dynamic, image.names)).map_err(|kind| kind.to_string())
    }

    #[test]
    fn what_is_read_in_pieces_is_what_the_whole_file_says() {
        let libraries = std::fs::read_dir(env!("SOLOAD_TEST_LIBS")).unwrap();
        for path in libraries.map(|entry| entry.unwrap().path()) {
            assert_eq!(read(&path, true), read(&path, false), "{}", path.display());
        }
    }

    #[test]
    #[cfg(feature = "snapshots")]
    fn what_is_known_of_a_file_is_not_read_and_says_the_same() {
        let home = Home { start: Addr(0), library: [0; 32] };
        let (mut known, mut with_arrays) = (0, 0);
        for path in std::fs::read_dir(env!("SOLOAD_TEST_LIBS")).unwrap().map(|entry| entry.unwrap().path()) {
            let Ok(image) = RegularFile::open(&path).and_then(|file| Image::read(path.clone(), file)) else { continue };
            let (head, dynamic, (at, arrays)) = crate::file::piece::pieces(&image);
            if image.dynamic().is_none() || head.len() > HEAD || dynamic.is_empty() {
                continue;
            }
            let names = image.names().clone();
            let told = || Known { names: names.clone(), head: &head, dynamic: &dynamic, arrays: (at, &arrays) };
            let open = || RegularFile::open(&path).unwrap();
            let by_known = |known| Image::read_in_place(path.clone(), open(), Some(known), &|_, _, _| Some(home));
            let whole = by_known(told()).unwrap();
            for (at, bytes) in image
                .dynamic()
                .into_iter()
                .flat_map(|dynamic| [dynamic.init_array, dynamic.fini_array])
                .filter_map(|at| at.get())
                .map(|at| (Vaddr(at), 8))
            {
                assert_eq!(whole.bytes_at(at, bytes), image.bytes_at(at, bytes), "{}", path.display());
                with_arrays += usize::from(matches!(whole.bytes_at(at, bytes), Some(Cow::Borrowed(_))));
            }
            assert_eq!(said(Ok(whole)), said(Ok(image)), "{}", path.display());
            known += 1;
            // It is what counts: the file is not looked at.
            assert!(by_known(Known { head: &head[..32], ..told() }).is_err());
            assert!(by_known(Known { dynamic: &dynamic[..dynamic.len() / 2], ..told() }).is_err());
        }
        assert!(known > 20 && with_arrays > 20, "{known} {with_arrays}");
    }

    #[test]
    fn a_dynamic_section_that_has_no_room_in_the_buffer_is_read_whole() {
        let path = Path::new(env!("SOLOAD_TEST_LIBS")).join("libcopies.so");
        let (mut bytes, image) = (std::fs::read(&path).unwrap(), Image::open(&path).unwrap());
        // Its data follow in the same segment: they stand for entries after the last, which nobody looks at.
        let (at, size) = (*image.dynamic_header().unwrap(), 2 * BUFFER as u64);
        assert!(
            image.segments().iter().any(|data| data.contains(at.vaddr, 1) && at.vaddr.0 + size <= data.file_end().0)
        );
        bytes[at.at.0 as usize + 32..][..8].copy_from_slice(&size.to_le_bytes());
        let long = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(long.path(), bytes).unwrap();
        assert_eq!(read(long.path(), true), read(&path, true));
        assert!(read(&path, true).is_ok());
    }
}
