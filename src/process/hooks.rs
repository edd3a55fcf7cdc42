//! What the process does that a loader must know of: how it was started, that it forks, that it exits.
//!
//! # Safety
//! Code of loaded objects is run from here, on behalf of whoever opened them and promised that it may run.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::going;
use super::module::Module;
use super::registry::{self, Held};
use crate::load::call::{Arguments, Code};
use crate::sys;

/// Which thread it is. Unlike the standard library's answer, to be had until the thread's very end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Thread(libc::pthread_t);

/// This thread.
pub(crate) fn this_thread() -> Thread {
    // SAFETY: reads a field of the thread's own.
    Thread(unsafe { libc::pthread_self() })
}

static COUNT: AtomicI32 = AtomicI32::new(0);
static VALUES: AtomicPtr<*const c_char> = AtomicPtr::new(ptr::null_mut());
static LIBRARY_PATH: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());
static BIND_NOW: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());
static AUDIT: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());
static LOG: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());
#[cfg(feature = "snapshots")]
static SNAPSHOTS: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// glibc calls what stands in `.init_array` with the process's arguments: the only public way to learn them.
#[used]
#[unsafe(link_section = ".init_array")]
static START: unsafe extern "C" fn(c_int, *mut *const c_char, *mut *const c_char) = start;

unsafe extern "C" fn start(count: c_int, values: *mut *const c_char, environment: *mut *const c_char) {
    COUNT.store(count, Ordering::Relaxed);
    VALUES.store(values, Ordering::Relaxed);
    let wanted = [
        (&b"LD_LIBRARY_PATH="[..], &LIBRARY_PATH),
        (&b"LD_BIND_NOW="[..], &BIND_NOW),
        (&b"LD_AUDIT="[..], &AUDIT),
        (&b"SOLOAD_LOG="[..], &LOG),
        #[cfg(feature = "snapshots")]
        (&b"SOLOAD_SNAPSHOTS="[..], &SNAPSHOTS),
    ];
    let mut entry = environment;
    // SAFETY: a null-terminated list of NUL-terminated strings on the initial stack, which stays.
    unsafe {
        while !entry.is_null() && !(*entry).is_null() {
            for (prefix, place) in wanted {
                if CStr::from_ptr(*entry).to_bytes().starts_with(prefix) {
                    place.store((*entry).add(prefix.len()).cast_mut(), Ordering::Relaxed);
                }
            }
            entry = entry.add(1);
        }
    }
    install();
}

/// `LD_LIBRARY_PATH` as it was when the process started: the loader goes by that, whatever is set later.
pub(crate) fn library_path() -> Option<&'static [u8]> {
    let at = LIBRARY_PATH.load(Ordering::Relaxed);
    // SAFETY: set once by `start`, to a string on the initial stack.
    (!at.is_null()).then(|| unsafe { CStr::from_ptr(at) }.to_bytes())
}

/// Whether nothing is to be bound later than it is loaded: `LD_BIND_NOW` was set when the process started.
pub(crate) fn bind_now() -> bool {
    let at = BIND_NOW.load(Ordering::Relaxed);
    // SAFETY: set once by `start`, to a string on the initial stack.
    !at.is_null() && unsafe { *at } != 0
}

/// Whether libraries may look over the loader's shoulder, and change what it finds: `LD_AUDIT` was set when the process
/// started.
pub(crate) fn is_audited() -> bool {
    !AUDIT.load(Ordering::Relaxed).is_null()
}

/// The name that the program was started by.
pub(crate) fn program_name() -> Option<&'static CStr> {
    let values = VALUES.load(Ordering::Relaxed);
    // SAFETY: set once by `start`, to the process's arguments, which stay.
    unsafe { if values.is_null() || (*values).is_null() { None } else { Some(CStr::from_ptr(*values)) } }
}

/// `SOLOAD_LOG` as it was when the process started, unless that runs with rights that its starter does not have.
pub(crate) fn log() -> Option<&'static [u8]> {
    setting(&LOG)
}

/// `SOLOAD_SNAPSHOTS`, likewise: the directory of snapshots.
#[cfg(feature = "snapshots")]
pub(crate) fn snapshots() -> Option<&'static [u8]> {
    setting(&SNAPSHOTS)
}

fn setting(place: &AtomicPtr<c_char>) -> Option<&'static [u8]> {
    let at = place.load(Ordering::Relaxed);
    if at.is_null() || sys::auxiliary(libc::AT_SECURE) != 0 {
        return None;
    }
    // SAFETY: set once by `start`, to a string on the initial stack.
    Some(unsafe { CStr::from_ptr(at) }.to_bytes()).filter(|text| !text.is_empty())
}

