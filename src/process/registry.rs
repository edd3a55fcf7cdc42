//! Which modules there are, who uses them, and when one may go: the only state that loads share.
//!
//! The lock is held for look-ups and changes of these tables alone, never while foreign code or the C library's loader
//! runs: either could wait for another thread that waits for us.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::addresses;
use super::called::Called;
use super::current;
use super::going;
use super::hooks::{self, Thread};
use super::later;
use super::module::{Dependency, Id, Instance, Module, Object};
use super::namespace::Namespace;
use super::newcomer::{Fit, Keep, Newcomer};
use super::reason::Reason;
use super::settled::Settled;
use super::tables::{self, Guard, lock};
use super::waits::Waits;
use crate::addr::Addr;
use crate::file::symbols::{Symbol, Wanted};

/// All modules, in order of their ids.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(super) entries: Vec<Entry>,
    pub(super) called: Called,
    /// Made global by an open, in order, each in its name space; what the program started with is not among them.
    pub(super) global: Vec<(Namespace, Object)>,
    pub(super) unique: BTreeMap<Namespace, Settled>,
    pub(super) next: u64,
    waits: Waits,
}

#[derive(Clone)]
pub(super) struct Entry {
    /// The module's, beside those of the others: entries are looked for by it.
    pub(super) id: Id,
    pub(super) module: Arc<Module>,
    /// Names it was asked for by, but for its soname.
    pub(super) names: Vec<Box<[u8]>>,
    pub(super) handles: usize,
    /// Thread-local destructors that threads have still to run.
    pub(super) thread_destructors: usize,
    pub(super) phase: Phase,
    /// Modules that it has come to refer to since it was loaded.
    pub(super) bound_later: Vec<Id>,
    /// Why it is never unloaded, if so.
    pub(super) keep: Option<Keep>,
}

/// Where a module is in its life.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A thread has brought it in and is going to run its constructors; none, if one that ran before them has thrown.
    Entered(Option<Thread>),
    /// A thread runs its constructors.
    Initialising(Thread),
    Ready,
    /// A thread runs its destructors.
    Finishing(Thread),
    /// The process exits: its destructors run, or have run.
    Finished,
    /// The thread that was initialising or finishing it is not in this process: a fork left it behind half done. Or its
    /// destructors have run and made thread-local objects. It stays mapped, and nobody gets it any more.
    Abandoned,
}

/// Whether there ever was a module.
static ANY: AtomicBool = AtomicBool::new(false);

/// Whether there ever was a module. As long as there is none, every answer is the C library's.
pub(crate) fn any() -> bool {
    ANY.load(Ordering::Acquire)
}

/// The tables, to be changed: those that somebody else looks at are copied first.
pub(super) fn edit(guard: &mut Guard) -> &mut State {
    Arc::make_mut(guard.get_or_insert_default())
}

/// The tables as they are now.
pub(crate) fn state() -> Arc<State> {
    Arc::clone(lock().get_or_insert_default())
}

/// The same; `None` in a signal handler that has interrupted this thread while it changes them.
pub(crate) fn state_in_handler() -> Option<Arc<State>> {
    tables::lock_in_handler().map(|mut guard| Arc::clone(guard.get_or_insert_default()))
}

/// Puts a group into the registry, with one handle to the first of it; from here on it is there for everybody.
///
/// `make` gives the modules in the order in which they were found, numbered from the id it is given on. Answers
/// them, and whether they are the first of an isolated name space. `None` if the process has changed meanwhile so that the
/// group does not fit any more.
pub(crate) fn publish<M: Iterator<Item = Newcomer>>(
    fit: Fit<'_>,
    make: impl FnOnce(Id) -> M,
) -> Option<(Vec<Arc<Module>>, bool)> {
    let mut make = Some(make);
    // Symbols that have not been read yet may be read for their names, which holds off a fork: before the lock, as a fork
    // takes them.
    hooks::undisturbed(|| {
        let mut guard = lock();
        let state = edit(&mut guard);
        // What does not fit is dropped when nothing is held any more.
        let make = make.take_if(|_| state.suits(&fit))?;
        ANY.store(true, Ordering::Release);
        Some(state.enter(&fit, make))
    })
}

