//! Experiments about what several processes see of one file: the same page, copies, changes, and a file that changes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::experiment::{Area, Companion, Writes, dirty_pages, signal_of};
use super::pages::{Page, PageMap, PageState};
use super::prove::{Scratch, Seen, page_size, pages};
use crate::addr::Addr;

const NEEDS_ROOT: &str = "the kernel tells frame numbers only to root";
const PAGES: usize = 16;

/// A second process that has mapped the file somewhere else and read its first page; its answer is the address.
fn second(file: &File) -> io::Result<Companion> {
    let file = file.try_clone()?;
    let first = move || {
        // Something in between, so that the address is not the same one.
        let gap = Area::map(file.as_fd(), 3 * page_size(), Writes::Refused);
        let area = Area::map(file.as_fd(), PAGES * page_size(), Writes::Private);
        if let Ok(area) = &area {
            area.read(0);
        }
        (area.as_ref().map_or(0, |area| area.range().start.0 as u64), (gap, area))
    };
    Companion::start(first, |(_gap, area)| area.map_or(0, |area| area.read(0).into()))
}

fn page_of(process: u32, address: u64) -> io::Result<Page> {
    let at = Addr(address as usize);
    let map = PageMap::of_process(process, at..Addr(at.0 + 1)).map_err(|error| io::Error::other(format!("{error}")))?;
    Ok(map.pages[0])
}

fn mapped(scratch: &Scratch) -> io::Result<(File, Area)> {
    let len = PAGES * page_size();
    drop(scratch.file(len)?);
    let file = OpenOptions::new().read(true).write(true).open(scratch.path("file"))?;
    let area = Area::map(file.as_fd(), len, Writes::Private)?;
    area.read(0);
    Ok((file, area))
}

pub(super) fn same_frame(scratch: &Scratch) -> io::Result<Seen> {
    let (file, area) = mapped(scratch)?;
    let alone = pages(&area)?[0];
    let other = second(&file)?;
    let (ours, theirs) = (pages(&area)?[0], page_of(other.id(), other.answer)?);
    let addresses = format!("{} here, {:#x} there", area.range().start, other.answer);
    Ok(match (ours.frame, theirs.frame) {
        (Some(one), Some(two)) => {
            let differ = area.range().start.0 as u64 != other.answer;
            Seen::whether(one == two && differ, format!("{addresses}: frames {one:#x} and {two:#x}"))
        }
        _ => {
            let holds = alone.exclusive && !ours.exclusive && !theirs.exclusive;
            let measured = format!(
                "{addresses}: exclusive {} alone, {} and {} with the second (frame numbers need root)",
                alone.exclusive, ours.exclusive, theirs.exclusive
            );
            Seen::whether(holds, measured)
        }
    })
}

pub(super) fn frame_and_offset(scratch: &Scratch) -> io::Result<Seen> {
    const OFFSET: usize = 0x123;
    let (file, area) = mapped(scratch)?;
    file.write_all_at(b"!", OFFSET as u64)?;
    let other = second(&file)?;
    let (ours, theirs) = (pages(&area)?[0], page_of(other.id(), other.answer)?);
    let (Some(one), Some(two)) = (ours.frame, theirs.frame) else {
        return Ok(Seen::cannot(NEEDS_ROOT, format!("the byte at offset {OFFSET:#x} is the same in both processes")));
    };
    let physical = |frame: u64| frame * page_size() as u64 + OFFSET as u64;
    let (one, two) = (physical(one.get()), physical(two.get()));
    let measured =
        format!("{} + {OFFSET:#x} is {one:#x} in memory, from the other process {two:#x}", area.range().start);
    Ok(Seen::whether(one == two && area.read(OFFSET) == b'!', measured))
}

