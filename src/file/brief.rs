//! What a search for libraries goes by, read out of a file in a few small pieces: whatever its size, nothing is mapped.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

use super::dynamic::{Dynamic, Names};
use super::elf::Header;
use super::image::Image;
use super::segments::{Headers, Segment, locate};
use super::versions::Versions;
use super::view::View;
use super::{Source, Strings, notes, symbols};
use crate::addr::Vaddr;
use crate::error::ErrorKind;
use crate::sys::{Bytes, RegularFile};

/// Bytes of one piece: program headers lie in the first, and one more has the names and versions of nearly every file.
const PIECE: usize = 4096;

/// Bytes that a table without a stated size is given. The tables of versions of the C library take a quarter of it.
const TABLE: u64 = 8192;

/// The longest string that is looked for in pieces.
const STRING: usize = 65_536;

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
    pub(crate) defined: Vec<(u32, Box<[u8]>)>,
    /// What `.note.dlopen` says it opens at run time: JSON, as it stands.
    pub(crate) opens: Vec<Box<[u8]>>,
}

/// A version that a needed object must define.
#[derive(Debug)]
pub(crate) struct Required {
    /// The needed object, by the name under which it is needed.
    pub(crate) file: Box<[u8]>,
    pub(crate) version: Box<[u8]>,
    pub(crate) hash: u32,
    pub(crate) weak: bool,
}

impl Brief {
    /// Reads a file in pieces; where anything is odd, the whole of it, so that there is one account of what is wrong.
    pub(crate) fn read(file: RegularFile) -> Result<Self, ErrorKind> {
        match Self::in_pieces(&file) {
            Ok(brief) => Ok(brief),
            Err(_) => Self::of(&Image::read(std::path::PathBuf::new(), file)?),
        }
    }

    /// The same of a file that has been read whole.
    fn of(image: &Image) -> Result<Self, ErrorKind> {
        let mut brief = Self::new(*image.header(), image.dynamic().cloned(), image.names().clone());
        brief.interpreter = image.interpreter().map(Into::into);
        brief.opens = notes::opens(image.note_headers(), |range| image.view().slice(range));
        if let Some(dynamic) = image.dynamic().filter(|dynamic| has_versions(dynamic)) {
            let strings = symbols::strings(dynamic, &image.source())?;
            brief.read_versions(dynamic, &image.source(), &strings)?;
        }
        Ok(brief)
    }

    fn in_pieces(file: &RegularFile) -> Result<Self, ErrorKind> {
        let pieces = Pieces { file, held: RefCell::default() };
        let start = pieces.get(0, file.size.min(PIECE as u64)).ok_or(UNREAD)?;
        let header = Header::read_start(&start, file.size)?;
        let headers = Headers::check(&header.program_headers(&start)?, file.size)?;
        let dynamic = match &headers.dynamic {
            Some(at) => {
                let section = pieces.get(at.offset, at.file_size).ok_or(UNREAD)?;
                Some(Dynamic::collect(header.dynamic_entries_from(&section, 0, at)?)?)
            }
            None => None,
        };
        let mut brief = Self::new(header, None, Names::default());
        let source = InPieces { pieces: &pieces, segments: &headers.segments, header };
        if let Some(dynamic) = &dynamic {
            headers.check_dynamic_place()?;
            headers.check_functions(dynamic)?;
            if dynamic.strtab.is_some() || !dynamic.needed.is_empty() {
                let strings = source.strings(dynamic).ok_or(UNREAD)?;
                source.foresee(dynamic, &strings);
                brief.names = Names::read(dynamic, &strings)?;
                if has_versions(dynamic) {
                    brief.read_versions(dynamic, &source, &strings)?;
                }
            }
        }
        brief.dynamic = dynamic;
        if let Some(interpreter) = &headers.interpreter {
            brief.interpreter = pieces.string(interpreter.offset, u64::MAX).map(Into::into);
            if brief.interpreter.is_none() {
                return Err(UNREAD);
            }
        }
        let read = |range: Range<u64>| {
            let bytes = pieces.get(range.start, range.end.checked_sub(range.start)?)?;
            Some(View::new(bytes, header.class, header.order))
        };
        brief.opens = notes::opens(&headers.notes, read);
        Ok(brief)
    }

    fn new(header: Header, dynamic: Option<Dynamic>, names: Names) -> Self {
        let (requirements, defined, opens) = (Vec::new(), Vec::new(), Vec::new());
        Self { header, dynamic, names, interpreter: None, requirements, defines_any: false, defined, opens }
    }

    fn read_versions(
        &mut self,
        dynamic: &Dynamic,
        source: &impl Source,
        strings: &impl Strings,
    ) -> Result<(), ErrorKind> {
        let versions = Versions::read_names(dynamic, source, strings)?;
        let text = |at: u32| -> Box<[u8]> { strings.string(at.into()).unwrap_or_default().into() };
        let required = versions.requirements.iter().map(|need| Required {
            file: text(need.file),
            version: text(need.version.name),
            hash: need.version.hash,
            weak: need.weak,
        });
        self.requirements = required.collect();
        self.defines_any = versions.defines_any;
        self.defined = versions.definitions().iter().map(|own| (own.hash, text(own.name))).collect();
        Ok(())
    }
}

