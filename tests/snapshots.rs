//! Snapshots: pages that one process has relocated are mapped by later ones, and everything behaves as ever.

#![cfg(all(feature = "snapshots", target_arch = "x86_64", target_env = "gnu"))]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types that the tests state

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use common::maps::{Map, maps};
use common::snapshots::{MADE, USED, directory};
use common::*;
use soload::{Addr, Error, Library, OpenOptions, PageMap, PageState, Refusal, Snapshot, SnapshotUse, Snapshots};

fn open_in(directory: &Path, library: &Path) -> Result<Library, Error> {
    unsafe { OpenOptions::new().snapshots(directory).open(library) }
}

#[track_caller]
fn shared(name: &str) -> Lib {
    let library = open_in(&directory(), &fixture(name)).unwrap();
    assert!(matches!(library.snapshot(), SnapshotUse::Used { .. }), "{name}: {}", library.snapshot());
    Lib::Ours(library)
}

/// The snapshots in the directory.
fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == "snapshot")).collect()
}

#[test]
fn what_is_made_is_used_and_mapped_privately_and_never_executable() {
    on_ours(|_| {
        // Also what is aligned to more than a page.
        for name in ["relr", "align_64k", "align_2m"] {
            let made = open_in(&directory(), &fixture(name)).unwrap();
            assert_eq!(made.snapshot(), MADE);
            let at = made.bias();
            drop(made);
            assert!(maps().iter().all(|map| !map.path.contains(".snapshot")), "unloaded");
            let used = open_in(&directory(), &fixture(name)).unwrap();
            assert_eq!((used.snapshot(), used.bias()), (USED, at), "at the same addresses");
            let of_snapshot: Vec<_> = maps().into_iter().filter(|map| map.path.contains(".snapshot")).collect();
            assert!(!of_snapshot.is_empty());
            let is_private = |map: &Map| map.perms.ends_with("-p");
            assert!(of_snapshot.iter().all(is_private), "private, never executable: {of_snapshot:?}");
            assert_eq!(used.snapshot().to_string(), "by a snapshot");
        }
    });
}

#[test]
fn constructors_thread_local_storage_resolvers_and_exceptions_are_as_ever_made_used_and_used_again() {
    on_ours(|_| {
        for round in 0..3 {
            let library = shared("throws");
            library.throws_and_catches();
            for name in ["tls_general", "tls_local", "tls_initial", "tls_descriptor", "tls_descriptor_static"] {
                let library = shared(name);
                assert_eq!((library.call("next_value"), library.call("next_value")), (42, 43), "{name}");
                let other = library.address("next_value");
                let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(other) };
                assert_eq!(std::thread::spawn(move || function()).join().unwrap(), 42, "{name}");
            }
            let library = shared("ifunc_outer");
            assert_eq!((library.call("call_outer"), library.call("call_inner_indirect")), (1, 3));
            let library = shared("demo");
            assert!(library.call_text("demo_greeting").starts_with("hello"), "round {round}");
        }
        let of_ours = maps().iter().filter(|map| map.path.contains("test-libs")).count();
        assert_eq!(of_ours, 0, "all unloaded");
    });
}

#[test]
fn symbols_that_are_read_late_are_those_that_are_read_at_once() {
    on_ours(|_| {
        let listed = |library: &Library| -> Vec<_> {
            let named = |export: soload::Export<'_>| {
                (export.name().to_vec(), export.version().map(<[u8]>::to_vec), export.is_default(), export.size())
            };
            library.exports().map(named).collect()
        };
        for name in ["demo", "versions_provider", "tls_general", "ifunc_outer"] {
            let at_once = listed(&ours(name).unwrap());
            assert!(!at_once.is_empty(), "{name}");
            let library = open_in(&directory(), &fixture(name)).unwrap();
            assert!(matches!(library.snapshot(), SnapshotUse::Used { .. }), "{name}: {}", library.snapshot());
            // Whoever comes first reads them, the others wait for that.
            let late: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| listed(&library))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(late.iter().all(|late| *late == at_once), "{name}");
        }
        // What becomes global is there for libraries that refer to it.
        let global =
            unsafe { OpenOptions::new().snapshots(directory()).global(true).open(fixture("versions_provider")) };
        assert_eq!(global.unwrap().snapshot(), USED);
    });
}