/// What constructors are called with: the process's own arguments, and its environment as it is now.
fn arguments() -> Arguments {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    static NONE: [usize; 1] = [0];
    let values = VALUES.load(Ordering::Relaxed).cast_const();
    // SAFETY: a pointer that the C library keeps; reading it races with `setenv` no more than in any constructor.
    let environment = unsafe { environ };
    match values.is_null() {
        true => Arguments { count: 0, values: NONE.as_ptr().cast(), environment },
        false => Arguments { count: COUNT.load(Ordering::Relaxed), values, environment },
    }
}

/// Runs the constructors of a module that this thread has published, unless it has begun with that: a constructor that
/// opens a library has those run first of what that needs.
pub(crate) fn initialise(module: &Module) {
    /// Says that they have run even if one of them throws, so that nobody waits for ever.
    struct Done<'a>(&'a Module);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            registry::initialised(self.0);
        }
    }
    if !registry::begin(module.id) {
        return;
    }
    install();
    let _done = Done(module);
    let arguments = arguments();
    for constructor in module.functions.constructors() {
        // SAFETY: the module is published; whoever opened it promised that its code may run (`Library::new`).
        unsafe { constructor.initialise(arguments) };
    }
}

/// Runs the destructors of a module whose constructors have run.
pub(crate) fn finish(module: &Module) {
    for destructor in module.functions.destructors() {
        // SAFETY: the module is still mapped: we hold it. Its constructors have run, or one of them
        // ends the process.
        unsafe { destructor.finish() };
    }
}

/// Runs an IFUNC resolver of an object whose plain words are all relocated.
pub(crate) fn resolve(resolver: Code) -> crate::Addr {
    // SAFETY: the loader calls it in the order of dependency, after plain relocation; whoever opens the library has
    // promised that its code may run.
    unsafe { resolver.resolve() }
}

/// Registers what is to happen at exit and around a fork, once, before the program's `main`: so our destructors run
/// after everything that it registers, as glibc's do.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all four are plain functions that never unwind.
        unsafe {
            libc::atexit(at_exit);
            libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child));
        }
    });
}

extern "C" fn at_exit() {
    going::finish_all();
}

static FORKS: RwLock<()> = RwLock::new(());

/// Runs `work` while no thread forks: a child would find locks and half-made values of a thread that it does not have.
///
/// `work` must not run foreign code, which may fork, nor wait for another thread or for the C library's loader.
pub(crate) fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let _held = hold_off_forks();
    work()
}

thread_local! {
    /// Whether this thread holds forks off.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// Forks wait until it is dropped. `None` if this thread holds them off already: a lock for reading that is taken twice could
/// wait for a fork that waits for it.
#[inline(never)] // one for all that is undisturbed
fn hold_off_forks() -> Option<(RwLockReadGuard<'static, ()>, Leave)> {
    let outermost = !INSIDE.replace(true);
    outermost.then(|| (FORKS.read().unwrap_or_else(PoisonError::into_inner), Leave))
}

/// How many calls of the C library's loader are under way for us, and [`FORKING`]. No lock: a child would find what the
/// threads hold that it does not have.
static IN_LOADER: AtomicUsize = AtomicUsize::new(0);
/// Set in it while a fork is under way that has found nobody there.
const FORKING: usize = 1 << (usize::BITS - 1);

thread_local! {
    /// How many of the calls are this thread's: a constructor that the C library's loader runs may open a library.
    static OWN_CALLS: Cell<usize> = const { Cell::new(0) };
}

/// How long a fork waits for threads that are in the C library's loader for us, and those for a fork. Either may wait for
/// the other, in a constructor or in another handler; then it goes on all the same, and the child may find glibc's
/// `dl_load_write_lock` taken for good, which its fork does not free. So long that on a busy machine, where a thread waits
/// tenths of a second for its turn, nobody gives up who need not.
const IN_LOADER_MAX: Duration = Duration::from_secs(2);

/// Calls the C library's loader, which a fork lets finish: a child would find its locks taken, and would never get them.
pub(crate) fn in_loader<T>(call: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            OWN_CALLS.set(OWN_CALLS.get() - 1);
            IN_LOADER.fetch_sub(1, Ordering::SeqCst);
        }
    }
    // A fork that has begun is let finish, but another of its handlers may wait for this very thread: so not for ever.
    let begun = Instant::now();
    let enter = |calls| (calls & FORKING == 0 || begun.elapsed() >= IN_LOADER_MAX).then_some(calls + 1);
    while IN_LOADER.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter).is_err() {
        thread::yield_now();
    }
    OWN_CALLS.set(OWN_CALLS.get() + 1);
    let _leave = Leave;
    call()
}

