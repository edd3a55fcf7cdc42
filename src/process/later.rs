//! The objects made global after the start, for those who must not wait: a signal handler may be the first to call.
//!
//! The list is never changed, only replaced. One that was replaced is freed at the first change that finds nobody
//! reading; readers neither lock nor allocate.
//!
//! # Safety
//! A list is freed only when it has been replaced and nobody who may have seen it reads any more.

use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::{mem, ptr};

use super::host::{HostObject, Pin};
use super::module::{Id, Object};
use super::namespace::Namespace;
use crate::file::symbols::Symbols;
use crate::load::map::Mapping;

/// An object that may go at any moment, as look-ups at a first call know it.
#[derive(Clone)]
pub(crate) enum Fleeting {
    Module {
        id: Id,
        symbols: Weak<Symbols>,
        mapping: Weak<Mapping>,
    },
    /// Of the host; what holds it now.
    Host(Arc<HostObject>, Weak<Pin>),
}

impl Fleeting {
    pub(crate) fn of(object: &Object) -> Self {
        match object {
            Object::Host(host) => Self::Host(Arc::clone(host), host.held()),
            Object::Module(module) => Self::Module {
                id: module.id,
                symbols: Arc::downgrade(&module.symbols),
                mapping: Arc::downgrade(&module.mapping),
            },
        }
    }
}

/// Each in its name space.
type List = Vec<(Namespace, Fleeting)>;

static LIST: AtomicPtr<List> = AtomicPtr::new(ptr::null_mut());
static READERS: AtomicUsize = AtomicUsize::new(0);
/// Lists that were replaced while somebody read.
#[allow(clippy::vec_box)] // readers have the address of what is in the box
static REPLACED: Mutex<Vec<Box<List>>> = Mutex::new(Vec::new());

thread_local! {
    /// How many of the readers are this thread: one, and the signal handlers that interrupt it.
    static READING: Cell<usize> = const { Cell::new(0) };
}

/// Calls `read` with the list as it is now.
pub(crate) fn read<T>(read: impl FnOnce(&[(Namespace, Fleeting)]) -> T) -> T {
    struct Done;
    impl Drop for Done {
        fn drop(&mut self) {
            READERS.fetch_sub(1, Ordering::SeqCst);
            READING.set(READING.get() - 1);
        }
    }
    READING.set(READING.get() + 1);
    READERS.fetch_add(1, Ordering::SeqCst);
    let _done = Done;
    let list = LIST.load(Ordering::SeqCst);
    // SAFETY: `replace` frees what it has replaced only when it finds no readers after that, and we are one since before
    // we looked.
    read(if list.is_null() { &[] } else { unsafe { &*list } })
}

/// Shows `objects` from now on. Called with the registry locked, so by one thread at a time and not over a fork.
pub(super) fn replace(objects: &[(Namespace, Object)]) {
    let list = objects.iter().map(|(namespace, object)| (*namespace, Fleeting::of(object))).collect();
    let list: Box<List> = Box::new(list);
    let old = LIST.swap(Box::into_raw(list), Ordering::SeqCst);
    let mut replaced = REPLACED.lock().unwrap_or_else(PoisonError::into_inner);
    if !old.is_null() {
        // SAFETY: it came from a box, and nobody will get it from `LIST` any more.
        replaced.push(unsafe { Box::from_raw(old) });
    }
    if READERS.load(Ordering::SeqCst) == 0 {
        drop(mem::take(&mut *replaced));
    }
}

/// In the child of a fork: the readers of other threads are gone.
pub(super) fn forget_other_threads() {
    READERS.store(READING.get(), Ordering::SeqCst);
}
