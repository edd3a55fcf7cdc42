//! Thread-local storage in every model, in threads old and new, and its destructors.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;

use std::ffi::{c_char, c_int, c_long, c_void};
use std::fs;
use std::process::Command;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::maps::{Map, maps};
use common::*;
use object::LittleEndian as LE;
use object::elf::PT_TLS;
use soload::{Closed, Reason};

const MODELS: [&str; 5] = ["tls_general", "tls_local", "tls_initial", "tls_descriptor", "tls_descriptor_static"];

/// A thread that was there before a library was opened, and runs what it is sent.
struct Old(mpsc::Sender<Box<dyn FnOnce() + Send>>, thread::JoinHandle<()>);

impl Old {
    fn thread() -> Self {
        let (sender, receiver) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let thread = thread::spawn(move || receiver.into_iter().for_each(|work| work()));
        Self(sender, thread)
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.0.send(Box::new(move || sender.send(work()).unwrap())).unwrap();
        receiver.recv().unwrap()
    }

    fn end(self) {
        drop(self.0);
        self.1.join().unwrap();
    }
}

fn function(address: usize) -> extern "C" fn() -> c_int {
    unsafe { std::mem::transmute(address) }
}

/// glibc has such a block in its reserve from then on, if no thread has used it yet.
#[test]
fn a_variable_that_the_host_loaded_later_is_not_at_one_offset_in_all_threads() {
    on_ours(|loader| {
        let _provider = Loader::Host.open_with("later_provider", GLOBAL);
        let error = loader.try_open("later_at_one_offset").expect_err("an error");
        assert!(error.contains("expected a block at one offset in all threads"), "{error}");
    });
}

#[test]
fn every_thread_old_or_new_starts_with_the_initial_image() {
    on_both_loaders(|loader| {
        for model in MODELS {
            let old = Old::thread();
            let library = loader.open(model);
            let next = library.address("next_value");
            assert_eq!((library.call("next_value"), library.call("next_value")), (42, 43), "{model}, here");
            assert_eq!(old.run(move || (function(next)(), function(next)())), (42, 43), "{model}, in an old thread");
            let new = thread::spawn(move || function(next)());
            assert_eq!(new.join().unwrap(), 42, "{model}, in a new thread");
            assert_eq!(library.call("is_aligned"), 1, "{model}");
            old.end();
        }
    });
}

#[test]
fn a_library_loaded_again_starts_with_a_fresh_image() {
    on_both_loaders(|loader| {
        for model in MODELS {
            for round in 0..3 {
                let library = loader.open(model);
                assert_eq!((library.call("next_value"), library.call("next_value")), (42, 43), "{model}, {round}");
                library.close();
            }
        }
    });
}

#[test]
fn a_thread_local_variable_is_found_by_name() {
    on_both_loaders(|loader| {
        for model in MODELS {
            let library = loader.open(model);
            assert_eq!(library.read::<c_int>("counter"), 40, "{model}");
            library.call("next_value");
            assert_eq!(library.read::<c_int>("counter"), 41, "{model}");
        }
    });
}

#[test]
fn a_thread_local_variable_is_the_same_for_all_who_use_it() {
    on_both_loaders(|loader| {
        for user in ["tls_user", "tls_user_descriptor"] {
            let user = loader.open(user);
            let address = |symbol| -> usize {
                let function: extern "C" fn() -> usize = unsafe { std::mem::transmute(user.address(symbol)) };
                function()
            };
            assert_eq!(address("address_of_their_counter"), address("address_of_counter"));
        }
    });
}

#[test]
fn the_c_librarys_thread_local_variables_are_the_programs() {
    on_both_loaders(|loader| {
        let library = loader.open("tls_user");
        unsafe { *libc::__errno_location() = 77 };
        assert_eq!(library.call("read_errno"), 77);
    });
}

/// What the function answers here, in a thread that was there before its library, and in a new one.
fn in_all_threads(old: &Old, address: usize) -> [c_int; 3] {
    [
        function(address)(),
        old.run(move || function(address)()),
        thread::spawn(move || function(address)()).join().unwrap(),
    ]
}

