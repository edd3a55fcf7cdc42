//! Handles of `dlopen`: one for each module, the same whenever it is opened, and counted.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::loader::Opened;
use crate::process::hooks;
use crate::process::module::{Module, Object};
use crate::process::scope::Scope;

/// What a handle stands for.
struct Handle {
    module: Arc<Module>,
    scope: Arc<Scope>,
    /// How often it was opened and not closed.
    count: usize,
}

static HANDLES: Mutex<BTreeMap<usize, Handle>> = Mutex::new(BTreeMap::new());
/// The C library's handle for the program.
static PROGRAM: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

fn handles() -> MutexGuard<'static, BTreeMap<usize, Handle>> {
    HANDLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handle of a module that has just been opened: its address, which no two have.
pub(super) fn of(opened: Opened) -> *mut c_void {
    let Object::Module(module) = opened.object else { return std::ptr::null_mut() };
    let key = Arc::as_ptr(&module) as usize;
    hooks::undisturbed(|| {
        let mut handles = handles();
        let handle = handles.entry(key);
        handle.or_insert(Handle { module, scope: Arc::new(opened.scope), count: 0 }).count += 1;
    });
    key as *mut c_void
}

/// Counts one use less. The module, if the handle is one of ours.
pub(super) fn release(handle: *mut c_void) -> Option<Arc<Module>> {
    // What is dropped here may unmap something: not under the lock.
    let (module, _last) = hooks::undisturbed(|| {
        let mut handles = handles();
        let known = handles.get_mut(&(handle as usize))?;
        known.count -= 1;
        let module = Arc::clone(&known.module);
        let last = if known.count == 0 { handles.remove(&(handle as usize)) } else { None };
        Some((module, last))
    })?;
    Some(module)
}

/// The objects that a symbol of that handle is looked for in, if it is one of ours.
pub(super) fn scope(handle: *mut c_void) -> Option<Arc<Scope>> {
    hooks::undisturbed(|| handles().get(&(handle as usize)).map(|known| Arc::clone(&known.scope)))
}

/// The module of that handle, if it is one of ours.
pub(super) fn module(handle: *mut c_void) -> Option<Arc<Module>> {
    hooks::undisturbed(|| handles().get(&(handle as usize)).map(|known| Arc::clone(&known.module)))
}

/// Remembers which handle means the program.
pub(super) fn program(handle: *mut c_void) -> *mut c_void {
    PROGRAM.store(handle, Ordering::Relaxed);
    handle
}

/// Whether the handle means the program.
pub(super) fn is_program(handle: *mut c_void) -> bool {
    !handle.is_null() && handle == PROGRAM.load(Ordering::Relaxed)
}
