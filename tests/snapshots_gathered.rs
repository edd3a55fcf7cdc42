//! Calls of the C library that go through stubs: fewer pages of each process, and nothing that anybody could tell.

#![cfg(all(feature = "snapshots", target_arch = "x86_64", target_env = "gnu"))]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types that the tests state

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};

use common::maps::maps;
use common::snapshots::{MADE, USED, directory};
use common::*;
use soload::{Library, OpenOptions, Snapshot, SnapshotUse, Snapshots};

fn open() -> Library {
    unsafe { OpenOptions::new().snapshots(directory()).open(fixture("gathered")) }.unwrap()
}

/// Pages without a file that can be executed, and what follows them.
fn stubs() -> Option<(Range<usize>, Range<usize>)> {
    let maps = maps();
    let code = maps.iter().position(|map| map.perms.contains('x') && map.path.is_empty())?;
    assert_eq!((&*maps[code].perms, &*maps[code + 1].perms), ("r-xp", "r--p"), "read-only, the table too");
    assert_eq!(maps[code].range.end, maps[code + 1].range.start);
    assert!(maps[code + 2..].iter().all(|map| !map.perms.contains('x') || !map.path.is_empty()), "one for the group");
    Some((maps[code].range.clone(), maps[code + 1].range.clone()))
}

/// Words of the libraries that are addresses of stubs.
fn words_to(stubs: &Range<usize>) -> usize {
    let pages = maps().into_iter().filter(|map| map.path.contains("snapshot") && map.perms.starts_with('r'));
    let words = |map: common::maps::Map| {
        map.range.step_by(8).filter(|at| stubs.contains(&unsafe { *(*at as *const usize) })).count()
    };
    pages.map(words).sum()
}

/// That everything is as ever; consumes the library, for its destructors.
#[track_caller]
fn behaves(library: Library) {
    let library = Lib::Ours(library);
    assert_eq!(library.call("lengths"), 3 + 10);
    assert_eq!(library.call("same_process"), 1);
    assert_eq!(library.call_text("printed"), "1 2.5 three 4.5 5 6 7 8.5");
    assert_eq!(library.call("jumps"), 4);
    assert!(library.call_text("own_file").ends_with("libgathered.so"));
    let pointer = |name: &str| {
        let function: extern "C" fn() -> usize = unsafe { std::mem::transmute(library.address(name)) };
        function()
    };
    assert_eq!(pointer("next_lengths"), 0);
    let getpid = libc::getpid as *const () as usize;
    assert_eq!((pointer("address_of_getpid"), pointer("found_getpid")), (getpid, getpid));
    let mut gone = 0;
    let count: extern "C" fn(*mut i32) = unsafe { std::mem::transmute(library.address("count_gone")) };
    count(&raw mut gone);
    library.close();
    assert_eq!(unsafe { (&raw const gone).read_volatile() }, 3, "destructors have run");
}

#[test]
fn calls_go_through_stubs_that_nobody_can_write_and_that_go_with_the_libraries() {
    on_ours(|_| {
        for (round, expected) in [MADE, USED, USED].into_iter().enumerate() {
            let library = open();
            assert_eq!(library.snapshot(), expected);
            let (code, table) = stubs().expect("stubs");
            assert!(words_to(&code) >= 12, "round {round}: {} words", words_to(&code));
            for word in table.step_by(8).map(|at| unsafe { *(at as *const usize) }).filter(|word| *word != 0) {
                let map = maps().into_iter().find(|map| map.range.contains(&word)).unwrap();
                assert_eq!(map.perms, "r-xp", "the address of a function: {map:?}");
            }
            behaves(library);
            assert_eq!(stubs(), None, "unmapped with the last library");
        }
    });
}

#[test]
fn exceptions_pass_and_what_stays_keeps_its_stubs() {
    on_ours(|_| {
        let open = || unsafe { OpenOptions::new().snapshots(directory()).open(fixture("gathered_throws")) }.unwrap();
        let library = open();
        assert_eq!(library.snapshot(), MADE);
        let first = stubs().expect("stubs");
        let library = Lib::Ours(library);
        assert_eq!(library.call("throws_through_sorting"), 5);
        library.close();
        // The C++ library has symbols that are unique in the process.
        assert_eq!(stubs(), Some(first));
        let library = Lib::Ours(open());
        assert_eq!(library.call("throws_through_sorting"), 5);
    });
}

