//! Where a file that is read is going to be mapped, so that it is read there: the room for it, and the pieces in that.

use super::plan::{Plan, PlannedMap};
use crate::addr::{PageSize, Vaddr};
use crate::sys::{Piece, Room};

/// The room in which every segment's part of the file can be shown where the object is mapped, if the file is simply mapped
/// there from its start on: its first segment begins with the file, is never written, and stands at the first address.
pub(super) fn in_place(plan: &Plan) -> Option<Room> {
    let (first, len) = (plan.maps().first()?, plan.span.end.0);
    let begins = first.range.start == Vaddr(0) && first.file.is_some_and(|from| from.0 == 0);
    let constant = begins && first.protection.read && !first.protection.write;
    let shown = |map: &PlannedMap| map.file.is_none_or(|from| from.0 + bytes(map) <= len);
    if !constant || plan.align.bytes() > PageSize::HUGE.bytes() || !plan.maps().iter().all(shown) {
        return None;
    }
    let constant = plan.maps().iter().find(|map| map.protection.write).map_or(len, |map| map.range.start.0);
    Some(Room { len, align: plan.align, constant })
}

/// What is mapped into that room, piece by piece, if all that is never written comes first, lies as far in as in the file and
/// has no zeroes behind, what follows has no gap in it, and nothing is both written and executed.
pub(super) fn pieces<'a>(plan: &'a Plan, room: &Room) -> Option<impl Iterator<Item = Piece> + Clone + 'a> {
    let mut end = Vaddr(0);
    let simple = |map: &PlannedMap| {
        let follows =
            std::mem::replace(&mut end, map.range.end) == map.range.start || map.range.start.0 <= room.constant;
        let fits = match map.protection.write {
            true => map.range.start.0 >= room.constant && !map.protection.execute,
            false => map.range.end.0 <= room.constant && map.file.is_some_and(|from| from.0 == map.range.start.0),
        };
        follows && fits && map.protection.read
    };
    let zeros = plan.zeros().first().is_some_and(|zeros| zeros.start.0 < room.constant);
    let piece = |map: &PlannedMap| Piece {
        range: map.range.start.0..map.range.end.0,
        from: map.file.map(|from| from.0),
        protection: map.protection,
    };
    (plan.maps().iter().all(simple) && !zeros).then(|| plan.maps().iter().map(piece))
}

fn bytes(map: &PlannedMap) -> u64 {
    map.range.end.0 - map.range.start.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{FileOffset, Protection};
    use crate::file::segments::Segment;

    /// Flags, offset, address, size in the file and in memory.
    type Load<'a> = (&'a str, u64, u64, u64, u64);

    /// How much is constant, and how many pieces there are.
    fn pieces_of(segments: &[Load<'_>]) -> Option<(u64, usize)> {
        let segment = |(flags, offset, vaddr, file_size, memory_size): &Load<'_>| {
            let has = |letter| flags.contains(letter);
            let flags = Protection { read: has('r'), write: has('w'), execute: has('x') };
            let (offset, vaddr, align) = (FileOffset(*offset), Vaddr(*vaddr), 0x1000);
            Segment { header: 0, offset, vaddr, file_size: *file_size, memory_size: *memory_size, align, flags }
        };
        let segments: Vec<Segment> = segments.iter().map(segment).collect();
        let plan = Plan::of_segments(&segments, None, PageSize::new(0x1000).unwrap()).unwrap();
        let room = in_place(&plan)?;
        Some((room.constant, pieces(&plan, &room)?.count()))
    }

    #[test]
    fn an_object_is_mapped_piece_by_piece_where_its_constant_part_lies_as_in_the_file() {
        let (text, data) = (("rx", 0x1000, 0x1000, 0x1800, 0x1800), ("rw", 0x2f00, 0x3f00, 0x200, 0x2000));
        let head = ("r", 0, 0, 0x900, 0x900);
        assert_eq!(pieces_of(&[head, text, data]), Some((0x3000, 4)));
        assert_eq!(pieces_of(&[head, text]), Some((0x3000, 2)));
        // What is shown in a gap becomes inaccessible.
        let (behind_gap, gap) = (("rw", 0x2f00, 0x4f00, 0x200, 0x200), ("rw", 0x5f00, 0x7f00, 0x200, 0x200));
        assert_eq!(pieces_of(&[head, text, behind_gap]), Some((0x4000, 3)));
        assert_eq!(pieces_of(&[head, ("rx", 0x2000, 0x2000, 0x1800, 0x1800), behind_gap]), Some((0x4000, 3)));
        let moved = ("rx", 0x2000, 0x1000, 0x1800, 0x1800);
        let zeroes = ("rx", 0x1000, 0x1000, 0x1000, 0x1800);
        let few_zeroes = ("rx", 0x1000, 0x1000, 0x1800, 0x1900);
        let page_of_zeroes = ("rx", 0x1000, 0x1000, 0x1000, 0x2000);
        let both = ("rwx", 0x2f00, 0x3f00, 0x200, 0x200);
        let unread = ("x", 0x1000, 0x1000, 0x1800, 0x1800);
        let behind = ("r", 0x4000, 0x6000, 0x100, 0x100);
        for segments in [
            [head, behind_gap, gap],
            [head, moved, data],
            [head, zeroes, data],
            [head, few_zeroes, data],
            [head, page_of_zeroes, data],
            [head, text, both],
            [head, unread, data],
            [text, data, behind],
        ] {
            assert_eq!(pieces_of(&segments), None, "{segments:x?}");
        }
        assert_eq!(pieces_of(&[head, text, data, behind]), None);
    }
}
