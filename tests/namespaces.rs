//! Name spaces: isolated copies of libraries and of all they need, by `dlmopen` and by `OpenOptions::namespace`.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;
#[path = "common/drop_in.rs"]
mod drop_in;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_long, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::thread;

use common::maps::{address_space, assert_same_address_space, is_mapped, maps};
use common::*;
use drop_in::drop_in;
use soload::{Closed, Namespace, OpenOptions};

unsafe extern "C" {
    fn dlmopen(space: c_long, name: *const c_char, mode: c_int) -> *mut c_void;
    fn dlinfo(handle: *mut c_void, request: c_int, answer: *mut c_void) -> c_int;
}

const BASE: c_long = libc::LM_ID_BASE;
const NEW: c_long = libc::LM_ID_NEWLM;

/// A library opened by `dlmopen`; closed when dropped.
struct Copy {
    loader: Loader,
    handle: *mut c_void,
}

unsafe impl Send for Copy {}
unsafe impl Sync for Copy {}

impl Loader {
    fn open_in(self, space: c_long, fixture_name: &str) -> Result<Copy, String> {
        self.open_in_with(space, Some(&fixture(fixture_name)), libc::RTLD_NOW)
    }

    fn open_in_with(self, space: c_long, path: Option<&Path>, mode: c_int) -> Result<Copy, String> {
        let name = path.map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
        let name = name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        let handle = match self {
            Self::Ours => unsafe { soload::dl::dlmopen(space, name, mode) },
            Self::Host => unsafe { dlmopen(space, name, mode) },
        };
        if handle.is_null() { Err(self.error().unwrap_or_default()) } else { Ok(Copy { loader: self, handle }) }
    }

    fn error(self) -> Option<String> {
        let text = unsafe {
            match self {
                Self::Ours => soload::dl::dlerror(),
                Self::Host => libc::dlerror(),
            }
        };
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}

impl Copy {
    fn address(&self, symbol: &str) -> usize {
        let name = CString::new(symbol).unwrap();
        let found = unsafe {
            match self.loader {
                Loader::Ours => soload::dl::dlsym(self.handle, name.as_ptr()),
                Loader::Host => libc::dlsym(self.handle, name.as_ptr()),
            }
        };
        assert!(!found.is_null(), "{symbol}: {:?}", self.loader.error());
        found as usize
    }

    fn function<F: std::marker::Copy>(&self, symbol: &str) -> F {
        let address = self.address(symbol);
        unsafe { std::mem::transmute_copy(&address) }
    }

    fn call(&self, symbol: &str) -> c_int {
        self.function::<extern "C" fn() -> c_int>(symbol)()
    }

    /// What it answers about a name; 0 if nothing.
    fn about(&self, symbol: &str, name: &str) -> usize {
        let name = CString::new(name).unwrap();
        self.function::<extern "C" fn(*const c_char) -> usize>(symbol)(name.as_ptr())
    }

    /// How often it sees an object of that file name among all objects.
    fn goes_through(&self, name: &str) -> c_int {
        let name = CString::new(name).unwrap();
        self.function::<extern "C" fn(*const c_char) -> c_int>("goes_through")(name.as_ptr())
    }

    /// `dlopen`, called by the library.
    fn opens(&self, path: Option<&Path>, mode: c_int) -> Option<Copy> {
        let name = path.map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
        let open: extern "C" fn(*const c_char, c_int) -> *mut c_void = self.function("opens");
        let handle = open(name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr()), mode);
        (!handle.is_null()).then_some(Copy { loader: self.loader, handle })
    }

    /// The number of its name space.
    fn space(&self) -> c_long {
        let mut space: c_long = -7;
        let answer = (&raw mut space).cast();
        let failed = unsafe {
            match self.loader {
                Loader::Ours => soload::dl::dlinfo(self.handle, libc::RTLD_DI_LMID, answer),
                Loader::Host => dlinfo(self.handle, libc::RTLD_DI_LMID, answer),
            }
        };
        assert_eq!(failed, 0, "{:?}", self.loader.error());
        space
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        unsafe {
            match self.loader {
                Loader::Ours => soload::dl::dlclose(self.handle),
                Loader::Host => libc::dlclose(self.handle),
            }
        };
    }
}

