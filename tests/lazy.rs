//! Lazy binding: a function is looked for when it is first called, and its caller does not notice.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;

use std::ffi::c_int;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use common::elf::Elf;
use common::maps::{is_mapped, protection};
use common::*;
use object::LittleEndian as LE;
use object::elf::*;
use soload::{Closed, Reason};

fn function(address: usize) -> extern "C" fn() -> c_int {
    unsafe { std::mem::transmute(address) }
}

/// Copies of a fixture, each a library of its own whose functions have not been called yet.
fn copies(name: &str, count: usize) -> impl Iterator<Item = std::path::PathBuf> {
    let file = fixture(name);
    static MADE: AtomicUsize = AtomicUsize::new(0);
    (0..count).map(move |_| {
        let copy = scratch().join(format!("lib{}.so", MADE.fetch_add(1, Ordering::SeqCst)));
        fs::copy(&file, &copy).unwrap();
        copy
    })
}

/// For copies in another folder, which need fixtures.
fn with_fixtures_found() -> Child {
    Child::default().env("LD_LIBRARY_PATH", "$LIBS")
}

/// How a child of fork ends that runs the code and then exits with 0.
fn after_fork(code: impl FnOnce()) -> ExitStatus {
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        code();
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    ExitStatus::from_raw(status)
}

#[test]
fn a_function_that_nobody_defines_is_no_error_until_it_is_called() {
    let said = on_both_loaders(|loader| {
        let error = loader.try_open("lazy_missing").expect_err("bound at once");
        assert!(error.contains("soload_missing_function"), "{error}");
        let library = loader.open_with("lazy_missing", LAZY);
        assert_eq!(library.call("call_present"), 1);
        let address = library.address("call_missing");
        let status = after_fork(|| {
            function(address)();
        });
        assert_eq!(status.code(), Some(127), "{status}");
    });
    for (loader, said) in said {
        let line = said.lines().find(|line| line.contains(": symbol lookup error: ")).expect(&said);
        assert!(line.contains("liblazy_missing.so: undefined symbol"), "{loader:?}: {line}");
        assert!(line.contains("soload_missing_function"), "{loader:?}: {line}");
        assert!(loader == Loader::Host || line.contains("expected a definition in"), "{line}");
    }
}

#[test]
fn a_library_that_was_linked_to_be_bound_at_once_is() {
    on_both_loaders(|loader| {
        loader.try_open_with("lazy_missing_now", LAZY).expect_err("linked -z now");
        loader
            .try_open_with("lazy_missing_now_writable", LAZY)
            .expect_err("though its table could be written to later");
    });
}

#[test]
fn the_environment_may_ask_for_everything_to_be_bound_at_once() {
    Child::default().env("LD_BIND_NOW", "1").on_both_loaders(|loader| {
        loader.try_open_with("lazy_missing", LAZY).expect_err("LD_BIND_NOW is set");
    });
}

#[test]
fn an_empty_wish_in_the_environment_is_none() {
    Child::default().env("LD_BIND_NOW", "").on_both_loaders(|loader| {
        loader.open_with("lazy_missing", LAZY);
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn every_register_that_may_hold_an_argument_arrives() {
    on_both_loaders(|loader| {
        for function in ["lost_of_sse", "lost_of_avx", "lost_of_avx512"] {
            let library = loader.open_with("lazy_registers", LAZY);
            // The second call does not pass the trampoline: it shows that the fixture itself is right.
            assert_eq!((library.call(function), library.call(function)), (0, 0), "{function}");
        }
        let library = loader.open_with("lazy_registers", LAZY);
        let lost = if loader.diverges(&DIVERGENCE_STATIC_CHAIN) { 0 } else { 8 };
        assert!(library.call("lost_of_static_chain") <= lost);
    });
}

#[test]
fn arguments_results_and_the_threads_state_are_as_in_any_call() {
    on_both_loaders(|loader| {
        for function in ["sums", "results", "state_of_the_thread"] {
            let library = loader.open_with("lazy_calls", LAZY);
            assert_eq!((library.call(function), library.call(function)), (1, 1), "{function}");
        }
    });
}

#[test]
fn exceptions_pass_through_a_call_that_was_bound_late() {
    on_both_loaders(|loader| {
        let library = loader.open_with("lazy_calls", LAZY);
        for function in ["catch_what_is_thrown", "catch_through"] {
            assert_eq!((library.call(function), library.call(function)), (42, 42), "{function}");
        }
    });
}

#[test]
fn many_threads_may_be_the_first_to_call() {
    with_fixtures_found().on_both_loaders(|loader| {
        for copy in copies("lazy_calls", 20) {
            let library = loader.try_open_bare(&copy, LAZY).unwrap();
            let (call, start) = (library.address("call_first_time"), Barrier::new(8));
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        start.wait();
                        assert_eq!(function(call)(), 42);
                    });
                }
            });
        }
    });
}