#[test]
fn constructors_and_destructors_run_in_order_in_every_round() {
    let printed = on_ours(|_| {
        let journal = shared("journal");
        for _ in 0..2 {
            shared("life_init").close();
        }
        let entries: Vec<String> = journal.call_text("journal_text").split_whitespace().map(str::to_owned).collect();
        println!("{}", entries.join(" "));
    });
    let once = "init 200 300 default -default -300 -200 fini";
    assert!(printed[0].1.contains(&format!("{once} {once}")), "{}", printed[0].1);
}

#[test]
fn a_function_that_does_nothing_is_not_called_and_one_that_has_something_to_call_is() {
    on_ours(|_| {
        for (name, round) in ["idle", "idle_ifunc"].iter().flat_map(|name| (0..3).map(move |round| (name, round))) {
            assert_eq!(shared(name).call("count"), 1, "{name}, round {round}");
        }
    });
}

#[test]
fn code_of_which_nothing_runs_is_not_touched() {
    on_ours(|_| {
        let untouched = |library: Library| {
            let map =
                maps().into_iter().find(|map| map.path.ends_with("librelr.so") && map.perms.contains('x')).unwrap();
            let pages = PageMap::of_range(Addr(map.range.start)..Addr(map.range.end)).unwrap().pages;
            drop(library);
            pages.iter().all(|page| page.state == PageState::Untouched)
        };
        assert!(!untouched(ours("relr").unwrap()), "they run where nobody knows");
        let open = || open_in(&directory(), &fixture("relr")).unwrap();
        drop(open());
        assert!(untouched(open()));
    });
}

#[test]
fn variables_start_as_the_file_has_them_whatever_the_process_before_has_written() {
    on_ours(|_| {
        for _ in 0..2 {
            let (many, few) = (shared("bss"), shared("few_zeros"));
            let demo = shared("demo");
            assert_eq!(demo.read::<u8>("demo_untouched"), 1);
            demo.write("demo_untouched", 9u8);
            demo.write("demo_zeros", 9u8);
            for library in [many, few] {
                assert_eq!((library.call("count_not_zero"), library.call("write_all")), (0, 1));
                library.close();
            }
            demo.close();
        }
        assert_eq!(shared("demo").read::<u8>("demo_zeros"), 0);
    });
}

#[test]
fn few_zeros_are_mapped_with_what_they_are_behind() {
    on_ours(|_| {
        let anonymous = |name: &str| {
            drop(open_in(&directory(), &fixture(name)).unwrap());
            let library = open_in(&directory(), &fixture(name)).unwrap();
            assert_eq!(library.snapshot(), USED);
            let start = library.bias().unwrap().get();
            let maps = maps().into_iter().filter(|map| map.range.start >= start && map.range.start < start + (1 << 20));
            maps.filter(|map| map.path.is_empty() && map.perms == "rw-p").count()
        };
        assert_eq!([anonymous("bss"), anonymous("few_zeros")], [1, 0]);
    });
}

#[test]
fn a_unique_symbol_that_another_library_has_settled_is_not_taken_from_a_snapshot() {
    on_ours(|_| {
        let a = Lib::Ours(ours("unique_a").unwrap());
        assert_eq!(a.call("unique_count"), 7);
        // Made, it would bind to the one of `a`, which other processes need not have.
        let b = open_in(&directory(), &fixture("unique_b")).unwrap();
        assert!(matches!(b.snapshot(), SnapshotUse::Refused(Refusal::Unsuitable(_))), "{}", b.snapshot());
        assert_eq!(Lib::Ours(b).call("unique_count"), 8, "one in the process");
    });
}

#[test]
fn a_unique_symbol_of_a_snapshot_is_the_one_though_nobody_has_asked_its_library_for_symbols() {
    on_ours(|_| {
        let a = open_in(&directory(), &fixture("unique_a")).unwrap();
        assert!(matches!(a.snapshot(), SnapshotUse::Used { .. }), "{}", a.snapshot());
        let b = Lib::Ours(ours("unique_b").unwrap());
        assert_eq!((b.call("unique_count"), Lib::Ours(a).call("unique_count")), (7, 8), "one in the process");
        assert_eq!(b.call("unique_count"), 9);
    });
}

