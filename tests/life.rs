//! From the first constructor to the last destructor: order, arguments, reference counts, threads, fork, exit.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use common::maps::is_mapped;
use common::*;
use soload::{Closed, Library, Reason};

/// What constructors and destructors said so far. The journal stays open in between.
fn said(journal: &Lib) -> String {
    journal.call_text("journal_text")
}

#[test]
fn constructors_run_after_those_of_what_is_needed_and_destructors_in_reverse() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        let root = loader.open("life_root");
        assert_eq!(said(&journal), "leaf+ right+ left+ root+");
        root.close();
        assert_eq!(said(&journal), "leaf+ right+ left+ root+ root- left- right- leaf-");
    });
}

#[test]
fn a_library_that_asks_to_be_initialised_first_is_so_before_what_it_needs() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        loader.open("life_first").close();
        assert_eq!(said(&journal), "first+ leaf+ first- leaf-");
    });
}

#[test]
fn of_several_that_ask_to_be_initialised_first_the_one_found_last_is() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        loader.open("life_first_too").close();
        assert_eq!(said(&journal), "first+ leaf+ first_too+ first_too- first- leaf-");
    });
}

#[test]
fn what_needs_one_another_in_a_circle_comes_and_goes_in_one_order_whoever_loads_it() {
    let outputs = on_both_loaders(|loader| {
        let journal = loader.open("journal");
        for name in ["root", "a", "b", "c", "d"] {
            loader.open(format!("ring/libring_{name}.so")).close();
        }
        println!("[{}]", said(&journal));
    });
    let said = |output: &str| output.lines().find_map(|line| Some(line.split_once('[')?.1.to_owned()));
    // What releases of glibc agree on is the first of five: that of the one which is in no circle.
    const FIRST: &str = "b+ d+ a+ c+ root+ root- c- a- d- b- ";
    const OTHERS: &str =
        "b+ d+ c+ a+ c- a- d- b- d+ a+ c+ b+ d- b- c- a- b+ d+ a+ c+ b- c- a- d- c+ b+ a+ d+ a- b- c- d-";
    for (loader, output) in outputs {
        let said = said(&output).unwrap();
        let others = said.strip_prefix(FIRST).unwrap_or_else(|| panic!("{loader:?}: {said}"));
        let is_other = !loader.diverges(&DIVERGENCE_CYCLE) && (!host_is_since(2, 36) || host_is_since(2, 39));
        assert!(is_other || others.trim_end_matches(']') == OTHERS, "{loader:?}: {said}");
    }
}

#[test]
fn init_runs_before_the_array_which_runs_by_priority_and_fini_mirrors_it() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        loader.open("life_init").close();
        assert_eq!(said(&journal), "init 200 300 default -default -300 -200 fini");
    });
}

/// glibc calls them.
#[test]
fn marks_around_the_lists_of_functions_are_not_called() {
    on_ours(|loader| {
        let journal = loader.open("journal");
        loader.open("life_marks").close();
        assert_eq!(said(&journal), "marked+ marked-");
    });
}

#[test]
fn constructors_get_the_processs_arguments_and_environment() {
    on_both_loaders(|loader| {
        let library = loader.open("life_arguments");
        let texts = |pointer: *const *const c_char| {
            let pointers = (0..).map(move |n| unsafe { *pointer.add(n) }).take_while(|text| !text.is_null());
            pointers.map(|text| unsafe { CStr::from_ptr(text) }.to_bytes().to_vec()).collect::<Vec<_>>()
        };
        let arguments = texts(library.read("arguments"));
        let expected: Vec<_> = std::env::args_os().map(|argument| argument.into_encoded_bytes()).collect();
        assert_eq!(arguments, expected);
        assert_eq!(library.read::<c_int>("argument_count") as usize, expected.len());
        let environment = texts(library.read("environment"));
        assert!(environment.iter().any(|variable| variable.starts_with(b"SOLOAD_TEST_LOADER=")));
    });
}

