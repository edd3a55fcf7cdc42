//! Files that are damaged, foreign, or no files at all: a clean error each time, and nothing left behind.

mod common;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use common::elf::Elf;
use common::maps::{Map, address_space, assert_same_address_space};
use common::*;
use object::elf::*;
use object::{BigEndian as BE, LittleEndian as LE};
use soload::ErrorKind;

/// An address that no segment has.
const OUTSIDE: u64 = 0x7000_0000;

type Damage = (&'static str, fn(&mut Elf));

/// The fourteen of the comparison with other loaders: glibc crashes on eleven of them.
const FOURTEEN: [Damage; 14] = [
    ("a relocation's place outside the image", |elf| elf.relocation(R_X86_64_RELATIVE).r_offset.set(LE, OUTSIDE)),
    ("a relocation's symbol beyond the table", |elf| {
        elf.relocation_to("absolute_value").set_r_info(LE, false, 0x00ff_ffff, R_X86_64_64)
    }),
    ("the GNU hash table outside", |elf| elf.dynamic(DT_GNU_HASH).d_val.set(LE, OUTSIDE)),
    ("a GNU hash bucket beyond the chains", |elf| {
        let hash = elf.gnu_hash();
        for bucket in (hash.buckets..hash.chains).step_by(4) {
            elf.bytes[bucket..bucket + 4].copy_from_slice(&0x00ff_ffff_u32.to_le_bytes());
        }
    }),
    ("no GNU hash buckets", |elf| {
        let count = elf.gnu_hash().bucket_count;
        elf.bytes[count..count + 4].fill(0);
    }),
    ("the string table outside", |elf| elf.dynamic(DT_STRTAB).d_val.set(LE, OUTSIDE)),
    ("the symbol table outside", |elf| elf.dynamic(DT_SYMTAB).d_val.set(LE, OUTSIDE)),
    ("an absurd size of relocations", |elf| elf.dynamic(DT_RELASZ).d_val.set(LE, 0x7fff_ffff_fff0)),
    ("the array of constructors outside", |elf| elf.dynamic(DT_INIT_ARRAY).d_val.set(LE, OUTSIDE)),
    ("a needed name outside the string table", |elf| elf.dynamic(DT_NEEDED).d_val.set(LE, OUTSIDE)),
    ("the version table outside", |elf| elf.dynamic(DT_VERSYM).d_val.set(LE, OUTSIDE)),
    ("a file cut inside a segment", |elf| {
        let last = elf.segments(PT_LOAD).pop().unwrap();
        elf.bytes.truncate((last.p_offset.get(LE) + last.p_filesz.get(LE) / 2) as usize);
    }),
    ("an absurd size of the writable segment", |elf| last_load(elf).p_memsz.set(LE, 1 << 60)),
    ("two segments at one address", |elf| {
        let first = elf.segments(PT_LOAD)[0].p_vaddr;
        elf.segment(PT_LOAD, 1).p_vaddr = first;
    }),
];

/// More fields that say what cannot be.
const MORE: &[Damage] = &[
    ("program headers of a strange size", |elf| elf.header().e_phentsize.set(LE, 32)),
    ("no program headers", |elf| elf.header().e_phnum.set(LE, 0)),
    ("more program headers than the file holds", |elf| elf.header().e_phnum.set(LE, 0xfffe)),
    ("program headers outside", |elf| elf.header().e_phoff.set(LE, 1 << 40)),
    ("program headers at the end of all numbers", |elf| elf.header().e_phoff.set(LE, u64::MAX - 8)),
    ("another ELF version", |elf| elf.header().e_version.set(LE, 2)),
    ("more in the file than in memory", |elf| {
        let size = last_load(elf).p_memsz.get(LE);
        last_load(elf).p_filesz.set(LE, size + 0x100);
    }),
    ("an alignment that is no power of two", |elf| elf.segment(PT_LOAD, 1).p_align.set(LE, 0x1800)),
    ("an offset that does not fit the address", |elf| {
        let offset = last_load(elf).p_offset.get(LE);
        last_load(elf).p_offset.set(LE, offset + 8);
    }),
    ("a segment at the end of all numbers", |elf| last_load(elf).p_vaddr.set(LE, u64::MAX - 0xfff)),
    ("a segment beyond the end of the file", |elf| last_load(elf).p_offset.set(LE, 0x10_0000_0de8)),
    ("segments in descending order", |elf| {
        let (first, second) = (*elf.segment(PT_LOAD, 1), *elf.segment(PT_LOAD, 2));
        *elf.segment(PT_LOAD, 1) = second;
        *elf.segment(PT_LOAD, 2) = first;
    }),
    ("the dynamic section outside", |elf| {
        let dynamic = elf.segment(PT_DYNAMIC, 0);
        dynamic.p_vaddr.set(LE, OUTSIDE);
        dynamic.p_offset.set(LE, OUTSIDE);
    }),
    ("a string table without end", |elf| elf.dynamic(DT_STRSZ).d_val.set(LE, u64::MAX)),
    ("an empty string table", |elf| elf.dynamic(DT_STRSZ).d_val.set(LE, 0)),
    ("symbols of a strange size", |elf| elf.dynamic(DT_SYMENT).d_val.set(LE, 16)),
    ("relocations of a strange size", |elf| elf.dynamic(DT_RELAENT).d_val.set(LE, 8)),
    ("relocations outside", |elf| elf.dynamic(DT_RELA).d_val.set(LE, OUTSIDE)),
    ("a relocation that sticks out of its segment", |elf| {
        let last = elf.segments(PT_LOAD).pop().unwrap();
        let end = (last.p_vaddr.get(LE) + last.p_memsz.get(LE)).next_multiple_of(0x1000);
        elf.relocation(R_X86_64_RELATIVE).r_offset.set(LE, end - 4);
    }),
    ("a relocation of text that nothing announces", |elf| {
        let text = elf.vaddr("seed_answer");
        elf.relocation(R_X86_64_RELATIVE).r_offset.set(LE, text);
    }),
    ("GNU hash: chains start beyond the symbols", |elf| put(elf, |hash| hash.bucket_count + 4, 0x00ff_ffff)),
    ("GNU hash: an empty filter", |elf| put(elf, |hash| hash.bucket_count + 8, 0)),
    ("GNU hash: a filter that is no power of two", |elf| put(elf, |hash| hash.bucket_count + 8, 3)),
    ("GNU hash: more buckets than the file holds", |elf| put(elf, |hash| hash.bucket_count, 0x3fff_ffff)),
    ("a constructor array of absurd size", |elf| elf.dynamic(DT_INIT_ARRAYSZ).d_val.set(LE, 1 << 40)),
    ("a destructor array outside", |elf| elf.dynamic(DT_FINI_ARRAY).d_val.set(LE, OUTSIDE)),
    ("an init function that is data", |elf| {
        let data = elf.vaddr("pointer_to_absolute");
        elf.dynamic(DT_INIT).d_val.set(LE, data);
    }),
    ("needed versions outside", |elf| elf.dynamic(DT_VERNEED).d_val.set(LE, OUTSIDE)),
    ("a needed version's name outside", |elf| elf.needed_version("GLIBC_2.2.5").vna_name.set(LE, 0x7fff_ffff)),
    ("RELRO outside", |elf| elf.segment(PT_GNU_RELRO, 0).p_vaddr.set(LE, OUTSIDE)),
];

/// Fields that may be anything as long as nothing crashes: other loaders, or other readers, ignore them.
const HARMLESS: &[Damage] = &[
    ("section headers outside", |elf| elf.header().e_shoff.set(LE, u64::MAX)),
    ("a strange entry point", |elf| elf.header().e_entry.set(LE, u64::MAX)),
    ("an unknown program header", |elf| elf.segment(PT_NOTE, 0).p_type.set(LE, ProgramType(0x6fff_1234))),
    ("notes outside", |elf| elf.segment(PT_NOTE, 0).p_offset.set(LE, 1 << 50)),
    ("frame headers outside", |elf| elf.segment(PT_GNU_EH_FRAME, 0).p_vaddr.set(LE, OUTSIDE)),
    ("frame headers at the end of all numbers", |elf| elf.segment(PT_GNU_EH_FRAME, 0).p_vaddr.set(LE, u64::MAX - 3)),
    ("an unknown dynamic entry", |elf| elf.dynamic(DT_RELACOUNT).d_tag.set(LE, DynamicTag(0x6abc_def0))),
    ("a wrong count of needed versions", |elf| elf.dynamic(DT_VERNEEDNUM).d_val.set(LE, 1 << 40)),
    ("RELRO over text", |elf| {
        let text = elf.segments(PT_LOAD)[1];
        let relro = elf.segment(PT_GNU_RELRO, 0);
        (relro.p_vaddr, relro.p_memsz) = (text.p_vaddr, text.p_memsz);
    }),
    ("a wrong count of relative relocations", |elf| elf.dynamic(DT_RELACOUNT).d_val.set(LE, 1 << 40)),
];

fn last_load(elf: &mut Elf) -> &mut ProgramHeader64<LE> {
    let last = elf.segments(PT_LOAD).len() - 1;
    elf.segment(PT_LOAD, last)
}

fn put(elf: &mut Elf, place: fn(common::elf::GnuHash) -> usize, value: u32) {
    let place = place(elf.gnu_hash());
    elf.bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
}

/// A copy of the sound fixture with one damage, beside what it needs.
fn damaged(damage: fn(&mut Elf)) -> PathBuf {
    let mut elf = Elf::of("damaged_seed");
    damage(&mut elf);
    elf.save("damaged.so")
}

/// Opens what cannot be opened; the address space must be as before.
fn refused(path: &Path, what: &str) -> soload::Error {
    let before = address_space();
    let opened = ours(path);
    let Err(error) = opened else { panic!("{what}: opened") };
    assert_same_address_space(&before, what);
    error
}

/// Makes the first open of the process, which may have something to set up.
fn warm_up() {
    link("absolute", "libabsolute.so");
    let path = damaged(|_| ());
    assert_eq!(Lib::Ours(ours(&path).unwrap()).call("seed_answer"), 2, "the seed is sound");
    fs::write(&path, "").unwrap();
    ours(&path).expect_err("empty");
}

#[test]
fn fourteen_mutations_are_fourteen_clean_errors() {
    on_ours(|_| {
        warm_up();
        for (what, damage) in FOURTEEN {
            println!("{what}");
            let error = refused(&damaged(damage), what);
            println!("  {error}");
            let clean = matches!(
                error.kind(),
                ErrorKind::Malformed { .. } | ErrorKind::Limit { .. } | ErrorKind::NoRoom { .. }
            );
            assert!(clean, "{what}: {error}");
        }
    });
}

#[test]
fn more_mutations_are_clean_errors() {
    on_ours(|_| {
        warm_up();
        let opened: Vec<_> = MORE
            .iter()
            .filter(|(what, damage)| {
                println!("{what}");
                let before = address_space();
                let opened = ours(damaged(*damage)).map(drop);
                assert_same_address_space(&before, what);
                println!("  {opened:?}");
                opened.is_ok()
            })
            .map(|(what, _)| what)
            .collect();
        assert!(opened.is_empty(), "opened: {opened:#?}");
    });
}

#[test]
fn what_a_loader_does_not_need_may_be_wrong() {
    on_ours(|_| {
        warm_up();
        for (what, damage) in HARMLESS {
            println!("{what}");
            let library = Lib::Ours(ours(damaged(*damage)).unwrap_or_else(|error| panic!("{what}: {error}")));
            assert_eq!(library.call("seed_other"), 2, "{what}");
        }
    });
}

#[test]
fn a_file_cut_anywhere_is_an_error_unless_all_segments_are_whole() {
    on_ours(|_| {
        warm_up();
        let whole = Elf::of("damaged_seed");
        let last = whole.segments(PT_LOAD).pop().unwrap();
        let needed = (last.p_offset.get(LE) + last.p_filesz.get(LE)) as usize;
        for length in (0..whole.bytes.len()).step_by(512) {
            let path = Elf { bytes: whole.bytes[..length].to_vec() }.save("cut.so");
            println!("{length} bytes");
            if length < needed {
                refused(&path, &format!("{length} bytes of {needed}"));
            } else {
                drop(ours(path).unwrap());
            }
        }
    });
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting_for_it() {
    on_ours(|_| {
        warm_up();
        let fifo = scratch().join("fifo");
        nix_mkfifo(&fifo);
        let _socket = UnixListener::bind(scratch().join("socket")).unwrap();
        let (_master, terminal) = terminal();
        for (path, word) in [
            (fifo, "FIFO"),
            (scratch(), "directory"),
            (scratch().join("socket"), "socket"),
            (terminal, "device"),
            ("/dev/zero".into(), "device"),
            ("/dev/null".into(), "device"),
        ] {
            let error = refused(&path, &path.display().to_string());
            let ErrorKind::NotMappable { found } = error.kind() else { panic!("{error}") };
            assert!(found.contains(word), "{}: {error}", path.display());
        }
        assert_eq!(session_terminal(), 0, "opening a terminal must not make it this process's own");
    });
}

#[allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the string ends in NUL
fn nix_mkfifo(path: &Path) {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

/// A pseudo-terminal: its master, which keeps it alive, and its path. This process leads a session of its own, so that
/// a careless open would take it as the controlling terminal.
#[allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // descriptors and buffers are this function's own
fn terminal() -> (std::os::fd::OwnedFd, PathBuf) {
    use std::os::fd::FromRawFd;
    unsafe {
        libc::setsid();
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY);
        assert!(master >= 0 && libc::grantpt(master) == 0 && libc::unlockpt(master) == 0);
        let mut name = [0; 64];
        assert_eq!(libc::ptsname_r(master, name.as_mut_ptr(), name.len()), 0);
        let name = std::ffi::CStr::from_ptr(name.as_ptr()).to_str().unwrap().into();
        (std::os::fd::OwnedFd::from_raw_fd(master), name)
    }
}

/// The controlling terminal's number, 0 if there is none: the seventh field of `/proc/self/stat`.
fn session_terminal() -> i32 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(4).unwrap().parse().unwrap()
}

#[test]
fn what_is_no_shared_object_is_refused_for_what_it_is() {
    on_ours(|_| {
        warm_up();
        let file = |name: &str, text: &str| {
            fs::write(scratch().join(name), text).unwrap();
            scratch().join(name)
        };
        let header = |name: &str, change: fn(&mut FileHeader64<LE>)| {
            let mut elf = Elf::of("bss");
            change(elf.header());
            elf.save(name)
        };
        type Check = fn(&ErrorKind) -> bool;
        let foreign: Check = |kind| matches!(kind, ErrorKind::Foreign { .. });
        let not_elf: Check = |kind| matches!(kind, ErrorKind::NotElf { .. } | ErrorKind::Malformed { .. });
        let mut wrong = Vec::new();
        let script = "/* GNU ld script\n   Use the shared library. */\nGROUP ( /lib/x86_64-linux-gnu/libc.so.6 )\n";
        for (path, is_right) in [
            (file("empty.so", ""), not_elf),
            (file("short.so", "\x7fELF"), not_elf),
            (file("text.so", "#!/bin/sh\necho not a library\n"), not_elf),
            (file("script.so", script), |kind| matches!(kind, ErrorKind::LinkerScript { .. })),
            (header("class.so", |header| header.e_ident.class = ELFCLASS32), foreign),
            (big_endian().save("data.so"), foreign),
            (header("machine.so", |header| header.e_machine.set(LE, EM_AARCH64)), foreign),
            (header("abi.so", |header| header.e_ident.os_abi = ELFOSABI_FREEBSD), foreign),
            (header("relocatable.so", |header| header.e_type.set(LE, ET_REL)), foreign),
            (header("core.so", |header| header.e_type.set(LE, ET_CORE)), foreign),
            (fixture("programs/fixed"), foreign),
            (fixture("programs/pie"), foreign),
        ] {
            match ours(&path) {
                Err(error) if is_right(error.kind()) => println!("{error}"),
                opened => wrong.push(format!("{}: {:?}", path.display(), opened.map(drop))),
            }
        }
        assert!(wrong.is_empty(), "opened, or refused for another reason: {wrong:#?}");
    });
}

#[test]
fn a_file_that_needs_unknown_extensions_of_the_abi_is_refused() {
    on_both_loaders(|loader| {
        for (system, version, is_good) in [
            (ELFOSABI_SYSV, 0, true),
            (ELFOSABI_SYSV, 1, false),
            (ELFOSABI_GNU, 0, true),
            (ELFOSABI_GNU, 3, true),
            (ELFOSABI_GNU, 4, false),
            (ELFOSABI_FREEBSD, 0, false),
        ] {
            let mut elf = Elf::of("bss");
            (elf.header().e_ident.os_abi, elf.header().e_ident.abi_version) = (system, version);
            let opened = loader.try_open(elf.save("extended.so")).map(drop);
            assert_eq!(opened.is_ok(), is_good, "version {version} of {system}: {opened:?}");
        }
    });
}

/// A library for s390x: a header and one segment.
fn big_endian() -> Elf {
    let mut elf = Elf { bytes: vec![0; 0x1000] };
    let header: &mut FileHeader64<BE> = elf.at(0);
    header.e_ident =
        Ident { magic: ELFMAG, class: ELFCLASS64, data: ELFDATA2MSB, version: EV_CURRENT, ..header.e_ident };
    header.e_type.set(BE, ET_DYN);
    header.e_machine.set(BE, EM_S390);
    header.e_version.set(BE, 1);
    header.e_phoff.set(BE, 64);
    header.e_ehsize.set(BE, 64);
    header.e_phentsize.set(BE, 56);
    header.e_phnum.set(BE, 1);
    let segment: &mut ProgramHeader64<BE> = elf.at(64);
    segment.p_type.set(BE, PT_LOAD);
    segment.p_flags.set(BE, PF_R);
    segment.p_filesz.set(BE, 0x1000);
    segment.p_memsz.set(BE, 0x1000);
    segment.p_align.set(BE, 0x1000);
    elf
}

#[test]
fn a_file_that_does_not_exist_or_may_not_be_read_says_so() {
    on_ours(|_| {
        warm_up();
        let error = refused(&scratch().join("absent.so"), "absent");
        assert!(
            matches!(error.kind(), ErrorKind::Open { errno: libc::ENOENT } | ErrorKind::NotFound { .. }),
            "{error}"
        );

        let path = Elf::of("bss").save("unreadable.so");
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0);
        fs::set_permissions(&path, permissions).unwrap();
        stop_being_root();
        let error = refused(&path, "unreadable");
        assert!(matches!(error.kind(), ErrorKind::Open { errno: libc::EACCES }), "{error}");
    });
}

