//! What a machine means: one table per machine, compiled on every host, so that any object can be read anywhere.

mod aarch64;
mod arm;
#[cfg(feature = "snapshots")]
pub(crate) mod idle;
mod loongarch64;
mod mips;
#[allow(unsafe_code)] // reads the thread pointer
pub(crate) mod native;
mod ppc;
mod ppc64;
mod riscv;
mod s390x;
mod sparc;
#[cfg(feature = "snapshots")]
pub(crate) mod stubs;
#[allow(unsafe_code)] // keeps registers, and calls who is to bind
pub(crate) mod trampoline;
mod x86;
mod x86_64;

/// What a relocation means, whatever its number on its machine.
///
/// The letters are those of the psABIs: `A` addend, `B` load bias, `P` the place, `S` value of the symbol, `Z` size of
/// the symbol. A *word* has the size of the object's class: 4 or 8 bytes. In a `DT_REL` table the addend stands in the
/// place itself (for [`Kind::TlsDescriptor`] in its second word), in a `DT_RELA` table next to it.
///
/// ```
/// use soload::{Kind, Machine};
/// let kind = |e_machine, number| Machine::of(e_machine).unwrap().relocation(number).unwrap().kind;
/// let (x86_64, aarch64) = (62, 183);
/// assert_eq!(kind(x86_64, 8), Kind::Relative);
/// assert_eq!(kind(aarch64, 1027), Kind::Relative);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Nothing: the row is padding.
    None,
    /// `B + A`, a word.
    Relative,
    /// `S + A`. Less than a word must fit, zero-extended.
    Absolute {
        /// The size of the place: 1, 2, 4 or 8.
        bytes: u8,
    },
    /// `S + A`, or `B + A` without a symbol, a word. Only MIPS has it.
    SymbolOrRelative,
    /// `S`, a word of the global offset table; `S + A` where [`Machine::slot_addend`] says so.
    Slot,
    /// `S + A - P`. Less than a word must fit, sign-extended.
    PcRelative {
        /// The size of the place: 1, 2, 4 or 8.
        bytes: u8,
    },
    /// `Z + A`. Less than a word must fit, zero-extended.
    Size {
        /// The size of the place: 4 or 8.
        bytes: u8,
    },
    /// What the resolver function at `B + A` returns, a word (`STT_GNU_IFUNC` without a symbol).
    Irelative,
    /// The initial bytes of the symbol: for executables, whose code has the address of a library's variable built in.
    Copy,
    /// The TLS module that defines the symbol, a word; without a symbol, the object itself.
    TlsModule,
    /// `S + A - `[`Machine::dtp_bias`]: where the variable is in its module's block, a word.
    TlsOffset,
    /// Where the variable is, counted from the thread pointer, `+ A - `[`Machine::tp_bias`], a word.
    ThreadOffset,
    /// `A -` where the variable is, counted from the thread pointer, a word. Only i386 has it.
    NegatedThreadOffset,
    /// A function that finds the variable, and its argument: two words.
    TlsDescriptor,
    /// The psABI defines it for the static linker, or for code: no loader need apply it to a shared object.
    Unsupported,
}

impl Kind {
    /// How many bytes it changes at its place, in an object whose words have `word` bytes.
    ///
    /// [`Kind::Copy`] changes as many as its symbol has, so there is no answer here.
    ///
    /// ```
    /// assert_eq!(soload::Kind::Relative.width(8), Some(8));
    /// assert_eq!(soload::Kind::TlsDescriptor.width(4), Some(8));
    /// assert_eq!(soload::Kind::Copy.width(8), None);
    /// ```
    #[must_use]
    pub const fn width(self, word: u64) -> Option<u64> {
        match self {
            Self::None | Self::Unsupported => Some(0),
            Self::Absolute { bytes } | Self::PcRelative { bytes } | Self::Size { bytes } => Some(bytes as u64),
            Self::Relative
            | Self::SymbolOrRelative
            | Self::Slot
            | Self::Irelative
            | Self::TlsModule
            | Self::TlsOffset
            | Self::ThreadOffset
            | Self::NegatedThreadOffset => Some(word),
            Self::TlsDescriptor => Some(2 * word),
            Self::Copy => None,
        }
    }
}