#[test]
fn a_child_of_fork_may_be_the_first_to_call() {
    on_both_loaders(|loader| {
        let library = loader.open_with("lazy_calls", LAZY);
        let call = function(library.address("call_first_time"));
        let code = || assert_eq!(call(), 42);
        assert!(after_fork(code).success());
        code();
    });
}

/// The functions that the handler below calls, and how many it has called.
static TO_CALL: Mutex<Vec<usize>> = Mutex::new(Vec::new());
static CALLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn call_next(_: c_int) {
    // The main thread holds the lock only with the signal off.
    let next = TO_CALL.lock().unwrap().get(CALLED.load(Ordering::SeqCst)).copied();
    if let Some(next) = next {
        assert_eq!(function(next)(), 42);
        CALLED.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_signal_handler_may_be_the_first_to_call_whatever_it_interrupts() {
    with_fixtures_found().on_both_loaders(|loader| {
        let libraries: Vec<_> =
            copies("lazy_calls", 200).map(|copy| loader.try_open_bare(copy, LAZY).unwrap()).collect();
        *TO_CALL.lock().unwrap() = libraries.iter().map(|library| library.address("call_first_time")).collect();
        let often = libc::timeval { tv_sec: 0, tv_usec: 500 };
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = call_next as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
            libc::setitimer(
                libc::ITIMER_REAL,
                &libc::itimerval { it_interval: often, it_value: often },
                std::ptr::null_mut(),
            );
        }
        // What it interrupts: opening and closing, and the allocator.
        while CALLED.load(Ordering::SeqCst) < libraries.len() {
            loader.open_with("life_root", GLOBAL).close();
        }
    });
}

#[test]
fn a_resolver_runs_when_its_function_is_first_called_and_finds_its_way_back() {
    on_both_loaders(|loader| {
        let library = loader.open_with("lazy_resolver", LAZY);
        assert_eq!(library.call("call_own"), 3, "its resolver has called while the library was being loaded");
        assert_eq!(library.read::<c_int>("times_resolved"), 0);
        assert_eq!(library.call("call_indirect"), 42);
        assert_eq!(library.read::<c_int>("times_resolved"), 1);
        assert_eq!(library.read::<c_int>("frames_of_caller"), 1, "the backtrace passes through the trampoline");
        assert_eq!(library.call("call_indirect_again"), 42);
        assert_eq!(library.read::<c_int>("times_resolved"), 1, "the word is written");
    });
}

#[test]
fn a_version_is_looked_for_as_it_was_asked_for() {
    on_both_loaders(|loader| {
        for (user, answer) in [("versions_old", 1), ("versions_default", 2)] {
            assert_eq!(loader.open_with(user, LAZY).call("call_foo"), answer, "{user}");
        }
        assert!(loader.try_open_with("versions_missing", LAZY).is_err(), "versions are checked at once");
    });
}

extern "C" fn soload_test_answer_of_program() -> c_int {
    7
}

#[unsafe(no_mangle)]
extern "C" fn soload_test_answer() -> c_int {
    soload_test_answer_of_program()
}

#[test]
fn the_program_comes_first() {
    with_fixtures_found().on_both_loaders(|loader| {
        assert_eq!(loader.open_with("lazy_program_first", LAZY).call("call_answer"), 7);
        let deep = With { lazy: true, ..DEEP_BIND };
        let copy = copies("lazy_program_first", 1).next().unwrap();
        assert_eq!(loader.try_open_bare(copy, deep).unwrap().call("call_answer"), -1);
    });
}

#[test]
fn what_was_made_global_before_the_call_is_asked() {
    on_both_loaders(|loader| {
        let asker = loader.open_with("lazy_asker", LAZY);
        let of_needed = loader.open_with("lazy_asker_of_needed", LAZY);
        let _second = loader.open_with("lazy_second", GLOBAL);
        let _first = loader.open_with("lazy_first", GLOBAL);
        assert_eq!(asker.call("call_chosen"), 2, "in the order in which they became global");
        assert_eq!(of_needed.call("call_chosen"), 2, "before what it needs itself");
    });
}

#[test]
fn however_many_come_and_go_what_is_global_is_asked() {
    with_fixtures_found().on_both_loaders(|loader| {
        let mut global: Vec<_> =
            copies("life_leaf", 20).map(|copy| loader.try_open_bare(copy, GLOBAL).unwrap()).collect();
        for round in 1..=4 {
            let mut askers = copies("lazy_asker", 2).map(|copy| loader.try_open_bare(copy, LAZY).unwrap());
            let asker = askers.next().unwrap();
            let second = loader.open_with("lazy_second", GLOBAL);
            assert_eq!(asker.call("call_chosen"), 2, "round {round}");
            asker.close();
            second.close();
            assert!(!is_mapped("liblazy_second.so"));
            // Nobody has it any more.
            let _first = loader.open_with("lazy_first", GLOBAL);
            assert_eq!(askers.next().unwrap().call("call_chosen"), 1, "round {round}");
            global.drain(..global.len() / 2).for_each(|library| library.close());
            global.extend(copies("life_leaf", 3 * round).map(|copy| loader.try_open_bare(copy, GLOBAL).unwrap()));
        }
    });
}

#[test]
fn what_the_c_librarys_loader_has_made_global_is_asked_last_and_stays() {
    on_both_loaders(|loader| {
        for by_both in [false, true] {
            let asker = loader.open_with("lazy_asker", LAZY);
            let second = match by_both {
                false => (Loader::Host.open_with("lazy_second", GLOBAL), None),
                true => (Loader::Host.open("lazy_second"), Some(loader.open_with("lazy_second", GLOBAL))),
            };
            assert_eq!(asker.call("call_chosen"), 2);
            drop(second);
            assert!(is_mapped("liblazy_second.so"));
            assert_eq!(asker.call("call_chosen"), 2);
            asker.close();
            assert!(!is_mapped("liblazy_second.so"));
        }
    });
}

#[test]
fn a_symbolic_librarys_own_function_comes_first_and_so_does_a_protected_one() {
    on_both_loaders(|loader| {
        let changes: [fn(&mut Elf); 3] = [
            |_| (),
            |elf| elf.dynamic(DT_RELACOUNT).d_tag.set(LE, DT_SYMBOLIC),
            |elf| elf.symbol("own_answer").st_other.0 = STV_PROTECTED.0,
        ];
        for (change, answer) in changes.into_iter().zip([1, 2, 2]) {
            let mut inner = Elf::of("own_lazy_inner");
            change(&mut inner);
            inner.save("libown_inner.so");
            let outer = scratch().join("libown_outer.so");
            fs::copy(fixture("own_outer"), &outer).unwrap();
            assert_eq!(loader.try_open_bare(&outer, LAZY).unwrap().call("outer_answer"), answer);
        }
    });
}

#[test]
fn a_deeply_bound_library_asks_what_it_needs_first() {
    on_both_loaders(|loader| {
        let asker = loader.open_with("lazy_asker_of_needed", With { lazy: true, ..DEEP_BIND });
        let _second = loader.open_with("lazy_second", GLOBAL);
        assert_eq!(asker.call("call_chosen"), 1);
    });
}

#[test]
fn whoever_was_bound_to_stays_as_long_as_its_user() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        for round in 1..=3 {
            let asker = loader.open_with("lazy_asker", LAZY);
            let first = loader.open_with("lazy_first", GLOBAL);
            assert_eq!(asker.call("call_chosen"), 1);
            match first {
                Lib::Ours(first) => {
                    let reasons = vec![Reason::BoundBy(fixture("lazy_asker"))];
                    assert_eq!(first.close().unwrap(), Closed::StillMapped { reasons });
                }
                host => host.close(),
            }
            assert_eq!(asker.call("call_chosen"), 1);
            let there = |times| ["definition 1+ definition 1-"; 3][..times].join(" ");
            assert_eq!(journal.call_text("journal_text"), format!("{} definition 1+", there(round - 1)).trim());
            asker.close();
            assert_eq!(journal.call_text("journal_text"), there(round));
            assert!(!is_mapped("liblazy_first.so") && !is_mapped("liblazy_asker.so"));
        }
    });
}

