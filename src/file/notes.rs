//! Notes: small records that tools leave in a file, read from the program headers alone.

use std::ops::Range;

use super::image::Image;
use super::segments::NoteSegment;
use super::view::ByteOrder;

const NT_GNU_BUILD_ID: u32 = 3;

/// What the owner `FDO` calls a note of what is opened at run time (systemd's "ELF Dlopen Metadata").
const NT_FDO_DLOPEN_METADATA: u32 = 0x407c_0c0a;
const NT_ANDROID_IDENT: u32 = 1;

/// One note.
pub(crate) struct Note<'a> {
    pub(crate) owner: &'a [u8],
    pub(crate) kind: u32,
    pub(crate) content: &'a [u8],
}

/// Calls `each` with every note of the image (gABI chapter 5, "Note Section"), until it answers.
pub(crate) fn find<T>(image: &Image, each: impl FnMut(Note<'_>) -> Option<T>) -> Option<T> {
    find_in(image.note_segments(), image.byte_order(), |range| part(image.view().bytes(), range), each)
}

/// A part of some bytes.
pub(super) fn part(bytes: &[u8], range: Range<u64>) -> Option<&[u8]> {
    bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

/// The same with the file's bytes as `read` gives them.
fn find_in<T, B: AsRef<[u8]>>(
    segments: &[NoteSegment],
    order: ByteOrder,
    read: impl Fn(Range<u64>) -> Option<B>,
    mut each: impl FnMut(Note<'_>) -> Option<T>,
) -> Option<T> {
    let of = |segment: &NoteSegment| in_segment(read(segment.range.clone())?.as_ref(), order, segment.align, &mut each);
    segments.iter().find_map(of)
}

/// The same for the notes of one segment, whose alignment is `align`.
pub(super) fn in_segment<'b, T>(
    bytes: &'b [u8],
    order: ByteOrder,
    align: u64,
    each: &mut impl FnMut(Note<'b>) -> Option<T>,
) -> Option<T> {
    let number = |at: u64| {
        let bytes = *bytes.get(usize::try_from(at).ok()?..)?.first_chunk()?;
        Some(if order == ByteOrder::Little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    // Names and contents are padded to 4 bytes, in a segment of 8-byte alignment to 8.
    let pad = |size: u64| if align == 8 { size.next_multiple_of(8) } else { size.next_multiple_of(4) };
    let mut at = 0;
    while let (Some(name), Some(size), Some(kind)) = (number(at), number(at + 4), number(at + 8)) {
        let name_at = at + 12;
        let content_at = at + pad(12 + u64::from(name));
        let owner = part(bytes, name_at..name_at + u64::from(name))?;
        let content = part(bytes, content_at..content_at + u64::from(size))?;
        let owner = owner.strip_suffix(&[0]).unwrap_or(owner);
        if let found @ Some(_) = each(Note { owner, kind, content }) {
            return found;
        }
        at = content_at + pad(size.into());
    }
    None
}

/// The build id, if it stands in `bytes`, the first ones of the file.
pub(super) fn build_id<'b>(segments: &[NoteSegment], bytes: &'b [u8], order: ByteOrder) -> Option<&'b [u8]> {
    segments.iter().find_map(|notes| build_id_in(part(bytes, notes.range.clone())?, order, notes.align))
}

/// The build id among the notes of one segment, whose alignment is `align`.
pub(crate) fn build_id_in(bytes: &[u8], order: ByteOrder, align: u64) -> Option<&[u8]> {
    in_segment(bytes, order, align, &mut |note| {
        (note.owner == b"GNU" && note.kind == NT_GNU_BUILD_ID).then_some(note.content)
    })
}

/// What notes say that the object opens at run time (JSON, as it stands), and whether one says that it is for Android.
pub(super) fn of_loading<B: AsRef<[u8]>>(
    segments: &[NoteSegment],
    order: ByteOrder,
    read: impl Fn(Range<u64>) -> Option<B>,
) -> (Vec<Box<[u8]>>, bool) {
    let (mut opens, mut android) = (Vec::new(), false);
    find_in(segments, order, read, |note| {
        match (note.owner, note.kind) {
            (b"FDO", NT_FDO_DLOPEN_METADATA) => {
                opens.push(note.content.strip_suffix(&[0]).unwrap_or(note.content).into());
            }
            (b"Android", NT_ANDROID_IDENT) => android = true,
            _ => {}
        }
        None::<()>
    });
    (opens, android)
}