#[test]
fn a_large_block_has_its_image_and_its_zeros_in_every_thread() {
    on_both_loaders(|loader| {
        let old = Old::thread();
        for _ in 0..3 {
            let library = loader.open("thread_local_large");
            assert_eq!(in_all_threads(&old, library.address("sum_of_ends")), [3, 3, 3]);
            assert_eq!(library.call("sum_of_ends"), 10, "what this thread wrote");
        }
        old.end();
    });
}

#[test]
fn a_block_is_aligned_as_it_asks_wherever_it_starts_in_the_file() {
    on_both_loaders(|loader| {
        let old = Old::thread();
        for name in ["tls_page", "tls_aligned", "tls_aligned_initial"] {
            let library = loader.open(name);
            assert_eq!(in_all_threads(&old, library.address("sum_of_image")), [42; 3], "{name}");
            assert_eq!(in_all_threads(&old, library.address("misalignment")), [0; 3], "{name}");
        }
        old.end();
    });
}

#[test]
fn a_block_that_does_not_begin_with_its_alignment_in_the_file_does_not_in_memory() {
    on_both_loaders(|loader| {
        let old = Old::thread();
        // No linker makes that, but the format allows it. In blocks made on demand glibc takes no notice of it.
        let mut file = common::elf::Elf::of("tls_narrow_initial");
        let block = file.segment(PT_TLS, 0);
        let (vaddr, mut align) = (block.p_vaddr.get(LE), block.p_align.get(LE));
        while vaddr % align == 0 {
            align *= 2;
        }
        assert!(align <= 64, "glibc has no more for static blocks");
        block.p_align.set(LE, align);
        let library = loader.try_open_bare(file.save("libskewed.so"), With::default()).unwrap();
        assert_eq!(in_all_threads(&old, library.address("sum_of_image")), [42; 3]);
        let own = in_all_threads(&old, library.address("address_modulo_4096"));
        assert_eq!(own.map(|address| address as u64 % align), [vaddr % align; 3]);
        old.end();
    });
}

#[test]
fn the_initial_image_is_relocated_before_any_thread_has_it() {
    on_both_loaders(|loader| {
        let old = Old::thread();
        for name in ["tls_relocated", "tls_relocated_initial"] {
            let library = loader.open(name);
            assert_eq!(in_all_threads(&old, library.address("sum_of_words")), [42; 3], "{name}");
        }
        old.end();
    });
}

/// Opens a library that refers to another's variable by its name alone, in that model.
fn refers_across_opens(loader: Loader, user: &str) {
    let old = Old::thread();
    let owner = loader.open_with("tls_general", GLOBAL);
    let user = loader.open(user);
    assert_eq!(in_all_threads(&old, user.address("add_to_counter")), [41; 3]);
    assert_eq!(owner.read::<c_int>("counter"), 41, "it is the same variable");
    owner.close();
    assert_eq!(user.call("add_to_counter"), 42, "who refers to it keeps it");
    user.close();
    old.end();
}

#[test]
fn a_thread_local_variable_of_a_library_opened_before_is_found_through_the_global_scope() {
    on_both_loaders(|loader| refers_across_opens(loader, "tls_across"));
}

#[test]
fn a_descriptor_of_a_variable_of_a_library_opened_before_is_found_through_the_global_scope() {
    on_both_loaders(|loader| refers_across_opens(loader, "tls_across_descriptor"));
}

#[test]
fn a_fixed_offset_of_a_variable_of_a_library_opened_before_is_found_through_the_global_scope() {
    on_both_loaders(|loader| refers_across_opens(loader, "tls_across_initial"));
}

