//! Modules that go: which ones, in what order their destructors run, and at the process's exit all of them.

use std::cmp::Reverse;
use std::mem;
use std::sync::Arc;

use super::addresses;
use super::hooks;
use super::later;
use super::module::{Id, Module, Object};
use super::namespace::Namespace;
use super::registry::{Entry, Phase, State, edit, tell_waiting};
use super::tables::lock;
use crate::find::needs::Needs;
use crate::load::group::fini_order;

/// Runs the destructors of modules that nobody uses, and lets go of them.
pub(super) fn unload(mut unused: Vec<Arc<Module>>) {
    while !unused.is_empty() {
        unused.iter().for_each(|module| hooks::finish(module));
        // Destructors may have come to refer to what nobody else uses.
        let next = {
            let mut guard = lock();
            let state = edit(&mut guard);
            // Or have thread-local objects made, which threads have still to destroy: then all of it stays mapped.
            if unused.iter().any(|module| state.entry(module.id).is_some_and(|entry| entry.thread_destructors > 0)) {
                unused.iter().for_each(|module| {
                    state.entry_mut(module.id).into_iter().for_each(|entry| entry.phase = Phase::Abandoned);
                });
                return tell_waiting(&mut guard);
            }
            let gone = Gone::of(&unused);
            let used =
                |module: &Arc<Module>| state.entry(module.id).is_some_and(|entry| entry.uses().any(|id| !gone.has(id)));
            let used_others = unused.iter().any(used);
            state.entries.retain(|entry| !gone.has(entry.id));
            state.called.retain(|id| !gone.has(id));
            addresses::remove(unused.iter().map(|module| &**module));
            state.forget_empty_namespaces(&unused);
            if used_others { state.take_unused() } else { Vec::new() }
        };
        // The last owners are here: unmapping happens outside the lock, and before anybody loads the file anew.
        unused = next;
        tell_waiting(&mut lock());
    }
}

/// Runs the destructors of everything that is still loaded, at the process's exit.
pub(super) fn finish_all() {
    if lock().is_none() {
        return;
    }
    let mut ready = {
        let mut guard = lock();
        let state = edit(&mut guard);
        // Whose constructor ends the process is destroyed as well.
        let initialising = Phase::Initialising(hooks::this_thread());
        let ready = state.take(|entry| entry.phase == Phase::Ready || entry.phase == initialising);
        // They stay: who opens one from a destructor gets it as it is.
        for module in &ready {
            state.entry_mut(module.id).into_iter().for_each(|entry| entry.phase = Phase::Finished);
        }
        ready
    };
    // The name space that was made last goes first.
    ready.sort_by_key(|module| Reverse(module.instance.namespace));
    ready.iter().for_each(|module| hooks::finish(module));
}

/// The modules that go, to be asked for one after another.
struct Gone(Vec<Id>);

impl Gone {
    fn of(modules: &[Arc<Module>]) -> Self {
        let mut all: Vec<Id> = modules.iter().map(|module| module.id).collect();
        all.sort_unstable();
        Self(all)
    }

    fn has(&self, id: Id) -> bool {
        self.0.binary_search(&id).is_ok()
    }
}

impl State {
    /// Which modules are in use: open, kept, still being initialised, or needed or referred to by one in use.
    fn used(&self) -> Vec<bool> {
        let mut used: Vec<bool> = self.entries.iter().map(Entry::is_root).collect();
        let mut todo: Vec<usize> = (0..used.len()).filter(|at| used[*at]).collect();
        while let Some(at) = todo.pop() {
            for needed in self.entries[at].uses().filter_map(|id| self.position(id)) {
                if !mem::replace(&mut used[needed], true) {
                    todo.push(needed);
                }
            }
        }
        used
    }

    /// What was global in a name space goes with the last of its modules: the host's objects would be left.
    fn forget_empty_namespaces(&mut self, gone: &[Arc<Module>]) {
        let namespaces = gone.iter().map(|module| module.instance.namespace).filter(|of| !of.is_base());
        let is_empty = |of: &Namespace| self.entries.iter().all(|entry| entry.module.instance.namespace != *of);
        let empty: Vec<Namespace> = namespaces.filter(is_empty).collect();
        if self.global.iter().any(|(of, _)| empty.contains(of)) {
            self.global.retain(|(of, _)| !empty.contains(of));
            later::replace(&self.global);
        }
    }

    /// Marks modules as going. Answers them in the order in which their destructors run.
    fn take(&mut self, mut goes: impl FnMut(&Entry) -> bool) -> Vec<Arc<Module>> {
        let me = hooks::this_thread();
        let mut going: Vec<&mut Entry> = self.entries.iter_mut().filter(|entry| goes(entry)).collect();
        let (mut uses, mut needs) = (Needs::default(), Needs::default());
        for entry in &going {
            let place = |id: Id| going.binary_search_by_key(&id, |entry| entry.id).ok();
            for place in entry.needs().filter_map(place) {
                uses.push(place);
                needs.push(place);
            }
            let others = entry.refers_to().rev().filter(|id| *id != entry.id && !entry.needs().any(|need| need == *id));
            others.filter_map(place).for_each(|place| uses.push(place));
            uses.end();
            needs.end();
        }
        going.iter_mut().for_each(|entry| entry.phase = Phase::Finishing(me));
        fini_order(&uses, &needs).into_iter().map(|place| Arc::clone(&going[place].module)).collect()
    }

    /// Marks the modules that nobody uses as going.
    pub(super) fn take_unused(&mut self) -> Vec<Arc<Module>> {
        let mut used = self.used().into_iter();
        let unused = self.take(|_| used.next() == Some(false));
        let gone = Gone::of(&unused);
        let going = |object: &Object| matches!(object, Object::Module(module) if gone.has(module.id));
        if self.global.iter().any(|(_, object)| going(object)) {
            self.global.retain(|(_, object)| !going(object));
            later::replace(&self.global);
        }
        unused
    }
}
