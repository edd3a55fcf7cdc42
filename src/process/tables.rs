//! The registry's lock, and whether this thread is at it: a signal handler may have interrupted the thread that has it.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{Ordering, compiler_fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::yield_now;

use super::registry::State;

static REGISTRY: Mutex<Option<Arc<State>>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

/// How often a handler that has interrupted a thread at the lock tries to get it: more often than any other thread takes.
const TRIES: usize = 1000;

thread_local! {
    /// Whether this thread has the lock, or is about to get it or to give it back.
    static AT_LOCK: Cell<bool> = const { Cell::new(false) };
}

/// The lock; the tables it is for. The fields are dropped in this order.
pub(super) struct Guard {
    tables: MutexGuard<'static, Option<Arc<State>>>,
    at: AtLock,
}

impl Deref for Guard {
    type Target = Option<Arc<State>>;

    fn deref(&self) -> &Self::Target {
        &self.tables
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.tables
    }
}

/// Notes that this thread is at the lock.
struct AtLock {
    before: bool,
}

impl AtLock {
    fn begin() -> Self {
        let before = AT_LOCK.replace(true);
        // A handler of this thread sees that before the lock is taken, and until it is free.
        compiler_fence(Ordering::SeqCst);
        Self { before }
    }
}

impl Drop for AtLock {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        AT_LOCK.set(self.before);
    }
}

pub(super) fn lock() -> Guard {
    let at = AtLock::begin();
    // Every change of the tables is complete before anything that could panic.
    Guard { tables: REGISTRY.lock().unwrap_or_else(PoisonError::into_inner), at }
}

/// The lock; `None` in a signal handler that has interrupted the thread that has it.
pub(super) fn lock_in_handler() -> Option<Guard> {
    if !AT_LOCK.get() {
        return Some(lock());
    }
    // The thread may only wait for another one, which gives it back soon.
    (0..TRIES).find_map(|_| match REGISTRY.try_lock() {
        Ok(tables) => Some(Guard { tables, at: AtLock::begin() }),
        Err(_) => {
            yield_now();
            None
        }
    })
}

/// Gives the lock back until somebody has said that something has changed.
pub(super) fn wait(guard: Guard) -> Guard {
    let Guard { tables, at } = guard;
    Guard { tables: CHANGED.wait(tables).unwrap_or_else(PoisonError::into_inner), at }
}

/// Says that something has changed.
pub(super) fn tell() {
    CHANGED.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_lock_is_not_made_to_wait_for_it() {
        let guard = lock();
        assert!(lock_in_handler().is_none());
        assert!(AT_LOCK.get(), "nothing of that is forgotten");
        let other = std::thread::spawn(|| drop(lock_in_handler().unwrap()));
        drop(guard);
        other.join().unwrap();
        assert!(!AT_LOCK.get());
        drop(lock_in_handler().unwrap());
    }
}