#[test]
fn a_block_that_some_thread_has_used_has_descriptors_but_no_fixed_offset_any_more() {
    on_both_loaders(|loader| {
        let old = Old::thread();
        let owner = loader.open_with("tls_general", GLOBAL);
        assert_eq!(owner.call("next_value"), 42);
        let error = loader.try_open("tls_across_initial").expect_err("refused");
        assert!(error.contains("cannot allocate memory in static TLS block"), "{error}");
        let found = "expected a block at one offset in all threads, found one made on demand; the C library says: ";
        assert!(loader == Loader::Host || error.contains(found), "{error}");
        let user = loader.open("tls_across_descriptor");
        assert_eq!(in_all_threads(&old, user.address("add_to_counter")), [42, 41, 41]);
        assert_eq!(owner.call("next_value"), 44, "it is the same variable");
        old.end();
    });
}

#[test]
fn a_library_is_not_taken_for_the_storage_of_another() {
    on_both_loaders(|loader| {
        let _first = loader.open("tls_general");
        // While it was being opened, its own file had the first free number and the one for its storage the next.
        let _taken = fs::File::open("/dev/null").unwrap();
        let second = loader.open("tls_local");
        assert_eq!(second.call("next_value"), 42);
        assert!(common::maps::is_mapped("libtls_local.so"));
    });
}

#[test]
fn a_fixed_offset_is_there_for_all_who_come_later_and_goes_with_the_block() {
    on_both_loaders(|loader| {
        // Room is given back: glibc has some 1.5 KiB.
        for _ in 0..50 {
            let old = Old::thread();
            let owner = loader.open_with("tls_general", GLOBAL);
            let first = loader.open("tls_across_initial");
            let second = loader.open("tls_across_descriptor");
            assert_eq!(in_all_threads(&old, first.address("add_to_counter")), [41; 3]);
            assert_eq!(in_all_threads(&old, second.address("add_to_counter")), [42, 42, 41]);
            first.close();
            second.close();
            owner.close();
            old.end();
        }
    });
}

/// How many objects the C library has loaded since the start.
fn loaded_by_the_host() -> u64 {
    unsafe extern "C" fn added(info: *mut libc::dl_phdr_info, _: usize, added: *mut c_void) -> c_int {
        unsafe { *added.cast() = (*info).dlpi_adds };
        1
    }
    let mut count = 0u64;
    unsafe { libc::dl_iterate_phdr(Some(added), (&raw mut count).cast()) };
    count
}

#[test]
fn variables_without_an_image_are_zero_in_every_thread_however_often_their_library_comes() {
    on_both_loaders(|loader| {
        let old = Old::thread();
        let mut by_the_host = loaded_by_the_host();
        // Until what is had for nothing has come to an end, and then some.
        let (mut for_nothing, mut asked) = (0, 0);
        for round in 0..100 {
            for model in ["zeroes_general", "zeroes_local", "zeroes_initial", "zeroes_descriptor"] {
                let library = loader.open(model);
                let count = library.address("count");
                assert_eq!(in_all_threads(&old, count), [1; 3], "{model}, {round}");
                assert_eq!((library.call("count"), old.run(move || function(count)())), (3, 3), "{model}, {round}");
                let address: extern "C" fn() -> usize =
                    unsafe { std::mem::transmute(library.address("address_of_counter")) };
                assert_eq!(library.address("zeroes_counter"), address(), "{model}, {round}");
                library.close();
                let now = loaded_by_the_host();
                *if now == by_the_host { &mut for_nothing } else { &mut asked } += 1;
                by_the_host = now;
            }
        }
        // The C library loads every one itself.
        let expected = if loader == Loader::Ours { for_nothing > 10 && asked > 10 } else { asked == 400 };
        assert!(expected, "{for_nothing} for nothing, {asked} asked for");
        old.end();
    });
}

/// Asserts that `work` answers true in a process with one thread.
fn assert_alone(work: impl FnOnce() -> bool) {
    let child = unsafe { libc::fork() };
    if child == 0 {
        // The C library does not take back by itself that there was another one.
        let alone = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
        unsafe { *alone.cast::<c_char>() = 1 };
        let right = work();
        unsafe { libc::_exit(c_int::from(!right)) };
    }
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
}

