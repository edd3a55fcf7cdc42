//! Where segments come to lie and how they are protected: zeros, alignment, holes, RELRO, writable text.

#![cfg(target_arch = "x86_64")]

mod common;

use std::ops::Range;
use std::path::PathBuf;

use common::elf::Elf;
use common::maps::{Map, address_space, assert_same_address_space, maps, protection};
use common::trace::{Call, system_calls_of};
use common::*;
use object::LittleEndian as LE;
use object::elf::*;
use soload::{Addr, ErrorKind, PageMap, PageState};

const PAGE: usize = 4096;

#[test]
fn variables_without_initial_value_are_zero() {
    on_both_loaders(|loader| {
        let library = loader.open("bss");
        assert_eq!(library.read::<u32>("initialised"), 0x600d);
        assert_eq!(library.call("count_not_zero"), 0);
        assert_eq!(library.call("write_all"), 1);
    });
}

#[test]
fn every_segment_has_its_protection_and_every_hole_has_none() {
    on_both_loaders(|loader| {
        for (name, symbol) in [
            ("bss", "initialised"),
            ("align_64k", "aligned"),
            ("align_code_first", "aligned"),
            ("relro", "plain_pointer"),
            ("hash_gnu", "f_000"),
        ] {
            let library = loader.open(name);
            let bias = library.address(symbol) - Elf::of(name).vaddr(symbol) as usize;
            assert_eq!(observed(name, bias), planned(name, bias), "{name}");
        }
    });
}

/// The protection of each page from the object's first to its last, as its program headers ask for it.
fn planned(name: &str, bias: usize) -> Vec<String> {
    let elf = Elf::of(name);
    let mut pages = vec![String::from("---p"); span(&elf)];
    let mut protect = |vaddr: u64, end: u64, perms: String| {
        pages[vaddr as usize / PAGE..(end as usize).div_ceil(PAGE)].fill(perms);
    };
    for segment in elf.segments(PT_LOAD) {
        let letter = |flag: ProgramFlags, letter| if segment.p_flags.get(LE).0 & flag.0 != 0 { letter } else { '-' };
        let perms = [letter(PF_R, 'r'), letter(PF_W, 'w'), letter(PF_X, 'x'), 'p'].iter().collect();
        let start = segment.p_vaddr.get(LE);
        protect(start, start + segment.p_memsz.get(LE), perms);
    }
    for relro in elf.segments(PT_GNU_RELRO) {
        // The last page is sealed only if RELRO fills it.
        let start = relro.p_vaddr.get(LE);
        let end = (start + relro.p_memsz.get(LE)) / PAGE as u64 * PAGE as u64;
        protect(start, end, "r--p".into());
    }
    assert_eq!(bias % PAGE, 0);
    pages
}

/// The same as the kernel has it; a page that is not mapped at all counts as one that cannot be touched.
fn observed(name: &str, bias: usize) -> Vec<String> {
    let maps = maps();
    let perms =
        |address| maps.iter().find(|map| map.range.contains(&address)).map_or("---p".into(), |map| map.perms.clone());
    (0..span(&Elf::of(name))).map(|page| perms(bias + page * PAGE)).collect()
}

/// Pages from address 0 to the end of the last segment.
fn span(elf: &Elf) -> usize {
    let last = *elf.segments(PT_LOAD).last().unwrap();
    ((last.p_vaddr.get(LE) + last.p_memsz.get(LE)) as usize).div_ceil(PAGE)
}

#[test]
fn alignment_above_the_page_size_is_kept() {
    on_both_loaders(|loader| {
        for (name, align) in [("align_64k", 0x1_0000), ("align_2m", 0x20_0000)] {
            // Several at once: one alone may be aligned by luck.
            let copies: Vec<_> = (0..4).map(|n| loader.open(Elf::of(name).save(format!("{n}.so")))).collect();
            for copy in copies {
                assert_eq!(copy.address("aligned") % align, 0, "{name}");
                assert_eq!(copy.call("function"), 5, "{name}");
            }
        }
    });
}

#[test]
fn no_address_space_is_kept_for_alignment_after_loading() {
    on_ours(|_| {
        let before = address_space();
        let library = ours("align_2m").unwrap();
        let new: usize =
            maps().iter().filter(|map| map.path.ends_with("libalign_2m.so")).map(|map| map.range.len()).sum();
        assert!(new > 0);
        let extra = |map: &&Map| !before.contains(map) && !map.path.ends_with("libalign_2m.so") && map.path.is_empty();
        let kept: usize = address_space().iter().filter(extra).map(|map| map.range.len()).sum();
        assert!(kept <= span(&Elf::of("align_2m")) * PAGE, "{kept:#x} bytes that are not the library's");
        drop(library);
    });
}