/// Why a file is read whole; nobody sees it.
const UNREAD: ErrorKind = ErrorKind::Limit { what: "bytes of a piece", limit: TABLE, found: 0 };

fn has_versions(dynamic: &Dynamic) -> bool {
    dynamic.verdef.is_some() || dynamic.verneed.is_some()
}

/// A file and the pieces of it that have been read, each with its place.
struct Pieces<'f> {
    file: &'f RegularFile,
    held: RefCell<Vec<(u64, Bytes)>>,
}

impl Pieces<'_> {
    /// The `len` bytes at `offset`.
    fn get(&self, offset: u64, len: u64) -> Option<Bytes> {
        let end = offset.checked_add(len)?;
        let held = self.held.borrow().iter().find_map(|(at, piece)| piece.slice(offset.checked_sub(*at)?..end - at));
        if held.is_some() {
            return held;
        }
        // A file that gives more than this at once is not read for the sake of a few names.
        let len = usize::try_from(len).ok().filter(|len| *len <= 16 * PIECE)?;
        let piece = self.file.read_at(offset, len.max(PIECE))?;
        self.held.borrow_mut().push((offset, piece.clone()));
        piece.slice(0..len as u64)
    }

    /// The string at `offset`, which must end before `end`.
    fn string(&self, offset: u64, end: u64) -> Option<Vec<u8>> {
        for (at, piece) in &*self.held.borrow() {
            let tail = offset.checked_sub(*at).and_then(|within| piece.get(usize::try_from(within).ok()?..));
            if let Some(len) = tail.and_then(|tail| tail.iter().position(|byte| *byte == 0)) {
                let fits = offset + (len as u64) < end;
                return fits.then(|| tail.unwrap_or_default()[..len].to_vec());
            }
        }
        // Too long for what is held, or in none of it.
        let piece = self.file.read_at(offset, if self.held.borrow().len() < 8 { PIECE } else { STRING })?;
        let len = piece.iter().position(|byte| *byte == 0)?;
        let string = (offset + (len as u64) < end).then(|| piece[..len].to_vec());
        self.held.borrow_mut().push((offset, piece));
        string
    }
}

/// Tables by address, out of the pieces of a file.
struct InPieces<'f> {
    pieces: &'f Pieces<'f>,
    segments: &'f [Segment],
    header: Header,
}

impl<'f> InPieces<'f> {
    fn strings(&self, dynamic: &Dynamic) -> Option<InPiecesStrings<'f>> {
        let (offset, follows) = locate(self.segments, Vaddr(dynamic.strtab?))?;
        let size = dynamic.strsz.unwrap_or(follows);
        (size <= follows).then_some(InPiecesStrings { pieces: self.pieces, start: offset.0, size })
    }

    /// Reads at once what will be asked for: linkers put these strings next to each other, and the versions behind them.
    fn foresee(&self, dynamic: &Dynamic, strings: &InPiecesStrings<'_>) {
        let names = dynamic.needed.iter().chain(&dynamic.soname).chain(&dynamic.rpath).chain(&dynamic.runpath);
        let names = names.map(|name| strings.start.saturating_add(*name));
        let Some(first) = names.min() else { return };
        let tables = [dynamic.verneed, dynamic.verdef].into_iter().flatten();
        let tables = tables.filter_map(|vaddr| Some(locate(self.segments, Vaddr(vaddr))?.0.0));
        let end = tables.max().map_or(first, |last| last.saturating_add(2048));
        let len = end.saturating_sub(first).clamp(PIECE as u64, 4 * PIECE as u64);
        let _ = self.pieces.get(first, len.min(self.pieces.file.size.saturating_sub(first)));
    }
}

impl Source for InPieces<'_> {
    fn table(&self, vaddr: Vaddr, len: Option<u64>) -> Option<View> {
        let (offset, follows) = locate(self.segments, vaddr)?;
        let held = self.pieces.held.borrow().iter().find_map(|(at, piece)| {
            let rest = (piece.len() as u64).checked_sub(offset.0.checked_sub(*at)?)?;
            (len.is_none() && rest >= TABLE / 4).then_some(rest.min(follows))
        });
        let len = len.or(held).unwrap_or(follows.min(TABLE));
        let bytes = (len <= follows).then(|| self.pieces.get(offset.0, len)).flatten()?;
        Some(View::new(bytes, self.header.class, self.header.order))
    }
}

struct InPiecesStrings<'f> {
    pieces: &'f Pieces<'f>,
    start: u64,
    size: u64,
}

impl Strings for InPiecesStrings<'_> {
    fn string(&self, at: u64) -> Option<Cow<'_, [u8]>> {
        let offset = self.start.checked_add(at).filter(|_| at < self.size)?;
        self.pieces.string(offset, self.start + self.size).map(Cow::Owned)
    }

    fn size(&self) -> u64 {
        self.size
    }
}