/// How many copies of a file are mapped: each has one mapping of its first page.
fn copies(file_name: &str) -> usize {
    let of_file = |path: &str| Path::new(path).file_name() == Some(OsStr::new(file_name));
    maps().iter().filter(|map| map.offset == 0 && of_file(&map.path)).count()
}

/// Something of this program's own for others to find.
#[unsafe(no_mangle)]
pub extern "C" fn soload_test_of_the_program() -> c_int {
    11
}

#[test]
fn a_copy_has_its_own_variables_and_so_has_what_it_needs() {
    on_both_loaders(|loader| {
        let base = loader.open("namespace");
        let (one, other) = (loader.open_in(NEW, "namespace").unwrap(), loader.open_in(NEW, "namespace").unwrap());
        for function in ["next", "next_of_inner"] {
            assert_eq!((base.call(function), base.call(function)), (1, 2), "{function}");
            assert_eq!((one.call(function), one.call(function), one.call(function)), (1, 2, 3), "{function}");
            assert_eq!(other.call(function), 1, "{function}");
        }
        assert_eq!((copies("libnamespace.so"), copies("libnamespace_inner.so")), (3, 3));
    });
}

#[test]
fn what_the_c_librarys_loader_has_made_global_is_not_so_in_other_name_spaces() {
    on_both_loaders(|loader| {
        let _global = Loader::Host.open_with("lazy_second", GLOBAL);
        assert_eq!(loader.open("lazy_asker").call("call_chosen"), 2);
        loader.open_in(NEW, "lazy_asker").err().expect("nobody defines what it asks for");
    });
}

#[test]
fn what_the_c_librarys_loader_has_loaded_has_a_copy_too() {
    on_both_loaders(|loader| {
        let theirs = Loader::Host.open("namespace");
        let copy = loader.open_in(NEW, "namespace").unwrap();
        assert_eq!((theirs.call("next_of_inner"), theirs.call("next_of_inner")), (1, 2));
        assert_eq!((copy.call("next"), copy.call("next_of_inner")), (1, 1));
        assert_eq!((copies("libnamespace.so"), copies("libnamespace_inner.so")), (2, 2));
    });
}

#[test]
fn a_copy_has_its_own_thread_local_variables() {
    on_both_loaders(|loader| {
        let (one, other) = (loader.open_in(NEW, "namespace").unwrap(), loader.open_in(NEW, "namespace").unwrap());
        assert_eq!((one.call("next_of_thread"), one.call("next_of_thread")), (41, 42));
        assert_eq!(other.call("next_of_thread"), 41);
        let there = thread::scope(|scope| scope.spawn(|| one.call("next_of_thread")).join().unwrap());
        assert_eq!(there, 41, "in another thread");
    });
}

#[test]
fn there_is_no_limit_to_copies() {
    on_both_loaders(|loader| {
        let mut all = Vec::new();
        let refused = loop {
            match loader.open_in(NEW, "namespace") {
                Ok(copy) => all.push(copy),
                Err(error) => break Some(error),
            }
            if all.len() == 100 {
                break None;
            }
        };
        assert_eq!(refused.is_none(), loader.diverges(&DIVERGENCE_ONE_C_LIBRARY), "{refused:?}");
        for (number, copy) in all.iter().enumerate() {
            (0..number).for_each(|_| assert!(copy.call("next") > 0));
        }
        for (number, copy) in all.iter().enumerate() {
            assert_eq!(copy.call("next") as usize, number + 1);
            assert_eq!((copy.call("next_of_inner"), copy.call("next_of_thread")), (1, 41));
        }
        let spaces: BTreeSet<c_long> = all.iter().map(Copy::space).collect();
        assert_eq!(spaces.len(), all.len());
        assert_eq!(copies("libnamespace_inner.so"), all.len());
        drop(all);
        assert!(!is_mapped("libnamespace.so") && !is_mapped("libnamespace_inner.so"));
    });
}

