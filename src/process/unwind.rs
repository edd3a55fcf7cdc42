//! The unwinder: exceptions and panics pass through our modules because their frames are registered with it.
//!
//! # Safety
//! `__register_frame` is given the address of an `.eh_frame` section in memory that stays mapped until `Drop` has taken
//! it back, and that ends with a terminator: the unwinder reads on until there is one.

use std::ffi::c_void;

use super::hooks;
use crate::addr::Addr;

/// Frames that the unwinder knows. Dropping it makes it forget them.
pub(crate) struct Frames(Addr);

unsafe extern "C" {
    fn __register_frame(begin: *mut c_void);
    fn __deregister_frame(begin: *mut c_void);
}

impl Frames {
    /// Registers the frames at `begin`.
    ///
    /// # Safety
    /// A whole, terminated `.eh_frame` is mapped there, and stays so for as long as this lives.
    pub(crate) unsafe fn register(begin: Addr) -> Self {
        // The unwinder has a lock of its own, which a child of a fork would find locked.
        // SAFETY: the caller's promise.
        hooks::undisturbed(|| unsafe { __register_frame(begin.0 as *mut c_void) });
        Self(begin)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: registered once with this address, and forgotten once.
        hooks::undisturbed(|| unsafe { __deregister_frame(self.0.0 as *mut c_void) });
    }
}