/// `call_chosen` of a library, and what it answers to the hook below.
static TO_ASK: AtomicUsize = AtomicUsize::new(0);
static ANSWER: AtomicUsize = AtomicUsize::new(0);

extern "C" fn ask() {
    ANSWER.store(function(TO_ASK.load(Ordering::SeqCst))() as usize, Ordering::SeqCst);
}

#[test]
fn a_library_that_is_going_is_not_bound_to() {
    // glibc forgets the whole scope when the library goes that brought it, and ends the process here.
    on_ours(|loader| {
        let journal = loader.open("journal");
        journal.write("journal_last_hook", ask as *const () as usize);
        let along = loader.open_with("lazy_along", LAZY);
        let asker = loader.open_with("lazy_asker", LAZY);
        let _second = loader.open("lazy_second");
        TO_ASK.store(asker.address("call_chosen"), Ordering::SeqCst);
        // With it goes what it needs, but for what is open.
        along.close();
        assert_eq!(ANSWER.load(Ordering::SeqCst), 2);
        assert_eq!(asker.call("call_chosen"), 2);
        assert!(!is_mapped("liblazy_going.so"));
    });
}

#[test]
fn a_table_that_leads_astray_ends_the_process_with_a_line_that_says_so() {
    let said = on_ours(|loader| {
        let mut file = common::elf::Elf::of("lazy_missing");
        // `push 0`, the number of its only relocation.
        let at = file.bytes.windows(5).position(|bytes| bytes == [0x68, 0, 0, 0, 0]).unwrap();
        file.bytes[at + 1..at + 5].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]);
        let library = loader.try_open_bare(file.save("liblost.so"), LAZY).unwrap();
        let address = library.address("call_missing");
        let status = after_fork(|| {
            function(address)();
        });
        assert_eq!(status.code(), Some(127), "{status}");
    });
    let [(_, said)] = &said[..] else { panic!("{said:?}") };
    let line = said.lines().find(|line| line.contains(": symbol lookup error: ")).expect(said);
    assert!(
        line.contains("liblost.so: number 2147483647 that an entry of the procedure linkage table pushes"),
        "{line}"
    );
}

