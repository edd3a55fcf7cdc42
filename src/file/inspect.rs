//! What a file says that a loader does not need but a person asks for: relocations by type, versions, protections.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Source;
use super::elf::Header;
use super::image::Image;
use super::notes;
use super::relocations::What;
use super::symbols::Symbols;
use super::versions::Version;
use super::view::{ByteOrder, Class, View};
use crate::addr::Vaddr;
use crate::arch::{Kind, Machine};
use crate::error::{Error, ErrorKind};
use crate::sys::RegularFile;

pub use super::elf::ProgramHeader;
pub use super::hash::HashQuality;

/// What the headers of a file claim before anything is checked: what there is to show of a damaged file.
///
/// ```
/// let outline = soload::Outline::open("/proc/self/exe".as_ref())?;
/// assert_eq!(outline.byte_order, soload::ByteOrder::Little);
/// assert!(outline.program_headers?.iter().any(|header| header.kind == 1)); // PT_LOAD
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Outline {
    /// 32-bit or 64-bit.
    pub class: Class,
    /// Which byte of a number comes first.
    pub byte_order: ByteOrder,
    /// `e_machine`.
    pub machine: u16,
    /// `e_type`.
    pub elf_type: u16,
    /// The program headers as they stand, or why they cannot be read.
    pub program_headers: Result<Vec<ProgramHeader>, Error>,
}

impl Outline {
    /// Reads the headers of the file at `path`.
    ///
    /// # Errors
    /// The file cannot be opened, is no regular file, or does not begin with an ELF header.
    pub fn open(path: &std::path::Path) -> Result<Self, Error> {
        let error = |kind| Error::new(path, kind);
        let bytes = RegularFile::open(path).and_then(|file| file.map()).map_err(error)?;
        let header = Header::read(&bytes).map_err(error)?;
        Ok(Self {
            class: header.class,
            byte_order: header.order,
            machine: header.machine,
            elf_type: header.kind,
            program_headers: header.program_headers(&bytes).map(Iterator::collect).map_err(error),
        })
    }

    /// The machine's name, or its number.
    #[must_use]
    pub fn machine_name(&self) -> String {
        machine_name(self.machine)
    }
}

/// How often one type of relocation stands in the tables of an image.
///
/// ```
/// let image = soload::Image::open("/proc/self/exe".as_ref())?;
/// let relative = |count: &soload::RelocationCount| count.kind == Some(soload::Kind::Relative);
/// assert!(image.relocation_counts()?.iter().any(|count| relative(count) && count.count > 100));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelocationCount {
    /// Its name in the psABI, its number if there is none, or `RELR` for what `DT_RELR` packs.
    pub name: String,
    /// What it means; `None` if the machine's psABI does not define it.
    pub kind: Option<Kind>,
    /// How many there are.
    pub count: u64,
}

/// A version that an image needs of another object (`DT_VERNEED`).
///
/// ```
/// let image = soload::Image::open("/proc/self/exe".as_ref())?;
/// let of_libc = |need: &soload::VersionNeed| need.object == b"libc.so.6" && need.version.starts_with(b"GLIBC_");
/// assert!(image.versions_needed()?.iter().any(of_libc));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionNeed {
    /// The needed object's name.
    pub object: Vec<u8>,
    /// The version's name.
    pub version: Vec<u8>,
    /// Whether it may be missing.
    pub weak: bool,
}

/// How many symbols an image offers to others and wants from them.
///
/// ```
/// let image = soload::Image::open("/proc/self/exe".as_ref())?;
/// assert!(image.symbol_counts()?.imported > 10);
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SymbolCounts {
    /// Definitions that others may bind to.
    pub exported: u64,
    /// References to definitions of others.
    pub imported: u64,
}

/// How many functions an image runs when it is loaded and unloaded.
///
/// ```
/// let image = soload::Image::open("/proc/self/exe".as_ref())?;
/// assert!(image.life_functions().constructors > 0);
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LifeFunctions {
    /// `DT_INIT` and the entries of `DT_INIT_ARRAY`.
    pub constructors: u64,
    /// `DT_FINI` and the entries of `DT_FINI_ARRAY`.
    pub destructors: u64,
}

/// `NT_GNU_PROPERTY_TYPE_0` (Linux Extensions to gABI, ".note.gnu.property").
const NT_GNU_PROPERTY: u32 = 5;
const X86_FEATURE_1_AND: u32 = 0xc000_0002;
const AARCH64_FEATURE_1_AND: u32 = 0xc000_0000;

/// The names of bits, in ascending order.
type Bits = &'static [(u64, &'static str)];