/// One more handle to a module that is there; `false` if it is going.
pub(crate) fn retain(module: &Module, name: &[u8]) -> bool {
    let mut guard = lock();
    let state = edit(&mut guard);
    let Some(entry) = state.entry_mut(module.id).filter(|entry| entry.is_live()) else { return false };
    entry.handles += 1;
    if !entry.is_called(name) {
        entry.names.push(name.into());
        state.called.add(name, module.id);
    }
    true
}

/// Marks a module as one that stays for good.
pub(crate) fn keep(module: &Module) {
    if let Some(entry) = edit(&mut lock()).entry_mut(module.id) {
        entry.keep.get_or_insert(Keep::NoDelete);
    }
}

/// Whether a module stays for good.
pub(crate) fn is_kept(module: &Module) -> bool {
    state().entry(module.id).is_some_and(|entry| entry.keep.is_some())
}

/// Adds objects to the global scope of a name space, for all loads to come.
pub(crate) fn make_global(namespace: Namespace, objects: impl IntoIterator<Item = Object>) {
    let objects: Vec<Object> = objects.into_iter().collect();
    // Symbols are read before the lock is taken: a fork holds that off, and takes the lock itself.
    for object in &objects {
        if let Object::Module(module) = object {
            module.symbols.read_now();
        }
    }
    let mut guard = lock();
    let state = edit(&mut guard);
    for object in objects {
        let from_start = namespace.is_base() && matches!(&object, Object::Host(host) if host.at_start);
        let object = (namespace, object);
        if !from_start && !state.global.contains(&object) {
            state.global.push(object);
        }
    }
    // What holds an object of the host now is listed with it, and may be another one than before.
    match state.global.iter().all(|(_, object)| matches!(object, Object::Module(_))) {
        true => later::extend(&state.global),
        false => later::replace(&state.global),
    }
}

/// Notes that module `user` refers to module `to` from now on; `false` if that is going, or has gone.
pub(crate) fn refer(user: Id, to: Id) -> bool {
    let mut guard = lock();
    let state = guard.get_or_insert_default();
    let (Some(from), Some(provider)) = (state.entry(user), state.entry(to)) else { return false };
    // What goes along with its user is there until the last destructor has run; what a fork left behind never goes.
    if matches!(provider.phase, Phase::Finishing(_)) && provider.phase != from.phase {
        return false;
    }
    if !from.uses().any(|known| known == to) {
        edit(&mut guard).entry_mut(user).into_iter().for_each(|entry| entry.bound_later.push(to));
    }
    true
}

/// Whether it is up to this thread to run the constructors of a module, which it says herewith that it does.
pub(crate) fn begin(id: Id) -> bool {
    let mut guard = lock();
    if !guard.get_or_insert_default().are_to_run(&[id]) {
        return false;
    }
    let entry = edit(&mut guard).entry_mut(id);
    entry.into_iter().for_each(|entry| entry.phase = Phase::Initialising(hooks::this_thread()));
    true
}

/// Leaves the constructors of `modules` that have not run to whoever opens or needs these next.
pub(crate) fn leave(modules: &[Arc<Module>]) {
    let entered = Phase::Entered(Some(hooks::this_thread()));
    let mut guard = lock();
    let state = edit(&mut guard);
    for module in modules {
        let entry = state.entry_mut(module.id).filter(|entry| entry.phase == entered);
        entry.into_iter().for_each(|entry| entry.phase = Phase::Entered(None));
    }
    tell_waiting(&mut guard);
}

/// Says that the constructors of a module have run.
pub(crate) fn initialised(module: &Module) {
    let mut guard = lock();
    let state = edit(&mut guard);
    if let Some(entry) = state.entry_mut(module.id) {
        entry.phase = Phase::Ready;
    }
    tell_waiting(&mut guard);
}

