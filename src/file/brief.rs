//! What a search for libraries goes by, read out of a file in a few small pieces: whatever its size, nothing is mapped.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

use super::dynamic::{Dynamic, Names, SymbolEntries};
use super::elf::Header;
use super::image::Image;
use super::segments::{Headers, Segment, locate};
use super::versions::Numbered;
use super::view::View;
use super::{Source, Strings, notes, symbols};
use crate::addr::Vaddr;
use crate::error::ErrorKind;
use crate::sys::RegularFile;

/// Bytes of one piece: program headers lie in the first, and one more has the names and versions of nearly every file.
const PIECE: usize = 4096;

/// Bytes that a table without a stated size is given. The tables of versions of the C library take half of it.
const TABLE: usize = 4096;

/// Bytes of all pieces of one file together.
const PIECES_MAX: usize = 16 * PIECE;

/// A file's answers, free of the file.
#[derive(Debug)]
pub(crate) struct Brief {
    pub(crate) header: Header,
    pub(crate) dynamic: Option<Dynamic>,
    pub(crate) names: Names,
    pub(crate) interpreter: Option<Box<[u8]>>,
    pub(crate) requirements: Vec<Required>,
    /// Whether it has a table of versions at all.
    pub(crate) defines_any: bool,
    /// Hash and name of each version that it defines.
    defined: Vec<(u32, Text)>,
    /// What `.note.dlopen` says it opens at run time: JSON, as it stands.
    pub(crate) opens: Vec<Box<[u8]>>,
    /// Whether a note says that it is for Android.
    pub(crate) android: bool,
    texts: Vec<u8>,
}

/// A version that a needed object must define.
#[derive(Debug)]
pub(crate) struct Required {
    /// The needed object, by the name under which it is needed.
    file: Text,
    version: Text,
    hash: u32,
    pub(crate) weak: bool,
}

/// A name that a [`Brief`] keeps.
type Text = Range<u32>;

impl Brief {
    /// Reads a file in pieces, by way of `buffer`; where anything is odd, the whole of it, so that there is one account
    /// of what is wrong.
    pub(crate) fn read(file: RegularFile, buffer: &mut Vec<u8>) -> Result<Self, ErrorKind> {
        buffer.clear();
        let pieces = Pieces { file: &file, held: RefCell::new(Held { pieces: Vec::new(), buffer }) };
        let read_start = |bytes: &[u8]| {
            let header = Header::read_start(bytes, file.size)?;
            let headers = header.program_headers(bytes).and_then(|headers| Headers::check(headers, file.size));
            Ok((header, headers.ok()))
        };
        // What is no ELF file is told by its first bytes, and most files are none.
        let start = pieces.with(0, file.size.min(PIECE as u64), read_start).transpose()?;
        match start.and_then(|(header, headers)| Self::in_pieces(header, &headers?, &pieces)) {
            Some(brief) => Ok(brief),
            None => Self::of(&*Image::read(std::path::PathBuf::new(), file)?),
        }
    }

    /// The same of a file that has been read whole.
    fn of(image: &Image) -> Result<Self, ErrorKind> {
        let mut brief = Self::new(*image.header(), image.names().clone());
        brief.interpreter = image.interpreter().map(Into::into);
        (brief.opens, brief.android) = notes::of_loading(image.note_segments(), image.byte_order(), |range| {
            notes::part(image.view().bytes(), range)
        });
        if let Some(dynamic) = image.dynamic().filter(|dynamic| has_versions(dynamic)) {
            let strings = symbols::strings(&dynamic.symbols, &image.source())?;
            brief.keep_versions(&dynamic.symbols, &image.source(), &strings)?;
        }
        brief.dynamic = image.dynamic().cloned();
        Ok(brief)
    }