#[test]
fn nothing_is_kept_of_a_library_that_is_opened_and_closed_again_and_again() {
    on_both_loaders(|loader| {
        let heap = || {
            let info = unsafe { libc::mallinfo() };
            info.uordblks + info.hblkhd
        };
        let again = |times: usize| (0..times).for_each(|_| loader.open("life_root").close());
        let _journal = loader.open("journal");
        again(500);
        let before = heap();
        again(2000);
        let _open = loader.open_with("life_root", GLOBAL);
        (0..2000).for_each(|_| loader.open_with("life_root", GLOBAL).close());
        let more = heap().saturating_sub(before);
        // Less than a word each time: the C library counts as taken what it keeps at hand, which may be some more.
        assert!(more < 2000 * 8, "{more} bytes more");
    });
}

#[test]
fn a_library_goes_when_it_was_closed_as_often_as_opened() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        let (first, second) = (loader.open("life_leaf"), loader.open("life_leaf"));
        first.close();
        assert_eq!(said(&journal), "leaf+", "still open once");
        assert_eq!(second.call("present"), 1);
        second.close();
        assert_eq!(said(&journal), "leaf+ leaf-");
        assert!(!is_mapped("liblife_leaf.so"));
        let _again = loader.open("life_leaf");
        assert_eq!(said(&journal), "leaf+ leaf- leaf+", "a new life");
    });
}

#[test]
fn what_is_needed_stays_as_long_as_it_is_needed() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        let leaf = loader.open("life_leaf");
        let left = loader.open("life_left");
        leaf.close();
        assert_eq!(said(&journal), "leaf+ left+");
        left.close();
        assert_eq!(said(&journal), "leaf+ left+ left- leaf-");
    });
}

#[test]
fn what_is_needed_and_was_opened_stays_when_its_user_goes() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        let leaf = loader.open("life_leaf");
        loader.open("life_left").close();
        assert_eq!(said(&journal), "leaf+ left+ left-");
        assert_eq!(leaf.call("present"), 1);
    });
}

#[test]
fn a_library_that_another_bound_to_stays_until_that_one_goes() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        let provider = loader.open_with("scope_provider", GLOBAL);
        // Needs nothing; finds its symbol through the global scope.
        let user = loader.open("scope_user");
        provider.close();
        assert_eq!(user.call("call_provided"), 5);
        assert_eq!(said(&journal), "provider+ user+");
        user.close();
        assert_eq!(said(&journal), "provider+ user+ user- provider-");
        assert!(!is_mapped("libscope_provider.so"));
    });
}

#[test]
fn a_library_goes_before_what_it_needs_though_that_is_bound_to_it() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        let asked = loader.open("life_asked");
        assert_eq!(asked.call("asks"), 1);
        asked.close();
        assert_eq!(said(&journal), "asks+ asked+ asked- asks-");
    });
}

#[test]
fn a_library_opened_not_to_be_deleted_stays() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        loader.open_with("life_leaf", NO_DELETE).close();
        assert_eq!(said(&journal), "leaf+");
        assert!(is_mapped("liblife_leaf.so"));
        loader.open("life_stays").close();
        assert_eq!(said(&journal), "leaf+ stays+", "as it was linked");
        assert!(is_mapped("liblife_stays.so"));
    });
}

#[test]
fn closing_says_whether_it_unloaded() {
    on_ours(|_| {
        let (first, second) = (ours("life_leaf").unwrap(), ours("life_leaf").unwrap());
        let Closed::StillMapped { reasons } = first.close().unwrap() else { panic!("unloaded, though open twice") };
        assert!(!reasons.is_empty());
        assert!(matches!(second.close().unwrap(), Closed::Unloaded));
    });
}

/// Why a library is still there after its handle was closed.
fn reasons(closed: Closed) -> Vec<Reason> {
    match closed {
        Closed::StillMapped { reasons } => reasons,
        Closed::Unloaded => Vec::new(),
    }
}

#[test]
fn closing_says_everything_that_keeps_a_library() {
    on_ours(|_| {
        let open = |name: &str| ours(name).unwrap();
        let close = |library: Library| reasons(library.close().unwrap());
        let (first, second, third) = (open("life_leaf"), open("life_leaf"), open("life_leaf"));
        assert_eq!(close(first), [Reason::OtherHandles(2)]);
        let left = open("life_left");
        let needed_by_left = Reason::NeededBy(fixture("life_left"));
        assert_eq!(close(second), [Reason::OtherHandles(1), needed_by_left.clone()]);
        assert_eq!(close(third), [needed_by_left]);
        assert_eq!(close(left), []);

        let provider = unsafe { soload::OpenOptions::new().global(true).open(fixture("scope_provider")) }.unwrap();
        let user = open("scope_user");
        assert_eq!(close(provider), [Reason::BoundBy(fixture("scope_user"))]);
        assert_eq!(close(user), []);

        let stays = unsafe { soload::OpenOptions::new().no_delete(true).open(fixture("bss")) }.unwrap();
        assert_eq!(close(stays), [Reason::NoDelete]);
        assert_eq!(close(open("unique_a")), [Reason::UniqueSymbol("unique_counter".into())]);
        assert_eq!(close(unsafe { Library::new("libc.so.6") }.unwrap()), [Reason::OfTheHost]);
    });
}