#[test]
fn a_unique_symbol_of_a_snapshot_gives_way_to_one_that_is_settled() {
    on_ours(|_| {
        // Made for a process that has no such symbol yet.
        let snapshot = Snapshot::create(fixture("unique_b")).unwrap();
        let alone = Lib::Ours(ours("unique_a").unwrap());
        assert_eq!(alone.call("unique_count"), 7);
        let b = unsafe { OpenOptions::new().snapshot(&snapshot).open(fixture("unique_b")) }.unwrap();
        let SnapshotUse::Refused(refusal) = b.snapshot() else { panic!("{}", b.snapshot()) };
        assert_eq!(
            refusal.to_string(),
            "snapshot refused: unique symbol unique_counter is another one in this process"
        );
        assert_eq!(Lib::Ours(b).call("unique_count"), 8);
    });
}

#[test]
fn what_cannot_be_shared_is_loaded_all_the_same_and_says_why() {
    on_ours(|_| {
        let library = open_in(&directory(), &fixture("text_relocations")).unwrap();
        let why = library.snapshot().to_string();
        assert!(
            why.starts_with("without snapshot, cannot be shared: ") && why.ends_with("it has text relocations"),
            "{why}"
        );
        assert_eq!(Lib::Ours(library).call("read_target"), 9);
        let mut options = OpenOptions::new();
        let options = options.snapshots(directory()).allow_writable_executable(true);
        let library = unsafe { options.open(fixture("writable_text")) }.unwrap();
        let why = library.snapshot().to_string();
        assert!(why.ends_with("it has a segment that is writable and executable"), "{why}");
        assert_eq!(Lib::Ours(library).call("patched_function"), 6);

        // What rests on a library that lies elsewhere in each process.
        let inner = ours("ifunc_inner").unwrap();
        let outer = open_in(&directory(), &fixture("ifunc_outer")).unwrap();
        let why = outer.snapshot().to_string();
        assert!(why.ends_with("libifunc_inner.so: it was loaded before, and is not shared"), "{why}");
        assert_eq!(Lib::Ours(outer).call("call_outer"), 1);
        drop(inner);

        // What may serve what nobody else defines, here and not elsewhere.
        let later = Loader::Host.open("life_leaf");
        let why = open_in(&directory(), &fixture("ifunc_outer")).unwrap().snapshot().to_string();
        assert!(why.ends_with("has opened objects that may define what nobody else does"), "{why}");
        drop(later);
    });
}

#[test]
fn words_beyond_4_gib_are_bound_as_any_other() {
    on_both_loaders(|loader| {
        for name in ["far", "far_before"] {
            assert_eq!(loader.open(name).call("finds_itself"), 1, "{name}");
        }
    });
}

#[test]
fn words_beyond_4_gib_are_not_shared() {
    on_ours(|_| {
        let expected = [
            ("far", "place of a word that refers to the host", "0x180000000"),
            ("far_before", "what a word refers to in the host", "0xffffff"),
        ];
        for (name, what, found) in expected {
            let library = open_in(&directory(), &fixture(name)).unwrap();
            let (file, why) = (fixture(name), library.snapshot().to_string());
            let expected = format!(
                "without snapshot, cannot be shared: {}: {what}: expected less than 4 GiB from where the object begins, \
                 found {found}",
                file.display()
            );
            assert!(why.starts_with(&expected), "{why}");
            assert_eq!(Lib::Ours(library).call("finds_itself"), 1);
        }
        assert!(files().is_empty());
    });
}

#[test]
fn what_is_never_called_need_not_be_defined_where_binding_may_wait() {
    on_ours(|_| {
        let lazily = |name: &str| {
            let mut options = OpenOptions::new();
            options.snapshots(directory()).lazy(true);
            unsafe { options.open(fixture(name)) }.unwrap()
        };
        let why = lazily("undefined_function").snapshot().to_string();
        assert!(why.contains("cannot be shared") && why.contains("undefined symbol"), "{why}");
        for expected in [MADE, USED] {
            let library = lazily("ifunc_outer");
            assert_eq!(library.snapshot(), expected);
            assert_eq!(Lib::Ours(library).call("call_outer"), 1);
        }
    });
}

