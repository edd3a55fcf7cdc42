//! Debuggers: our modules in a list of our own, chained behind the C library's, so that they are shown like any other.
//!
//! gdb (13 and later) follows `r_next` of the structure that `DT_DEBUG` points to from version 2 of it on; glibc keeps
//! its other name spaces there (2.35 and later). Ours is appended at the end; glibc's own list is never touched.
//!
//! It learns of changes by a breakpoint: at a function that does nothing, which we call as well; or, where glibc was built with
//! probes for SystemTap (Fedora, Ubuntu, Debian sid), at places that only ld.so itself comes by. At one of these, where it has unmapped
//! something, gdb reads all lists anew. So if there is a breakpoint, and only then, ld.so is made to map and unmap something.
//!
//! # Safety
//! The chain is changed under a lock of ours. glibc only appends to it, and does so with its loader's lock held; a race
//! between the two could cost a debugger an entry, not the process anything.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use super::hooks;
use super::real::{self, Debug, LinkMap};
use super::storage;
use crate::addr::{Addr, Bias};
use crate::find::graph::absolute;
use crate::sys;

// `r_state` (<link.h>).
const CONSISTENT: i32 = 0;
const ADD: i32 = 1;
const DELETE: i32 = 2;

/// A module as a debugger sees it. Dropping it takes it from the list.
pub(crate) struct Listed {
    map: *mut LinkMap,
    /// The list points to it.
    name: CString,
}

// SAFETY: the node is reached through the list alone, whose changes are made under the lock.
unsafe impl Send for Listed {}
// SAFETY: as above.
unsafe impl Sync for Listed {}

/// Our part of the chain; made when the first module is listed, and there for good.
struct Chain {
    debug: *mut Debug,
    /// The C library's, which comes before it.
    hosts: *mut Debug,
    /// The last module that is listed, if there is one.
    last: *mut LinkMap,
    /// Where the C library's loader says that objects have been unmapped, if debuggers may go by that.
    probe: Option<Addr>,
}

// SAFETY: behind the lock.
unsafe impl Send for Chain {}

static CHAIN: Mutex<Option<Chain>> = Mutex::new(None);

impl Listed {
    /// A module that was loaded from `path`; not in the list yet.
    pub(crate) fn new(path: &Path, bias: Bias, dynamic: Addr) -> Self {
        // A debugger opens the file itself, from wherever it runs.
        let path = absolute(path);
        let name = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
        let map = LinkMap {
            bias: bias.get(),
            name: name.as_ptr(),
            dynamic: dynamic.0 as *const _,
            next: ptr::null_mut(),
            previous: ptr::null_mut(),
        };
        Self { map: Box::into_raw(Box::new(map)), name }
    }

    /// Its file, from the root on.
    pub(crate) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.name.as_bytes()))
    }

    /// The node, as `dlinfo` and `dladdr1` give it.
    pub(crate) fn map(&self) -> *mut LinkMap {
        self.map
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let probe = hooks::undisturbed(|| {
            let mut chain = CHAIN.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: the node is ours; its neighbours are alive as long as they are in the list.
            unsafe {
                let (next, previous) = ((*self.map).next, (*self.map).previous);
                let probe = match &mut *chain {
                    Some(Chain { debug, last, probe, .. }) if !previous.is_null() || (**debug).map == self.map => {
                        announce(*debug, DELETE);
                        match previous.is_null() {
                            true => (**debug).map = next,
                            false => (*previous).next = next,
                        }
                        match next.is_null() {
                            true => *last = previous,
                            false => (*next).previous = previous,
                        }
                        announce(*debug, CONSISTENT);
                        *probe
                    }
                    // It was never shown.
                    _ => None,
                };
                drop(Box::from_raw(self.map));
                probe
            }
        });
        pass(probe);
    }
}

/// Shows modules to a debugger, before their constructors run.
pub(crate) fn show<'m>(modules: impl Iterator<Item = &'m Listed>) {
    let probe = hooks::undisturbed(|| {
        let mut chain = CHAIN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: glibc's structures are there for good; ours are changed under the lock.
        unsafe {
            if chain.is_none() {
                let new = |hosts| Chain {
                    debug: Box::into_raw(Box::new(ours(hosts))),
                    hosts,
                    last: ptr::null_mut(),
                    probe: real::probe(hosts),
                };
                *chain = real::debug().filter(|_| is_extended()).map(new);
            }
            let Chain { debug, hosts, last, probe } = chain.as_mut()?;
            append(*hosts, *debug);
            announce(*debug, ADD);
            for module in modules {
                (*module.map).previous = *last;
                match last.is_null() {
                    true => (**debug).map = module.map,
                    false => (**last).next = module.map,
                }
                *last = module.map;
            }
            announce(*debug, CONSISTENT);
            *probe
        }
    });
    pass(probe);
}

/// Has the C library's loader come by its probe, if a debugger has a breakpoint there. No lock of ours is held; like a
/// constructor that opens something, this waits for whoever is in that loader (and if that thread waits for this open, in a
/// constructor of its own, both do for good: under a debugger only).
fn pass(probe: Option<Addr>) {
    /// `int3`.
    const BREAKPOINT: u8 = 0xcc;
    // SAFETY: code of ld.so; only a debugger writes to it.
    if probe.is_some_and(|at| unsafe { (at.0 as *const u8).read_volatile() } == BREAKPOINT) {
        storage::map_and_unmap();
    }
}

/// # Safety
/// `hosts` is glibc's.
unsafe fn ours(hosts: *mut Debug) -> Debug {
    // SAFETY: the caller's promise.
    unsafe {
        Debug {
            version: 2,
            map: ptr::null_mut(),
            changed: (*hosts).changed,
            state: CONSISTENT,
            loader: (*hosts).loader,
            next: ptr::null_mut(),
        }
    }
}

/// Puts our part at the end of the chain, if it is not in it: glibc begins one when a name space is made.
///
/// # Safety
/// Both are structures that stay.
unsafe fn append(hosts: *mut Debug, ours: *mut Debug) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut last = hosts;
        while !(*last).next.is_null() {
            last = (*last).next;
            if last == ours {
                return;
            }
        }
        (*last).next = ours;
        (*hosts).version = (*hosts).version.max(2);
    }
}

/// Sets the state and passes by the place where a debugger has its breakpoint.
///
/// # Safety
/// `debug` is ours, with glibc's `r_brk` in it.
unsafe fn announce(debug: *mut Debug, state: i32) {
    // SAFETY: the caller's promise; the function does nothing.
    unsafe {
        (*debug).state = state;
        if (*debug).changed != 0 {
            let changed: extern "C" fn() = std::mem::transmute((*debug).changed);
            changed();
        }
    }
}

/// Whether glibc's structure has the field that chains: since 2.35.
fn is_extended() -> bool {
    sys::c_library_release() >= Some((2, 35))
}