#[test]
fn what_is_opened_in_a_name_space_that_is_there_joins_it() {
    on_both_loaders(|loader| {
        let copy = loader.open_in(NEW, "namespace").unwrap();
        let again = loader.open_in(copy.space(), "namespace").unwrap();
        assert_eq!(again.handle, copy.handle, "one library has one handle");
        let inner = loader.open_in(copy.space(), "namespace_inner").unwrap();
        assert_eq!((copy.call("next_of_inner"), inner.call("inner_next")), (1, 2));
        assert_eq!(inner.space(), copy.space());
        let base = loader.open_in(BASE, "namespace_inner").unwrap();
        assert_eq!((base.space(), base.call("inner_next")), (0, 1));
    });
}

#[test]
fn the_first_library_of_a_name_space_is_to_the_others_what_the_program_is_to_all() {
    on_both_loaders(|loader| {
        let copy = loader.open_in(NEW, "namespace").unwrap();
        let late = loader.open_in(copy.space(), "namespace_late").expect("its symbol is in what the first needs");
        assert_eq!((copy.call("next_of_inner"), late.call("late_next")), (1, 2));
        let error = loader.open_in(NEW, "namespace_late").err().expect("it is not in any other");
        assert!(error.contains("inner_next"), "{error}");
        drop(copy);
        assert_eq!(late.call("late_next"), 3, "it keeps what it is bound to");
    });
}

#[test]
fn a_function_is_bound_in_its_own_name_space_at_its_first_call_too() {
    on_both_loaders(|loader| {
        let global = loader.open_with("namespace_inner", GLOBAL);
        assert_eq!(global.call("inner_next"), 1);
        let copy = loader.open_in(NEW, "namespace").unwrap();
        let late = loader.open_in_with(copy.space(), Some(&fixture("namespace_late")), libc::RTLD_LAZY).unwrap();
        assert_eq!((late.call("late_next"), copy.call("next_of_inner"), late.call("late_next")), (1, 2, 3));
        let base = loader.open_in_with(BASE, Some(&fixture("namespace_late")), libc::RTLD_LAZY).unwrap();
        assert_eq!(base.call("late_next"), 2);
    });
}

#[test]
fn nothing_of_the_program_is_seen_in_another_name_space_nor_the_other_way_round() {
    on_both_loaders(|loader| {
        let _global = loader.open_with("namespace_inner", GLOBAL);
        let copy = loader.open_in(NEW, "namespace").unwrap();
        assert_eq!(copy.about("finds", "soload_test_of_the_program"), 0);
        assert_eq!(copy.about("finds", "next"), copy.address("next"));
        assert_eq!(copy.about("finds", "inner_next"), copy.address("inner_next"));
        assert_ne!(copy.about("finds", "getpid"), 0);
        assert_ne!(copy.about("finds_next", "getpid"), 0);
        assert_eq!(copy.about("finds_next", "next"), 0);
        loader.this().try_address("next").expect_err("in a name space of its own");
        assert_eq!(copy.call("next_of_inner"), 1, "not the global one");
        loader.open_in(NEW, "namespace_late").err().expect("global is what is global there");
        assert_eq!(loader.open("namespace_late").call("late_next"), 1);
    });
}

#[test]
fn a_library_opens_others_in_its_own_name_space() {
    on_both_loaders(|loader| {
        let copy = loader.open_in(NEW, "namespace").unwrap();
        let inner = copy.opens(Some(&fixture("namespace_inner")), libc::RTLD_NOW).unwrap();
        assert_eq!((inner.space(), inner.address("inner_next")), (copy.space(), copy.address("inner_next")));
        let leaf = copy.opens(Some(&fixture("life_leaf")), libc::RTLD_NOW).unwrap();
        assert_eq!(leaf.space(), copy.space());
        loader.try_open_with("life_leaf", NO_LOAD).expect_err("it is not in the base");
        let program = copy.opens(None, libc::RTLD_NOW).expect("the program itself");
        assert_ne!(program.address("soload_test_of_the_program"), 0);
    });
}

