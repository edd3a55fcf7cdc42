//! Where an image keeps its unwind information, and whether it ends as unwinders need it to.

use super::Source;
use super::image::Image;
use crate::addr::Vaddr;

/// `DW_EH_PE_pcrel | DW_EH_PE_sdata4`: how every linker encodes the pointer to `.eh_frame` (LSB core, "`.eh_frame_hdr`").
const PC_RELATIVE_4: u8 = 0x1b;

/// Bytes of records up to which it is quicker to follow them than to ask the section headers.
const FEW: u64 = 16 << 10;

/// The address of `.eh_frame`, if it is sure to end with a terminator.
///
/// Its size stands in no program header. The section headers tell it where they have not been stripped; otherwise the
/// records are followed to the end.
pub(super) fn find(image: &Image, source: &impl Source) -> Option<Vaddr> {
    let index = image.eh_frame_header()?;
    let header = source.table(index.vaddr, Some(8))?;
    if header.u8(0)? != 1 || header.u8(1)? != PC_RELATIVE_4 {
        return None;
    }
    // Relative to the field itself, four bytes into the index.
    let distance = i64::from(header.u32(4)? as i32);
    let start = Vaddr(index.vaddr.0.wrapping_add(4).wrapping_add_signed(distance));
    let records = source.table(start, None)?;
    if records.len() > FEW
        && let Some(size) = image.section_size(start)
    {
        // Out of the file: its page is not wanted in memory until something is thrown.
        let last = image.bytes_at(start.checked_add(size.checked_sub(4).filter(|last| *last < records.len())?)?, 4)?;
        return (last == [0; 4]).then_some(start);
    }
    let mut at = 0u64;
    loop {
        // A length of 0 is the terminator; 0xffffffff announces a 64-bit one.
        match records.u32(at)? {
            0 => return Some(start),
            u32::MAX => at = at.checked_add(12)?.checked_add(records.u64(at + 4)?)?,
            length => at += 4 + u64::from(length),
        }
    }
}
