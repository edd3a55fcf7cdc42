//! Which module is at an address, told without any lock: unwinders ask that in signal handlers, too.
//!
//! glibc documents `_dl_find_object` as safe to be called there. A handler may have interrupted a thread that holds a lock,
//! or that is changing what is asked for. So a table is never changed: a new one takes its place, and the old one goes when
//! nobody reads any.
//!
//! # Safety
//! A table is freed only when there was a moment, after another had taken its place, at which nobody was reading.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::module::Module;
use super::real::LinkMap;
use crate::addr::{Addr, Vaddr};

/// Where a module is, and what an unwinder wants of it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) start: Addr,
    pub(crate) end: Addr,
    pub(crate) map: *mut LinkMap,
    /// Its `PT_GNU_EH_FRAME`, if it has one.
    pub(crate) frames: Option<Addr>,
}

/// In order of their addresses.
type Table = Vec<Place>;

static CURRENT: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());
static READERS: AtomicUsize = AtomicUsize::new(0);

/// Tables that others have taken the place of.
struct Retired(Vec<*mut Table>);

// SAFETY: behind the lock, and freed once.
unsafe impl Send for Retired {}

static RETIRED: Mutex<Retired> = Mutex::new(Retired(Vec::new()));

/// The module that has `addr` among its addresses.
pub(crate) fn at(addr: Addr) -> Option<Place> {
    READERS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: we are counted as a reader since before we looked which one it is, so it stays.
    let table = unsafe { CURRENT.load(Ordering::SeqCst).as_ref() };
    let found = table.and_then(|table| {
        let after = table.partition_point(|place| place.start <= addr);
        table[..after].last().filter(|place| addr < place.end).copied()
    });
    READERS.fetch_sub(1, Ordering::SeqCst);
    found
}

/// Adds modules that everybody is to see.
pub(super) fn add<'m>(modules: impl Iterator<Item = &'m Module>) {
    let place = |module: &Module| {
        let (range, bias) = (module.mapping.range(), module.mapping.bias());
        let frames = module.headers.iter().find(|header| header.p_type == libc::PT_GNU_EH_FRAME);
        let frames = frames.map(|header| bias.at(Vaddr(header.p_vaddr)));
        Place { start: range.start, end: range.end, map: module.listed.map(), frames }
    };
    let places: Vec<Place> = modules.map(place).collect();
    change(|table| {
        table.extend(places);
        table.sort_unstable_by_key(|place| place.start);
    });
}

/// Removes modules that are about to be unmapped.
pub(super) fn remove<'m>(modules: impl Iterator<Item = &'m Module>) {
    let starts: Vec<Addr> = modules.map(|module| module.mapping.range().start).collect();
    change(|table| table.retain(|place| !starts.contains(&place.start)));
}

/// Puts a changed table in the place of the current one. To be called by one thread at a time.
fn change(edit: impl FnOnce(&mut Table)) {
    let mut retired = RETIRED.lock().unwrap_or_else(PoisonError::into_inner);
    let old = CURRENT.load(Ordering::SeqCst);
    // SAFETY: only we take tables away, and the lock is ours.
    let mut table = unsafe { old.as_ref() }.cloned().unwrap_or_default();
    edit(&mut table);
    CURRENT.store(Box::into_raw(Box::new(table)), Ordering::SeqCst);
    if !old.is_null() {
        retired.0.push(old);
    }
    // Whoever begins to read now reads the new one.
    if READERS.load(Ordering::SeqCst) == 0 {
        for table in retired.0.drain(..) {
            // SAFETY: made by `Box::into_raw` above; taken out of the list, so freed once.
            drop(unsafe { Box::from_raw(table) });
        }
    }
}

/// In the child of a fork: the other threads will not finish reading.
pub(super) fn forget_other_threads() {
    READERS.store(0, Ordering::SeqCst);
}
