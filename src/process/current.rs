//! Values that are read without a lock: a signal handler may be the reader, and may have interrupted anybody.
//!
//! A value is never changed, only replaced. One that was replaced is freed at the first change that finds nobody reading;
//! readers neither lock nor allocate.
//!
//! # Safety
//! A value is freed only when there was a moment, after another had taken its place, at which nobody was reading.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The value as it is now, once there is one.
pub(super) struct Current<T> {
    value: AtomicPtr<T>,
    /// Those that others have taken the place of.
    replaced: Mutex<Vec<*mut T>>,
}

// SAFETY: the pointers are its own boxes; every thread may read the values, and any may be the one that frees them.
unsafe impl<T: Send + Sync> Sync for Current<T> {}

/// Who reads any of them. A reader of one delays the end of others, but a thread need only know its own number once.
static READERS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// How many of the readers are this thread: one, and the signal handlers that interrupt it.
    static READING: Cell<usize> = const { Cell::new(0) };
}

impl<T> Current<T> {
    pub(super) const fn none() -> Self {
        Self { value: AtomicPtr::new(ptr::null_mut()), replaced: Mutex::new(Vec::new()) }
    }

    /// Calls `read` with the value as it is now.
    pub(super) fn read<R>(&self, read: impl FnOnce(Option<&T>) -> R) -> R {
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
        // SAFETY: we are counted as a reader since before we looked which one it is, so it stays.
        read(unsafe { self.value.load(Ordering::SeqCst).as_ref() })
    }

    /// Puts what `make` makes of the value in its place. Called with the registry locked, so not over a fork.
    pub(super) fn replace(&self, make: impl FnOnce(Option<&T>) -> T) {
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.value.load(Ordering::SeqCst);
        // SAFETY: values are taken away only here, and the lock is ours.
        let new = make(unsafe { old.as_ref() });
        self.value.store(Box::into_raw(Box::new(new)), Ordering::SeqCst);
        if !old.is_null() {
            replaced.push(old);
        }
        // Whoever begins to read now reads the new one.
        if READERS.load(Ordering::SeqCst) == 0 {
            for value in replaced.drain(..) {
                // SAFETY: made by `Box::into_raw` above; taken out of the list, so freed once.
                drop(unsafe { Box::from_raw(value) });
            }
        }
    }
}

/// In the child of a fork: the readers of other threads are gone.
pub(super) fn forget_other_threads() {
    READERS.store(READING.get(), Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_value_stays_while_it_is_read_and_goes_afterwards() {
        static VALUE: Current<Arc<u8>> = Current::none();
        let first = Arc::new(1);
        VALUE.replace(|old| {
            assert!(old.is_none());
            Arc::clone(&first)
        });
        VALUE.read(|value| {
            VALUE.replace(|_| Arc::new(2));
            assert!(value.is_some_and(|value| Arc::ptr_eq(value, &first)));
            assert_eq!(Arc::strong_count(&first), 2, "it is not freed");
        });
        assert_eq!(VALUE.read(|value| value.map(|value| **value)), Some(2));
        // Another test's thread may be reading something just then.
        let is_freed = (0..1000).any(|_| {
            VALUE.replace(|_| Arc::new(3));
            std::thread::yield_now();
            Arc::strong_count(&first) == 1
        });
        assert!(is_freed);
    }
}