/// One relocation type of one machine: a row of its psABI's table.
///
/// ```
/// let row = soload::Machine::of(62).unwrap().relocation(8).unwrap();
/// assert_eq!((row.number, row.name, row.kind), (8, "R_X86_64_RELATIVE", soload::Kind::Relative));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelocationType {
    /// The number in `r_info`.
    pub number: u32,
    /// The name in the psABI, which is also that of `<elf.h>` and `readelf`.
    pub name: &'static str,
    /// What it means.
    pub kind: Kind,
}

/// On which side of the thread pointer the blocks of thread-local variables lie (Drepper, *ELF Handling For
/// Thread-Local Storage*, section 3).
///
/// ```
/// use soload::{Machine, TlsVariant};
/// assert_eq!(Machine::of(62).unwrap().tls, TlsVariant::II);
/// assert_eq!(Machine::of(183).unwrap().tls, TlsVariant::I);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsVariant {
    /// Above it: offsets from the thread pointer are positive before [`Machine::tp_bias`] is taken away.
    I,
    /// Below it: offsets from the thread pointer are negative.
    II,
}

/// What an `e_machine` means to a loader.
///
/// ```
/// let machine = soload::Machine::of(62).unwrap();
/// assert_eq!(machine.name, "x86-64");
/// assert_eq!(machine.page_sizes, [0x1000]);
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Machine {
    /// Its number in `e_machine`.
    pub number: u16,
    /// Its name, as a reader of an error message knows it.
    pub name: &'static str,
    /// Its relocation types, in ascending order of their numbers.
    pub relocations: &'static [RelocationType],
    /// The type that is [`Kind::Relative`]: most relocations of most libraries. 0 where there is none.
    pub relative: u32,
    /// The type of the slots of the procedure linkage table. An undefined symbol that an executable gives a value, so
    /// that a function has one address everywhere, is no definition for them (nor for thread-local variables).
    pub jump_slot: u32,
    /// Whether its psABI gives [`Kind::Slot`] an addend, which a `DT_RELA` table then holds.
    pub slot_addend: bool,
    /// Where thread-local variables lie.
    pub tls: TlsVariant,
    /// What [`Kind::TlsOffset`] subtracts, because `__tls_get_addr` adds it.
    pub dtp_bias: u64,
    /// What [`Kind::ThreadOffset`] subtracts, because the thread pointer points so far behind the first block.
    pub tp_bias: u64,
    /// The sizes of a page that Linux can be built with there, in ascending order.
    pub page_sizes: &'static [u64],
}

const MACHINES: [&Machine; 13] = [
    &x86_64::MACHINE,
    &aarch64::MACHINE,
    &x86::MACHINE,
    &arm::MACHINE,
    &riscv::MACHINE,
    &loongarch64::MACHINE,
    &ppc64::MACHINE,
    &s390x::MACHINE,
    &ppc::MACHINE,
    &mips::MACHINE,
    &sparc::V9,
    &sparc::V8,
    &sparc::V8_PLUS,
];