#[test]
fn a_copy_is_asked_about_like_any_other_library() {
    on_both_loaders(|loader| {
        let _base = loader.open("namespace");
        let copy = loader.open_in(NEW, "namespace").unwrap();
        let next = copy.address("next");
        let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
        let found = unsafe {
            match loader {
                Loader::Ours => soload::dl::dladdr(next as *const c_void, &mut info),
                Loader::Host => libc::dladdr(next as *const c_void, &mut info),
            }
        };
        assert_ne!(found, 0);
        assert_eq!(unsafe { CStr::from_ptr(info.dli_sname) }, c"next");
        assert_eq!(info.dli_saddr as usize, next);
        assert_eq!(OsStr::from_bytes(unsafe { CStr::from_ptr(info.dli_fname) }.to_bytes()), fixture("namespace"));
        for name in ["libnamespace.so", "libnamespace_inner.so", "libc.so.6", "ld-linux-x86-64.so.2"] {
            assert_eq!(copy.goes_through(name), 1, "{name}, from within");
        }
        assert_eq!(copy.goes_through(""), 0, "the program has no name");
    });
}

#[test]
fn from_the_base_only_its_own_objects_are_gone_through() {
    on_both_loaders(|loader| {
        let copy = loader.open_in(NEW, "namespace").unwrap();
        let base = loader.open("namespace");
        let name = c"libnamespace.so".as_ptr();
        let goes_through: extern "C" fn(*const c_char) -> c_int =
            unsafe { std::mem::transmute(base.address("goes_through")) };
        assert_eq!(goes_through(name), 1);
        drop(copy);
        assert_eq!(goes_through(name), 1);
    });
}

#[test]
fn what_cannot_be_opened_in_a_name_space_is_an_error_and_leaves_nothing_behind() {
    on_both_loaders(|loader| {
        loader.open_in(NEW, "namespace").unwrap();
        let before = address_space();
        for round in 0..3 {
            let gone = loader.open_in(NEW, "namespace").unwrap().space();
            for (what, space, path, mode) in [
                ("the program", NEW, None, libc::RTLD_NOW),
                ("a name space that nobody made", 99_999, Some(fixture("namespace")), libc::RTLD_NOW),
                ("a name space whose libraries are closed", gone, Some(fixture("namespace")), libc::RTLD_NOW),
                ("no mode", NEW, Some(fixture("namespace")), 0),
                ("an undefined symbol", NEW, Some(fixture("undefined_function")), libc::RTLD_NOW),
                ("a missing dependency", NEW, Some(fixture("namespace_late")), libc::RTLD_NOW),
                ("a missing file", NEW, Some("/no/such.so".into()), libc::RTLD_NOW),
                ("only if it is there", NEW, Some(fixture("namespace")), libc::RTLD_NOW | libc::RTLD_NOLOAD),
            ] {
                let error = loader.open_in_with(space, path.as_deref(), mode).err();
                let error = error.unwrap_or_else(|| panic!("{what}: opened"));
                assert_eq!(error.is_empty(), what == "only if it is there", "{what}, {round}: {error}");
            }
        }
        assert_same_address_space(&before, "all were refused");
    });
}

#[test]
fn what_is_closed_in_a_name_space_goes_with_all_it_needs() {
    on_both_loaders(|loader| {
        let base = loader.open("namespace");
        for _ in 0..40 {
            let copy = loader.open_in(NEW, "namespace").unwrap();
            assert_eq!(copy.call("next"), 1);
            assert_eq!(copies("libnamespace_inner.so"), 2);
        }
        assert_eq!((copies("libnamespace.so"), copies("libnamespace_inner.so")), (1, 1));
        assert_eq!(base.call("next_of_inner"), 1);
    });
}