#[test]
fn addresses_that_are_taken_make_a_load_private() {
    on_ours(|_| {
        drop(open_in(&directory(), &fixture("bss")).unwrap());
        let library = open_in(&directory(), &fixture("bss")).unwrap();
        assert_eq!(library.snapshot(), USED);
        let start = library.bias().unwrap().get();
        // Its first page, that of what comes from the snapshot, and that of the zeros behind.
        let maps = || maps().into_iter().filter(move |map| map.range.start >= start);
        let kept = maps().find(|map| map.path.contains(".snapshot")).unwrap().range.start;
        let zeros = maps().find(|map| map.range.start > kept && map.path.is_empty()).unwrap();
        assert!(zeros.range.len() > 4096 && zeros.perms == "rw-p", "{zeros:?}");
        drop(library);
        for at in [start, kept, zeros.range.start, zeros.range.end - 4096] {
            let taken = unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
                libc::mmap(at as *mut _, 4096, libc::PROT_NONE, flags, -1, 0)
            };
            assert_eq!(taken as usize, at);
            let before = common::maps::address_space();
            let library = open_in(&directory(), &fixture("bss")).unwrap();
            assert!(matches!(library.snapshot(), SnapshotUse::Refused(Refusal::Place(_))), "{}", library.snapshot());
            assert_ne!(library.bias().unwrap().get(), start);
            assert!(maps().any(|map| map.range.start == at && map.perms == "---p"), "not replaced");
            drop(library);
            common::maps::assert_same_address_space(&before, "private");
            assert_eq!(unsafe { libc::munmap(taken, 4096) }, 0);
        }
        assert_eq!(open_in(&directory(), &fixture("bss")).unwrap().snapshot(), USED);
    });
}

#[test]
fn a_new_session_has_other_addresses_and_nothing_of_the_one_before() {
    on_ours(|_| {
        let before = open_in(&directory(), &fixture("demo")).unwrap().bias();
        assert_eq!(files().len(), 1);
        Snapshots::open(&directory()).unwrap().rotate().unwrap();
        assert_eq!(files().len(), 0);
        let library = open_in(&directory(), &fixture("demo")).unwrap();
        assert_eq!(library.snapshot(), MADE);
        assert_ne!(library.bias(), before);
    });
}

#[test]
fn a_snapshot_is_the_same_bytes_each_time_and_the_oldest_ones_go_first() {
    on_ours(|_| {
        for name in ["relr", "tls_descriptor", "ifunc_outer", "life_root", "demo"] {
            open_in(&directory(), &fixture(name)).unwrap();
            let made = files().pop().unwrap();
            let first = fs::read(&made).unwrap();
            fs::remove_file(&made).unwrap();
            open_in(&directory(), &fixture(name)).unwrap();
            assert!(fs::read(&made).unwrap() == first, "{name}");
            fs::remove_file(&made).unwrap();
        }
        let snapshots = Snapshots::open(&directory()).unwrap();
        for name in ["demo", "throws", "bss"] {
            // What is made within one tick of the file system's clock, trails included, is of one age.
            std::thread::sleep(std::time::Duration::from_millis(50));
            open_in(&directory(), &fixture(name)).unwrap();
        }
        let mut all = snapshots.files();
        all.sort_by_key(|file| file.made);
        let newest = all.last().unwrap();
        let libraries = snapshots.verify(&newest.name).unwrap();
        assert_eq!(libraries, [fixture("bss")]);
        assert_eq!(snapshots.purge(newest.bytes).unwrap(), all[..2]);
        assert_eq!(snapshots.files(), all[2..]);
        let library = open_in(&directory(), &fixture("bss")).unwrap();
        assert_eq!(library.snapshot(), USED);
        assert_eq!(snapshots.purge(0).unwrap().len(), 1);
        // Whoever has its pages keeps them.
        let library = Lib::Ours(library);
        assert_eq!((library.call("count_not_zero"), library.call("write_all")), (0, 1));
    });
}