pub(super) fn copy_on_write(scratch: &Scratch) -> io::Result<Seen> {
    let (file, mut area) = mapped(scratch)?;
    area.read(page_size());
    let mut other = second(&file)?;
    let before = pages(&area)?;
    area.write(0, b'!');
    let after = pages(&area)?;
    let mut on_disk = [0];
    file.read_exact_at(&mut on_disk, 0)?;
    let there = other.ask()? as u8;
    let moved = match (before[0].frame, after[0].frame) {
        (Some(from), Some(to)) => format!("frame {from:#x} became {to:#x}; "),
        _ => String::new(),
    };
    let measured = format!(
        "{moved}here '{}', in the file '{}', in the other process '{}'; the next page is still the file's",
        char::from(area.read(0)),
        char::from(on_disk[0]),
        char::from(there)
    );
    let copied = after[0].state == PageState::Copied && before[0].state != PageState::Copied;
    let others = on_disk == [b'A'] && there == b'A' && after[1].state != PageState::Copied;
    Ok(Seen::whether(
        copied && others && area.read(0) == b'!' && (moved.is_empty() || before[0].frame != after[0].frame),
        measured,
    ))
}

pub(super) fn shared_writes(scratch: &Scratch) -> io::Result<Seen> {
    let file = scratch.file(PAGES * page_size())?;
    let mut other = {
        let file = file.try_clone()?;
        let map = move || (0, Area::map(file.as_fd(), PAGES * page_size(), Writes::Shared));
        Companion::start(map, |area| area.map_or(0, |area| area.read(0).into()))?
    };
    let mut area = Area::map(file.as_fd(), PAGES * page_size(), Writes::Shared)?;
    area.write(0, b'!');
    let mut read = [0];
    file.read_exact_at(&mut read, 0)?;
    let there = other.ask()?;
    let dirty = dirty_pages(&file);
    area.sync()?;
    let clean = dirty_pages(&file);
    let waiting = match (dirty, clean) {
        (Some(dirty), Some(clean)) => format!("; waiting for the disk: {dirty} of {PAGES} pages, after msync {clean}"),
        _ => String::new(),
    };
    let measured =
        format!("read() gives '{}', the other process '{}'{waiting}", char::from(read[0]), char::from(there as u8));
    Ok(Seen::whether(read == *b"!" && there == u64::from(b'!'), measured))
}

pub(super) fn truncated(scratch: &Scratch) -> io::Result<Seen> {
    let (file, mut area) = mapped(scratch)?;
    let page = page_size();
    area.write(5 * page, b'!');
    area.read(6 * page);
    file.set_len(2 * page as u64 + 100)?;
    let (past, copied) = (signal_of(&area, 6 * page)?, signal_of(&area, 5 * page)?);
    let (kept, rest) = (area.read(2 * page), area.read(2 * page + 200));
    let name = |signal| if signal == libc::SIGBUS { "SIGBUS".to_owned() } else { format!("signal {signal}") };
    let measured = format!(
        "past the end: {}; a page that was copied before: {}; rest of the last page: {rest}",
        name(past),
        if copied == 0 { "still there".into() } else { name(copied) }
    );
    Ok(Seen::whether(past == libc::SIGBUS && kept == b'A' && rest == 0, measured))
}

pub(super) fn overwritten(scratch: &Scratch) -> io::Result<Seen> {
    let (file, mut area) = mapped(scratch)?;
    let page = page_size();
    area.write(page, b'm'); // copied
    area.read(2 * page); // not copied
    let before = file.metadata()?;
    // Time stamps move in ticks of the kernel's clock.
    std::thread::sleep(std::time::Duration::from_millis(20));
    file.write_all_at(b"Z", page as u64 + 1)?;
    file.write_all_at(b"Z", 2 * page as u64 + 1)?;
    let after = file.metadata()?;
    let (copied, uncopied) = (area.read(page + 1), area.read(2 * page + 1));
    let stamp = |meta: &fs::Metadata| (meta.mtime(), meta.mtime_nsec());
    let noticed = stamp(&before) != stamp(&after) && before.ino() == after.ino();
    fs::write(scratch.path("new"), b"another file")?;
    fs::rename(scratch.path("new"), scratch.path("file"))?;
    let (still, other) = (area.read(3 * page), fs::metadata(scratch.path("file"))?.ino() != after.ino());
    let measured = format!(
        "in place: an uncopied page reads '{}', a copied one '{}', mtime moved: {noticed}; replaced by rename: '{}'",
        char::from(uncopied),
        char::from(copied),
        char::from(still)
    );
    Ok(Seen::whether(uncopied == b'Z' && copied == b'A' && noticed && still == b'A' && other, measured))
}
