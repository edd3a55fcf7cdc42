//! The unwinder: exceptions and panics pass through our modules because it asks us which object is at an address, or, where
//! it cannot be had to, because their frames are registered with it.
//!
//! libgcc asks `_dl_find_object` of the C library, through a slot of its own that says where that is. Our function there
//! answers for our modules without memory or lock, so that a signal handler may look at the stack whatever it interrupts,
//! and has the C library answer for all others. Where there is no such slot (before glibc 2.35 or GCC 12), frames are
//! registered; libgcc then takes memory and a lock to look them up, so that a handler must not look at the stack wherever
//! it interrupts. No fork frees that lock (`object_mutex`; from GCC 13 on look-ups rarely take it): a child that was forked
//! while another thread threw may find it taken for good, and then waits for ever when it opens, closes or throws.
//!
//! # Safety
//! The slot is a word that its object's relocations say holds the address of a function of that very type. Ours stays:
//! the object that we are in is kept loaded.
//! `__register_frame` is given the address of an `.eh_frame` section in memory that stays mapped until `Drop` has taken
//! it back, and that ends with a terminator: the unwinder reads on until there is one.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::host::{Host, HostObject, write_sealed};
use super::real::{self, LinkMap};
use super::{addresses, hooks};
use crate::addr::Addr;
use crate::arch::{Kind, Machine};
use crate::file::relocations::{Relocation, What};
use crate::file::symbols::Symbol;

/// `struct dl_find_object` (<dlfcn.h>).
#[repr(C)]
pub(crate) struct Found {
    flags: u64,
    start: *mut c_void,
    end: *mut c_void,
    map: *mut LinkMap,
    frames: *mut c_void,
    reserved: [u64; 7],
}

/// `_dl_find_object`, of our modules.
///
/// # Safety
/// `answer` can be written.
pub(crate) unsafe fn find(address: *const c_void, answer: *mut Found) -> Option<()> {
    // Neither a lock nor memory is taken on this way: the caller may be a signal handler.
    let place = addresses::at(Addr(address as usize))?;
    // SAFETY: the caller's promise.
    unsafe {
        *answer = Found {
            flags: 0,
            start: place.start.0 as *mut c_void,
            end: place.end.0 as *mut c_void,
            map: place.map.0 as *mut LinkMap,
            frames: place.frames?.0 as *mut c_void,
            reserved: [0; 7],
        };
    }
    Some(())
}

type FindObject = unsafe extern "C" fn(*const c_void, *mut Found) -> c_int;

/// Whom the unwinder asked before it asked us.
static ASKED_BEFORE: AtomicUsize = AtomicUsize::new(0);

/// What the unwinder calls for `_dl_find_object`.
unsafe extern "C" fn answer(address: *const c_void, answer: *mut Found) -> c_int {
    // SAFETY: the caller's arguments; the word was written before anybody could come here, and its function has the type.
    unsafe {
        match find(address, answer) {
            Some(()) => 0,
            None => std::mem::transmute::<usize, FindObject>(ASKED_BEFORE.load(Ordering::Relaxed))(address, answer),
        }
    }
}

/// Where the unwinder has the address of what it calls for `_dl_find_object`.
struct Slot {
    word: &'static AtomicUsize,
    /// The page that it is on, if that was made read-only once it was relocated.
    sealed: Range<Addr>,
    unwinder: Arc<HostObject>,
}

impl Slot {
    /// That of the unwinder with which frames would be registered.
    fn find() -> Option<Self> {
        let unwinder = Arc::clone(Host::look().by_address(Addr(__register_frame as *const () as usize))?);
        let (symbols, relocations, machine) = (unwinder.symbols()?, unwinder.relocations()?, Machine::native()?);
        let is_slot = |relocation: &Relocation| {
            let row = match relocation.what {
                What::Type(number) => machine.relocation(number),
                What::Relr => None,
            };
            let named = |symbol: &Symbol| symbols.is_named(symbol, b"_dl_find_object");
            row.is_some_and(|row| row.kind == Kind::Slot) && symbols.get(relocation.symbol).as_ref().is_some_and(named)
        };
        let place = relocations.iter().find(is_slot)?.place;
        let at = unwinder.bias.at(place).0 as *mut usize;
        // SAFETY: a relocation of an object that we are linked to, and which so stays as long as we do. Its loader writes
        // whole words there, and whoever calls by it reads them.
        let word = at.is_aligned().then(|| unsafe { AtomicUsize::from_ptr(at) })?;
        let sealed = unwinder.sealed(place.0..place.0.checked_add(size_of::<usize>() as u64)?)?;
        Some(Self { word, sealed, unwinder })
    }

