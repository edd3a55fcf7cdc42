//! What relocation writes: the types of x86-64, RELR and REL, indirect functions, text relocations.

#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;

use std::path::PathBuf;

use common::elf::Elf;
use common::maps::protection;
use common::*;
use object::LittleEndian as LE;
use object::elf::*;
use soload::ErrorKind;

/// The fixture, with the type of its first relocation to `symbol` changed, and its words filled with ones.
fn retyped(symbol: &str, kind: RelocationType) -> PathBuf {
    let mut elf = Elf::of("relocation_types");
    let index = elf.symbol_index(symbol) as u32;
    elf.relocation_to(symbol).set_r_info(LE, false, index, kind);
    let place = elf.offset(elf.vaddr("thirty_two"));
    elf.bytes[place..place + 8].fill(0xff);
    link("absolute", "libabsolute.so");
    elf.save("retyped.so")
}

#[test]
fn each_type_stores_its_formula() {
    on_both_loaders(|loader| {
        let library = loader.open("relocation_types");
        let target = library.address("target");
        assert_eq!(unsafe { *library.read::<*const i32>("relative") }, 66, "RELATIVE");
        assert_eq!(library.read::<usize>("sixty_four"), target + 8, "64");
        assert_eq!(library.read::<u64>("thirty_two"), 0x1234_5678, "64 to an absolute symbol");
        let pc32 = library.address("pc32");
        assert_eq!(pc32.wrapping_add_signed(library.read::<i32>("pc32") as isize), target + 4, "PC32");
        assert_eq!(library.read::<[u32; 2]>("size32"), [16 + 1, 0x5a5a_5a5a], "SIZE32 and what follows it");
        assert_eq!(library.read::<u64>("size64"), 16 + 2, "SIZE64");
        assert_eq!(library.call("jump_slot"), 6, "JUMP_SLOT");
        let glob_dat: extern "C" fn() -> usize = unsafe { std::mem::transmute(library.address("glob_dat")) };
        assert_eq!(glob_dat(), target, "GLOB_DAT");
    });
}

#[test]
fn a_place_need_not_be_aligned() {
    on_both_loaders(|loader| {
        let library = loader.open("relocation_types");
        let place = library.read::<[u8; 10]>("unaligned");
        let pointer = usize::from_le_bytes(place[1..9].try_into().unwrap());
        assert_eq!((place[0], unsafe { *(pointer as *const i32) }, place[9]), (1, 77, 2));
    });
}

#[test]
fn a_32_bit_type_writes_32_bits() {
    on_both_loaders(|loader| {
        let library = loader.open(retyped("absolute_small", R_X86_64_32));
        assert_eq!(library.read::<u64>("thirty_two"), 0xffff_ffff_1234_5678);
    });
}

#[test]
fn type_none_writes_nothing() {
    on_both_loaders(|loader| {
        let library = loader.open(retyped("absolute_small", R_X86_64_NONE));
        assert_eq!(library.read::<u64>("thirty_two"), u64::MAX);
    });
}

#[test]
fn a_value_that_does_not_fit_32_bits_is_refused() {
    on_both_loaders(|loader| {
        let path = retyped("target", R_X86_64_32);
        if loader.diverges(&DIVERGENCE_OVERFLOW) {
            let error = ours(path).expect_err("an error");
            assert!(matches!(error.kind(), ErrorKind::RelocationOverflow { .. }), "{error}");
        } else {
            loader.open(path);
        }
    });
}

#[test]
fn an_unknown_type_is_refused() {
    on_both_loaders(|loader| {
        let path = retyped("absolute_small", RelocationType(200));
        loader.try_open(&path).expect_err("an error");
        if loader == Loader::Ours {
            let error = ours(path).expect_err("an error");
            assert!(matches!(error.kind(), ErrorKind::UnsupportedRelocation { .. }), "{error}");
        }
    });
}