#[test]
fn what_could_not_be_bound_later_is_bound_or_an_error_at_once() {
    on_ours(|loader| {
        // Its table becomes read-only with the page that it is on.
        let mut sealed = Elf::of("own_dlclose");
        let size = &mut sealed.segment(PT_GNU_RELRO, 0).p_memsz;
        size.set(LE, size.get(LE) + 0x1000);
        let library = loader.try_open_bare(sealed.save("libsealed.so"), With { lazy: true, ..DEEP_BIND }).unwrap();
        let table = library_start(library.address("dlclose")) + sealed.value(DT_PLTGOT) as usize;
        assert_eq!(protection(table + 24), "r--p");
        assert_eq!(library.call("call_dlclose"), 77);
        let mut nameless = Elf::of("lazy_missing");
        nameless.relocation(R_X86_64_JUMP_SLOT).set_r_info(LE, false, 0xffff, R_X86_64_JUMP_SLOT);
        loader.try_open_bare(nameless.save("libnameless.so"), LAZY).expect_err("no such symbol");
        let mut lost = Elf::of("lazy_missing");
        let size = lost.value(DT_STRSZ);
        lost.symbol("soload_missing_function").st_name.set(LE, size as u32);
        loader.try_open_bare(lost.save("liblost.so"), LAZY).expect_err("no such name");
        // The last byte of the strings is not among them any more: some name may have no end.
        let mut endless = Elf::of("lazy_missing");
        endless.dynamic(DT_STRSZ).d_val.set(LE, size - 1);
        loader.try_open_bare(endless.save("libendless.so"), LAZY).expect_err("a function that nobody defines");
    });
}

#[test]
fn a_function_of_the_loaders_that_a_library_has_itself_is_its_own_if_that_comes_first() {
    on_both_loaders(|loader| {
        for lazy in [false, true] {
            assert_eq!(loader.open_with("own_dlclose", With { lazy, ..DEEP_BIND }).call("call_dlclose"), 77);
        }
    });
}