#[test]
fn closing_says_that_constructors_are_still_running_or_that_the_process_exits() {
    static SAID: Mutex<Vec<Reason>> = Mutex::new(Vec::new());
    static HELD: Mutex<Option<Library>> = Mutex::new(None);
    extern "C" fn close_own() {
        *SAID.lock().unwrap() = reasons(ours("life_hook").unwrap().close().unwrap());
    }
    extern "C" fn close_other() {
        if let Some(other) = HELD.lock().unwrap().take() {
            let said = reasons(other.close().unwrap());
            println!("{said:?} at exit");
        }
    }
    let outputs = on_ours(|loader| {
        let journal = loader.open("journal");
        journal.write("journal_hook", close_own as extern "C" fn());
        let hook = loader.open("life_hook");
        assert_eq!(*SAID.lock().unwrap(), [Reason::Initialising, Reason::OtherHandles(1)]);
        journal.write("journal_last_hook", close_other as extern "C" fn());
        *HELD.lock().unwrap() = Some(ours("bss").unwrap());
        hook.leak();
        journal.leak();
    });
    for (_, output) in outputs {
        assert!(output.contains("[Exiting] at exit"), "{output}");
    }
}

#[test]
fn a_constructor_that_opens_what_it_came_with_gets_it_constructed_also_if_another_thread_waits_for_that() {
    extern "C" fn open_beside() {
        let is_slow = || ours("life_slow").is_ok_and(|slow| call_of(&slow) == 1);
        // It waits for the thread that runs this.
        let other = thread::spawn(is_slow);
        thread::sleep(Duration::from_millis(100));
        assert!(is_slow());
        *OTHER.lock().unwrap() = Some(other);
    }
    fn call_of(library: &Library) -> c_int {
        unsafe { library.get::<extern "C" fn() -> c_int>("times_constructed") }.unwrap()()
    }
    static OTHER: Mutex<Option<thread::JoinHandle<bool>>> = Mutex::new(None);
    on_ours(|loader| {
        let journal = loader.open("journal");
        journal.write("journal_hook", open_beside as extern "C" fn());
        let root = loader.open("life_slow_root");
        assert!(OTHER.lock().unwrap().take().unwrap().join().unwrap());
        drop(root);
    });
}

#[test]
fn an_owned_symbol_keeps_its_library() {
    on_ours(|_| {
        let library = Arc::new(ours("life_leaf").unwrap());
        let present = unsafe { library.get_owned::<extern "C" fn() -> c_int>("present") }.unwrap();
        drop(library);
        assert_eq!(thread::spawn(move || present()).join().unwrap(), 1);
        assert!(!is_mapped("liblife_leaf.so"), "the symbol was the last use");
    });
}

#[test]
fn destructors_of_what_is_still_loaded_run_at_exit_in_reverse() {
    let outputs = on_both_loaders(|loader| {
        let journal = loader.open("journal");
        journal.write("journal_prints", 1);
        loader.open("life_root").leak();
        journal.leak();
    });
    for (loader, output) in outputs {
        assert!(output.ends_with("root- left- right- leaf- "), "{loader:?}: {output}");
    }
}

#[test]
fn destructors_of_libraries_that_have_nothing_to_do_with_each_other_run_at_exit_in_the_order_of_opening() {
    let outputs = on_both_loaders(|loader| {
        let journal = loader.open("journal");
        journal.write("journal_prints", 1);
        for library in ["life_leaf", "life_hook", "life_root"] {
            loader.open(library).leak();
        }
        journal.leak();
    });
    for (loader, output) in outputs {
        assert!(output.ends_with("hook- root- left- right- leaf- "), "{loader:?}: {output}");
    }
}