#[test]
fn a_copy_relocation_is_refused() {
    on_both_loaders(|loader| {
        let path = retyped("absolute_small", R_X86_64_COPY);
        if loader.diverges(&DIVERGENCE_COPY) {
            let error = ours(path).expect_err("an error");
            let ErrorKind::UnsupportedRelocation { relocation, symbol, .. } = error.kind() else { panic!("{error}") };
            assert_eq!((relocation.as_str(), symbol.as_deref()), ("R_X86_64_COPY", Some("absolute_small")));
        } else {
            loader.open(path);
        }
    });
}

#[test]
fn packed_relative_relocations_relocate_each_word_once() {
    on_both_loaders(|loader| {
        let library = loader.open_packed("relr");
        assert!(library.is_none_or(|library| library.call("count_wrong") == 0));
    });
}

#[test]
fn rel_entries_take_their_addends_from_their_places() {
    on_both_loaders(|loader| {
        let path = with_rel_instead_of_rela().save("rel.so");
        if loader.diverges(&DIVERGENCE_REL) {
            link("absolute", "libabsolute.so");
            let library = loader.open(path);
            assert_eq!(unsafe { *library.read::<*const i32>("relative") }, 66);
            assert_eq!(library.read::<usize>("sixty_four"), library.address("target") + 8);
        }
    });
}

/// The fixture with its table of 24-byte entries rewritten as one of 16-byte entries, each addend moved to its place.
fn with_rel_instead_of_rela() -> Elf {
    let mut elf = Elf::of("relocation_types");
    let table = elf.offset(elf.value(DT_RELA));
    let count = elf.value(DT_RELASZ) as usize / size_of::<Rela64<LE>>();
    for index in 0..count {
        let entry: Rela64<LE> = *elf.at(table + index * size_of::<Rela64<LE>>());
        *elf.at(table + index * size_of::<Rel64<LE>>()) =
            Rel64::<LE> { r_offset: entry.r_offset, r_info: entry.r_info };
        let place = elf.offset(entry.r_offset.get(LE));
        let size = if matches!(entry.r_type(LE, false), R_X86_64_PC32 | R_X86_64_SIZE32) { 4 } else { 8 };
        elf.bytes[place..place + size].copy_from_slice(&entry.r_addend.get(LE).to_le_bytes()[..size]);
    }
    for (rela, rel) in [(DT_RELA, DT_REL), (DT_RELASZ, DT_RELSZ), (DT_RELAENT, DT_RELENT), (DT_RELACOUNT, DT_RELCOUNT)]
    {
        elf.dynamic(rela).d_tag.set(LE, rel);
    }
    elf.dynamic(DT_RELSZ).d_val.set(LE, (count * size_of::<Rel64<LE>>()) as u64);
    elf.dynamic(DT_RELENT).d_val.set(LE, size_of::<Rel64<LE>>() as u64);
    elf
}

#[test]
fn an_indirect_function_is_what_its_resolver_chose() {
    on_both_loaders(|loader| {
        let library = loader.open("ifunc");
        assert_eq!(library.call("call_exported"), 1, "through the PLT");
        assert_eq!(library.call("call_pointer"), 1, "through a pointer in data");
        assert_eq!(library.call("call_internal"), 2, "IRELATIVE");
        assert_eq!(library.call("exported"), 1, "looked up: the function, not its resolver");
    });
}

#[test]
fn a_resolver_can_use_what_its_library_needs() {
    on_both_loaders(|loader| {
        let library = loader.open("ifunc_outer");
        assert_eq!(library.call("call_outer"), 1);
        assert_eq!(library.call("call_inner_indirect"), 3, "an indirect function of the needed library");
    });
}

#[test]
fn a_resolver_runs_after_every_plain_relocation() {
    on_both_loaders(|loader| {
        // glibc applies the tables in order, so that this resolver would jump through an unrelocated slot.
        if loader.diverges(&DIVERGENCE_RESOLVERS_LAST) {
            assert_eq!(loader.open("ifunc_early").call("call_early"), 1);
        }
    });
}