/// Those of `DT_FLAGS_1` that change how an object is loaded. What other methods tell (NOW, PIE) is left out.
const FLAGS_1: Bits = &[
    (0x8, "NODELETE"),
    (0x20, "INITFIRST"),
    (0x40, "NOOPEN"),
    (0x80, "ORIGIN"),
    (0x400, "INTERPOSE"),
    (0x800, "NODEFLIB"),
    (0x1000, "NODUMP"),
    (0x2_0000, "GLOBAUDIT"),
];

fn names_of(bits: u64, names: Bits) -> impl Iterator<Item = &'static str> {
    names.iter().filter(move |(bit, _)| bits & bit != 0).map(|(_, name)| *name)
}

/// The name of the machine of that number in `e_machine`, or the number.
pub(crate) fn machine_name(number: u16) -> String {
    Machine::of(number).map_or_else(|| format!("machine {number}"), |machine| machine.name.to_owned())
}

impl Image {
    fn error(&self, kind: ErrorKind) -> Error {
        Error::new(self.path(), kind)
    }

    fn file_symbols(&self) -> Result<Option<Box<Symbols>>, Error> {
        // A file of debug information has a dynamic section without entries.
        if self
            .dynamic()
            .is_some_and(|dynamic| dynamic.symbols.symtab.get().is_none() && dynamic.symbols.strtab.get().is_none())
        {
            return Ok(None);
        }
        self.symbols(&self.source()).map_err(|kind| self.error(kind))
    }

    /// The types of its relocations, the most frequent first.
    ///
    /// # Errors
    /// The tables lie outside of the file, or contradict themselves.
    pub fn relocation_counts(&self) -> Result<Vec<RelocationCount>, Error> {
        let mut by_type = BTreeMap::new();
        let relocations = self.relocations(&self.source()).map_err(|kind| self.error(kind))?;
        for relocation in relocations.iter().flat_map(|relocations| relocations.iter()) {
            let number = match relocation.what {
                What::Relr => None,
                What::Type(number) => Some(number),
            };
            *by_type.entry(number).or_insert(0) += 1;
        }
        let named = by_type.into_iter().map(|(number, count)| match number {
            None => RelocationCount { name: "RELR".into(), kind: Some(Kind::Relative), count },
            Some(number) => match self.machine().and_then(|machine| machine.relocation(number)) {
                Some(row) => RelocationCount { name: row.name.into(), kind: Some(row.kind), count },
                None => RelocationCount { name: format!("type {number}"), kind: None, count },
            },
        });
        let mut counts: Vec<_> = named.collect();
        counts.sort_by_key(|count| std::cmp::Reverse(count.count));
        Ok(counts)
    }

    /// The versions that it needs of other objects, in table order.
    ///
    /// # Errors
    /// The symbol or version tables lie outside of the file, or contradict themselves.
    pub fn versions_needed(&self) -> Result<Vec<VersionNeed>, Error> {
        let Some(symbols) = self.file_symbols()? else { return Ok(Vec::new()) };
        let text = |offset: u32| symbols.string(offset).unwrap_or_default().to_vec();
        let needs = symbols.versions.requirements.iter();
        Ok(needs
            .map(|need| VersionNeed { object: text(need.file), version: text(need.version.name), weak: need.weak })
            .collect())
    }

    /// The names of the versions that it defines, in table order.
    ///
    /// ```
    /// let image = soload::Image::open("/proc/self/exe".as_ref())?;
    /// assert!(image.versions_defined()?.is_empty());
    /// # Ok::<(), soload::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Image::versions_needed`].
    pub fn versions_defined(&self) -> Result<Vec<Vec<u8>>, Error> {
        let Some(symbols) = self.file_symbols()? else { return Ok(Vec::new()) };
        let name = |version: &Version| symbols.string(version.name).unwrap_or_default().to_vec();
        Ok(symbols.versions.definitions().map(name).collect())
    }

    /// How many symbols it exports and imports, as far as its hash table covers them.
    ///
    /// # Errors
    /// As for [`Image::versions_needed`].
    pub fn symbol_counts(&self) -> Result<SymbolCounts, Error> {
        let mut counts = SymbolCounts::default();
        if let Some(symbols) = self.file_symbols()? {
            // Symbol 0 is the undefined one.
            for symbol in (1..symbols.count()).filter_map(|index| symbols.get(index)) {
                counts.exported += u64::from(symbol.is_exported());
                counts.imported += u64::from(!symbol.is_defined());
            }
        }
        Ok(counts)
    }

