//! The registry's lock, and whether this thread is at it: a signal handler may have interrupted the thread that has it.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering, compiler_fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::yield_now;

use super::registry::State;

static REGISTRY: Mutex<Option<Arc<State>>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

/// Whose changes of the tables are under way, by its [`me`]; zero: nobody's. Who has just got the lock, or is giving it back,
/// is nobody for a moment.
static OWNER: AtomicUsize = AtomicUsize::new(0);

/// How often a handler that has interrupted a thread at the lock finds it with nobody until that is the thread's own moment:
/// more often than any other thread's takes.
const TRIES: usize = 1000;

thread_local! {
    /// Whether this thread has the lock, or is about to get it or to give it back.
    static AT_LOCK: Cell<bool> = const { Cell::new(false) };
}

/// A number that no other thread has.
fn me() -> usize {
    AT_LOCK.with(|at| ptr::from_ref(at).addr())
}

/// The lock; the tables it is for. The fields are dropped in this order.
pub(super) struct Guard {
    owner: Owner,
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

/// Notes that this thread has the lock. Only its own handlers have to see that at once.
struct Owner;

impl Owner {
    fn begin() -> Self {
        OWNER.store(me(), Ordering::Relaxed);
        Self
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        OWNER.store(0, Ordering::Relaxed);
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
    let tables = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    Guard { owner: Owner::begin(), tables, at }
}

/// The lock; `None` in a signal handler that has interrupted the thread that has it: nobody changes the tables until that
/// handler returns.
pub(super) fn lock_in_handler() -> Option<Guard> {
    if !AT_LOCK.get() {
        return Some(lock());
    }
    // The thread may only wait for another one, which gives it back sooner or later.
    let mut tries = 0;
    while tries < TRIES {
        let tables = match REGISTRY.try_lock() {
            Ok(tables) => Some(tables),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(tables) = tables {
            return Some(Guard { owner: Owner::begin(), tables, at: AtLock::begin() });
        }
        match OWNER.load(Ordering::Relaxed) {
            0 => tries += 1,
            owner if owner == me() => return None,
            _ => tries = 0,
        }
        yield_now();
    }
    None
}

/// Gives the lock back until somebody has said that something has changed.
pub(super) fn wait(guard: Guard) -> Guard {
    let Guard { owner, tables, at } = guard;
    drop(owner);
    let tables = CHANGED.wait(tables).unwrap_or_else(PoisonError::into_inner);
    Guard { owner: Owner::begin(), tables, at }
}

/// Says that something has changed.
pub(super) fn tell() {
    CHANGED.notify_all();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_has_the_lock_is_not_made_to_wait_for_it() {
        let guard = lock();
        assert!(lock_in_handler().is_none());
        assert!(AT_LOCK.get(), "nothing of that is forgotten");
        let other = thread::spawn(|| drop(lock_in_handler().unwrap()));
        drop(guard);
        other.join().unwrap();
        assert!(!AT_LOCK.get());
        drop(lock_in_handler().unwrap());
    }

    #[test]
    fn who_only_waits_for_the_lock_gets_it_however_long_another_has_it() {
        let (send, taken) = mpsc::channel();
        let other = thread::spawn(move || {
            let guard = lock();
            send.send(()).unwrap();
            thread::sleep(Duration::from_millis(200));
            drop(guard);
        });
        taken.recv().unwrap();
        let at = AtLock::begin();
        assert!(lock_in_handler().is_some(), "the other one may change the tables");
        drop(at);
        other.join().unwrap();
    }
}