#[test]
fn a_process_with_one_thread_has_the_initial_image_there_and_in_threads_to_come() {
    on_both_loaders(|loader| {
        assert_alone(|| {
            let (mut right, by_the_host) = (true, loaded_by_the_host());
            for model in MODELS.iter().cycle().take(20) {
                let library = loader.open(model);
                let next = library.address("next_value");
                let here = (function(next)(), function(next)());
                let there = thread::spawn(move || (function(next)(), function(next)())).join();
                right &= here == (42, 43) && there.is_ok_and(|there| there == here);
                library.close();
            }
            // Ours need not have it load anything for that.
            right && (loader == Loader::Host || loaded_by_the_host() == by_the_host)
        });
    });
}

#[test]
fn what_is_read_only_of_the_program_stays_so_but_for_one_page_of_its_image() {
    on_both_loaders(|loader| {
        assert_alone(|| {
            let program = std::env::current_exe().unwrap();
            let is_its = |map: &Map| map.path == program.to_str().unwrap();
            let own = || maps().into_iter().filter(is_its).collect::<Vec<_>>();
            let writable = |own: &[Map]| {
                let writable = own.iter().filter(|map| map.perms.starts_with("rw"));
                writable.map(|map| map.range.end - map.range.start).sum::<usize>()
            };
            let before = own();
            let open = || {
                let library = loader.open("tls_general");
                let right = function(library.address("next_value"))() == 42;
                library.close();
                (right, own())
            };
            let ((first, now), (second, later)) = (open(), open());
            let more = if loader == Loader::Ours { 4096 } else { 0 };
            !before.is_empty() && first && second && writable(&now) == writable(&before) + more && later == now
        });
    });
}

#[test]
fn small_images_and_such_that_the_c_library_has_no_room_for_are_there_in_whatever_order_they_come() {
    on_ours(|loader| {
        assert_alone(|| {
            let names = ["tls_general", "tls_too_large", "tls_local", "tls_too_large", "tls_general"];
            names.into_iter().all(|name| {
                let library = loader.open(name);
                let next = library.address("next_value");
                let (here, there) = (function(next)(), thread::spawn(move || function(next)()).join());
                library.close();
                here == 42 && there.is_ok_and(|there| there == 42)
            })
        });
    });
}

