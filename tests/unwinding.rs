//! Exceptions and panics through loaded code.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;
#[path = "common/drop_in.rs"]
mod drop_in;

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{catch_unwind, resume_unwind};
use std::thread;

use common::*;
use drop_in::drop_in;
use object::{Object, ObjectSymbol, ObjectSymbolTable, RelocationTarget};

#[test]
fn an_exception_is_caught_where_it_should_be() {
    on_both_loaders(|loader| {
        // The second time round the frames of the first are forgotten.
        for _ in 0..2 {
            let library = loader.open("throws");
            library.throws_and_catches();
            library.close();
        }
    });
}

#[test]
fn a_panic_passes_through_loaded_code() {
    extern "C-unwind" fn panics() {
        resume_unwind(Box::new(5));
    }
    on_both_loaders(|loader| {
        let library = loader.open("throws");
        type Call = extern "C-unwind" fn(extern "C-unwind" fn()) -> i32;
        let call: Call = unsafe { std::mem::transmute(library.address("call_and_catch")) };
        let caught = catch_unwind(|| call(panics)).expect_err("a panic");
        assert_eq!(caught.downcast_ref(), Some(&5));
    });
}

#[test]
fn a_thread_that_ends_itself_or_is_cancelled_in_a_library_destroys_its_objects() {
    on_both_loaders(|loader| {
        for _ in 0..3 {
            let library = loader.open("thread_exit");
            assert_eq!(library.call("ends_and_is_cancelled"), 2);
        }
        assert!(!common::maps::is_mapped("libthread_exit.so"));
    });
}

/// Where libgcc has the address of the function that tells it which object is at an address.
fn slot_of_the_unwinder() -> *mut usize {
    let own = maps::maps().into_iter().find(|map| map.path.contains("/libgcc_s.so")).unwrap();
    let data = std::fs::read(&own.path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let symbols = file.dynamic_symbol_table().unwrap();
    let is_it = |target| match target {
        RelocationTarget::Symbol(index) => symbols.symbol_by_index(index).unwrap().name() == Ok("_dl_find_object"),
        _ => false,
    };
    let (place, _) = file.dynamic_relocations().unwrap().find(|(_, relocation)| is_it(relocation.target())).unwrap();
    (own.range.start - own.offset as usize + place as usize) as *mut usize
}

#[test]
fn an_exception_passes_where_the_unwinder_asks_somebody_else() {
    on_both_loaders(|loader| {
        let other = Loader::Host.open("another_answer");
        let (slot, answer) = (slot_of_the_unwinder(), other.address("another_answer"));
        unsafe { slot.write_volatile(answer) };
        // Registered frames are forgotten when the library goes.
        for _ in 0..2 {
            let library = loader.open("throws");
            library.throws_and_catches();
            library.close();
        }
        assert_eq!(unsafe { slot.read_volatile() }, answer);
        catch_unwind(|| resume_unwind(Box::new(6))).expect_err("a panic");
        assert!(other.read::<c_int>("times_asked") > 0);
    });
}

#[test]
fn what_answers_the_unwinder_is_not_unloaded() {
    on_ours(|loader| {
        // A plugin that has soload in it.
        let plugin = Loader::Host.open(drop_in());
        let open: extern "C" fn(*const c_char, c_int) -> *mut c_void =
            unsafe { std::mem::transmute(plugin.address("dlopen")) };
        let path = CString::new(fixture("throws").as_os_str().as_bytes()).unwrap();
        // While a thread that has used it lives, glibc would keep it.
        thread::spawn(move || assert!(!open(path.as_ptr(), libc::RTLD_NOW).is_null())).join().unwrap();
        plugin.close();
        catch_unwind(|| resume_unwind(Box::new(6))).expect_err("a panic");
        assert!(maps::is_mapped("libsoload_dl.so"));
        let library = loader.open("throws");
        library.throws_and_catches();
        library.close();
    });
}
