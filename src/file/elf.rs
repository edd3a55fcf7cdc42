//! The only place that names goblin: its readers of headers, turned into our own checked values.

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{
    EI_ABIVERSION, EI_CLASS, EI_DATA, EI_OSABI, EI_VERSION, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFDATA2MSB, ELFMAG,
};
pub(crate) use goblin::elf::header::{EM_MIPS, ET_DYN, ET_EXEC};
use goblin::elf::program_header::ProgramHeader as Raw;
use goblin::elf::section_header::SectionHeader;
pub(crate) use goblin::elf::{dynamic as tag, program_header as segment_type};
use scroll::Pread;

use super::view::{ByteOrder, Class, View};
use crate::addr::{FileOffset, Protection, Vaddr};
use crate::arch::Machine;
use crate::error::{At, ErrorKind, Escaped};

/// Program headers in one file: the kernel accepts no more than fit 64 KiB (`load_elf_phdrs`).
const HEADERS_MAX: u64 = 1170;

/// Entries of a dynamic section: the widest real closure has some hundreds of needed libraries.
const DYNAMIC_MAX: u64 = 65_536;

/// The ELF header, as far as loading goes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) class: Class,
    pub(crate) order: ByteOrder,
    pub(crate) machine: u16,
    pub(crate) kind: u16,
    /// Which system's extensions it may use (`EI_OSABI`).
    os_abi: u8,
    /// How many of those it needs to be known (`EI_ABIVERSION`).
    abi_version: u8,
    /// `e_flags`: of some machines, which calling convention.
    pub(crate) flags: u32,
    table: FileOffset,
    count: u16,
    sections: FileOffset,
    section_count: u16,
}

/// One program header as it stands: an allegation about bytes of the file and of the image.
///
/// ```
/// let outline = soload::Outline::open("/proc/self/exe".as_ref())?;
/// let headers = outline.program_headers?;
/// assert!(headers.iter().all(|header| header.file_size <= header.memory_size));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProgramHeader {
    /// Its place in the table.
    pub index: usize,
    /// Where the header itself stands in the file.
    pub at: FileOffset,
    /// `p_type`.
    pub kind: u32,
    /// `p_flags`.
    pub flags: Protection,
    /// `p_offset`.
    pub offset: u64,
    /// `p_vaddr`.
    pub vaddr: Vaddr,
    /// `p_filesz`, in bytes.
    pub file_size: u64,
    /// `p_memsz`, in bytes.
    pub memory_size: u64,
    /// `p_align`, in bytes.
    pub align: u64,
}

