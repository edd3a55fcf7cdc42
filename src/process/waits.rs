//! Which thread waits for which, so that none waits in a circle.

use std::collections::BTreeMap;

use super::hooks::Thread;

/// A thread waits until another has finished something.
#[derive(Clone, Default)]
pub(super) struct Waits(BTreeMap<Thread, Thread>);

impl Waits {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn begin(&mut self, who: Thread, whom: Thread) {
        self.0.insert(who, whom);
    }

    pub(super) fn is_waiting(&self, who: Thread) -> bool {
        self.0.contains_key(&who)
    }

    pub(super) fn end(&mut self, who: Thread) {
        self.0.remove(&who);
    }

    /// That thread has finished something: nobody waits for it any more until he has looked what for. Otherwise one that
    /// has not come round to looking would seem to wait for it still, and not be waited for.
    pub(super) fn finished(&mut self, whom: Thread) {
        self.0.retain(|_, thread| *thread != whom);
    }

    /// Whether `who` waits for `whom`, directly or through others.
    pub(super) fn lead(&self, who: Thread, whom: Thread) -> bool {
        let mut thread = who;
        // A circle that we are not part of cannot arise: each closes only over a thread that then does not wait.
        for _ in 0..=self.0.len() {
            match self.0.get(&thread) {
                Some(next) if *next == whom => return true,
                Some(next) => thread = *next,
                None => return false,
            }
        }
        false
    }

    /// Nobody waits: the threads that did are gone.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::hooks::this_thread;
    use super::*;

    #[test]
    fn whoever_has_finished_is_not_waited_for_any_more() {
        // All of them at once: a number is given to another thread later.
        let barrier = std::sync::Barrier::new(3);
        let threads: Vec<Thread> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..3).map(|_| scope.spawn(|| (this_thread(), barrier.wait()).0)).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let [first, second, third] = threads[..] else { panic!("three threads") };
        let mut waits = Waits::default();
        waits.begin(first, second);
        waits.begin(second, third);
        assert!(waits.lead(first, third) && waits.lead(second, third) && !waits.lead(third, first));
        waits.finished(third);
        assert!(!waits.lead(first, third) && waits.lead(first, second) && !waits.is_waiting(second));
        waits.forget();
        assert!(waits.is_empty() && !waits.lead(first, second));
    }
}