impl Machine {
    /// The machine of that number in `e_machine`, if there is a table for it.
    ///
    /// ```
    /// assert_eq!(soload::Machine::of(183).map(|machine| machine.name), Some("AArch64"));
    /// assert!(soload::Machine::of(0).is_none());
    /// ```
    #[must_use]
    pub fn of(e_machine: u16) -> Option<&'static Self> {
        MACHINES.into_iter().find(|machine| machine.number == e_machine)
    }

    /// The relocation type of that number, if the psABI defines it.
    ///
    /// ```
    /// let machine = soload::Machine::of(62).unwrap();
    /// assert_eq!(machine.relocation(37).unwrap().name, "R_X86_64_IRELATIVE");
    /// assert!(machine.relocation(1_000_000).is_none());
    /// ```
    #[must_use]
    #[inline]
    pub fn relocation(&self, number: u32) -> Option<&'static RelocationType> {
        let rows = self.relocations;
        // Every word that relocation writes passes here. Where numbers have no gaps, row n has number n.
        match rows.get(number as usize) {
            Some(row) if row.number == number => Some(row),
            _ => rows.binary_search_by_key(&number, |row| row.number).ok().map(|at| &rows[at]),
        }
    }

    /// The machine this process runs on, if the rows of its table say all there is to say about loading.
    ///
    /// They do not on MIPS (the global offset table is relocated without relocations), on SPARC and old PowerPC (slots
    /// of the procedure linkage table are code or function descriptors).
    ///
    /// ```
    /// # if cfg!(target_arch = "x86_64") {
    /// assert_eq!(soload::Machine::native().unwrap().name, "x86-64");
    /// # }
    /// ```
    #[must_use]
    pub fn native() -> Option<&'static Self> {
        Some(if cfg!(target_arch = "x86_64") {
            &x86_64::MACHINE
        } else if cfg!(target_arch = "aarch64") {
            &aarch64::MACHINE
        } else if cfg!(target_arch = "x86") {
            &x86::MACHINE
        } else if cfg!(target_arch = "arm") {
            &arm::MACHINE
        } else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
            &riscv::MACHINE
        } else if cfg!(target_arch = "loongarch64") {
            &loongarch64::MACHINE
        } else if cfg!(target_arch = "s390x") {
            &s390x::MACHINE
        } else if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
            &ppc64::MACHINE
        } else {
            return None;
        })
    }
}

/// A type that loaders apply to shared objects.
const fn row(number: u32, name: &'static str, kind: Kind) -> RelocationType {
    RelocationType { number, name, kind }
}

/// A type that only the static linker knows how to apply.
const fn link(number: u32, name: &'static str) -> RelocationType {
    row(number, name, Kind::Unsupported)
}

#[cfg(test)]
mod tests {
    use object::elf;

    use super::*;