impl Header {
    /// Reads the header at the start of a whole file, whatever machine it is for.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ErrorKind> {
        Self::read_start(bytes, bytes.len() as u64)
    }

    /// The same of a file of `size` bytes, of which `bytes` are the first.
    pub(crate) fn read_start(bytes: &[u8], size: u64) -> Result<Self, ErrorKind> {
        let ident = bytes.get(..16).filter(|ident| ident.starts_with(ELFMAG)).ok_or_else(|| not_elf(bytes))?;
        let class = match ident[EI_CLASS] {
            ELFCLASS32 => Class::Elf32,
            ELFCLASS64 => Class::Elf64,
            other => return Err(ErrorKind::malformed("EI_CLASS", At::File(FileOffset(4)), "1 or 2", other)),
        };
        let order = match ident[EI_DATA] {
            ELFDATA2LSB => ByteOrder::Little,
            ELFDATA2MSB => ByteOrder::Big,
            other => return Err(ErrorKind::malformed("EI_DATA", At::File(FileOffset(5)), "1 or 2", other)),
        };
        if ident[EI_VERSION] != 1 {
            return Err(ErrorKind::malformed("EI_VERSION", At::File(FileOffset(6)), 1, ident[EI_VERSION]));
        }
        let cut = || ErrorKind::malformed("ELF header", At::File(FileOffset(0)), "a whole one", "the end of the file");
        let header = goblin::elf::Elf::parse_header(bytes).map_err(|_| cut())?;
        if header.e_version != 1 {
            return Err(ErrorKind::malformed("e_version", At::File(FileOffset(20)), 1, header.e_version));
        }
        let entry = Raw::size(context(class, order));
        // e_phentsize and e_phnum stand at fixed places of each class (gABI chapter 4).
        let (entry_at, count_at) = if class == Class::Elf64 { (0x36, 0x38) } else { (0x2a, 0x2c) };
        if header.e_phnum > 0 && usize::from(header.e_phentsize) != entry {
            let at = At::File(FileOffset(entry_at));
            return Err(ErrorKind::malformed("e_phentsize", at, entry, header.e_phentsize));
        }
        if u64::from(header.e_phnum) > HEADERS_MAX {
            return Err(ErrorKind::Limit {
                what: "program headers (e_phnum)",
                limit: HEADERS_MAX,
                found: header.e_phnum.into(),
            });
        }
        let end = header.e_phoff.checked_add(u64::from(header.e_phnum) * entry as u64);
        if end.is_none_or(|end| end > size) {
            let at = At::File(FileOffset(count_at));
            let expected = format!("a table within the file of {size:#x} bytes");
            return Err(ErrorKind::malformed("program header table", at, expected, format!("{:#x}", header.e_phoff)));
        }
        Ok(Self {
            class,
            order,
            machine: header.e_machine,
            kind: header.e_type,
            os_abi: ident[EI_OSABI],
            abi_version: ident[EI_ABIVERSION],
            flags: header.e_flags,
            table: FileOffset(header.e_phoff),
            count: header.e_phnum,
            sections: FileOffset(header.e_shoff),
            section_count: header.e_shnum,
        })
    }

    /// Whether it is for this system and needs none of its extensions that are unknown (glibc's `VALID_ELF_OSABI` and
    /// `VALID_ELF_ABIVERSION`).
    pub(crate) fn check_system(&self) -> Result<(), ErrorKind> {
        const SYSTEM_V: u8 = 0;
        const GNU: u8 = 3;
        // MIPS counts otherwise, and there System V may need some, too.
        let (known, expected) = match (self.os_abi, self.machine) {
            (SYSTEM_V | GNU, EM_MIPS) => return Ok(()),
            (SYSTEM_V, _) => (0, "0"),
            (GNU, _) => (3, "at most 3"),
            (other, _) => {
                let (what, expected) = ("system (EI_OSABI)", "0 (System V) or 3 (GNU)".into());
                return Err(ErrorKind::Foreign { what, expected, found: other.to_string() });
            }
        };
        if self.abi_version > known {
            let (what, found) = ("version of the system's ABI (EI_ABIVERSION)", self.abi_version.to_string());
            return Err(ErrorKind::Foreign { what, expected: expected.into(), found });
        }
        Ok(())
    }

    /// The program headers of the file this is the header of.
    pub(crate) fn program_headers<'b>(
        &self,
        bytes: &'b [u8],
    ) -> Result<impl Iterator<Item = ProgramHeader> + use<'b>, ErrorKind> {
        let (context, count, at) = (context(self.class, self.order), usize::from(self.count), self.table);
        let size = Raw::size(context);
        let table =
            usize::try_from(at.0).ok().and_then(|at| bytes.get(at..)?.get(..count * size)).ok_or_else(|| {
                ErrorKind::malformed("program header table", At::File(at), "a table within the file", "its end")
            })?;
        Ok((0..count).map_while(move |index| {
            let (start, raw) = (index * size, table.pread_with::<Raw>(index * size, context).ok()?);
            Some(ProgramHeader::of(index, FileOffset(at.0 + start as u64), &raw))
        }))
    }

    /// Tag and value of each entry of the dynamic section, up to `DT_NULL`, out of bytes in which it begins at `start`.
    pub(crate) fn dynamic_entries<'b>(
        &self,
        bytes: &'b [u8],
        start: u64,
        header: &ProgramHeader,
    ) -> Result<impl Iterator<Item = (u64, u64)> + use<'b>, ErrorKind> {
        let limit = DYNAMIC_MAX * 2 * self.class.word();
        if header.file_size > limit {
            return Err(ErrorKind::Limit { what: "bytes of PT_DYNAMIC", limit, found: header.file_size });
        }
        let table = usize::try_from(start).ok().and_then(|start| bytes.get(start..)?.get(..header.file_size as usize));
        let table = table.ok_or_else(|| {
            let expected = "a table of whole entries within the file";
            ErrorKind::malformed("PT_DYNAMIC", At::File(header.at), expected, format!("{:#x}", header.offset))
        })?;
        let (class, order) = (self.class, self.order);
        let entry = move |bytes: &[u8]| {
            let [tag, value] = match (class, order) {
                (Class::Elf64, ByteOrder::Little) => bytes.as_chunks().0.first_chunk()?.map(u64::from_le_bytes),
                (Class::Elf64, ByteOrder::Big) => bytes.as_chunks().0.first_chunk()?.map(u64::from_be_bytes),
                (Class::Elf32, ByteOrder::Little) => {
                    bytes.as_chunks().0.first_chunk()?.map(u32::from_le_bytes).map(u64::from)
                }
                (Class::Elf32, ByteOrder::Big) => {
                    bytes.as_chunks().0.first_chunk()?.map(u32::from_be_bytes).map(u64::from)
                }
            };
            (tag != 0).then_some((tag, value))
        };
        Ok(table.chunks_exact(2 * class.word() as usize).map_while(entry))
    }
}

