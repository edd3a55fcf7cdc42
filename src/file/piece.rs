//! Pieces of a file that are read instead of mapped, for what is wanted of them just once: names, and arrays of functions.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

use super::Strings;
use super::dynamic::{Dynamic, Names};
#[cfg(feature = "snapshots")]
use super::image::Image;
use super::segments::{Segment, locate};
use crate::addr::Vaddr;
use crate::sys::RegularFile;

/// Bytes that the last name is given.
const NAME: u64 = 128;

/// Names that are read out of a file in one piece: linkers put them next to each other.
struct Piece<'a> {
    bytes: &'a [u8],
    /// Where it begins in the string table, which has `size` bytes.
    start: u64,
    size: u64,
}

impl Strings for Piece<'_> {
    fn string(&self, at: u64) -> Option<Cow<'_, [u8]>> {
        let text = self.bytes.get(usize::try_from(at.checked_sub(self.start)?).ok()?..)?;
        Some(Cow::Borrowed(&text[..text.iter().position(|byte| *byte == 0)?]))
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// The names of the dynamic section, if one piece of the file has them all that has room in `buffer`.
#[inline(never)] // few open files by snapshots
pub(super) fn names_in_piece(
    dynamic: &Dynamic,
    segments: &[Segment],
    file: &RegularFile,
    buffer: &mut [u8],
) -> Option<Names> {
    let (first, last) = dynamic.names().fold((u64::MAX, 0), |(first, last), at| (at.min(first), at.max(last)));
    let (table, follows) = locate(segments, Vaddr(dynamic.symbols.strtab.get()?))?;
    let size = dynamic.symbols.strsz.get().unwrap_or(follows);
    let rest = size.checked_sub(first).filter(|_| last < size && size <= follows)?;
    let len = (last - first).saturating_add(NAME).min(rest);
    let piece = buffer.get_mut(..usize::try_from(len).ok()?)?;
    let read = file.read_into(table.0.checked_add(first)?, piece).ok()?;
    Names::read(dynamic, &Piece { bytes: &piece[..read], start: first, size }).ok()
}

/// What is known of a file by whoever has read the very same one before: pieces of it, empty where they are not known.
pub(crate) struct Known<'a> {
    pub(crate) names: Names,
    /// Its start, as far as its headers go.
    pub(crate) head: &'a [u8],
    /// Its dynamic section.
    pub(crate) dynamic: &'a [u8],
    /// Its arrays of functions to run, and where in the file they begin.
    pub(crate) arrays: (u64, &'a [u8]),
}

/// Pieces of one file that are kept for whoever opens the same: header, dynamic section, arrays of functions to run and where
/// they begin.
#[cfg(feature = "snapshots")]
pub(crate) type Pieces = (Vec<u8>, Vec<u8>, (u64, Vec<u8>));

/// Bytes of a piece that is worth being kept.
#[cfg(feature = "snapshots")]
const KEPT_MAX: u64 = 4096;

/// What others can know of the file of `image`.
#[cfg(feature = "snapshots")]
pub(crate) fn pieces(image: &Image) -> Pieces {
    let read = |range: Range<u64>| {
        let len = range.end.checked_sub(range.start).filter(|len| *len <= KEPT_MAX)? as usize;
        image.file().read(range.start, len).ok().filter(|bytes| bytes.len() == len)
    };
    let head = read(0..image.header().headers_end()).unwrap_or_default();
    let section = image.dynamic_header().and_then(|at| Some(at.offset..at.offset.checked_add(at.file_size)?));
    let arrays = image.dynamic().and_then(|dynamic| arrays(dynamic, image.segments()));
    let start = arrays.as_ref().map_or(0, |range| range.start);
    (head, section.and_then(read).unwrap_or_default(), (start, arrays.and_then(read).unwrap_or_default()))
}

/// The bytes of a piece of the file, which begins at `start`, that have the arrays of functions to run; and where they begin.
pub(super) fn arrays_in(start: u64, piece: &[u8], dynamic: &Dynamic, segments: &[Segment]) -> Option<Arrays> {
    let all = arrays(dynamic, segments)?;
    let within = |at: u64| usize::try_from(at.checked_sub(start)?).ok();
    let bytes = piece.get(within(all.start)?..within(all.end)?)?;
    Some((all.start, bytes.into()))
}

/// Bytes of a file with its arrays of functions to run, and where in it they begin.
pub(super) type Arrays = (u64, SmallVec<[u8; 32]>);

/// Where in the file the arrays of functions to run are, and all between them.
fn arrays(dynamic: &Dynamic, segments: &[Segment]) -> Option<Range<u64>> {
    let arrays = [
        (dynamic.init_array.get(), dynamic.init_arraysz.get()),
        (dynamic.fini_array.get(), dynamic.fini_arraysz.get()),
    ];
    let place = |(at, len): (Option<u64>, Option<u64>)| {
        let first = locate(segments, Vaddr(at?))?.0.0;
        Some((first, first.checked_add(len?)?))
    };
    let around = |(first, end): (u64, u64), place: (u64, u64)| (first.min(place.0), end.max(place.1));
    let (first, end) = arrays.into_iter().filter_map(place).fold((u64::MAX, 0), around);
    (first < end).then_some(first..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::image::Image;

    #[test]
    fn names_that_are_read_in_one_piece_are_those_of_the_whole_table() {
        let libraries = std::fs::read_dir(env!("SOLOAD_TEST_LIBS")).unwrap();
        let mut in_one_piece = 0;
        for path in libraries.map(|entry| entry.unwrap().path()) {
            let Ok(image) = Image::open(&path) else { continue };
            let Some(at) = image.dynamic_header() else { continue };
            let entries = image.header().dynamic_entries(image.view().bytes(), at.offset, at);
            let dynamic = Dynamic::collect(entries.unwrap()).unwrap();
            if let Some(names) = names_in_piece(&dynamic, image.segments(), image.file(), &mut [0; 1024]) {
                in_one_piece += 1;
                assert_eq!(format!("{names:?}"), format!("{:?}", image.names()), "{}", path.display());
            }
        }
        assert!(in_one_piece > 20, "{in_one_piece}");
    }

    #[test]
    fn a_name_that_a_piece_does_not_end_is_none() {
        let piece = Piece { bytes: b"libc.so.6\0libm", start: 100, size: 1000 };
        assert_eq!(piece.string(100).as_deref(), Some(&b"libc.so.6"[..]));
        assert_eq!(piece.string(103).as_deref(), Some(&b"c.so.6"[..]));
        assert_eq!((piece.string(110), piece.string(99), piece.string(200)), (None, None, None));
    }
}