#[test]
fn a_handle_that_is_still_in_scope_at_exit_is_no_obstacle() {
    let outputs = on_both_loaders(|loader| {
        let journal = loader.open("journal");
        journal.write("journal_prints", 1);
        let _root = loader.open("life_root");
        common::child::exit();
    });
    for (loader, output) in outputs {
        assert!(output.ends_with("root- left- right- leaf- "), "{loader:?}: {output}");
    }
}

#[test]
fn handlers_that_the_program_registered_run_before_the_destructors() {
    extern "C" fn handler() {
        print!("handler ");
        std::io::Write::flush(&mut std::io::stdout()).unwrap();
    }
    let outputs = on_both_loaders(|loader| {
        // Before the loader did anything in this process, and after.
        unsafe { libc::atexit(handler) };
        let journal = loader.open("journal");
        journal.write("journal_prints", 1);
        loader.open("life_leaf").leak();
        unsafe { libc::atexit(handler) };
        journal.leak();
    });
    for (loader, output) in outputs {
        assert!(output.ends_with("handler handler leaf- "), "{loader:?}: {output}");
    }
}

#[test]
fn what_a_library_registered_with_atexit_runs_when_it_goes_or_with_the_programs_handlers() {
    let outputs = on_both_loaders(|loader| {
        let journal = loader.open("journal");
        loader.open("life_atexit").close();
        assert_eq!(said(&journal), "destructor handler", "on unload: the crt file calls __cxa_finalize last");
        journal.write("journal_prints", 1);
        loader.open("life_atexit").leak();
        journal.leak();
    });
    for (loader, output) in outputs {
        assert!(output.ends_with("handler destructor "), "{loader:?}, at exit: {output}");
    }
}

/// What the constructor of `life_hook.c` does: a function pointer cannot hold the loader and the handle it makes.
static FROM_CONSTRUCTOR: Mutex<Option<(Loader, &str)>> = Mutex::new(None);
static OPENED: Mutex<Vec<Lib>> = Mutex::new(Vec::new());
/// What had been said when it had opened that.
static SAID_THEN: Mutex<String> = Mutex::new(String::new());

extern "C" fn open_from_constructor() {
    let Some((loader, name)) = FROM_CONSTRUCTOR.lock().unwrap().take() else { return };
    let library = loader.open(name);
    OPENED.lock().unwrap().push(library);
    *SAID_THEN.lock().unwrap() = said(&loader.open("journal"));
}

fn open_with_hook(loader: Loader, inner: &'static str) -> (Lib, Lib) {
    let journal = loader.open("journal");
    *FROM_CONSTRUCTOR.lock().unwrap() = Some((loader, inner));
    journal.write("journal_hook", open_from_constructor as extern "C" fn());
    let outer = loader.open("life_hook");
    (journal, outer)
}

#[test]
fn a_constructor_can_open_another_library() {
    on_both_loaders(|loader| {
        let (journal, outer) = open_with_hook(loader, "life_root");
        assert_eq!(said(&journal), "hook+ leaf+ right+ left+ root+");
        assert_eq!(outer.call("is_constructed"), 1);
        let inner = OPENED.lock().unwrap().pop().unwrap();
        outer.close();
        assert!(said(&journal).ends_with("root+ hook-"), "the inner one has a handle of its own");
        inner.close();
        assert!(said(&journal).ends_with("hook- root- left- right- leaf-"));
    });
}

#[test]
fn what_a_constructor_opens_is_initialised_with_all_that_it_needs_though_its_turn_would_come_later() {
    on_both_loaders(|loader| {
        for (inner, then, expected) in [
            ("life_left", "hook+ leaf+ left+", "hook+ leaf+ left+ late+"),
            ("life_leaf", "hook+ leaf+", "hook+ leaf+ late+"),
            // What runs already, and what waits for just that.
            ("life_hook", "hook+", "hook+ leaf+ late+"),
            ("life_late", "hook+", "hook+ leaf+ late+"),
        ] {
            let journal = loader.open("journal");
            *FROM_CONSTRUCTOR.lock().unwrap() = Some((loader, inner));
            journal.write("journal_hook", open_from_constructor as extern "C" fn());
            let outer = loader.open("life_late");
            assert_eq!((SAID_THEN.lock().unwrap().as_str(), said(&journal).as_str()), (then, expected), "{inner}");
            OPENED.lock().unwrap().clear();
            outer.close();
            journal.close();
            assert!(!is_mapped("libjournal.so"));
        }
    });
}