#[test]
fn one_call_for_each_part_and_no_other_mapping_but_a_reservation_where_the_file_cannot_be_one() {
    on_ours(|_| {
        for name in ["bss", "relro", "align_2m", "hash_gnu", "demo"] {
            drop(ours(name).unwrap());
            let calls = system_calls_of(|| drop(ours(name).unwrap()));
            let [at, size, protection, flags] = [0, 1, 2, 3].map(|n| move |call: &Call| call.arguments[n]);
            // The file itself, shown from its start on, is or keeps the room for the other segments. Where they must be aligned
            // to more than a page and the kernel has put it elsewhere, room is reserved, and it is shown there.
            let (mut reservations, mut range) = (Vec::new(), 0..0);
            let mut inside = 0;
            for call in calls.iter().filter(|call| call.number == libc::SYS_mmap) {
                if flags(call) & libc::MAP_FIXED as u64 != 0 {
                    let end = at(call) + size(call);
                    assert!(range.start <= at(call) && end <= range.end, "{name}: outside of {range:#x?}: {call:#x?}");
                    inside += 1;
                } else if flags(call) & libc::MAP_FIXED_NOREPLACE as u64 != 0 && at(call) == range.end {
                    range.end += size(call);
                    inside += 1;
                } else {
                    // The room of the one that was closed is asked for again.
                    let asked = flags(call) & libc::MAP_FIXED_NOREPLACE as u64 != 0 && call.result as u64 == at(call);
                    assert!(asked || name == "align_2m", "{name}: {call:#x?}");
                    reservations.push(protection(call));
                    range = call.result as u64..call.result as u64 + size(call);
                }
            }
            let (standing, executable) = standing(&Elf::of(name));
            let in_place = match reservations[..] {
                [shown] if shown == libc::PROT_READ as u64 => standing,
                [_, reserved] if name == "align_2m" && reserved == 0 => standing - 1,
                _ => panic!("{name}: {calls:#x?}"),
            };
            assert_eq!(inside + in_place, parts(&Elf::of(name)), "{name}: {calls:#x?}");
            // The dynamic section is read where it is.
            let reads = calls.iter().filter(|call| call.number == libc::SYS_pread64).count();
            assert_eq!(reads, 1, "{name}: {calls:#x?}");
            // What lies between segments is inaccessible.
            let is_protect = |call: &&Call| call.number == libc::SYS_mprotect && protection(call) != 0;
            let protects = calls.iter().filter(is_protect).filter(|call| range.contains(&at(call))).count();
            assert!(protects <= executable + 1, "{name}: code is made so, and RELRO read-only: {calls:#x?}");
        }
    });
}

#[test]
fn a_dynamic_section_is_read_where_it_is_unless_it_may_be_on_pages_that_nobody_writes_to() {
    on_ours(|_| {
        // Nobody looks at what stands behind its last entry.
        for (pages, reads) in [(1, 1), (64, 2)] {
            let mut elf = Elf::of("many_pages");
            let section = elf.segment(PT_DYNAMIC, 0);
            let end = section.p_vaddr.get(LE).next_multiple_of(PAGE as u64) + (pages * PAGE) as u64;
            section.p_filesz.set(LE, end - section.p_vaddr.get(LE));
            section.p_memsz.set(LE, end - section.p_vaddr.get(LE));
            let path = elf.save(format!("{pages}.so"));
            let calls = system_calls_of(|| drop(Loader::Ours.open(&path)));
            assert_eq!(calls.iter().filter(|call| call.number == libc::SYS_pread64).count(), reads, "{calls:#x?}");
            let library = Loader::Ours.open(&path);
            let start = library.address("untouched").next_multiple_of(PAGE);
            assert_eq!(PageMap::of_range(Addr(start)..Addr(start + 127 * PAGE)).unwrap().count(PageState::Copied), 0);
            assert_eq!(library.call("count_wrong"), 0);
        }
    });
}

#[test]
fn names_behind_the_variables_are_read_there() {
    on_both_loaders(|loader| {
        // One where the kernel likes, and one below it.
        let copies = ["first.so", "second.so"].map(|copy| loader.open(Elf::of("moved_names").save(copy)));
        copies.iter().for_each(|copy| assert_eq!(copy.call("answer_now"), 42));
    });
}