    /// The names of the symbols that it wants from others.
    pub(super) fn imported_names(&self) -> Result<Vec<Vec<u8>>, Error> {
        let Some(symbols) = self.file_symbols()? else { return Ok(Vec::new()) };
        let all = (1..symbols.count()).filter_map(|index| symbols.get(index));
        let imported = all.filter(|symbol| !symbol.is_defined());
        Ok(imported.filter_map(|symbol| Some(symbols.string(symbol.name)?.to_vec())).collect())
    }

    /// How well its hash table serves those who look for a symbol in it; `None` without one, or if its chains share
    /// symbols.
    ///
    /// ```
    /// # if let Ok(image) = soload::Image::open("/lib/x86_64-linux-gnu/libz.so.1".as_ref()) {
    /// let quality = image.hash_quality()?.unwrap();
    /// assert!(quality.symbols > 50 && quality.longest_chain < 20);
    /// # }
    /// # Ok::<(), soload::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Image::versions_needed`].
    pub fn hash_quality(&self) -> Result<Option<HashQuality>, Error> {
        Ok(self.file_symbols()?.and_then(|symbols| symbols.hash_quality()))
    }

    /// The names of its sections and the addresses they have in memory, in table order; none if it has been stripped of
    /// them, or if their table is damaged: loading does not need it.
    ///
    /// ```
    /// let image = soload::Image::open("/proc/self/exe".as_ref())?;
    /// assert!(image.sections().iter().any(|(name, range)| name == b".text" && !range.is_empty()));
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn sections(&self) -> Vec<(Vec<u8>, Range<Vaddr>)> {
        const SHF_ALLOC: u64 = 2;
        let view = self.view();
        let wide = self.class() == Class::Elf64;
        // Offsets of e_shoff, e_shentsize, e_shnum and e_shstrndx; then of sh_flags and what follows it.
        let (table, size, count, names) = if wide { (0x28, 0x3a, 0x3c, 0x3e) } else { (0x20, 0x2e, 0x30, 0x32) };
        let word = self.class().word();
        let entry = |index: u16| view.word(table)?.checked_add(u64::from(index) * u64::from(view.u16(size)?));
        let field = |at: u64, number: u64| view.word(at.checked_add(8 + number * word)?);
        let strings = view.u16(names).and_then(entry).and_then(|at| field(at, 2));
        let section = |index: u16| {
            let at = entry(index)?;
            let name = view.str_at(strings?.checked_add(view.u32(at)?.into())?)?.to_vec();
            let (start, len) = (field(at, 1)?, field(at, 3)?);
            (field(at, 0)? & SHF_ALLOC != 0).then_some((name, Vaddr(start)..Vaddr(start.checked_add(len)?)))
        };
        (0..view.u16(count).unwrap_or(0)).filter_map(section).collect()
    }

    /// The names and addresses of what it exports, in order of address.
    ///
    /// ```
    /// # if let Ok(image) = soload::Image::open("/lib/x86_64-linux-gnu/libz.so.1".as_ref()) {
    /// assert!(image.exported_addresses()?.iter().any(|(_, name)| name == b"inflate"));
    /// # }
    /// # Ok::<(), soload::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Image::versions_needed`].
    pub fn exported_addresses(&self) -> Result<Vec<(Vaddr, Vec<u8>)>, Error> {
        let Some(symbols) = self.file_symbols()? else { return Ok(Vec::new()) };
        let all = (1..symbols.count()).filter_map(|index| symbols.get(index));
        let exported = all.filter(|symbol| symbol.is_exported() && !symbol.is_tls() && !symbol.is_absolute());
        let named = exported.filter_map(|symbol| Some((Vaddr(symbol.value), symbols.string(symbol.name)?.to_vec())));
        let mut addresses: Vec<_> = named.collect();
        addresses.sort();
        Ok(addresses)
    }

    /// How many functions run when it is loaded and unloaded.
    #[must_use]
    pub fn life_functions(&self) -> LifeFunctions {
        let Some(dynamic) = self.dynamic() else { return LifeFunctions::default() };
        let count = |one: Option<u64>, array_size: Option<u64>| {
            u64::from(one.is_some_and(|at| at != 0)) + array_size.unwrap_or(0) / self.class().word()
        };
        LifeFunctions {
            constructors: count(dynamic.init.get(), dynamic.init_arraysz.get()),
            destructors: count(dynamic.fini.get(), dynamic.fini_arraysz.get()),
        }
    }

    /// Whether symbols are looked up in the file even when it is mapped, because what is mapped may be written to.
    pub(crate) fn reads_tables_from_file(&self) -> bool {
        let Some(dynamic) = self.dynamic() else { return false };
        let writable = |at| self.segments().iter().any(|segment| segment.flags.write && segment.contains(Vaddr(at), 1));
        self.has_text_relocations() || dynamic.symbols.tables().any(writable)
    }