#[test]
fn a_library_is_global_once_its_constructors_have_run() {
    extern "C" fn open_too_early() {
        let Some((loader, name)) = FROM_CONSTRUCTOR.lock().unwrap().take() else { return };
        loader.try_open(name).expect_err("it wants what is not global yet");
    }
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        *FROM_CONSTRUCTOR.lock().unwrap() = Some((loader, "life_asks"));
        journal.write("journal_hook", open_too_early as extern "C" fn());
        let _hook = loader.open_with("life_hook", GLOBAL);
        assert!(FROM_CONSTRUCTOR.lock().unwrap().is_none());
        assert_eq!(loader.open("life_asks").call("asks"), 1);
    });
}

#[test]
fn a_constructor_can_open_its_own_library() {
    on_both_loaders(|loader| {
        let (journal, outer) = open_with_hook(loader, "life_hook");
        assert_eq!(outer.call("is_constructed"), 1);
        outer.close();
        assert_eq!(said(&journal), "hook+", "the handle of its own keeps it");
        OPENED.lock().unwrap().clear();
        assert_eq!(said(&journal), "hook+ hook-");
    });
}

#[test]
fn a_constructor_can_fail_to_open_another_library() {
    extern "C" fn fail_to_open() {
        let Some((loader, name)) = FROM_CONSTRUCTOR.lock().unwrap().take() else { return };
        loader.try_open(name).expect_err("an error");
    }
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        *FROM_CONSTRUCTOR.lock().unwrap() = Some((loader, "undefined_function"));
        journal.write("journal_hook", fail_to_open as extern "C" fn());
        assert_eq!(loader.open("life_hook").call("is_constructed"), 1);
    });
}

#[test]
fn a_destructor_can_close_another_library() {
    extern "C" fn close_from_destructor() {
        OPENED.lock().unwrap().clear();
    }
    on_both_loaders(|loader| {
        let (journal, outer) = open_with_hook(loader, "life_leaf");
        journal.write("journal_last_hook", close_from_destructor as extern "C" fn());
        outer.close();
        assert_eq!(said(&journal), "hook+ leaf+ hook- leaf-");
        assert!(!is_mapped("liblife_leaf.so") && !is_mapped("liblife_hook.so"));
    });
}

#[test]
fn what_a_destructor_closes_goes_after_it_though_it_was_needed_until_then() {
    extern "C" fn close_from_destructor() {
        OPENED.lock().unwrap().clear();
    }
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        OPENED.lock().unwrap().push(loader.open("life_leaf"));
        let user = loader.open("life_hook_user");
        journal.write("journal_last_hook", close_from_destructor as extern "C" fn());
        user.close();
        assert_eq!(said(&journal), "leaf+ hook+ hook- leaf-");
        assert!(!is_mapped("liblife_leaf.so") && !is_mapped("liblife_hook_user.so"));
    });
}

#[test]
fn every_thread_that_opens_a_library_sees_its_constructor_finished() {
    on_both_loaders(|loader| {
        let barrier = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    let library = loader.open("life_slow");
                    assert_eq!(library.call("times_constructed"), 1);
                    library.leak();
                });
            }
        });
    });
}

/// Set by [`take_time`]; each test has a process of its own.
static BEGUN: AtomicBool = AtomicBool::new(false);
static ENDED: AtomicBool = AtomicBool::new(false);

/// A constructor or destructor that is still at it when the test goes on.
extern "C" fn take_time() {
    BEGUN.store(true, Ordering::SeqCst);
    thread::sleep(Duration::from_millis(100));
    ENDED.store(true, Ordering::SeqCst);
}

fn wait_for(flag: &AtomicBool) {
    while !flag.load(Ordering::SeqCst) {
        thread::yield_now();
    }
}

#[test]
fn another_library_can_be_opened_while_a_constructor_runs() {
    static OTHER_OPENED: AtomicBool = AtomicBool::new(false);
    extern "C" fn wait_for_the_other() {
        BEGUN.store(true, Ordering::SeqCst);
        wait_for(&OTHER_OPENED);
    }
    on_ours(|loader| {
        // glibc holds its lock while constructors run, and would wait for ever.
        let journal = loader.open("journal");
        journal.write("journal_hook", wait_for_the_other as extern "C" fn());
        thread::scope(|scope| {
            scope.spawn(|| loader.open("life_hook").leak());
            wait_for(&BEGUN);
            loader.open("bss").close();
            OTHER_OPENED.store(true, Ordering::SeqCst);
        });
    });
}

