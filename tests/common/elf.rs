//! Files that no toolchain makes: a good fixture with a few bytes changed, found by what they mean.

use std::fs;
use std::path::{Path, PathBuf};

use object::LittleEndian as LE;
use object::elf::*;
use object::pod::{Pod, from_bytes, from_bytes_mut};

use super::{fixture, scratch};

/// The bytes of a fixture. Every accessor gives the record in place, so that assigning to its fields damages the file.
#[derive(Clone)]
pub(crate) struct Elf {
    pub(crate) bytes: Vec<u8>,
}

impl Elf {
    pub(crate) fn of(name: impl AsRef<Path>) -> Self {
        Self { bytes: fs::read(fixture(name)).unwrap() }
    }

    /// Writes the file into the child's scratch folder.
    pub(crate) fn save(&self, file_name: impl AsRef<Path>) -> PathBuf {
        let path = scratch().join(file_name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &self.bytes).unwrap();
        path
    }

    pub(crate) fn at<T: Pod>(&mut self, offset: usize) -> &mut T {
        from_bytes_mut(&mut self.bytes[offset..]).unwrap().0
    }

    fn read<T: Pod + Copy>(&self, offset: usize) -> T {
        *from_bytes(&self.bytes[offset..]).unwrap().0
    }

    pub(crate) fn header(&mut self) -> &mut FileHeader64<LE> {
        self.at(0)
    }

    fn segment_offsets(&self) -> impl Iterator<Item = usize> + use<> {
        let header: FileHeader64<LE> = self.read(0);
        let table = header.e_phoff.get(LE) as usize;
        (0..header.e_phnum.get(LE) as usize).map(move |index| table + index * size_of::<ProgramHeader64<LE>>())
    }

    /// The program headers of one type, in order.
    pub(crate) fn segments(&self, kind: ProgramType) -> Vec<ProgramHeader64<LE>> {
        let all = self.segment_offsets().map(|offset| self.read::<ProgramHeader64<LE>>(offset));
        all.filter(|header| header.p_type.get(LE) == kind).collect()
    }

    /// The n-th program header of a type.
    #[track_caller]
    pub(crate) fn segment(&mut self, kind: ProgramType, nth: usize) -> &mut ProgramHeader64<LE> {
        let is_kind = |offset: &usize| self.read::<ProgramHeader64<LE>>(*offset).p_type.get(LE) == kind;
        let offset = self.segment_offsets().filter(is_kind).nth(nth).expect("such a program header");
        self.at(offset)
    }

    /// Where in the file an address stands.
    #[track_caller]
    pub(crate) fn offset(&self, vaddr: u64) -> usize {
        let holds =
            |s: &&ProgramHeader64<LE>| (s.p_vaddr.get(LE)..s.p_vaddr.get(LE) + s.p_filesz.get(LE)).contains(&vaddr);
        let segments = self.segments(PT_LOAD);
        let segment = segments.iter().find(holds).expect("an address of the file");
        (vaddr - segment.p_vaddr.get(LE) + segment.p_offset.get(LE)) as usize
    }

    fn dynamic_offset(&self, tag: DynamicTag) -> Option<usize> {
        let start = self.segments(PT_DYNAMIC)[0].p_offset.get(LE) as usize;
        let mut entries = (start..).step_by(size_of::<Dyn64<LE>>());
        entries.by_ref().take_while(|at| self.tag(*at) != DT_NULL).find(|at| self.tag(*at) == tag)
    }

    fn tag(&self, offset: usize) -> DynamicTag {
        self.read::<Dyn64<LE>>(offset).d_tag.get(LE)
    }

    /// A dynamic entry that the fixture is known to have.
    #[track_caller]
    pub(crate) fn dynamic(&mut self, tag: DynamicTag) -> &mut Dyn64<LE> {
        let offset = self.dynamic_offset(tag).unwrap_or_else(|| panic!("no dynamic entry {tag:?}"));
        self.at(offset)
    }

    /// The value of a dynamic entry, 0 if there is none.
    pub(crate) fn value(&self, tag: DynamicTag) -> u64 {
        self.dynamic_offset(tag).map_or(0, |offset| self.read::<Dyn64<LE>>(offset).d_val.get(LE))
    }

    fn name_of(&self, symbol: usize) -> &[u8] {
        let entry: Sym64<LE> = self.read(self.symbol_offset(symbol));
        self.string(entry.st_name.get(LE))
    }