    /// `None`: something is odd, or out of reach.
    fn in_pieces(header: Header, headers: &Headers, pieces: &Pieces<'_>) -> Option<Self> {
        let dynamic = match &headers.dynamic {
            Some(at) => {
                let read = |bytes: &[u8]| header.dynamic_entries(bytes, 0, at).and_then(Dynamic::collect).ok();
                Some(pieces.with(at.offset, at.file_size, read)??)
            }
            None => None,
        };
        let mut brief = Self::new(header, Names::default());
        if let Some(dynamic) = &dynamic {
            headers.check_dynamic_place().ok()?;
            headers.check_functions(dynamic).ok()?;
            if dynamic.symbols.strtab.get().is_some() || !dynamic.needed.is_empty() {
                let source = InPieces { pieces, segments: &headers.segments, header };
                let strings = source.strings(dynamic)?;
                source.foresee(dynamic, &strings);
                brief.names = Names::read(dynamic, &strings).ok()?;
                if has_versions(dynamic) {
                    brief.keep_versions(&dynamic.symbols, &source, &strings).ok()?;
                }
            }
        }
        brief.dynamic = dynamic;
        if let Some(interpreter) = &headers.interpreter {
            brief.interpreter = Some(pieces.string(interpreter.offset, u64::MAX)?.into());
        }
        let read = |range: Range<u64>| {
            let len = range.end.checked_sub(range.start)?;
            pieces.with(range.start, len, <[u8]>::to_vec)
        };
        (brief.opens, brief.android) = notes::of_loading(&headers.notes, header.order, read);
        Some(brief)
    }

    fn new(header: Header, names: Names) -> Self {
        let (requirements, defined, opens, texts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (dynamic, interpreter, defines_any, android) = (None, None, false, false);
        Self { header, dynamic, names, interpreter, requirements, defines_any, defined, opens, android, texts }
    }

    fn keep_versions(
        &mut self,
        entries: &SymbolEntries,
        source: &dyn Source,
        strings: &impl Strings,
    ) -> Result<(), ErrorKind> {
        let versions = Numbered::read(entries, source, strings)?;
        let texts = &mut self.texts;
        let mut keep = |at: u32| {
            let start = texts.len() as u32;
            texts.extend_from_slice(&strings.string(at.into()).unwrap_or_default());
            start..texts.len() as u32
        };
        // The versions of one library stand together.
        let mut last = (0, 0..0);
        for need in &versions.requirements {
            if last.0 != need.file || last.1.is_empty() {
                last = (need.file, keep(need.file));
            }
            let (hash, weak) = (need.version.hash, need.weak);
            self.requirements.push(Required { file: last.1.clone(), version: keep(need.version.name), hash, weak });
        }
        self.defines_any = entries.verdef.get().is_some();
        self.defined = versions.definitions().map(|own| (own.hash, keep(own.name))).collect();
        Ok(())
    }

    fn text(&self, text: &Text) -> &[u8] {
        self.texts.get(text.start as usize..text.end as usize).unwrap_or_default()
    }

    /// The library that has to define a version, by the name under which it is needed.
    pub(crate) fn file_of(&self, required: &Required) -> &[u8] {
        self.text(&required.file)
    }

    /// The name of a version that is needed.
    pub(crate) fn version_of(&self, required: &Required) -> &[u8] {
        self.text(&required.version)
    }

    /// Whether it defines what `user` requires.
    pub(crate) fn defines(&self, required: &Required, user: &Self) -> bool {
        let name = user.version_of(required);
        self.defined.iter().any(|(hash, own)| *hash == required.hash && self.text(own) == name)
    }
}

fn has_versions(dynamic: &Dynamic) -> bool {
    dynamic.symbols.verdef.get().is_some() || dynamic.symbols.verneed.get().is_some()
}

/// A file, and the pieces of it that have been read.
struct Pieces<'f> {
    file: &'f RegularFile,
    held: RefCell<Held<'f>>,
}

struct Held<'f> {
    /// Where each piece is, in the file and in the buffer.
    pieces: Vec<(u64, Range<usize>)>,
    buffer: &'f mut Vec<u8>,
}