#[test]
fn a_thread_that_another_copy_of_the_c_library_has_created_has_the_initial_image_too() {
    type Create =
        extern "C" fn(*mut libc::pthread_t, *const c_void, extern "C" fn(*mut c_void) -> *mut c_void) -> c_int;
    unsafe extern "C" {
        fn dlmopen(space: c_long, name: *const c_char, mode: c_int) -> *mut c_void;
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    static ANSWER: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn thread(_: *mut c_void) -> *mut c_void {
        while NEXT.load(Ordering::SeqCst) == 0 {
            std::hint::spin_loop();
        }
        ANSWER.store(function(NEXT.load(Ordering::SeqCst))() as usize, Ordering::SeqCst);
        std::ptr::null_mut()
    }
    on_both_loaders(|loader| {
        assert_alone(|| {
            let other = unsafe { dlmopen(libc::LM_ID_NEWLM, c"libc.so.6".as_ptr(), libc::RTLD_NOW) };
            let create = unsafe { libc::dlsym(other, c"pthread_create".as_ptr()) };
            let create: Create = unsafe { std::mem::transmute(create) };
            let mut number = 0;
            let created = create(&raw mut number, std::ptr::null(), thread) == 0;
            let library = loader.open("tls_general");
            NEXT.store(library.address("next_value"), Ordering::SeqCst);
            let begun = Instant::now();
            while ANSWER.load(Ordering::SeqCst) == 0 && begun.elapsed() < Duration::from_secs(10) {
                std::hint::spin_loop();
            }
            created && ANSWER.load(Ordering::SeqCst) == 42
        });
    });
}

#[test]
fn images_of_several_libraries_leave_alone_what_lies_between_them() {
    on_both_loaders(|loader| {
        assert_alone(|| {
            let (before, between) = (loader.open("tls_general"), loader.open("tls_local"));
            let next = between.address("next_value");
            let mut right = function(next)() == 42;
            // Where it was, there is room again for one of three.
            before.close();
            let together = loader.open("tls_together");
            let sum = together.address("sum_of_all");
            right &= (function(next)(), function(sum)()) == (43, 90);
            let there = thread::spawn(move || (function(next)(), function(sum)())).join();
            right && there.is_ok_and(|there| there == (42, 90))
        });
    });
}

#[test]
fn a_dependencys_block_is_there_for_all_who_need_it_in_every_thread() {
    on_both_loaders(|loader| {
        let old = Old::thread();
        let library = loader.open("tls_needs_needs");
        assert_eq!(in_all_threads(&old, library.address("same_for_all")), [1; 3]);
        old.end();
    });
}

#[test]
fn libraries_that_are_opened_together_have_blocks_of_their_own_in_every_thread() {
    on_both_loaders(|loader| {
        let old = Old::thread();
        for _ in 0..3 {
            let library = loader.open("tls_together");
            assert_eq!(in_all_threads(&old, library.address("sum_of_all")), [90; 3]);
            assert_eq!(library.call("sum_of_all"), 101, "what this thread has counted");
            library.close();
        }
        old.end();
    });
}

#[test]
fn a_variable_of_one_of_several_libraries_that_were_opened_together_is_found_by_all_who_come_later() {
    on_both_loaders(|loader| {
        for user in ["tls_across_initial", "tls_across_descriptor", "tls_across"] {
            let old = Old::thread();
            let owner = loader.open_with("tls_together", GLOBAL);
            let user = loader.open(user);
            assert_eq!(in_all_threads(&old, user.address("add_to_counter")), [41; 3]);
            assert_eq!(owner.call("sum_of_all"), 91, "it is the same variable");
            user.close();
            owner.close();
            old.end();
        }
    });
}

#[test]
fn a_thread_local_object_is_destroyed_when_its_thread_ends_and_the_library_stays_until_then() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        let old = Old::thread();
        let library = loader.open("thread_destructor");
        let invite = library.address("invite");
        assert_eq!(old.run(move || function(invite)()), 1);
        match library {
            Lib::Ours(library) => {
                let reasons = vec![Reason::ThreadLocalDestructors(1)];
                assert_eq!(library.close().unwrap(), Closed::StillMapped { reasons });
            }
            host => host.close(),
        }
        assert_eq!(journal.call_text("journal_text"), "");
        old.end();
        assert_eq!(journal.call_text("journal_text"), "guest-");
        assert!(
            !common::maps::is_mapped("libthread_destructor.so") || loader == Loader::Host,
            "it goes with its thread"
        );
    });
}

#[test]
fn an_object_that_a_destructor_of_the_library_has_made_is_destroyed_when_its_thread_ends() {
    on_both_loaders(|loader| {
        if loader == Loader::Host {
            // glibc unmaps the library, and the thread crashes when it ends.
            return;
        }
        let journal = loader.open("journal");
        let old = Old::thread();
        old.run(move || loader.open("thread_destructor_late").close());
        assert_eq!(journal.call_text("journal_text"), "");
        // Whoever opens it gets a new one.
        assert_eq!(loader.open("thread_destructor_late").call("present"), 1);
        old.end();
        assert_eq!(journal.call_text("journal_text"), "guest-");
    });
}

#[test]
fn static_storage_that_the_c_library_has_no_room_for_is_found_all_the_same() {
    on_both_loaders(|loader| {
        if loader == Loader::Host {
            // glibc keeps some 1.5 KiB.
            assert!(loader.try_open("tls_too_large").is_err());
            return;
        }
        let old = Old::thread();
        for round in 0..3 {
            let library = loader.open("tls_too_large");
            let next = library.address("next_value");
            assert_eq!((library.call("next_value"), library.call("next_value")), (42, 43), "{round}, here");
            assert_eq!(old.run(move || (function(next)(), function(next)())), (42, 43), "{round}, in an old thread");
            assert_eq!(thread::spawn(move || function(next)()).join().unwrap(), 42, "{round}, in a new thread");
            assert_eq!(library.call("is_aligned"), 1);
            assert_eq!(library.read::<c_int>("counter"), 42);
            library.close();
        }
        old.end();
    });
}

