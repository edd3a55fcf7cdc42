//! Exceptions and panics through loaded code.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;

use std::panic::catch_unwind;

use common::*;

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
        std::panic::resume_unwind(Box::new(5));
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