#[test]
fn who_opens_another_library_waits_for_the_constructor_of_what_is_global_already() {
    static LOADER: OnceLock<Loader> = OnceLock::new();
    extern "C" fn become_global_and_take_time() {
        LOADER.get().unwrap().open_with("life_hook", GLOBAL).leak();
        take_time();
    }
    on_both_loaders(|loader| {
        LOADER.set(loader).unwrap();
        let journal = loader.open("journal");
        journal.write("journal_hook", become_global_and_take_time as extern "C" fn());
        thread::scope(|scope| {
            scope.spawn(|| loader.open("life_hook").leak());
            wait_for(&BEGUN);
            // Its code may find that one without having referred to it.
            loader.open("bss").close();
            assert!(ENDED.load(Ordering::SeqCst));
        });
    });
}

#[test]
fn of_two_constructors_that_open_each_others_library_one_does_not_wait() {
    static BOTH: Barrier = Barrier::new(2);
    thread_local! {
        static OTHER: Cell<&'static str> = const { Cell::new("") };
    }
    extern "C" fn open_the_other() {
        BOTH.wait();
        Loader::Ours.open(OTHER.get()).leak();
    }
    on_ours(|loader| {
        // In glibc one thread waits with its constructor until the other is done with its own.
        let journal = loader.open("journal");
        journal.write("journal_hook", open_the_other as extern "C" fn());
        thread::scope(|scope| {
            for (name, other) in [("life_hook", "life_hook_other"), ("life_hook_other", "life_hook")] {
                scope.spawn(move || {
                    OTHER.set(other);
                    assert_eq!(loader.open(name).call("is_constructed"), 1);
                });
            }
        });
    });
}

#[test]
fn constructors_in_many_threads_open_libraries() {
    static LOADER: Mutex<Option<Loader>> = Mutex::new(None);
    extern "C" fn open_and_close() {
        let loader = LOADER.lock().unwrap().unwrap();
        for name in ["life_root", "bss", "life_left"] {
            drop(loader.open(name));
        }
    }
    on_both_loaders(|loader| {
        *LOADER.lock().unwrap() = Some(loader);
        let journal = loader.open("journal");
        journal.write("journal_hook", open_and_close as extern "C" fn());
        thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    for round in 0..20 {
                        let name = ["life_hook", "life_hook_other"][(thread + round) % 2];
                        assert_eq!(loader.open(name).call("is_constructed"), 1);
                    }
                });
            }
        });
        for name in ["life_hook", "life_hook_other", "life_root", "life_left", "bss"] {
            assert!(!is_mapped(&format!("lib{name}.so")), "{name} is left behind");
        }
    });
}

#[test]
fn threads_can_open_and_close_at_random() {
    on_both_loaders(|loader| {
        let names =
            ["life_root", "life_left", "life_leaf", "scope_bridge", "ifunc_outer", "bss", "versions_default", "demo"];
        thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    for round in 0..40 {
                        let name = names[(thread * 7 + round * 3) % names.len()];
                        let library = loader.open(name);
                        if name.starts_with("life") {
                            assert_eq!(library.call("present"), 1);
                        }
                    }
                });
            }
        });
        for name in names {
            assert!(!is_mapped(&format!("lib{name}.so")), "{name} is left behind");
        }
    });
}

#[test]
fn whoever_opens_a_library_that_is_going_waits_and_gets_a_new_one() {
    static ENDED_BEFORE: AtomicBool = AtomicBool::new(false);
    extern "C" fn look() {
        ENDED_BEFORE.store(ENDED.load(Ordering::SeqCst), Ordering::SeqCst);
    }
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        let library = loader.open("life_hook");
        journal.write("journal_hook", look as extern "C" fn());
        journal.write("journal_last_hook", take_time as extern "C" fn());
        thread::scope(|scope| {
            scope.spawn(|| library.close());
            wait_for(&BEGUN);
            assert_eq!(loader.open("life_hook").call("is_constructed"), 1);
        });
        let waited = ENDED_BEFORE.load(Ordering::SeqCst);
        assert!(waited, "the new one's constructor ran before the old one's destructor was done");
        assert_eq!(said(&journal), "hook+ hook- hook+ hook-");
    });
}

