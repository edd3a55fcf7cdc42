//! The probes for SystemTap that an ld.so may have: places in its code, each named by a note that is in the file and not in
//! memory (`.note.stapsdt`).

use std::path::Path;

use super::elf::{Header, ProgramHeader, segment_type};
use super::notes::{self, Note};
use super::view::{ByteOrder, Class, View};
use crate::addr::Vaddr;
use crate::sys::RegularFile;

const SHT_NOTE: u32 = 7;
const NT_STAPSDT: u32 = 3;

/// What the notes take at least: glibc has eight (`elf/rtld.c`, `dl-load.c`, `dl-open.c`, `dl-close.c`), of 70 bytes and more.
const NOTES_MIN: u64 = 512;

/// What is read at most: an ld.so with all its debugging information has 2 MiB that are not in memory.
const REST_MAX: u64 = 16 << 20;

/// Where in its code the ld.so at `path` says that objects have been unmapped, if it has probes. `start` are its first bytes:
/// one that has none mostly has no room for them either, and then it is not read.
pub(crate) fn of_unmapping(path: &Path, start: &[u8]) -> Option<Vaddr> {
    let header = Header::read_start(start, u64::MAX).ok().filter(Header::is_native)?;
    let headers: Vec<ProgramHeader> = header.program_headers(start).ok()?.collect();
    let segments = || headers.iter().filter(|header| header.kind == segment_type::PT_LOAD);
    let loaded = segments().filter_map(ProgramHeader::file_end).max()?;
    let (table, len) = header.section_table()?;
    let before = table.checked_sub(loaded).filter(|before| *before >= NOTES_MIN)?;
    let len = before.checked_add(len as u64).filter(|len| *len <= REST_MAX)?;
    let rest = RegularFile::open(path).ok()?.read(loaded, len as usize).ok()?;
    let at = in_rest(&View::new(rest.into(), Class::NATIVE, ByteOrder::Little), loaded, before)?;
    let has = |segment: &ProgramHeader| segment.vaddr <= at && segment.end().is_some_and(|end| at < end);
    segments().any(|segment| segment.flags.execute && has(segment)).then_some(at)
}

/// The same, by what the file has from `loaded` on: the section headers after `before` bytes of it.
fn in_rest(rest: &View, loaded: u64, before: u64) -> Option<Vaddr> {
    const SECTION: usize = size_of::<libc::Elf64_Shdr>();
    let notes = |section: u64| {
        let [at, size] = [rest.u64(section + 24)?, rest.u64(section + 32)?];
        let at = at.checked_sub(loaded)?;
        rest.slice(at..at.checked_add(size)?).filter(|_| rest.u32(section + 4) == Some(SHT_NOTE))
    };
    let mut of_unmapping = |note: Note<'_>| {
        let (numbers, names) = note.content.split_at_checked(24)?;
        let is_it = (note.owner, note.kind) == (b"stapsdt", NT_STAPSDT) && names.starts_with(b"rtld\0unmap_complete\0");
        Some(Vaddr(u64::from_le_bytes(*numbers.first_chunk()?))).filter(|_| is_it)
    };
    let mut sections = (before..rest.len()).step_by(SECTION).filter_map(notes);
    sections.find_map(|notes| notes::in_segment(notes.bytes(), notes.order, 4, &mut of_unmapping))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::file::image::Image;

    /// What is not in memory of the fixture: its bytes, where they begin, and how many there are before the section headers.
    fn rest(file: &[u8]) -> (Vec<u8>, u64, u64) {
        let header = Header::read(file).unwrap();
        let loads = header.program_headers(file).unwrap().filter(|header| header.kind == segment_type::PT_LOAD);
        let loaded = loads.filter_map(|header| header.file_end()).max().unwrap();
        (file[loaded as usize..].to_vec(), loaded, header.section_table().unwrap().0 - loaded)
    }

    fn view(bytes: Vec<u8>) -> View {
        View::new(bytes.into(), Class::NATIVE, ByteOrder::Little)
    }

    #[test]
    fn the_place_is_the_one_that_the_note_of_that_name_has() {
        let path = Path::new(env!("SOLOAD_TEST_LIBS")).join("libprobe.so");
        let file = fs::read(&path).unwrap();
        let exported = Image::open(&path).unwrap().exported_addresses().unwrap();
        let (at, _) = exported.into_iter().find(|(_, name)| name == b"after_unmapping").unwrap();
        assert_eq!(of_unmapping(&path, &file), Some(at));

        let (mut rest, loaded, before) = rest(&file);
        assert_eq!(in_rest(&view(rest.clone()), loaded, before), Some(at));
        // Whatever the note says, nobody looks outside of the code.
        let place = rest.windows(8).position(|window| window == at.0.to_le_bytes()).unwrap();
        rest[place..place + 8].copy_from_slice(&(loaded + 0x7000_0000).to_le_bytes());
        let folder = tempfile::tempdir().unwrap();
        let damaged = folder.path().join("libprobe.so");
        fs::write(&damaged, [&file[..loaded as usize], &rest].concat()).unwrap();
        assert_eq!(of_unmapping(&damaged, &file), None);
    }

    #[test]
    fn a_file_that_is_cut_or_damaged_has_the_probe_there_or_none() {
        let path = Path::new(env!("SOLOAD_TEST_LIBS")).join("libprobe.so");
        let file = fs::read(&path).unwrap();
        let (rest, loaded, before) = rest(&file);
        for len in 0..rest.len() {
            in_rest(&view(rest[..len].to_vec()), loaded, before);
        }
        for at in 0..rest.len() {
            let mut damaged = rest.clone();
            damaged[at] = !damaged[at];
            in_rest(&view(damaged), loaded, before);
        }
        assert_eq!(of_unmapping(&path, &file[..100]), None);
    }

    #[test]
    fn the_loader_of_this_process_has_the_probe_if_its_file_names_it() {
        let path = Path::new("/lib64/ld-linux-x86-64.so.2");
        let file = fs::read(path).unwrap();
        let names = file.windows(20).any(|window| window == b"rtld\0unmap_complete\0");
        assert_eq!(of_unmapping(path, &file[..4096]).is_some(), names);
    }
}