#[test]
fn nothing_is_kept_of_a_name_space_that_has_gone() {
    on_ours(|_| {
        let heap = || {
            let info = unsafe { libc::mallinfo() };
            info.uordblks + info.hblkhd
        };
        // The second one needs the C library too.
        let paths = [fixture("demo"), fixture("nested/plugin.so")];
        let again = |times: usize| {
            for path in paths.iter().cycle().take(times) {
                let copy = unsafe { OpenOptions::new().namespace(Namespace::isolated()).open(path) }.unwrap();
                assert_eq!(copy.close().unwrap(), Closed::Unloaded);
            }
        };
        again(200);
        let before = heap();
        again(1000);
        let more = heap().saturating_sub(before);
        assert!(more < 1000 * 8, "{more} bytes more");
    });
}

#[test]
fn threads_open_and_close_copies_at_once() {
    on_both_loaders(|loader| {
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..20 {
                        let copy = loader.open_in(NEW, "namespace").unwrap();
                        assert_eq!((copy.call("next"), copy.call("next_of_inner")), (1, 1));
                        assert_eq!((copy.call("next"), copy.call("next_of_thread")), (2, 41));
                    }
                });
            }
        });
        assert!(!is_mapped("libnamespace.so") && !is_mapped("libnamespace_inner.so"));
    });
}