    /// Has the unwinder ask us. Answers whether it does.
    ///
    /// A thread that was about to bind the slot, because it throws for the first time, may write to it once more: so each
    /// open looks again.
    fn take(&self) -> bool {
        let ours = answer as *const () as usize;
        if self.word.load(Ordering::Relaxed) == ours {
            return true;
        }
        // One after another: whoever is done first makes the page read-only.
        static TAKING: Mutex<()> = Mutex::new(());
        let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.word.load(Ordering::Relaxed);
        let c_library = real::find_object().map_or(0, |find| find as *const () as usize);
        let stays = |now| Host::look().by_address(now).is_some_and(|object| object.at_start);
        // Before it is bound it leads to code of its own, which would bind it.
        let before = match now {
            _ if now == ours => return true,
            _ if self.unwinder.is_code(Addr(now)) => c_library,
            _ if now == c_library || stays(Addr(now)) => now,
            _ => 0,
        };
        if before == 0 {
            return false;
        }
        ASKED_BEFORE.store(before, Ordering::Relaxed);
        self.write(ours)
    }

    fn write(&self, value: usize) -> bool {
        write_sealed(&self.sealed, || self.word.store(value, Ordering::Release))
    }
}

/// Whether the unwinder asks us which object is at an address; it is had to, if it can be.
pub(crate) fn asks_us() -> bool {
    static SLOT: OnceLock<Option<Slot>> = OnceLock::new();
    if SLOT.get().is_none() {
        let slot = hooks::undisturbed(Slot::find).filter(|_| stay());
        hooks::undisturbed(|| drop(SLOT.set(slot)));
    }
    hooks::undisturbed(|| SLOT.get().is_some_and(|slot| slot.as_ref().is_some_and(Slot::take)))
}

/// Keeps the object that we are in loaded for good. Answers whether it will be.
fn stay() -> bool {
    let host = hooks::undisturbed(Host::look);
    host.by_address(Addr(answer as *const () as usize)).is_some_and(|own| own.keep())
}

/// Frames that the unwinder knows. Dropping it makes it forget them.
pub(crate) struct Frames(Addr);

unsafe extern "C" {
    fn __register_frame(begin: *mut c_void);
    fn __deregister_frame(begin: *mut c_void);
}

impl Frames {
    /// Registers what begins at each of `all`, at once.
    ///
    /// # Safety
    /// A whole, terminated `.eh_frame` is mapped at each, and stays so for as long as what it becomes lives.
    pub(crate) unsafe fn register(all: &[Option<Addr>]) -> Vec<Option<Self>> {
        let register = |begin: &Addr| {
            // SAFETY: the caller's promise.
            unsafe { __register_frame(begin.0 as *mut c_void) };
            Self(*begin)
        };
        with_its_lock(|| all.iter().map(|begin| begin.as_ref().map(register)).collect())
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: registered once with this address, and forgotten once.
        with_its_lock(|| unsafe { __deregister_frame(self.0.0 as *mut c_void) });
    }
}

/// Does what takes a lock of the unwinder's, which a child of a fork would find locked, and which a signal handler that
/// looks at the stack would wait for.
fn with_its_lock<T>(work: impl FnOnce() -> T) -> T {
    hooks::undisturbed(|| {
        // SAFETY: two sets of signals, written before they are read.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            let done = work();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            done
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_is_read_only_is_written_to_and_read_only_afterwards() {
        // SAFETY: a page of the test's own.
        let page = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0)
        };
        assert_ne!(page, libc::MAP_FAILED);
        // SAFETY: zeros, in which nobody else looks.
        let word = unsafe { AtomicUsize::from_ptr(page.cast()) };
        let unwinder = Arc::clone(Host::look().program().expect("the program"));
        let sealed = Addr(page as usize)..Addr(page as usize + 4096);
        assert!(Slot { word, sealed, unwinder }.write(5));
        assert_eq!(word.load(Ordering::Relaxed), 5);
        // The kernel is refused to write there.
        // SAFETY: what it would write is a time.
        let refused = unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, page) };
        assert_eq!((refused, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
    }
}