    fn oracle(machine: &Machine, number: u32) -> Option<&'static str> {
        let names = match machine.number {
            2 | 18 | 43 => &elf::NAMES_R_SPARC,
            3 => &elf::NAMES_R_386,
            8 => &elf::NAMES_R_MIPS,
            20 => &elf::NAMES_R_PPC,
            21 => &elf::NAMES_R_PPC64,
            22 => &elf::NAMES_R_390,
            40 => &elf::NAMES_R_ARM,
            62 => &elf::NAMES_R_X86_64,
            183 => &elf::NAMES_R_AARCH64,
            243 => &elf::NAMES_R_RISCV,
            258 => &elf::NAMES_R_LARCH,
            other => panic!("no oracle for machine {other}"),
        };
        names.name(elf::RelocationType(number))
    }

    #[test]
    fn rows_ascend_without_duplicates() {
        for machine in MACHINES {
            assert!(machine.relocations.is_sorted_by(|a, b| a.number < b.number), "{}", machine.name);
            assert!(machine.page_sizes.is_sorted_by(|a, b| a < b), "{}", machine.name);
        }
    }

    #[test]
    fn no_two_types_of_a_machine_have_the_same_name() {
        for machine in MACHINES {
            let mut names: Vec<_> = machine.relocations.iter().map(|row| row.name).collect();
            names.sort_unstable();
            assert!(names.is_sorted_by(|a, b| a < b), "{}", machine.name);
        }
    }

    #[test]
    fn every_name_and_number_agrees_with_the_object_crate() {
        // What that crate leaves out, and what it gives an older name as well, which it finds first.
        let ours = ["R_X86_64_PC32_BND", "R_X86_64_PLT32_BND", "R_ARM_TLS_DESC", "R_ARM_THM_TLS_DESCSEQ16"];
        for machine in MACHINES {
            for row in machine.relocations.iter().filter(|row| !ours.contains(&row.name)) {
                assert_eq!(oracle(machine, row.number), Some(row.name), "{} {}", machine.name, row.number);
            }
        }
    }

    #[test]
    fn no_type_that_the_object_crate_knows_is_missing() {
        for machine in MACHINES {
            for number in 0..0x2000 {
                let known = oracle(machine, number).is_some();
                assert!(!known || machine.relocation(number).is_some(), "{} {number}", machine.name);
            }
        }
    }

    #[test]
    fn on_x86_64_a_type_is_found_by_indexing() {
        let rows = x86_64::MACHINE.relocations;
        assert!(rows.iter().enumerate().all(|(at, row)| row.number as usize == at));
    }

    #[test]
    fn every_row_is_found_by_its_number_and_no_other_number_finds_one() {
        for machine in MACHINES {
            for number in (0..0x2000).chain([u32::MAX]) {
                let row = machine.relocations.iter().find(|row| row.number == number);
                assert_eq!(machine.relocation(number), row, "{} {number}", machine.name);
            }
        }
    }

    #[test]
    fn a_machine_is_found_by_its_number_in_e_machine() {
        for (number, name) in [
            (elf::EM_SPARC, "SPARC"),
            (elf::EM_386, "i386"),
            (elf::EM_MIPS, "MIPS"),
            (elf::EM_SPARC32PLUS, "SPARC V8+"),
            (elf::EM_PPC, "PowerPC"),
            (elf::EM_PPC64, "PowerPC64"),
            (elf::EM_S390, "s390x"),
            (elf::EM_ARM, "ARM"),
            (elf::EM_SPARCV9, "SPARC V9"),
            (elf::EM_X86_64, "x86-64"),
            (elf::EM_AARCH64, "AArch64"),
            (elf::EM_RISCV, "RISC-V"),
            (elf::EM_LOONGARCH, "LoongArch"),
        ] {
            assert_eq!(Machine::of(number.0).map(|machine| machine.name), Some(name));
        }
        assert!(Machine::of(elf::EM_NONE.0).is_none());
    }

    #[test]
    fn the_relative_type_is_a_relative_one() {
        for machine in MACHINES.iter().filter(|machine| machine.relative != 0) {
            assert_eq!(machine.relocation(machine.relative).unwrap().kind, Kind::Relative, "{}", machine.name);
        }
    }

    #[test]
    fn every_machine_can_name_the_slots_of_its_procedure_linkage_table() {
        for machine in MACHINES {
            let row = machine.relocation(machine.jump_slot).expect(machine.name);
            assert_eq!(row.kind, Kind::Slot, "{}", machine.name);
            assert!(row.name.ends_with("_JUMP_SLOT") || row.name.ends_with("_JMP_SLOT"), "{}", row.name);
        }
    }

    #[test]
    fn only_the_second_tls_variant_has_no_biases() {
        for machine in MACHINES.into_iter().filter(|machine| machine.tls == TlsVariant::II) {
            assert_eq!((machine.dtp_bias, machine.tp_bias), (0, 0), "{}", machine.name);
        }
    }

    #[test]
    fn the_kind_of_a_type_agrees_with_its_name() {
        for row in MACHINES.into_iter().flat_map(|machine| machine.relocations) {
            let expected = match row.name.rsplit('_').next().unwrap() {
                "NONE" => Kind::None,
                "COPY" => Kind::Copy,
                "RELATIVE" | "RELATIVE64" => Kind::Relative,
                "IRELATIVE" | "IREL" => Kind::Irelative,
                "SLOT" => Kind::Slot,
                "DTPMOD" | "DTPMOD32" | "DTPMOD64" => Kind::TlsModule,
                "SIZE32" => Kind::Size { bytes: 4 },
                "SIZE64" => Kind::Size { bytes: 8 },
                _ => continue,
            };
            assert_eq!(row.kind, expected, "{}", row.name);
        }
    }
}