    fn string(&self, offset: u32) -> &[u8] {
        let string = &self.bytes[self.offset(self.value(DT_STRTAB)) + offset as usize..];
        &string[..string.iter().position(|byte| *byte == 0).unwrap()]
    }

    fn symbol_offset(&self, index: usize) -> usize {
        self.offset(self.value(DT_SYMTAB)) + index * size_of::<Sym64<LE>>()
    }

    /// The index of a dynamic symbol.
    pub(crate) fn symbol_index(&self, name: &str) -> usize {
        // The string table follows the symbol table in the output of every linker.
        let count = (self.value(DT_STRTAB) - self.value(DT_SYMTAB)) as usize / size_of::<Sym64<LE>>();
        (0..count).find(|index| self.name_of(*index) == name.as_bytes()).expect("a dynamic symbol of that name")
    }

    pub(crate) fn symbol(&mut self, name: &str) -> &mut Sym64<LE> {
        self.at(self.symbol_offset(self.symbol_index(name)))
    }

    /// The address of a dynamic symbol, as the file states it.
    pub(crate) fn vaddr(&self, name: &str) -> u64 {
        self.read::<Sym64<LE>>(self.symbol_offset(self.symbol_index(name))).st_value.get(LE)
    }

    fn relocation_offsets(&self) -> impl Iterator<Item = usize> {
        [(DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)].into_iter().flat_map(|(table, size)| {
            let size = self.value(size) as usize;
            let start = if size == 0 { 0 } else { self.offset(self.value(table)) };
            (start..start + size).step_by(size_of::<Rela64<LE>>())
        })
    }

    /// The first relocation of a type.
    #[track_caller]
    pub(crate) fn relocation(&mut self, kind: RelocationType) -> &mut Rela64<LE> {
        let is_kind = |at: &usize| self.read::<Rela64<LE>>(*at).r_type(LE, false) == kind;
        let offset = self.relocation_offsets().find(is_kind).expect("a relocation of that type");
        self.at(offset)
    }

    /// The first relocation that refers to a symbol.
    #[track_caller]
    pub(crate) fn relocation_to(&mut self, symbol: &str) -> &mut Rela64<LE> {
        let index = self.symbol_index(symbol) as u32;
        let refers = |at: &usize| self.read::<Rela64<LE>>(*at).r_sym(LE, false) == index;
        let offset = self.relocation_offsets().find(refers).expect("a relocation to that symbol");
        self.at(offset)
    }

    /// Replaces a string of the string table by one of the same length.
    #[track_caller]
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        assert_eq!(from.len(), to.len());
        let at = self.offset(self.value(DT_STRTAB)) + self.dynamic_string(from) as usize;
        self.bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }

    /// Where a text stands in the dynamic string table.
    #[track_caller]
    pub(crate) fn dynamic_string(&self, text: &str) -> u32 {
        let (start, size) = (self.offset(self.value(DT_STRTAB)), self.value(DT_STRSZ) as usize);
        let found = self.bytes[start..start + size].windows(text.len()).position(|bytes| bytes == text.as_bytes());
        found.expect("a string of the table") as u32
    }

    /// A version that the file needs.
    #[track_caller]
    pub(crate) fn needed_version(&mut self, version: &str) -> &mut Vernaux<LE> {
        let mut need = self.offset(self.value(DT_VERNEED));
        for _ in 0..self.value(DT_VERNEEDNUM) {
            let Verneed { vn_cnt, vn_aux, vn_next, .. } = self.read::<Verneed<LE>>(need);
            let mut aux = need + vn_aux.get(LE) as usize;
            for _ in 0..vn_cnt.get(LE) {
                let entry: Vernaux<LE> = self.read(aux);
                if self.string(entry.vna_name.get(LE)) == version.as_bytes() {
                    return self.at(aux);
                }
                aux += entry.vna_next.get(LE) as usize;
            }
            need += vn_next.get(LE) as usize;
        }
        panic!("no needed version {version}");
    }

    /// Where the parts of DT_GNU_HASH stand in the file: bucket count, buckets, chains.
    pub(crate) fn gnu_hash(&self) -> GnuHash {
        let header = self.offset(self.value(DT_GNU_HASH));
        let word =
            |index: usize| u32::from_le_bytes(self.bytes[header + 4 * index..][..4].try_into().unwrap()) as usize;
        let buckets = header + 16 + 8 * word(2);
        GnuHash { bucket_count: header, buckets, chains: buckets + 4 * word(0) }
    }
}

pub(crate) struct GnuHash {
    pub(crate) bucket_count: usize,
    pub(crate) buckets: usize,
    pub(crate) chains: usize,
}