impl Pieces<'_> {
    /// Calls `then` with the `len` bytes at `offset`. `None`: there are no such bytes, or they are too many for a piece.
    fn with<T>(&self, offset: u64, len: u64, then: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let len = usize::try_from(len).ok()?;
        if let Some(range) = self.held(offset, len) {
            return Some(then(&self.held.borrow().buffer[range]));
        }
        let range = self.read(offset, len)?;
        (range.len() >= len).then(|| then(&self.held.borrow().buffer[range.start..range.start + len]))
    }

    /// Where the `len` bytes at `offset` are, if they have been read.
    fn held(&self, offset: u64, len: usize) -> Option<Range<usize>> {
        self.held.borrow().pieces.iter().find_map(|(at, piece)| {
            let start = piece.start + usize::try_from(offset.checked_sub(*at)?).ok()?;
            let end = start.checked_add(len)?;
            (start <= piece.end && end <= piece.end).then_some(start..end)
        })
    }

    /// Reads up to `len` bytes at `offset`, fewer if the file ends.
    fn read(&self, offset: u64, len: usize) -> Option<Range<usize>> {
        let Held { pieces, buffer } = &mut *self.held.borrow_mut();
        let start = buffer.len();
        // What is as large as that is better mapped.
        if start + len > PIECES_MAX {
            return None;
        }
        buffer.resize(start + len, 0);
        let read = self.file.read_into(offset, &mut buffer[start..]).ok()?;
        buffer.truncate(start + read);
        pieces.push((offset, start..start + read));
        Some(start..start + read)
    }

    /// The string at `offset`, which must end before `end`.
    fn string(&self, offset: u64, end: u64) -> Option<Vec<u8>> {
        let string = |range: Range<usize>| {
            let text = &self.held.borrow().buffer[range];
            let len = text.iter().position(|byte| *byte == 0)?;
            Some(text[..len].to_vec())
        };
        let known = self.held(offset, 1).and_then(|range| string(range.start..self.end_of_piece(range.start)?));
        let found = known.or_else(|| string(self.read(offset, PIECE)?))?;
        (offset + (found.len() as u64) < end).then_some(found)
    }

    /// Where the piece ends that holds the byte at `place` of the buffer.
    fn end_of_piece(&self, place: usize) -> Option<usize> {
        self.held.borrow().pieces.iter().find_map(|(_, piece)| piece.contains(&place).then_some(piece.end))
    }
}

/// Tables by address, out of the pieces of a file.
struct InPieces<'p, 'f> {
    pieces: &'p Pieces<'f>,
    segments: &'p [Segment],
    header: Header,
}

impl<'p, 'f> InPieces<'p, 'f> {
    fn strings(&self, dynamic: &Dynamic) -> Option<StringsInPieces<'p, 'f>> {
        let (offset, follows) = locate(self.segments, Vaddr(dynamic.symbols.strtab.get()?))?;
        let size = dynamic.symbols.strsz.get().unwrap_or(follows);
        (size <= follows).then_some(StringsInPieces { pieces: self.pieces, start: offset.0, size })
    }

    /// Reads at once what will be asked for: linkers put these strings next to each other, and the versions behind them.
    fn foresee(&self, dynamic: &Dynamic, strings: &StringsInPieces<'_, '_>) {
        let Some(first) = dynamic.names().map(|name| strings.start.saturating_add(name)).min() else { return };
        let tables = [dynamic.symbols.verneed.get(), dynamic.symbols.verdef.get()].into_iter().flatten();
        let tables = tables.filter_map(|vaddr| Some(locate(self.segments, Vaddr(vaddr))?.0.0));
        let end = tables.max().map_or(first, |last| last.saturating_add(TABLE as u64 / 2));
        let len = (end.saturating_sub(first) as usize).min(2 * PIECE);
        if self.pieces.held(first, len).is_none() {
            self.pieces.read(first, len.max(PIECE / 4));
        }
    }
}

impl Source for InPieces<'_, '_> {
    fn table(&self, vaddr: Vaddr, len: Option<u64>) -> Option<View> {
        let (offset, follows) = locate(self.segments, vaddr)?;
        let len = match len {
            Some(len) => len,
            None => {
                // All that is held, if that is likely to be enough.
                let held = self.pieces.held(offset.0, TABLE / 8).and_then(|at| self.pieces.end_of_piece(at.start));
                let start = self.pieces.held(offset.0, 0).map_or(0, |at| at.start);
                follows.min(held.map_or(TABLE, |end| end - start) as u64)
            }
        };
        let (class, order) = (self.header.class, self.header.order);
        let view = |bytes: &[u8]| View::new(bytes.to_vec().into(), class, order);
        (len <= follows).then(|| self.pieces.with(offset.0, len, view)).flatten()
    }
}

struct StringsInPieces<'p, 'f> {
    pieces: &'p Pieces<'f>,
    start: u64,
    size: u64,
}

impl Strings for StringsInPieces<'_, '_> {
    fn string(&self, at: u64) -> Option<Cow<'_, [u8]>> {
        let offset = self.start.checked_add(at).filter(|_| at < self.size)?;
        self.pieces.string(offset, self.start.checked_add(self.size)?).map(Cow::Owned)
    }

    fn size(&self) -> u64 {
        self.size
    }
}
