//! Where an image keeps its unwind information, and whether it ends as unwinders need it to.

use super::Source;
use super::image::Image;
use super::view::View;
use crate::addr::Vaddr;

/// `DW_EH_PE_pcrel | DW_EH_PE_sdata4`: how every linker encodes the pointer to `.eh_frame` (LSB core, "`.eh_frame_hdr`").
const PC_RELATIVE_4: u8 = 0x1b;

/// The same of the number of entries, `DW_EH_PE_udata4`, and of the entries, `DW_EH_PE_datarel | DW_EH_PE_sdata4`.
const PLAIN_4: u8 = 0x03;
const INDEX_RELATIVE_4: u8 = 0x3b;

/// Bytes of records that are followed at most behind the one that the index has last.
const FEW: u64 = 16 << 10;

/// The address of `.eh_frame`, if it is sure to end with a terminator.
///
/// Its size stands in no program header. Those records are followed that stand behind the one that the index has last, which
/// is mostly the last one; if there are many of them, the section headers tell where they end, if those have not been
/// stripped.
pub(super) fn find(image: &Image, source: &dyn Source) -> Option<Vaddr> {
    let index = image.eh_frame_header()?;
    let header = source.table(index, Some(8))?;
    if header.u8(0)? != 1 || header.u8(1)? != PC_RELATIVE_4 {
        return None;
    }
    // Relative to the field itself, four bytes into the index.
    let distance = i64::from(header.u32(4)? as i32);
    let start = Vaddr(index.0.wrapping_add(4).wrapping_add_signed(distance));
    let records = source.table(start, None)?;
    let last = last_of_index(&header, index, source).and_then(|last| last.0.checked_sub(start.0));
    let ends = last.is_some_and(|last| terminated(&records, last, FEW) == Some(true))
        || match if records.len() > FEW { image.section_size(start) } else { None } {
            // Out of the file: its page is not wanted in memory until something is thrown.
            Some(size) => {
                let last = size.checked_sub(4).filter(|last| *last < records.len())?;
                *image.bytes_at(start.checked_add(last)?, 4)? == [0; 4]
            }
            None => terminated(&records, 0, u64::MAX)?,
        };
    ends.then_some(start)
}

/// The address of the record that stands last in the index at `at`.
fn last_of_index(header: &View, at: Vaddr, source: &dyn Source) -> Option<Vaddr> {
    if header.u8(2)? != PLAIN_4 || header.u8(3)? != INDEX_RELATIVE_4 {
        return None;
    }
    let count = source.table(at.checked_add(8)?, Some(4))?.u32(0)?;
    let last = at.checked_add(12 + 8 * u64::from(count.checked_sub(1)?))?;
    let distance = source.table(last.checked_add(4)?, Some(4))?.u32(0)? as i32;
    Some(Vaddr(at.0.wrapping_add_signed(distance.into())))
}

/// Whether the records from `at` on lead to a terminator, if that can be told from `most` bytes.
fn terminated(records: &View, mut at: u64, most: u64) -> Option<bool> {
    let end = at.saturating_add(most);
    while at < end {
        // A length of 0 is the terminator; 0xffffffff announces a 64-bit one.
        match records.u32(at)? {
            0 => return Some(true),
            u32::MAX => at = at.checked_add(12)?.checked_add(records.u64(at + 4)?)?,
            length => {
                // What it belongs to stands before it, or it is one that others belong to (0). Where there is no terminator,
                // what follows is something else: to take that for records would lead anywhere.
                if u64::from(records.u32(at + 4)?) > at + 4 {
                    return Some(false);
                }
                at += 4 + u64::from(length);
            }
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::view::{ByteOrder, Class};

    #[test]
    fn what_follows_records_without_a_terminator_is_not_taken_for_records() {
        // A record that others belong to, and one that belongs to it; each has eight bytes after its length.
        let records = [8, 0, 0, 8, 16, 0];
        let ends = |more: &[u32], at| {
            let words = records.iter().chain(more).flat_map(|word| word.to_le_bytes());
            let bytes: Vec<u8> = words.collect();
            terminated(&View::new(bytes.into(), Class::Elf64, ByteOrder::Little), at, u64::MAX)
        };
        assert_eq!((ends(&[0], 0), ends(&[0], 12)), (Some(true), Some(true)));
        assert_eq!(ends(&[8, 1 << 20, 0, 0], 0), Some(false), "it belongs to what stands far behind it");
        assert_eq!(ends(&[1 << 20, 1, 0], 0), None, "it ends nowhere");
        assert_eq!(ends(&[], 0), None);
    }
}