/// Root is refused nothing, so this thread becomes nobody.
#[allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // takes no pointers
fn stop_being_root() {
    if unsafe { libc::geteuid() } == 0 {
        // This thread alone: the C library would have all others do it too, and be in that when the process exits.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
    }
}

#[test]
fn a_name_with_a_nul_byte_is_refused() {
    on_ours(|_| {
        let error = ours("a\0b.so").expect_err("an error");
        assert!(matches!(error.kind(), ErrorKind::NulInName), "{error}");
    });
}

#[test]
fn an_address_space_without_room_is_an_error() {
    on_ours(|_| {
        warm_up();
        limit_address_space(64 << 20);
        let error = refused(&damaged(|elf| last_load(elf).p_memsz.set(LE, 1 << 30)), "a gigabyte of zeros");
        assert!(matches!(error.kind(), ErrorKind::NoRoom { .. }), "{error}");
    });
}

/// Lets the process map this much more than it has now.
#[allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the structure outlives the call
fn limit_address_space(more: usize) {
    let now: usize = address_space().iter().map(|map| map.range.len()).sum();
    let limit = (now + more) as u64;
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

/// A dynamic section without bytes, behind all that is mapped: its segment is aligned to more than a page, so that what is
/// sealed may end behind it, too.
#[test]
fn a_dynamic_section_behind_the_last_page_is_not_touched() {
    on_ours(|_| {
        warm_up();
        let mut elf = Elf { bytes: vec![0; 0x2000] };
        let seed = Elf::of("damaged_seed").bytes;
        elf.bytes[..64].copy_from_slice(&seed[..64]);
        elf.header().e_phoff.set(LE, 64);
        let headers = [
            (PT_LOAD, PF_R, 0..0x1000, 0x1000, 0x1000),
            (PT_LOAD, PF_R | PF_W, 0x1000..0x2000, 0x1000, 0x1_0000),
            (PT_DYNAMIC, PF_R | PF_W, 0x2000..0x2000, 8, 8),
            (PT_GNU_RELRO, PF_R, 0x1000..0x2000, 0x2000, 1),
            (PT_GNU_STACK, PF_R | PF_W, 0..0, 0, 16),
        ];
        elf.header().e_phnum.set(LE, headers.len() as u16);
        for (number, (kind, flags, range, memory_size, align)) in headers.into_iter().enumerate() {
            let header: &mut ProgramHeader64<LE> = elf.at(64 + number * size_of::<ProgramHeader64<LE>>());
            header.p_type.set(LE, kind);
            header.p_flags.set(LE, flags);
            header.p_offset.set(LE, range.start);
            header.p_vaddr.set(LE, range.start);
            header.p_filesz.set(LE, range.end - range.start);
            header.p_memsz.set(LE, memory_size);
            header.p_align.set(LE, align);
        }
        // Right behind it is what was opened before.
        let _before = ours(damaged(|_| ())).unwrap();
        let error = refused(&elf.save("edge.so"), "a dynamic section behind all");
        assert_eq!(error.kind().to_string(), "DT_STRTAB: expected an address, found none");
    });
}

/// Changed libraries for each of the fuzz tests.
const MUTANTS: u32 = 2500;

#[test]
fn flipped_bits_in_headers_never_crash() {
    on_ours(|_| fuzz(1, |elf| 0..64 + 56 * usize::from(elf.clone().header().e_phnum.get(LE))));
}

#[test]
fn flipped_bits_in_tables_never_crash() {
    on_ours(|_| {
        fuzz(2, |elf| {
            64 + 56 * usize::from(elf.clone().header().e_phnum.get(LE))
                ..elf.segments(PT_LOAD)[0].p_filesz.get(LE) as usize
        })
    });
}

#[test]
fn flipped_bits_in_the_dynamic_section_and_data_never_crash() {
    on_ours(|_| {
        fuzz(3, |elf| {
            let last = elf.segments(PT_LOAD).pop().unwrap();
            let start = last.p_offset.get(LE) as usize;
            start..start + last.p_filesz.get(LE) as usize
        });
    });
}

/// Opens, asks and closes [`MUTANTS`] copies of the seed with one to four changes in a range of the file. Mutants are a
/// function of the seed and their number, so that the last line of a child that crashed says how to make it again.
fn fuzz(seed: u64, range: impl Fn(&Elf) -> std::ops::Range<usize>) {
    link("fuzz_needed", "libfuzz_needed.so");
    let sound = Elf::of("fuzz_seed");
    let range = range(&sound);
    ours(sound.save("sound.so")).expect("the seed is sound");
    // The index of libraries stays mapped once a name has been looked for: a mutant may need one that nobody has.
    soload::OpenOptions::new().files("libsoload_absent.so").expect_err("there is none of that name");
    let mut before: Option<Vec<Map>> = None;
    let mut loaded = 0;
    for number in 0..MUTANTS {
        let mut random = Random(seed << 32 | u64::from(number));
        let mut mutant = sound.clone();
        let mut changes = Vec::new();
        for _ in 0..1 + random.below(4) {
            let at = range.start + random.below(range.len());
            let byte = match random.below(4) {
                0 => [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
                _ => mutant.bytes[at] ^ 1 << random.below(8),
            };
            mutant.bytes[at] = byte;
            changes.push((at, byte));
        }
        println!("{number}: {changes:x?}");
        let path = mutant.save("mutant.so");
        let before_open = before.take().unwrap_or_else(address_space);
        if let Ok(library) = ours(&path) {
            loaded += 1;
            let library = Lib::Ours(library);
            let Lib::Ours(handle) = &library else { unreachable!() };
            handle.exports().count();
            let _ = (library.try_address("fuzz_return"), library.try_address("nothing_of_this_name"));
            // A library that stays (a bit made a symbol unique) may stay; the next mutant starts from there.
            library.close();
        } else {
            assert_same_address_space(&before_open, "refused");
            before = Some(before_open);
        }
        fs::remove_file(&path).unwrap();
    }
    println!("{loaded} of {MUTANTS} could be loaded");
    assert!(loaded > MUTANTS / 100 && loaded < MUTANTS, "{loaded}: both ways must be tried");
}

/// A small generator of random numbers (splitmix64), the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % limit as u64) as usize
    }
}