#[test]
fn threads_that_open_in_one_name_space_get_one_copy() {
    on_ours(|_| {
        for _ in 0..10 {
            let space = Namespace::isolated();
            let barrier = Barrier::new(8);
            let addresses: BTreeSet<usize> = thread::scope(|scope| {
                let open = || {
                    barrier.wait();
                    let library = unsafe { OpenOptions::new().namespace(space).open(fixture("namespace")) }.unwrap();
                    let address = Lib::Ours(library);
                    let at = address.address("next");
                    address.leak();
                    at
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(addresses.len(), 1);
        }
        assert_eq!(copies("libnamespace.so"), 10);
    });
}

#[test]
fn a_rust_program_opens_a_hundred_copies_of_a_plugin() {
    on_ours(|_| {
        let open = |space| unsafe { OpenOptions::new().namespace(space).open(fixture("namespace")) }.unwrap();
        let all: Vec<_> = (0..100).map(|_| open(Namespace::isolated())).collect();
        for (number, library) in all.iter().enumerate() {
            let next = unsafe { library.get::<extern "C" fn() -> c_int>("next") }.unwrap();
            (0..number).for_each(|_| assert!(next() > 0));
            assert_eq!(next() as usize, number + 1);
        }
        let spaces: BTreeSet<i64> = all.iter().map(|library| library.namespace().number()).collect();
        assert_eq!(spaces.len(), 100);
        let (first, again) = (&all[0], open(all[0].namespace()));
        assert_eq!(first.bias(), again.bias());
        assert!(matches!(again.close().unwrap(), Closed::StillMapped { .. }));
        for library in all {
            assert_eq!(library.close().unwrap(), Closed::Unloaded);
        }
        assert!(!is_mapped("libnamespace_inner.so"));
        assert_eq!(open(Namespace::BASE).namespace(), Namespace::BASE);
    });
}

#[test]
fn the_c_library_is_one_for_all_name_spaces() {
    on_both_loaders(|loader| {
        let base = loader.open("namespace");
        let copy = loader.open_in(NEW, "namespace").unwrap();
        let one = loader.diverges(&DIVERGENCE_ONE_C_LIBRARY);
        assert_eq!(copy.call("standard_output") == base.call("standard_output"), one);
        assert_eq!(copy.about("finds", "getpid") == loader.this().address("getpid"), one);
        assert_eq!(copies("libc.so.6"), if one { 1 } else { 2 });
        assert_eq!(copy.about("duplicates_and_frees", "text") as c_int, 1);
        // By its own path, too.
        let math = loader.open_in(NEW, "part_of_libc").unwrap();
        assert_eq!(math.call("calls_part"), 0x102);
        if one {
            let text = copy.about("duplicate", "text") as *mut c_void;
            unsafe { libc::free(text) };
        }
    });
}

#[test]
fn a_program_with_an_allocator_of_its_own_shares_it_with_all_name_spaces() {
    let libraries = env!("SOLOAD_TEST_LIBS");
    let mut program = Command::new(format!("{libraries}/programs/namespace"));
    let output = program.arg(libraries).env("LD_PRELOAD", drop_in()).env("SOLOAD_LOG", "1").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (said, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(said, "freed what it got 1\nfreed here 1\nfreed what it got 1\nfreed here 1\n");
    assert!(log.contains("libnamespace.so in name space 16: loaded libnamespace.so, libnamespace_inner.so;"), "{log}");
}

#[test]
fn what_is_global_in_a_name_space_is_global_there() {
    on_both_loaders(|loader| {
        if !loader.diverges(&DIVERGENCE_GLOBAL_IN_NAMESPACE) {
            let mode = libc::RTLD_NOW | libc::RTLD_GLOBAL;
            assert!(loader.open_in_with(NEW, Some(&fixture("namespace")), mode).is_err());
            return;
        }
        let first = loader.open_in(NEW, "life_leaf").unwrap();
        let mode = libc::RTLD_NOW | libc::RTLD_GLOBAL;
        let copy = loader.open_in_with(first.space(), Some(&fixture("namespace")), mode).unwrap();
        let late = loader.open_in(first.space(), "namespace_late").unwrap();
        assert_eq!((copy.call("next_of_inner"), late.call("late_next")), (1, 2));
        drop(late);
        let late = loader.open_in(first.space(), "namespace_late").expect("global as long as something is there");
        assert_eq!(late.call("late_next"), 3);
        loader.open("namespace_inner").leak();
        loader.try_open("namespace_late").expect_err("it is not global in the base");
        loader.open_in(NEW, "namespace_late").err().expect("nor in another");
        let leaf = copy.opens(Some(&fixture("bss")), libc::RTLD_NOW | libc::RTLD_GLOBAL).unwrap();
        assert_eq!(leaf.space(), first.space());
    });
}

#[test]
fn a_unique_symbol_is_one_for_its_name_space() {
    on_both_loaders(|loader| {
        let base = loader.open("namespace_unique").call("where_it_is");
        let one = loader.open_in(NEW, "namespace_unique").unwrap();
        assert_ne!(one.call("where_it_is"), base);
        assert_eq!(
            loader.open_in(one.space(), "namespace_unique").unwrap().call("where_it_is"),
            one.call("where_it_is")
        );
    });
}

#[test]
fn exceptions_are_thrown_and_caught_in_any_name_space() {
    on_both_loaders(|loader| {
        for _ in 0..3 {
            let copy = loader.open_in(NEW, "throws").unwrap();
            assert_eq!(copy.call("caught_in_constructor"), 7);
            assert_eq!(copy.call("thrown_and_caught"), 1);
            let call_and_catch: extern "C" fn(usize) -> c_int = copy.function("call_and_catch");
            assert_eq!(call_and_catch(copy.address("throw_number")), 42);
        }
    });
}

#[test]
fn what_is_still_loaded_in_name_spaces_is_destroyed_at_exit_the_last_of_them_first() {
    let outputs = on_both_loaders(|loader| {
        let (base, hook) = (loader.open("journal"), loader.open("life_hook"));
        base.write("journal_prints", 1);
        // The copy's standard output is its own under glibc, and flushed by nobody but itself.
        let journal = loader.open_in(NEW, "journal").unwrap();
        unsafe { (journal.address("journal_prints") as *mut c_int).write(1) };
        let root = loader.open_in(journal.space(), "life_root").unwrap();
        let later = loader.open_in(NEW, "journal").unwrap();
        unsafe { (later.address("journal_prints") as *mut c_int).write(1) };
        let leaf = loader.open_in(later.space(), "life_leaf").unwrap();
        std::mem::forget((base, hook, journal, root, later, leaf));
    });
    for (loader, output) in outputs {
        assert!(output.ends_with("leaf- root- left- right- leaf- hook- "), "{loader:?}: {output}");
    }
}