impl Header {
    /// Whether it is a shared object's for the machine that this process runs on.
    pub(super) fn is_native(&self) -> bool {
        let machine = Machine::native().is_some_and(|native| native.number == self.machine);
        machine && self.class == Class::NATIVE && self.order == ByteOrder::Little && self.kind == ET_DYN
    }

    /// Where the program header table begins in the file.
    pub(crate) fn headers_start(&self) -> u64 {
        self.table.0
    }

    /// Where it ends.
    pub(crate) fn headers_end(&self) -> u64 {
        self.table.0 + u64::from(self.count) * Raw::size(context(self.class, self.order)) as u64
    }

    /// Where the section header table is in the file, and how many bytes it has, if there is one.
    pub(crate) fn section_table(&self) -> Option<(u64, usize)> {
        let len = usize::from(self.section_count) * SectionHeader::size(context(self.class, self.order));
        (self.sections.0 != 0 && len > 0).then_some((self.sections.0, len))
    }

    /// The size of the section at `vaddr`, if `table`, the section header table, says so.
    pub(crate) fn section_size(&self, table: &View, vaddr: Vaddr) -> Option<u64> {
        // Looked through as it stands: to have every section as a value costs more than loading a small library may.
        let (at, size) = if self.class == Class::Elf64 { (16, 32) } else { (12, 20) };
        let entry = SectionHeader::size(context(self.class, self.order)) as u64;
        // Empty sections may stand at the same address.
        let sized = |start: u64| {
            let size = table.word(start + size).filter(|size| *size > 0);
            size.filter(|_| table.word(start + at) == Some(vaddr.0))
        };
        (0..table.len() / entry).find_map(|index| sized(index * entry))
    }
}

impl ProgramHeader {
    fn of(index: usize, at: FileOffset, raw: &Raw) -> Self {
        Self {
            index,
            at,
            kind: raw.p_type,
            flags: Protection {
                read: raw.p_flags & segment_type::PF_R != 0,
                write: raw.p_flags & segment_type::PF_W != 0,
                execute: raw.p_flags & segment_type::PF_X != 0,
            },
            offset: raw.p_offset,
            vaddr: Vaddr(raw.p_vaddr),
            file_size: raw.p_filesz,
            memory_size: raw.p_memsz,
            align: raw.p_align,
        }
    }

    /// As `<elf.h>` lays it out.
    pub(crate) fn raw(&self) -> libc::Elf64_Phdr {
        let flag = |allowed, flag| if allowed { flag } else { 0 };
        let Protection { read, write, execute } = self.flags;
        libc::Elf64_Phdr {
            p_type: self.kind,
            p_flags: flag(read, libc::PF_R) | flag(write, libc::PF_W) | flag(execute, libc::PF_X),
            p_offset: self.offset,
            p_vaddr: self.vaddr.0,
            p_paddr: self.vaddr.0,
            p_filesz: self.file_size,
            p_memsz: self.memory_size,
            p_align: self.align,
        }
    }

    /// A field of this header that cannot be.
    pub(crate) fn malformed(&self, field: &str, expected: impl std::fmt::Display, found: u64) -> ErrorKind {
        let what = format!("{field} of program header {}", self.index);
        ErrorKind::malformed(what, At::File(self.at), expected, format_args!("{found:#x}"))
    }

    /// Where its bytes end in the file.
    pub(crate) fn file_end(&self) -> Option<u64> {
        self.offset.checked_add(self.file_size)
    }

    /// Where it ends in the image.
    pub(crate) fn end(&self) -> Option<Vaddr> {
        self.vaddr.checked_add(self.memory_size)
    }
}