#[test]
fn pages_with_calls_alone_are_shared() {
    on_ours(|_| {
        let snapshot = Snapshot::create(fixture("gathered")).unwrap();
        for name in ["gathered_1", "gathered_2", "gathered_3"] {
            assert_eq!(snapshot.written_pages(&fixture(name)), [], "{name}");
        }
        // The address of a function is the same for everybody.
        assert_eq!(snapshot.written_pages(&fixture("gathered")).len(), 1);
        let library = unsafe { OpenOptions::new().snapshot(&snapshot).open(fixture("gathered")) }.unwrap();
        assert_eq!(library.snapshot(), USED);
        assert!(words_to(&stubs().expect("stubs").0) >= 12);
        behaves(library);
        // So few pages that stubs would take as many.
        let alone = Snapshot::create(fixture("gathered_1")).unwrap();
        let library = unsafe { OpenOptions::new().snapshot(&alone).open(fixture("gathered_1")) }.unwrap();
        assert_eq!((library.snapshot(), stubs()), (USED, None));
    });
}

#[test]
fn where_stubs_have_no_room_or_may_not_be_executed_functions_are_called_directly() {
    on_ours(|_| {
        let library = open();
        let (code, _) = stubs().expect("stubs");
        behaves(library);
        let taken = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            libc::mmap(code.start as *mut _, 4096, libc::PROT_NONE, flags, -1, 0)
        };
        assert_eq!(taken as usize, code.start);
        let library = open();
        assert_eq!((library.snapshot(), stubs(), words_to(&code)), (USED, None, 0));
        behaves(library);
        assert_eq!(unsafe { libc::munmap(taken, 4096) }, 0);
        assert_eq!(stubs(), None);
        let library = open();
        assert!(stubs().is_some(), "there is room again");
        drop(library);
        // What has been written may not be executed from here on (Linux 6.3).
        const SET_MDWE: libc::c_int = 65;
        if unsafe { libc::prctl(SET_MDWE, 1, 0, 0, 0) } == 0 {
            let library = open();
            assert_eq!((library.snapshot(), stubs(), words_to(&code)), (USED, None, 0));
            behaves(library);
        }
    });
}