/// Waits until no other thread is in the C library's loader for us, and keeps them out of it. Gives up in time.
fn close_loader() {
    let begun = Instant::now();
    let own = OWN_CALLS.get();
    while IN_LOADER.compare_exchange(own, own | FORKING, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        if begun.elapsed() >= IN_LOADER_MAX {
            return;
        }
        thread::yield_now();
    }
}

/// What is locked while a fork is under way: the registry, and `undisturbed` work.
type Locked = (Held, RwLockWriteGuard<'static, ()>);
struct OverFork(UnsafeCell<Option<Locked>>);

// SAFETY: written by `before_fork` and emptied by the same thread right after, in parent and child; C libraries run fork
// handlers one fork at a time, and the lock itself keeps a second forking thread out.
unsafe impl Sync for OverFork {}

static OVER_FORK: OverFork = OverFork(UnsafeCell::new(None));

extern "C" fn before_fork() {
    let forks = FORKS.write().unwrap_or_else(PoisonError::into_inner);
    // After that: who does `undisturbed` work does not wait for the loader.
    close_loader();
    let held = (registry::hold(), forks);
    // SAFETY: the locks are ours, so no other thread is between here and the end of its fork.
    unsafe { *OVER_FORK.0.get() = Some(held) };
}

extern "C" fn after_fork_in_parent() {
    IN_LOADER.fetch_and(!FORKING, Ordering::SeqCst);
    // SAFETY: as in `before_fork`; the guard is taken out before it is dropped.
    let held = unsafe { (*OVER_FORK.0.get()).take() };
    drop(held);
}

extern "C" fn after_fork_in_child() {
    // Whoever else was there will not leave.
    IN_LOADER.store(OWN_CALLS.get(), Ordering::SeqCst);
    // SAFETY: as in `before_fork`; the child's only thread is the one that forked.
    let held = unsafe { (*OVER_FORK.0.get()).take() };
    if let Some((registry, _forks)) = held {
        registry::forget_other_threads(registry);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Forks a process that does nothing else than `child`, and answers what that says; and how long the fork took.
    fn fork(child: impl FnOnce() -> bool) -> (bool, Duration) {
        let begun = Instant::now();
        // SAFETY: the child runs `child`, which forks again at most, and exits.
        let process = unsafe { libc::fork() };
        let time = begun.elapsed();
        assert!(process >= 0);
        if process == 0 {
            let code = i32::from(!child());
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: our own child.
        assert_eq!(unsafe { libc::waitpid(process, &mut status, 0) }, process);
        (status == 0, time)
    }

    #[test]
    fn a_fork_waits_for_the_loader_but_its_child_for_nobody_that_it_does_not_have() {
        install();
        let (is_in, came_in) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let inside = thread::spawn(move || {
            in_loader(|| {
                is_in.send(()).unwrap();
                ended.recv().unwrap();
            });
        });
        came_in.recv().unwrap();
        // Any of several, where the machine is busy.
        let is_quick = || (0..5).any(|_| fork(|| true).1 < IN_LOADER_MAX);
        let (child_was_quick, time) = fork(|| is_quick() && in_loader(is_quick));
        assert!(child_was_quick, "the child waited");
        assert!(time >= IN_LOADER_MAX, "the fork did not wait: {time:?}");
        end.send(()).unwrap();
        inside.join().unwrap();
        assert!(in_loader(is_quick), "a thread does not wait for itself");
    }
    #[test]
    #[cfg(feature = "snapshots")]
    fn a_library_whose_symbols_have_not_been_read_is_closed_while_a_fork_waits() {
        install();
        let path = std::path::Path::new(env!("SOLOAD_TEST_LIBS")).join("libunique_a.so");
        let snapshot = crate::Snapshot::create(&path).unwrap();
        // SAFETY: a fixture, whose constructors do nothing.
        let library = unsafe { crate::OpenOptions::new().snapshot(&snapshot).open(&path) }.unwrap();
        let (is_in, came_in) = mpsc::channel();
        let inside = thread::spawn(move || {
            in_loader(|| {
                is_in.send(()).unwrap();
                thread::sleep(Duration::from_secs(1));
            });
        });
        came_in.recv().unwrap();
        let forks = thread::spawn(|| fork(|| true));
        thread::sleep(Duration::from_millis(300));
        let (closed, is_closed) = mpsc::channel();
        thread::spawn(move || closed.send(library.close()).unwrap());
        // It stays, and what its unique symbol is called is why.
        let why = is_closed.recv_timeout(Duration::from_secs(20)).expect("neither waits for the other for good");
        assert!(matches!(why, Ok(crate::Closed::StillMapped { reasons }) if !reasons.is_empty()));
        inside.join().unwrap();
        forks.join().unwrap();
    }
}