/// Wakes the threads that wait for a change, if there are any: to ask the kernel costs as much as a look-up of ten.
pub(super) fn tell_waiting(guard: &mut Guard) {
    if !guard.get_or_insert_default().waits.is_empty() {
        edit(guard).waits.finished(hooks::this_thread());
        tables::tell();
    }
}

/// Waits until other threads have initialised `modules`.
pub(crate) fn wait_until_initialised(modules: &[Id]) {
    wait_while(|state, matters| {
        modules.iter().filter_map(|id| state.entry(*id)?.initialised_by()).find(|thread| matters(*thread))
    });
}

/// The same, and whatever is global in a name space: code that is about to run there may find it without having referred to
/// it before.
pub(crate) fn wait_until_initialised_with_global(modules: &[Id], namespace: Namespace) {
    wait_while(|state, matters| {
        let is_global = |entry: &Entry| {
            state.global(namespace).any(|object| matches!(object, Object::Module(module) if module.id == entry.id))
        };
        let busy = state.entries.iter().filter_map(|entry| Some((entry, entry.initialised_by()?)));
        let of_these = |(entry, _): &(&Entry, Thread)| modules.contains(&entry.id) || is_global(entry);
        busy.filter(of_these).map(|(_, thread)| thread).find(|thread| matters(*thread))
    });
}

/// Waits until other threads have finished unloading these.
pub(crate) fn wait_until_gone(instances: &[Instance]) {
    wait_while(|state, matters| {
        let busy = |entry: &Entry| match entry.phase {
            Phase::Finishing(thread) if instances.contains(&entry.module.instance) => Some(thread),
            _ => None,
        };
        state.entries.iter().filter_map(busy).find(|thread| matters(*thread))
    });
}

/// Waits while `busy` names a thread. It is told which ones matter.
fn wait_while(busy: impl Fn(&State, &dyn Fn(Thread) -> bool) -> Option<Thread>) {
    let me = hooks::this_thread();
    let mut guard = lock();
    loop {
        let state = guard.get_or_insert_default();
        // Not this one; and whoever waits for us, directly or through others, will not get on if we wait for it in turn.
        let thread = busy(state, &|thread| thread != me && !state.waits.lead(thread, me));
        let Some(thread) = thread else {
            if state.waits.is_waiting(me) {
                edit(&mut guard).waits.end(me);
            }
            return;
        };
        edit(&mut guard).waits.begin(me, thread);
        guard = tables::wait(guard);
    }
}

/// Gives one handle back and unloads whatever is not used any more.
pub(crate) fn release(module: Arc<Module>) {
    give_back(module, |_, _| ());
}

/// The same. Answers why the module itself is still there.
pub(crate) fn release_with_reasons(module: Arc<Module>) -> Vec<Reason> {
    give_back(module, State::reasons)
}

/// The same. Answers what `say` says of the module if it is still there.
fn give_back<T: Default>(module: Arc<Module>, say: impl FnOnce(&State, &Module) -> T) -> T {
    // A reason may be the name of a symbol, see `publish`.
    let (unused, said) = hooks::undisturbed(|| {
        let mut guard = lock();
        let state = edit(&mut guard);
        let stays = state.entry_mut(module.id).is_some_and(|entry| {
            entry.handles = entry.handles.saturating_sub(1);
            entry.is_root()
        });
        // Nobody goes because one of several handles has.
        let unused = if stays { Vec::new() } else { state.take_unused() };
        let goes = unused.iter().any(|gone| gone.id == module.id);
        let said = if goes { T::default() } else { say(state, &module) };
        (unused, said)
    });
    // Unmapping happens in there, with the last owners.
    drop(module);
    going::unload(unused);
    said
}

/// One more thread has to run a thread-local destructor of the module that has `addr`. Its number, if there is one.
pub(crate) fn thread_destructor_added(addr: Addr) -> Option<Id> {
    let mut guard = lock();
    let entry = edit(&mut guard).entry_mut(addresses::at(addr)?.id)?;
    entry.thread_destructors += 1;
    Some(entry.id)
}

