//! The unwinder: exceptions and panics pass through our modules because their frames are registered with it, unless it
//! asks us for them.
//!
//! Under the drop-in it asks `_dl_find_object` of ours, which is safe in signal handlers. Where frames are registered,
//! libgcc takes memory and a lock to look them up, so that a handler must not look at the stack wherever it interrupts. No
//! fork frees that lock (`object_mutex`; from GCC 13 on look-ups rarely take it): a child that was forked while another
//! thread threw may find it taken for good, and then waits for ever when it opens, closes or throws.
//!
//! # Safety
//! `__register_frame` is given the address of an `.eh_frame` section in memory that stays mapped until `Drop` has taken
//! it back, and that ends with a terminator: the unwinder reads on until there is one.

use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

use super::hooks;
use super::host::{Host, HostObject};
use crate::addr::Addr;
use crate::arch::native;
use crate::file::symbols::Wanted;

/// Frames that the unwinder knows. Dropping it makes it forget them.
pub(crate) struct Frames(Addr);

unsafe extern "C" {
    fn __register_frame(begin: *mut c_void);
    fn __deregister_frame(begin: *mut c_void);
}

impl Frames {
    /// Registers what begins at each of `all`, at once; none of it if the unwinder asks us for frames.
    ///
    /// # Safety
    /// A whole, terminated `.eh_frame` is mapped at each, and stays so for as long as what it becomes lives.
    pub(crate) unsafe fn register(all: &[Option<Addr>]) -> Vec<Option<Self>> {
        let wanted = all.iter().any(Option::is_some) && !asks_us();
        let register = |begin: &Addr| {
            // SAFETY: the caller's promise.
            unsafe { __register_frame(begin.0 as *mut c_void) };
            Self(*begin)
        };
        match wanted {
            true => with_its_lock(|| all.iter().map(|begin| begin.as_ref().map(register)).collect()),
            false => all.iter().map(|_| None).collect(),
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: registered once with this address, and forgotten once.
        with_its_lock(|| unsafe { __deregister_frame(self.0.0 as *mut c_void) });
    }
}

/// Does what takes a lock of the unwinder's, which a child of a fork would find locked, and which a signal handler that
/// looks at the stack would wait for.
fn with_its_lock<T>(work: impl FnOnce() -> T) -> T {
    hooks::undisturbed(|| {
        // SAFETY: two sets of signals, written before they are read.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            let done = work();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            done
        }
    })
}

/// Whether unwinders of this process ask our `_dl_find_object`: it is the first in the program's global scope.
fn asks_us() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let host = hooks::undisturbed(Host::look);
        let Some(wanted) = Wanted::by_name(b"_dl_find_object", None) else { return false };
        let defines =
            |object: &&Arc<HostObject>| object.symbols().is_some_and(|symbols| symbols.find(&wanted).is_some());
        let first = host.objects.iter().filter(|object| object.at_start).find(defines);
        // Some code of ours.
        let own = host.by_address(Addr(native::static_descriptor()));
        first.zip(own).is_some_and(|(first, own)| Arc::ptr_eq(first, own))
    })
}