#[test]
fn text_relocations_are_applied_and_text_is_not_writable_afterwards() {
    on_both_loaders(|loader| {
        let library = loader.open("text_relocations");
        let [symbol, local] = library.read::<[usize; 2]>("text_words");
        assert_eq!(symbol, library.address("text_target") + 4);
        assert_eq!(local, library.address("text_words") + 16);
        assert_eq!(library.call("read_target"), 9);
        assert_eq!(protection(library.address("text_words")), "r-xp");
    });
}

#[test]
fn text_relocations_that_no_flag_announces_are_refused() {
    on_ours(|_| {
        // Without DT_TEXTREL nobody has said that text will be written: glibc crashes here.
        let mut elf = Elf::of("text_relocations");
        elf.dynamic(DT_TEXTREL).d_tag.set(LE, DT_DEBUG);
        if elf.value(DT_FLAGS) != 0 {
            elf.dynamic(DT_FLAGS).d_val.set(LE, 0);
        }
        let error = ours(elf.save("unannounced.so")).expect_err("an error");
        assert!(matches!(error.kind(), ErrorKind::Malformed { .. }), "{error}");
    });
}

#[test]
fn the_demonstration_plugin_shows_what_it_promises() {
    on_both_loaders(|loader| {
        let plugin = loader.open("demo");
        assert_eq!(plugin.call_text("demo_greeting"), "hello from a library that dlopen never saw");
        let letter: extern "C" fn(u32) -> u8 = unsafe { std::mem::transmute(plugin.address("demo_letter")) };
        assert!((0..2048).all(|index| letter(index) == expected_letter(index)));
    });
}

/// `demo_letter` adds the letters that its two tables point to and takes the first letter away.
fn expected_letter(index: u32) -> u8 {
    let letter = |at: u32| b"soload".get(at as usize).copied().unwrap_or(0);
    letter(index % 512).wrapping_add(letter(index % 512)).wrapping_sub(b's')
}

#[test]
fn the_dynamic_section_holds_addresses_in_memory_where_it_can_be_written_to() {
    // All that glibc changes and that this has; and some that it does not change.
    const REBASED: [DynamicTag; 7] = [DT_PLTGOT, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_JMPREL, DT_GNU_HASH, DT_VERSYM];
    const KEPT: [DynamicTag; 5] = [DT_INIT, DT_FINI_ARRAY, DT_STRSZ, DT_VERNEED, DT_RELASZ];
    let mut read_only = Elf::of("dynamic_section");
    read_only.segment(PT_DYNAMIC, 0).p_flags.set(LE, PF_R);
    on_both_loaders(move |loader| {
        let mut elf = Elf::of("dynamic_section");
        // What stands behind the end is no entry.
        let section = elf.segments(PT_DYNAMIC)[0];
        let (offset, vaddr) = (section.p_offset.get(LE) as usize, section.p_vaddr.get(LE));
        let behind =
            (0..).step_by(16).find(|at| elf.at::<Dyn64<LE>>(offset + at).d_tag.get(LE) == DT_NULL).unwrap() + 16;
        elf.at::<Dyn64<LE>>(offset + behind).d_tag.set(LE, DT_STRTAB);
        elf.at::<Dyn64<LE>>(offset + behind).d_val.set(LE, 0x10);
        for (path, rebased) in [(elf.save("writable.so"), true), (read_only.save("read_only.so"), false)] {
            let library = loader.open(path);
            let bias = library.address("here") as u64 - elf.vaddr("here");
            let value_of: extern "C" fn(i64) -> u64 = unsafe { std::mem::transmute(library.address("value_of")) };
            for (tag, bias) in REBASED.map(|tag| (tag, bias)).into_iter().chain(KEPT.map(|tag| (tag, 0))) {
                assert_ne!(elf.value(tag), 0, "{tag:?}");
                assert_eq!(value_of(tag.0), elf.value(tag) + if rebased { bias } else { 0 }, "{tag:?}, {rebased}");
            }
            if rebased {
                let behind = (bias + vaddr) as usize + behind + 8;
                assert_eq!(unsafe { (behind as *const u64).read() }, 0x10);
            }
        }
    });
}