#[test]
fn a_file_that_was_touched_is_the_same_and_one_that_was_changed_is_not() {
    on_ours(|_| {
        let copy = scratch().join("libcopy.so");
        fs::copy(fixture("demo"), &copy).unwrap();
        let outcome = || open_in(&directory(), &copy).unwrap().snapshot();
        assert_eq!((outcome(), outcome()), (MADE, USED));
        let before = fs::read(&files()[0]).unwrap();
        // Another name for it changes what the system says of it.
        fs::hard_link(&copy, scratch().join("libother.so")).unwrap();
        assert_eq!(outcome(), USED);
        let after = fs::read(&files()[0]).unwrap();
        assert!(before != after && before.len() == after.len(), "noted as it is now");
        assert_eq!(outcome(), USED);
        assert!(after == fs::read(&files()[0]).unwrap(), "once");
        Snapshots::open(&directory()).unwrap().verify(files()[0].file_name().unwrap().to_str().unwrap()).unwrap();

        // Same size, same build id, another content.
        let mut bytes = fs::read(&copy).unwrap();
        let text = bytes.windows(5).position(|text| text == b"hello").unwrap();
        bytes[text..text + 5].copy_from_slice(b"HELLO");
        fs::write(&copy, bytes).unwrap();
        let library = open_in(&directory(), &copy).unwrap();
        let why = library.snapshot().to_string();
        assert!(why.ends_with("libcopy.so has changed since it was made"), "{why}");
        assert!(Lib::Ours(library).call_text("demo_greeting").starts_with("HELLO"));
        assert_eq!(outcome(), MADE);
        assert!(shared_at(&copy).call_text("demo_greeting").starts_with("HELLO"));
    });
}

fn shared_at(path: &Path) -> Lib {
    let library = open_in(&directory(), path).unwrap();
    assert_eq!(library.snapshot(), USED);
    Lib::Ours(library)
}

#[test]
fn a_snapshot_in_memory_is_handed_over_with_its_addresses() {
    on_ours(|_| {
        let snapshot = Snapshot::create(fixture("ifunc_outer")).unwrap();
        assert_eq!(snapshot.libraries(), [fixture("ifunc_outer"), fixture("ifunc_inner")]);
        assert!(snapshot.verify().is_ok() && snapshot.bytes() > 8192);
        assert!(maps().iter().all(|map| !map.path.contains("libifunc")), "nothing stays loaded");
        let received = Snapshot::from_fd(snapshot.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let open = |name: &str| unsafe { OpenOptions::new().snapshot(&received).open(fixture(name)) }.unwrap();
        let library = open("ifunc_outer");
        assert_eq!(library.snapshot(), USED);
        assert_eq!(Lib::Ours(library).call("call_outer"), 1);

        let why = open("demo").snapshot().to_string();
        let none = format!("without snapshot, snapshot refused: it has no pages of {}", fixture("demo").display());
        assert_eq!(why, none);
        // One of its libraries alone is another scope.
        let why = open("ifunc_inner").snapshot().to_string();
        assert!(why.starts_with("without snapshot, snapshot refused: made with libifunc_outer.so as object"), "{why}");
        let error = Snapshot::create(fixture("no-such")).unwrap_err();
        assert!(matches!(error.kind(), soload::ErrorKind::Open { .. }), "{error}");
    });
}

#[test]
fn each_call_with_a_pointer_to_the_library_works_while_ten_threads_open_and_close_it() {
    on_ours(|_| {
        let threads: Vec<_> = (0..10)
            .map(|_| {
                std::thread::spawn(|| {
                    for _ in 0..20 {
                        let library = Lib::Ours(open_in(&directory(), &fixture("ifunc_outer")).unwrap());
                        assert_eq!(library.call("call_outer"), 1);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(files().len(), 1);
    });
}

#[test]
fn the_environment_names_the_directory_and_private_opts_out() {
    Child::default().env("SOLOAD_SNAPSHOTS", "$SCRATCH/snapshots").on_ours(|_| {
        assert_eq!(ours("demo").unwrap().snapshot(), MADE);
        let private = || unsafe { OpenOptions::new().private(true).open(fixture("demo")) }.unwrap();
        assert_eq!(private().snapshot(), SnapshotUse::Unasked);
        let (first, second) = (private(), ours("bss").unwrap());
        assert_ne!(first.bias(), second.bias());
        drop(first);
        assert_eq!(ours("demo").unwrap().snapshot(), USED);
    });
}