/// It has run. The last one may have been all that kept the module.
pub(crate) fn thread_destructor_done(id: Id) {
    let unused = {
        let mut guard = lock();
        let state = edit(&mut guard);
        match state.entry_mut(id) {
            Some(entry) if entry.thread_destructors > 1 => {
                entry.thread_destructors -= 1;
                return;
            }
            Some(entry) => entry.thread_destructors = 0,
            None => {}
        }
        state.take_unused()
    };
    going::unload(unused);
}

impl State {
    pub(super) fn position(&self, id: Id) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
    }

    pub(super) fn entry(&self, id: Id) -> Option<&Entry> {
        self.entries.get(self.position(id)?)
    }

    pub(super) fn entry_mut(&mut self, id: Id) -> Option<&mut Entry> {
        let at = self.position(id)?;
        self.entries.get_mut(at)
    }

    /// The module of that number.
    pub(crate) fn module(&self, id: Id) -> Option<Arc<Module>> {
        self.entry(id).map(|entry| Arc::clone(&entry.module))
    }

    /// The module of a name space that was asked for by that name before, or that calls itself so.
    pub(crate) fn by_name(&self, namespace: Namespace, name: &[u8]) -> Option<Arc<Module>> {
        let is =
            |entry: &&Entry| entry.is_live() && entry.module.instance.namespace == namespace && entry.is_called(name);
        let mut called = self.called.by(name).filter_map(|id| self.entry(id));
        called.find(is).map(|entry| Arc::clone(&entry.module))
    }

    /// The module that has `addr` among its addresses.
    pub(crate) fn by_address(&self, addr: Addr) -> Option<Arc<Module>> {
        self.module(addresses::at(addr)?.id)
    }

    /// Whether it is up to this thread to run constructors of any of these.
    pub(crate) fn are_to_run(&self, modules: &[Id]) -> bool {
        let is_up_to = |thread: Option<Thread>| thread.is_none_or(|thread| thread == hooks::this_thread());
        let is_to_run = |entry: &Entry| matches!(entry.phase, Phase::Entered(thread) if is_up_to(thread));
        modules.iter().any(|id| self.entry(*id).is_some_and(is_to_run))
    }

    /// The object whose open brought `object` in.
    pub(crate) fn brought_in(&self, object: &Object) -> Object {
        let mut first = object.clone();
        while let Object::Module(module) = &first
            && let Some(by) = module.loaded_by.and_then(|id| self.module(id))
        {
            first = Object::Module(by);
        }
        first
    }

    /// The modules that somebody opened by themselves.
    pub(crate) fn opened(&self) -> impl Iterator<Item = &Arc<Module>> {
        self.entries.iter().filter(|entry| entry.handles > 0).map(|entry| &entry.module)
    }

    /// How many modules were ever added and removed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.next, self.next - self.entries.len() as u64)
    }

    /// All modules.
    pub(crate) fn modules(&self) -> impl Iterator<Item = &Module> {
        self.entries.iter().map(|entry| &*entry.module)
    }

    /// That module, if it is there.
    pub(crate) fn instance(&self, instance: Instance) -> Option<Arc<Module>> {
        let same = |entry: &&Entry| entry.is_live() && entry.module.instance == instance;
        self.entries.iter().find(same).map(|entry| Arc::clone(&entry.module))
    }

    /// Whether there are modules in a name space.
    pub(crate) fn is_inhabited(&self, namespace: Namespace) -> bool {
        self.entries.iter().any(|entry| entry.is_live() && entry.module.instance.namespace == namespace)
    }

    /// What was made global in a name space, in order.
    pub(crate) fn global(&self, namespace: Namespace) -> impl Iterator<Item = &Object> {
        self.global.iter().filter(move |(of, _)| *of == namespace).map(|(_, object)| object)
    }

    /// Where a unique symbol of a name space is, once somebody has defined it.
    pub(crate) fn unique(&self, namespace: Namespace, wanted: &Wanted<'_>) -> Option<(Addr, Symbol)> {
        self.unique.get(&namespace)?.get(wanted)
    }
}