fn context(class: Class, order: ByteOrder) -> Ctx {
    let container = if class == Class::Elf64 { Container::Big } else { Container::Little };
    let endian = if order == ByteOrder::Little { Endian::Little } else { Endian::Big };
    Ctx::new(container, endian)
}

/// Why a file without ELF magic is none.
fn not_elf(bytes: &[u8]) -> ErrorKind {
    // GNU ld scripts are text: a comment that says so, or one of the commands that name libraries.
    let head = &bytes[..bytes.len().min(512)];
    let has = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    if head.starts_with(ELFMAG) {
        return ErrorKind::malformed("ELF header", At::File(FileOffset(0)), "a whole one", "the end of the file");
    }
    if has(b"GNU ld script") || (!head.contains(&0) && [&b"GROUP"[..], b"INPUT", b"OUTPUT_FORMAT"].into_iter().any(has))
    {
        return ErrorKind::LinkerScript { names: script_names(&bytes[..bytes.len().min(4096)]) };
    }
    let found = match head {
        [] => "an empty file".to_owned(),
        _ => format!("\"{}\"", Escaped(&head[..head.len().min(4)])),
    };
    ErrorKind::NotElf { found }
}

/// The first shared library that a linker script names, as a name or path to open.
fn script_names(script: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(script);
    // Comments may name anything.
    let mut parts = text.split("/*");
    let code = parts.next().into_iter().chain(parts.filter_map(|part| part.split_once("*/").map(|(_, code)| code)));
    let mut words = code.flat_map(|code| code.split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',')));
    words.find_map(|word| match word.strip_prefix("-l") {
        Some(short) => Some(format!("lib{}.so", Escaped(short.as_bytes()))),
        None => word.contains(".so").then(|| Escaped(word.as_bytes()).to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_script_is_told_from_other_text_and_names_its_library() {
        let named = |text: &[u8]| match Header::read(text) {
            Err(ErrorKind::LinkerScript { names }) => names,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            named(b"/* GNU ld script, not libx.so */ GROUP ( libc.so.6 AS_NEEDED ( x ) )").unwrap(),
            "libc.so.6"
        );
        assert_eq!(named(b"INPUT(-lfoo) and so on").unwrap(), "libfoo.so");
        assert_eq!(named(b"/* GNU ld script"), None);
        let text = Header::read(b"#!/bin/sh\n").unwrap_err();
        assert_eq!(text.to_string(), "expected ELF magic, found \"#!/b\"");
        assert_eq!(Header::read(b"").unwrap_err().to_string(), "expected ELF magic, found an empty file");
    }

    #[test]
    fn program_headers_that_are_copied_are_those_that_are_read_number_by_number() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let header = Header::read(&own).unwrap();
        let (start, context) = (header.table.0 as usize, context(header.class, header.order));
        let raw = Raw::parse(&own, start, header.count.into(), context).unwrap();
        let read = |(index, raw): (usize, Raw)| {
            let at = FileOffset((start + index * Raw::size(context)) as u64);
            ProgramHeader::of(index, at, &raw)
        };
        let all: Vec<_> = raw.into_iter().enumerate().map(read).collect();
        assert_eq!(header.program_headers(&own).unwrap().collect::<Vec<_>>(), all);
        // A table that the bytes end in is none.
        assert!(header.program_headers(&own[..header.headers_end() as usize - 1]).is_err());
    }

    #[test]
    fn versions_of_the_systems_abi_are_known_but_for_mips() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        for (system, version, is_good, is_good_on_mips) in
            [(0, 0, true, true), (0, 1, false, true), (3, 3, true, true), (3, 4, false, true), (9, 0, false, false)]
        {
            let mut header = Header::read(&own).unwrap();
            (header.os_abi, header.abi_version) = (system, version);
            assert_eq!(header.check_system().is_ok(), is_good, "version {version} of {system}");
            header.machine = EM_MIPS;
            assert_eq!(header.check_system().is_ok(), is_good_on_mips, "version {version} of {system} on MIPS");
        }
    }

    #[test]
    fn a_header_cut_anywhere_is_an_error() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        for len in 0..64 {
            assert!(Header::read(&own[..len]).is_err(), "{len}");
        }
        let header = Header::read(&own).unwrap();
        assert!(header.program_headers(&own).unwrap().count() > 3);
    }
}