#[test]
fn a_thread_that_is_being_created_while_static_storage_is_found_has_its_image_too() {
    on_ours(|loader| {
        // The same place has another image each time.
        static NEXT: RwLock<Option<(usize, c_int)>> = RwLock::new(None);
        static STOP: AtomicBool = AtomicBool::new(false);
        fn wait_and_ask() -> bool {
            while !STOP.load(Ordering::SeqCst) {
                if let Some((next, expected)) = *NEXT.read().unwrap() {
                    return function(next)() == expected;
                }
                thread::yield_now();
            }
            true
        }
        let create = || {
            let mut all_right = true;
            while !STOP.load(Ordering::SeqCst) {
                let threads: Vec<_> = (0..4).map(|_| thread::spawn(wait_and_ask)).collect();
                all_right &= threads.into_iter().all(|thread| thread.join().unwrap());
            }
            all_right
        };
        let creators: Vec<_> = (0..2).map(|_| thread::spawn(create)).collect();
        for (name, expected) in [("tls_too_large", 42), ("tls_too_large_other", 142)].into_iter().cycle().take(20) {
            let library = loader.open(name);
            *NEXT.write().unwrap() = Some((library.address("next_value"), expected));
            thread::sleep(std::time::Duration::from_millis(2));
            *NEXT.write().unwrap() = None;
        }
        STOP.store(true, Ordering::SeqCst);
        assert!(creators.into_iter().all(|creator| creator.join().unwrap()));
    });
}

#[test]
fn a_thread_that_waits_for_the_one_that_creates_it_has_its_image_too() {
    // The C library has a thread wait until its affinity is set: here, for as long as an open takes.
    let slow = &["strace", "-f", "-qq", "-e", "sched_setaffinity", "-e", "inject=sched_setaffinity:delay_exit=300000"];
    if Command::new(slow[0]).arg("-V").output().is_err() {
        eprintln!("DID NOT RUN: it needs the package strace");
        assert!(std::env::var_os("CI").is_none(), "CI installs strace");
        return;
    }
    Child::default().started_by(slow).on_ours(|loader| {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        static ANSWER: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn ask(_: *mut c_void) -> *mut c_void {
            while NEXT.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            ANSWER.store(function(NEXT.load(Ordering::SeqCst))() as usize, Ordering::SeqCst);
            std::ptr::null_mut()
        }
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        let creator = thread::spawn(|| unsafe {
            let (mut attributes, mut number) = (std::mem::zeroed(), 0);
            let mut all: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of_val(&all), &raw mut all);
            libc::pthread_attr_init(&raw mut attributes);
            libc::pthread_attr_setaffinity_np(&raw mut attributes, size_of_val(&all), &raw const all);
            assert_eq!(libc::pthread_create(&raw mut number, &raw const attributes, ask, std::ptr::null_mut()), 0);
            libc::pthread_join(number, std::ptr::null_mut());
        });
        while threads() < before + 2 {
            thread::yield_now();
        }
        // By now it waits.
        thread::sleep(Duration::from_millis(20));
        let library = loader.open("tls_too_large");
        NEXT.store(library.address("next_value"), Ordering::SeqCst);
        creator.join().unwrap();
        assert_eq!(ANSWER.load(Ordering::SeqCst), 42);
    });
}

#[test]
fn a_file_that_is_opened_later_is_not_taken_for_where_storage_came_from() {
    on_both_loaders(|loader| {
        // What stands for the storage in the C library's list is named by the number of a file, which is free again.
        let _storage = loader.open("tls_general");
        for name in ["bss", "life_leaf", "demo"] {
            let files: Vec<_> = (0..8).map(|_| std::fs::File::open(fixture(name)).unwrap()).collect();
            let library = loader.open(name);
            assert!(common::maps::is_mapped(&format!("lib{name}.so")), "{name}");
            drop((files, library));
        }
    });
}