#[test]
fn objects_lie_below_one_another_and_elsewhere_where_something_is() {
    on_ours(|_| {
        let open = |copy: &str| ours(Elf::of("relro").save(copy)).unwrap();
        let place = |copy: &str| {
            let own: Vec<_> = maps().into_iter().filter(|map| map.path.ends_with(copy)).collect();
            own[0].range.start..own[own.len() - 1].range.end
        };
        // The kernel fills holes between other mappings first: there is no room below those.
        let room_below =
            |at: usize| at - maps().iter().map(|map| map.range.end).filter(|end| *end <= at).max().unwrap_or(0);
        let mut first = String::new();
        for n in 0.. {
            first = format!("first_{n}.so");
            std::mem::forget(open(&first));
            let own = place(&first);
            if room_below(own.start) > 100 * own.len() {
                break;
            }
            assert!(n < 100, "{:x?}", maps());
        }
        let second = open("second.so");
        let (above, below) = (place(&first), place("second.so"));
        assert_eq!(below.end, above.start);
        // What is closed leaves its place to the next one.
        drop(second);
        let _third = open("third.so");
        assert_eq!(place("third.so"), below);
        // Now something is where the next one's variables would be, or its code.
        let (mut last, pages) = (below.start, below.len() / PAGE);
        for (n, under) in [1, pages - 1].into_iter().enumerate() {
            let taken = last - under * PAGE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            // SAFETY: the kernel refuses to replace what is there.
            let there = unsafe { libc::mmap(taken as *mut _, PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
            assert_eq!(there as usize, taken);
            // SAFETY: a page of our own.
            unsafe { there.cast::<u64>().write(0x600d) };
            let name = format!("other_{n}.so");
            std::mem::forget(open(&name));
            assert!(!place(&name).contains(&taken));
            // SAFETY: as above.
            assert_eq!(unsafe { there.cast::<u64>().read() }, 0x600d);
            last = place(&name).start;
        }
    });
}

/// How many segments stand in the file as they will in memory, and how many of them are executable: nothing has to be mapped
/// for those.
fn standing(elf: &Elf) -> (usize, usize) {
    let segments = elf.segments(PT_LOAD);
    let flags = segments.iter().filter(|segment| segment.p_vaddr.get(LE) == segment.p_offset.get(LE));
    let flags: Vec<_> = flags.map(|segment| segment.p_flags.get(LE)).filter(|flags| !flags.contains(PF_W)).collect();
    (flags.len(), flags.iter().filter(|flags| flags.contains(PF_X)).count())
}

/// How many mappings an object needs: one for each segment with bytes of the file, one for whole pages of zeros.
fn parts(elf: &Elf) -> usize {
    let pages = |vaddr: u64, size: u64| (vaddr + size).div_ceil(PAGE as u64);
    let parts = elf.segments(PT_LOAD).into_iter().map(|segment| {
        let (vaddr, in_file, size) = (segment.p_vaddr.get(LE), segment.p_filesz.get(LE), segment.p_memsz.get(LE));
        usize::from(in_file > 0) + usize::from(pages(vaddr, size) > pages(vaddr, in_file))
    });
    parts.sum()
}

#[test]
fn relro_is_read_only_before_the_first_constructor() {
    on_both_loaders(|loader| {
        let library = loader.open("relro");
        assert_eq!(library.call_text("constructor_saw"), "r--p");
        assert_eq!(library.call_text("constructor_saw_of_plain"), "rw-p");
        assert_eq!(protection(library.address("relro_pointer")), "r--p");
    });
}

#[test]
fn no_page_is_ever_writable_and_executable() {
    on_both_loaders(|loader| {
        forbid_writable_executable();
        for name in ["bss", "relro", "ifunc", "align_2m", "life_root", "versions_default"] {
            loader.open(name);
        }
        loader.open_packed("relr");
    });
}

/// From here on the kernel kills the process if it asks for memory that is writable and executable at once.
#[allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the filter outlives the call that copies it
fn forbid_writable_executable() {
    let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump_if = |code: u32, k, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    let both = (libc::PROT_WRITE | libc::PROT_EXEC) as u32;
    let mut filter = [
        statement(load, std::mem::offset_of!(libc::seccomp_data, nr) as u32),
        jump_if(equal, libc::SYS_mmap as u32, 1, 0),
        jump_if(equal, libc::SYS_mprotect as u32, 0, 3),
        // The third argument of either is the protection; its low half comes first.
        statement(load, (std::mem::offset_of!(libc::seccomp_data, args) + 2 * size_of::<u64>()) as u32),
        statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, both),
        jump_if(equal, both, 1, 0),
        statement(give, libc::SECCOMP_RET_ALLOW),
        statement(give, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
    }
}

#[test]
fn a_writable_and_executable_segment_is_refused_unless_allowed() {
    on_both_loaders(|loader| {
        let path = fixture("writable_text");
        if loader.diverges(&DIVERGENCE_WRITABLE_EXECUTABLE) {
            let before = address_space();
            let error = ours(&path).expect_err("an error");
            assert!(matches!(error.kind(), ErrorKind::WritableExecutable { .. }), "{error}");
            assert_same_address_space(&before, "refused");
            let library = allowing(|options| options.allow_writable_executable(true), &path);
            assert_eq!(library.call("patched_function"), 6);
        } else {
            assert_eq!(loader.open(path).call("patched_function"), 6);
        }
    });
}

#[test]
fn a_demand_for_an_executable_stack_is_refused_unless_allowed() {
    on_both_loaders(|loader| {
        let path = fixture("executable_stack");
        let local = 0u8;
        let stack = || protection(&raw const local as usize);
        if loader.diverges(&DIVERGENCE_EXECUTABLE_STACK) {
            let error = ours(&path).expect_err("an error");
            assert!(matches!(error.kind(), ErrorKind::ExecutableStack), "{error}");
            assert_eq!(stack(), "rw-p");
            allowing(|options| options.allow_executable_stack(true), &path);
        } else if host_is_since(2, 41) {
            loader.try_open(path).expect_err("glibc refuses it, too, since 2.41");
        } else {
            loader.open(path);
        }
    });
}

/// Opens by ours with an option that the host has no word for.
#[allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixture's constructors are harmless
fn allowing(option: impl FnOnce(&mut soload::OpenOptions) -> &mut soload::OpenOptions, path: &PathBuf) -> Lib {
    Lib::Ours(unsafe { option(&mut soload::OpenOptions::new()).open(path) }.unwrap())
}

#[test]
fn an_empty_segment_is_no_obstacle() {
    on_both_loaders(|loader| {
        // Linkers leave one where a section turned out empty.
        let empty = Elf::of("fuzz_seed").segments(PT_LOAD).iter().any(|segment| segment.p_memsz.get(LE) == 0);
        assert!(empty, "the fixture has one");
        assert_eq!(loader.open("fuzz_seed").read::<i32>("fuzz_zeros"), 0);
    });
}

#[test]
fn a_file_that_is_replaced_while_it_is_mapped_does_not_change_the_library() {
    on_both_loaders(|loader| {
        let path = Elf::of("same/a/libsame.so").save("replaced.so");
        let library = loader.open(&path);
        let other = Elf::of("same/b/libsame.so").save("other.so");
        std::fs::rename(other, &path).unwrap();
        assert_eq!(library.call("same_answer"), 1);
    });
}

#[test]
fn text_is_mapped_from_the_file() {
    on_both_loaders(|loader| {
        let library = loader.open("hash_gnu");
        let text = library.address("f_000");
        let map = maps().into_iter().find(|map| map.range.contains(&text)).unwrap();
        assert!(map.path.ends_with("libhash_gnu.so"), "{map:?}");
    });
}

#[test]
fn the_pages_that_relocation_writes_to_are_copied_and_no_others() {
    on_both_loaders(|loader| {
        let Some(library) = loader.open_packed("many_pages") else { return };
        // Those at both ends may have something else in them as well.
        let inner = |name, len| {
            let start = library.address(name);
            start.next_multiple_of(PAGE)..(start + len) / PAGE * PAGE
        };
        let (constants, untouched) = (inner("constants", 150 * 1024 * 16), inner("untouched", 128 * PAGE));
        let count = |range: &Range<usize>, state| {
            PageMap::of_range(Addr(range.start)..Addr(range.end)).unwrap().count(state) * PAGE
        };
        assert_eq!(count(&constants, PageState::Copied), constants.len());
        assert_eq!(count(&untouched, PageState::Copied), 0);
        let map = maps().into_iter().find(|map| map.range.contains(&constants.start)).unwrap();
        assert!(map.path.ends_with("libmany_pages.so") && map.range.end >= constants.end, "{map:?}");
        assert_eq!(library.call("count_wrong"), 0);
    });
}