    /// The functions that run when it is loaded, in their order: `DT_INIT`, and what will stand in `DT_INIT_ARRAY`. An
    /// entry that is a reference to a symbol is left out.
    ///
    /// ```
    /// # if let Ok(image) = soload::Image::open("/lib/x86_64-linux-gnu/libz.so.1".as_ref()) {
    /// assert_eq!(image.constructors()?.len() as u64, image.life_functions().constructors);
    /// # }
    /// # Ok::<(), soload::Error>(())
    /// ```
    ///
    /// # Errors
    /// The relocation tables lie outside of the file, or contradict themselves.
    pub fn constructors(&self) -> Result<Vec<Vaddr>, Error> {
        let Some(dynamic) = self.dynamic() else { return Ok(Vec::new()) };
        let mut functions = Vec::from_iter(dynamic.init.get().filter(|at| *at != 0).map(Vaddr));
        if let (Some(start), Some(size)) =
            (dynamic.init_array.get(), dynamic.init_arraysz.get().filter(|size| *size > 0))
        {
            let array = Vaddr(start)..Vaddr(start.saturating_add(size));
            let relocations = self.relocations(&self.source()).map_err(|kind| self.error(kind))?;
            let in_array = relocations.iter().flat_map(|all| all.iter()).filter(|one| array.contains(&one.place));
            let is_relative = |what: What| match what {
                What::Relr => true,
                What::Type(number) => self
                    .machine()
                    .and_then(|machine| machine.relocation(number))
                    .is_some_and(|row| row.kind == Kind::Relative),
            };
            let word = |at: Vaddr| self.source().table(at, Some(self.class().word()))?.word(0);
            let mut entries: Vec<_> = in_array
                .filter(|one| is_relative(one.what))
                .filter_map(|one| Some((one.place, one.addend.map_or_else(|| word(one.place), |at| Some(at as u64))?)))
                .collect();
            entries.sort();
            functions.extend(entries.into_iter().map(|(_, function)| Vaddr(function)));
        }
        Ok(functions)
    }

    /// Whether it is a program that can be placed anywhere, which only the kernel and the program's loader start.
    ///
    /// ```
    /// let image = soload::Image::open("/proc/self/exe".as_ref())?;
    /// assert!(image.is_position_independent_executable());
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn is_position_independent_executable(&self) -> bool {
        self.elf_type() == super::elf::ET_DYN
            && self.dynamic().is_some_and(|dynamic| dynamic.position_independent_executable())
    }

    /// The names of the flags in its dynamic section that change how it is loaded, such as `NODELETE`.
    ///
    /// ```
    /// let image = soload::Image::open("/proc/self/exe".as_ref())?;
    /// assert!(!image.loading_flags().contains(&"NODELETE"));
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn loading_flags(&self) -> Vec<&'static str> {
        let Some(dynamic) = self.dynamic() else { return Vec::new() };
        let older = [(dynamic.symbolic, "SYMBOLIC"), (dynamic.static_tls(), "STATIC_TLS")];
        let older = older.into_iter().filter(|(set, _)| *set).map(|(_, name)| name);
        older.chain(names_of(dynamic.flags_1, FLAGS_1)).collect()
    }

    /// The protections of indirect branches that all of its code was built for, such as `IBT` (x86) or `BTI` (AArch64).
    ///
    /// ```
    /// let image = soload::Image::open("/proc/self/exe".as_ref())?;
    /// assert!(image.branch_protection().iter().all(|name| ["IBT", "SHSTK"].contains(name)));
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn branch_protection(&self) -> Vec<&'static str> {
        let (wanted, names): (u32, Bits) = match self.machine().map(|machine| machine.number) {
            Some(3 | 62) => (X86_FEATURE_1_AND, &[(1, "IBT"), (2, "SHSTK")]),
            Some(183) => (AARCH64_FEATURE_1_AND, &[(1, "BTI"), (2, "PAC"), (4, "GCS")]),
            _ => return Vec::new(),
        };
        let bits = notes::find(self, |note| {
            let content = (note.owner == b"GNU" && note.kind == NT_GNU_PROPERTY).then_some(note.content)?;
            let view = View::new(content.to_vec().into(), self.class(), self.byte_order());
            let mut at = 0;
            while let (Some(kind), Some(size)) = (view.u32(at), view.u32(at + 4)) {
                if kind == wanted {
                    return view.u32(at + 8);
                }
                at += 8 + u64::from(size).next_multiple_of(self.class().word());
            }
            None
        });
        names_of(bits.unwrap_or(0).into(), names).collect()
    }
}