#[test]
fn while_ten_threads_open_and_close_it_each_call_gets_where_it_belongs() {
    on_ours(|_| {
        let threads: Vec<_> = (0..10)
            .map(|_| {
                std::thread::spawn(|| {
                    for _ in 0..20 {
                        let library = Lib::Ours(open());
                        assert_eq!((library.call("lengths"), library.call("same_process")), (13, 1));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(stubs(), None);
    });
}

#[test]
fn it_is_the_same_bytes_each_time() {
    on_ours(|_| {
        let snapshots = Snapshots::open(&directory()).unwrap();
        let make = || {
            assert_eq!(open().snapshot(), MADE);
            let name = snapshots.files().pop().unwrap().name;
            snapshots.verify(&name).unwrap();
            let path = directory().join(name);
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(path).unwrap();
            bytes
        };
        assert!(make() == make());
    });
}

/// The bytes of a snapshot in memory.
fn bytes(snapshot: &Snapshot) -> Vec<u8> {
    fs::read(format!("/proc/self/fd/{}", snapshot.as_fd().as_raw_fd())).unwrap()
}

/// Bytes for each function in the list that ends the manifest: the number of the provider, that of the symbol.
const FUNCTION: usize = 6;

/// Where the functions stand, the last thing before the pages.
fn functions(bytes: &[u8]) -> Range<usize> {
    let head = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let len = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut starts = (1..1000).filter_map(|functions| head.checked_sub(functions * FUNCTION));
    starts.find(|start| len(start - 4) == head - start).expect("a list of functions")..head
}

/// A memory file with these bytes, as whoever makes up a snapshot would make it: its seal fits.
fn made_up(mut bytes: Vec<u8>) -> Result<Snapshot, soload::Error> {
    let first_page = (u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize).next_multiple_of(4096);
    bytes[64..96].fill(0);
    let seal = blake3::keyed_hash(b"soload snapshot handed over, 1\0\0", &bytes[..first_page]);
    bytes[64..96].copy_from_slice(seal.as_bytes());
    let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&bytes).unwrap();
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) }, 0);
    Snapshot::from_fd(file.into())
}

#[test]
fn a_list_of_functions_that_is_made_up_is_refused() {
    on_ours(|_| {
        let made = bytes(&Snapshot::create(fixture("gathered")).unwrap());
        let functions = functions(&made);
        let open = |bytes: Vec<u8>| {
            let snapshot = made_up(bytes).unwrap();
            unsafe { OpenOptions::new().snapshot(&snapshot).open(fixture("gathered")) }.unwrap()
        };
        let library = open(made.clone());
        assert_eq!(library.snapshot(), USED, "what is made up rightly is used");
        behaves(library);

        let number = |at: usize| u16::from_le_bytes(made[at..at + 2].try_into().unwrap());
        let places: Vec<usize> = functions.clone().step_by(FUNCTION).collect();
        let of_loader = places.iter().copied().find(|at| number(*at) == u16::MAX).expect("dlsym");
        let of_host = places.iter().copied().find(|at| number(*at) != u16::MAX).expect("getpid");
        let refused = |at: usize, change: &[u8]| {
            let mut bytes = made.clone();
            bytes[at..at + change.len()].copy_from_slice(change);
            let library = open(bytes);
            let why = library.snapshot().to_string();
            let expected =
                "without snapshot, snapshot refused: damaged: a function that is called that it names is not there";
            let other =
                "without snapshot, snapshot refused: damaged: an object of the scope that it names is not there";
            assert!(why == expected || why == other, "{why}");
            behaves(library);
            assert_eq!(stubs(), None);
        };
        // No such symbol, the one without a name, no such provider, no such name of the loader's.
        refused(of_host + 2, &u32::MAX.to_le_bytes());
        refused(of_host + 2, &0u32.to_le_bytes());
        refused(of_host, &(u16::MAX - 1).to_le_bytes());
        refused(of_loader + 2, &1000u32.to_le_bytes());
        refused(of_host, &[u16::MAX.to_le_bytes(), u16::MAX.to_le_bytes(), u16::MAX.to_le_bytes()].concat());
        // A variable of the C library, as its own table of symbols says; and objects that are not the host's.
        refused(of_host + 2, &symbol_of_libc("stdout").to_le_bytes());
        let providers = (0..64).filter(|provider| *provider != number(of_host));
        let mut others = 0;
        for provider in providers {
            let mut bytes = made.clone();
            bytes[of_host..of_host + 2].copy_from_slice(&provider.to_le_bytes());
            others += usize::from(matches!(open(bytes).snapshot(), SnapshotUse::Refused(_)));
        }
        assert!(others > 50, "{others}");

        // Fewer of them than words lead to, and one that is cut.
        for len in [FUNCTION as u32, 1, u32::MAX] {
            let mut short = made.clone();
            short[functions.start - 4..functions.start].copy_from_slice(&len.to_le_bytes());
            assert!(made_up(short).is_err(), "{len} bytes and what belongs to nothing");
        }
    });
}

#[test]
fn pages_that_are_not_those_of_a_librarys_segments_are_refused() {
    on_ours(|_| {
        let made = bytes(&Snapshot::create(fixture("gathered")).unwrap());
        // The pages of one mapping: its number, where they begin in the file, how many bytes they are. The first come first.
        let head = u64::from_le_bytes(made[16..24].try_into().unwrap()) as usize;
        let first = (head.next_multiple_of(4096) as u64).to_le_bytes();
        let at = made[..head].windows(8).position(|bytes| *bytes == first).expect("pages");
        let (map, len) = (at - 4, at + 8);
        let number = |at: usize| u64::from_le_bytes(made[at..at + 8].try_into().unwrap());
        let refused = |at: usize, change: &[u8]| {
            let mut bytes = made.clone();
            bytes[at..at + change.len()].copy_from_slice(change);
            let snapshot = made_up(bytes).unwrap();
            let library = unsafe { OpenOptions::new().snapshot(&snapshot).open(fixture("gathered")) }.unwrap();
            let expected =
                "without snapshot, snapshot refused: damaged: it has not the pages of the library's writable segments";
            assert_eq!(library.snapshot().to_string(), expected);
            behaves(library);
        };
        refused(map, &1000u32.to_le_bytes());
        refused(len, &(number(len) + 4096).to_le_bytes());
        refused(len, &(number(len) - 4096).to_le_bytes());
    });
}

/// The number of a symbol of the C library.
fn symbol_of_libc(name: &str) -> u32 {
    use object::{Object, ObjectSymbol};
    let libc = maps().into_iter().find(|map| map.path.ends_with("/libc.so.6")).unwrap().path;
    let bytes = fs::read(libc).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok(name)).unwrap();
    symbol.index().0 as u32
}
