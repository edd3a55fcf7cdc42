//! Functions of the C library that loaded code gets from us instead: those that must know which module it is.
//!
//! # Safety
//! They are called by foreign code with the arguments that the C library's own functions are documented to take.

use std::ffi::{c_int, c_void};

use super::module::Id;
use super::registry;
use crate::addr::Addr;

/// The address of our own function of that name, if we have one.
#[inline]
pub(crate) fn own(name: &[u8]) -> Option<Addr> {
    match name {
        // The second is the C++ runtime's name for the first.
        b"__cxa_thread_atexit_impl" | b"__cxa_thread_atexit" => Some(Addr(thread_atexit as *const () as usize)),
        _ => None,
    }
}

type Destructor = unsafe extern "C-unwind" fn(*mut c_void);

unsafe extern "C" {
    fn __cxa_thread_atexit_impl(
        destructor: unsafe extern "C-unwind" fn(*mut c_void),
        object: *mut c_void,
        handle: *const c_void,
    ) -> c_int;
}

/// A destructor that a thread will run when it ends.
struct Registered {
    destructor: Destructor,
    object: *mut c_void,
    module: Id,
}

/// Something of ours, by which glibc attributes destructors to us and not to the library.
static OURS: u8 = 0;

/// `__cxa_thread_atexit_impl`: the module stays until the thread has run the destructor.
///
/// glibc would find out whose the destructor is by `handle`, and takes an address that it does not know for the
/// program's: the library could then be gone when the thread ends.
unsafe extern "C-unwind" fn thread_atexit(destructor: Destructor, object: *mut c_void, handle: *const c_void) -> c_int {
    let Some(module) = registry::thread_destructor_added(Addr(handle as usize)) else {
        // SAFETY: the caller's own arguments, passed on.
        return unsafe { __cxa_thread_atexit_impl(destructor, object, handle) };
    };
    let registered = Box::into_raw(Box::new(Registered { destructor, object, module }));
    // SAFETY: `run` takes exactly this pointer, once.
    let refused = unsafe { __cxa_thread_atexit_impl(run, registered.cast(), (&raw const OURS).cast()) };
    if refused != 0 {
        // SAFETY: glibc has not taken it.
        drop(unsafe { Box::from_raw(registered) });
        registry::thread_destructor_done(module);
    }
    refused
}

unsafe extern "C-unwind" fn run(registered: *mut c_void) {
    // SAFETY: made by `thread_atexit`, and run once.
    let Registered { destructor, object, module } = *unsafe { Box::from_raw(registered.cast::<Registered>()) };
    // SAFETY: the module is still there: it was counted.
    unsafe { destructor(object) };
    registry::thread_destructor_done(module);
}