#[test]
fn calls_may_be_bound_while_what_is_global_comes_and_goes() {
    with_fixtures_found().on_both_loaders(|loader| {
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for copy in copies("lazy_asker_of_needed", 100) {
                        let library = loader.try_open_bare(copy, LAZY).unwrap();
                        let answer = library.call("call_chosen");
                        assert!(answer == 1 || answer == 2, "{answer}");
                        assert_eq!(library.call("call_chosen"), answer, "who answered stays");
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
            while done.load(Ordering::SeqCst) < 2 {
                loader.open_with("lazy_second", GLOBAL).close();
            }
        });
        assert!(!is_mapped("liblazy_first.so") && !is_mapped("liblazy_second.so"));
    });
}

#[test]
fn a_destructor_may_be_the_first_to_call() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        loader.open_with("lazy_goodbye", LAZY).close();
        assert_eq!(journal.call_text("journal_text"), "definition 1+ bound at last definition 1-");
        loader.open_with("lazy_goodbye_along", LAZY).close();
        let said = journal.call_text("journal_text");
        assert!(said.ends_with("definition 1- definition 1+ bound at last definition 1-"), "{said}");
        let first = loader.open_with("lazy_first", GLOBAL);
        loader.open_with("lazy_goodbye_to_global", LAZY).close();
        first.close();
        let said = journal.call_text("journal_text");
        assert!(said.ends_with("definition 1+ bound at last definition 1-"), "{said}");
        assert!(!is_mapped("liblazy_first.so") && !is_mapped("liblazy_goodbye_to_global.so"));
    });
}

#[test]
fn a_library_that_is_loaded_again_is_bound_again() {
    on_both_loaders(|loader| {
        for _ in 0..3 {
            let library = loader.open_with("lazy_calls", LAZY);
            assert_eq!((library.call("call_first_time"), library.call("call_first_time")), (42, 42));
            library.close();
        }
    });
}

#[test]
fn what_lies_in_relro_is_read_only_all_the_same() {
    on_both_loaders(|loader| {
        let library = loader.open_with("lazy_calls", LAZY);
        let address = library.address("sums");
        let start = library_start(address);
        let elf = common::elf::Elf::of("lazy_calls");
        let relro = elf.segments(object::elf::PT_GNU_RELRO)[0];
        let table = elf.value(object::elf::DT_PLTGOT);
        let relro = relro.p_vaddr.get(object::LittleEndian);
        assert_eq!(protection(start + relro as usize), "r--p");
        assert_eq!(protection(start + table as usize + 24), "rw-p", "the words of functions that are bound later");
    });
}

#[test]
fn the_words_of_functions_that_are_bound_later_may_lie_in_a_segment_of_their_own() {
    on_both_loaders(|loader| {
        // As LLVM's linker has it: what becomes read-only is one segment, what stays writable the next.
        let mut split = Elf::of("lazy_missing");
        let count = split.segments(PT_LOAD).len();
        let (dynamic, relro) = (split.segments(PT_DYNAMIC)[0], split.segments(PT_GNU_RELRO)[0]);
        let first = split.segment(PT_LOAD, count - 1);
        let (mut second, size) = (*first, relro.p_memsz.get(LE));
        for (field, other) in [(&mut first.p_filesz, &mut second.p_filesz), (&mut first.p_memsz, &mut second.p_memsz)] {
            other.set(LE, field.get(LE) - size);
            field.set(LE, size);
        }
        for field in [&mut second.p_offset, &mut second.p_vaddr, &mut second.p_paddr] {
            field.set(LE, field.get(LE) + size);
        }
        *split.segment(PT_NOTE, 0) = dynamic;
        *split.segment(PT_DYNAMIC, 0) = second;
        assert_eq!(split.segments(PT_LOAD).len(), count + 1);
        let library = loader.try_open_bare(split.save("libsplit.so"), LAZY).unwrap();
        assert_eq!(library.call("call_present"), 1);
    });
}

/// Where the object that has an address starts.
fn library_start(address: usize) -> usize {
    let maps = common::maps::maps();
    let path = &maps.iter().find(|map| map.range.contains(&address)).unwrap().path;
    maps.iter().find(|map| map.path == *path).unwrap().range.start
}