/// Runs the code in a child of fork. Returns how that ended: 0 if the code returned true.
fn exit_after_fork(code: impl FnOnce() -> bool) -> c_int {
    let child = unsafe { libc::fork() };
    if child == 0 {
        // Not the standard library's exit, nor its output: other threads may have held their locks.
        unsafe {
            libc::alarm(10);
            libc::_exit(if code() { 0 } else { 1 });
        }
    }
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    status
}

#[test]
fn a_child_forked_while_another_thread_opens_can_open_too() {
    on_ours(|loader| {
        // glibc does not promise it: its lists may be half changed in the child.
        let stop = AtomicBool::new(false);
        let go_on = || !stop.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let opener = scope.spawn(|| {
                while go_on() {
                    drop(loader.open("life_root"));
                }
            });
            let mut ended = (0..100).map(|_| exit_after_fork(|| can_open_and_call("life_left", "present")));
            let failed = ended.find(|status| *status != 0);
            stop.store(true, Ordering::Relaxed);
            opener.join().unwrap();
            assert_eq!(failed, None, "the status of a child (14: it hung)");
        });
    });
}

/// Whether the function of the library answers 1. Does not close it: glibc's `__cxa_finalize` takes a lock that fork does
/// not free in the child if another thread held it.
fn can_open_and_call(name: &str, function: &str) -> bool {
    let Ok(library) = ours(name) else { return false };
    let library = Lib::Ours(library);
    let answer = library.call(function);
    library.leak();
    answer == 1
}

#[test]
fn a_child_forked_while_another_thread_runs_a_constructor_does_not_get_the_unfinished_library() {
    on_ours(|loader| {
        let journal = loader.open("journal");
        journal.write("journal_hook", take_time as extern "C" fn());
        thread::scope(|scope| {
            scope.spawn(|| loader.open("life_hook").close());
            wait_for(&BEGUN);
            assert_eq!(exit_after_fork(|| can_open_and_call("life_hook", "is_constructed")), 0);
        });
    });
}

#[test]
fn a_child_forked_while_another_thread_runs_a_destructor_does_not_get_the_destroyed_library() {
    on_ours(|loader| {
        let journal = loader.open("journal");
        journal.write("journal_last_hook", take_time as extern "C" fn());
        thread::scope(|scope| {
            scope.spawn(|| loader.open("life_hook").close());
            wait_for(&BEGUN);
            assert_eq!(exit_after_fork(|| can_open_and_call("life_hook", "is_constructed")), 0);
        });
    });
}

#[test]
fn a_child_that_a_constructor_forked_has_the_library_that_is_being_constructed() {
    static STATUS: Mutex<c_int> = Mutex::new(-1);
    extern "C" fn fork_and_open() {
        let copies = || common::maps::maps().iter().filter(|map| map.path.ends_with("liblife_hook.so")).count();
        let before = copies();
        *STATUS.lock().unwrap() = exit_after_fork(|| {
            let own = ours("life_hook");
            let same = own.is_ok() && copies() == before;
            std::mem::forget(own);
            same
        });
    }
    on_ours(|loader| {
        let journal = loader.open("journal");
        journal.write("journal_hook", fork_and_open as extern "C" fn());
        assert_eq!(loader.open("life_hook").call("is_constructed"), 1);
        assert_eq!(*STATUS.lock().unwrap(), 0);
    });
}

#[test]
fn opening_and_closing_many_times_leaves_nothing_behind() {
    on_ours(|_| {
        let round = || {
            for name in ["life_root", "ifunc_outer", "relr", "align_64k", "versions_default", "text_relocations"] {
                drop(ours(name).unwrap());
            }
        };
        round();
        let before = common::maps::address_space();
        (0..50).for_each(|_| round());
        common::maps::assert_same_address_space(&before, "300 opens and closes");
    });
}

#[test]
fn this_stays_open_whatever_is_closed() {
    on_ours(|_| {
        assert!(matches!(Library::this().close().unwrap(), Closed::StillMapped { .. }));
        let this = Library::this();
        assert!(unsafe { this.get::<*const ()>("getpid") }.is_ok());
    });
}