impl Entry {
    pub(super) fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Finishing(_) | Phase::Abandoned)
    }

    /// The thread that has brought it in and has still to run its constructors, or is running them.
    fn initialised_by(&self) -> Option<Thread> {
        match self.phase {
            Phase::Entered(thread) => thread,
            Phase::Initialising(thread) => Some(thread),
            _ => None,
        }
    }

    /// Whether it is in use whatever others need: open, kept, or still being initialised.
    pub(super) fn is_root(&self) -> bool {
        self.handles + self.thread_destructors > 0 || self.keep.is_some() || self.phase != Phase::Ready
    }

    /// Whether it was asked for by that name before, or calls itself so.
    fn is_called(&self, name: &[u8]) -> bool {
        self.module.soname.as_deref() == Some(name) || self.names.iter().any(|known| **known == *name)
    }

    /// The modules that it needs or refers to.
    pub(super) fn uses(&self) -> impl Iterator<Item = Id> {
        self.needs().chain(self.refers_to())
    }

    pub(super) fn needs(&self) -> impl Iterator<Item = Id> {
        self.module.needed.iter().filter_map(|dependency| match dependency {
            Dependency::Module(id) => Some(*id),
            Dependency::Host(_) => None,
        })
    }

    pub(super) fn refers_to(&self) -> impl DoubleEndedIterator<Item = Id> {
        self.module.bound_to.iter().chain(&self.bound_later).copied()
    }
}

/// The lock, held over a fork so that the child finds the tables whole.
pub(crate) struct Held(#[allow(dead_code)] Guard);

/// Locks the registry for a fork.
pub(crate) fn hold() -> Held {
    Held(lock())
}

/// In the child: the other threads are gone, and nobody will finish what they had begun. It stays mapped, but whoever
/// opens the file gets a fresh copy.
pub(crate) fn forget_other_threads(mut held: Held) {
    let me = hooks::this_thread();
    let state = edit(&mut held.0);
    state.waits.forget();
    current::forget_other_threads();
    for entry in &mut state.entries {
        match entry.phase {
            Phase::Entered(Some(thread)) | Phase::Initialising(thread) | Phase::Finishing(thread) if thread != me => {
                entry.phase = Phase::Abandoned
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;
    use crate::sys::fault;

    #[test]
    fn nothing_is_copied_for_a_change_that_nobody_looks_on_at() {
        if !fault::alone("process::registry::tests::nothing_is_copied_for_a_change_that_nobody_looks_on_at") {
            return;
        }
        let path = |name| Path::new(env!("SOLOAD_TEST_LIBS")).join(name);
        let name = |name| CString::new(path(name).as_os_str().as_bytes()).unwrap();
        // SAFETY: the fixtures' constructors are sound.
        let open = |name| unsafe { crate::Library::new(path(name)) }.unwrap();
        // SAFETY: as above, and the handle is closed once.
        let dlopen = |name: CString| unsafe { crate::dl::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        let tables = || Arc::as_ptr(&state());
        let mut last = open("libdemo.so");
        let before = tables();
        for library in ["libdemo.so", "libbss.so", "libbss.so"] {
            drop(std::mem::replace(&mut last, open(library)));
            assert_eq!(tables(), before, "{library}");
        }
        for library in ["libbss.so", "libjournal.so", "libjournal.so"] {
            let handle = dlopen(name(library));
            assert_eq!(tables(), before, "{library} by dlopen");
            // SAFETY: as above.
            assert_eq!(unsafe { crate::dl::dlclose(handle) }, 0);
            assert_eq!(tables(), before, "{library} by dlclose");
        }
        let looking = state();
        drop(last);
        assert_ne!(tables(), before, "somebody looks on");
        drop(looking);
    }

    #[test]
    fn who_must_not_wait_is_told_of_as_many_comings_and_goings() {
        let path = Path::new(env!("SOLOAD_TEST_LIBS")).join("libdemo.so");
        // SAFETY: the fixture's constructors are sound.
        drop(unsafe { crate::Library::new(path) }.unwrap());
        let guard = lock();
        assert_eq!(guard.as_ref().map(|state| state.counts()), Some(addresses::counts()));
    }
}
