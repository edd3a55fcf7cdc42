//! Notes: small records that tools leave in a file, read from the program headers alone.

use std::ops::Range;

use super::image::Image;
use super::segments::NoteSegment;
use super::view::{ByteOrder, Class, View};

const NT_GNU_BUILD_ID: u32 = 3;

/// What the owner `FDO` calls a note of what is opened at run time (systemd's "ELF Dlopen Metadata").
const NT_FDO_DLOPEN_METADATA: u32 = 0x407c_0c0a;
const NT_ANDROID_IDENT: u32 = 1;

/// One note.
pub(crate) struct Note<'a> {
    pub(crate) owner: &'a [u8],
    pub(crate) kind: u32,
    pub(crate) content: View,
}

/// Calls `each` with every note of the image (gABI chapter 5, "Note Section"), until it answers.
pub(crate) fn find<T>(image: &Image, each: impl FnMut(Note<'_>) -> Option<T>) -> Option<T> {
    find_in(image.note_segments(), |range| image.view().slice(range), each)
}

/// The same with the file's bytes as `read` gives them.
fn find_in<T>(
    segments: &[NoteSegment],
    read: impl Fn(Range<u64>) -> Option<View>,
    mut each: impl FnMut(Note<'_>) -> Option<T>,
) -> Option<T> {
    segments.iter().find_map(|segment| in_segment(&read(segment.range.clone())?, segment.align, &mut each))
}

/// The same for the notes of one segment, whose alignment is `align`.
fn in_segment<T>(view: &View, align: u64, each: &mut impl FnMut(Note<'_>) -> Option<T>) -> Option<T> {
    // Names and contents are padded to 4 bytes, in a segment of 8-byte alignment to 8.
    let pad = |size: u64| if align == 8 { size.next_multiple_of(8) } else { size.next_multiple_of(4) };
    let mut at = 0;
    while let (Some(name), Some(size), Some(kind)) = (view.u32(at), view.u32(at + 4), view.u32(at + 8)) {
        let name_at = at + 12;
        let content_at = at + pad(12 + u64::from(name));
        let owner = view.bytes().get(name_at as usize..(name_at + u64::from(name)) as usize)?;
        let content = view.slice(content_at..content_at + u64::from(size))?;
        let owner = owner.strip_suffix(&[0]).unwrap_or(owner);
        if let found @ Some(_) = each(Note { owner, kind, content }) {
            return found;
        }
        at = content_at + pad(size.into());
    }
    None
}

pub(super) fn build_id(image: &Image) -> Option<Vec<u8>> {
    find(image, build_id_of)
}

/// The build id, if it stands in the first bytes of the file.
pub(super) fn build_id_in_head(notes: &[NoteSegment], head: &[u8], class: Class, order: ByteOrder) -> Option<Vec<u8>> {
    let of_head = |range: Range<u64>| head.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
    find_in(notes, |range| Some(View::new(of_head(range)?.to_vec().into(), class, order)), build_id_of)
}

/// The build id among the notes of one segment, whose alignment is `align`.
#[cfg(feature = "snapshots")]
pub(crate) fn build_id_in(view: &View, align: u64) -> Option<Vec<u8>> {
    in_segment(view, align, &mut build_id_of)
}

fn build_id_of(note: Note<'_>) -> Option<Vec<u8>> {
    (note.owner == b"GNU" && note.kind == NT_GNU_BUILD_ID).then(|| note.content.bytes().to_vec())
}

/// What notes say that the object opens at run time (JSON, as it stands), and whether one says that it is for Android.
pub(super) fn of_loading(
    segments: &[NoteSegment],
    read: impl Fn(Range<u64>) -> Option<View>,
) -> (Vec<Box<[u8]>>, bool) {
    let (mut opens, mut android) = (Vec::new(), false);
    find_in(segments, read, |note| {
        match (note.owner, note.kind) {
            (b"FDO", NT_FDO_DLOPEN_METADATA) => {
                let text = note.content.bytes();
                opens.push(text.strip_suffix(&[0]).unwrap_or(text).into());
            }
            (b"Android", NT_ANDROID_IDENT) => android = true,
            _ => {}
        }
        None::<()>
    });
    (opens, android)
}
