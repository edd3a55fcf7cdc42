//! What the integration tests share: two loaders, a process of its own for each test, and its address space.
//!
//! A behaviour is tested on our loader and on the host's `dlopen`, the oracle. Where the two differ on purpose, the test
//! asks [`Loader::diverges`], which names one of the constants in [`divergences`].

#![allow(dead_code, unused_imports)] // each test file uses its part
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types that the tests state

pub(crate) mod child;
#[cfg(feature = "cli")]
pub(crate) mod command;
pub(crate) mod divergences;
pub(crate) mod elf;
pub(crate) mod maps;
#[cfg(feature = "snapshots")]
pub(crate) mod snapshots;
pub(crate) mod trace;

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub(crate) use child::{Child, link, on_both_loaders, on_ours, scratch};
pub(crate) use divergences::*;

/// Whose work is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loader {
    /// soload.
    Ours,
    /// The `dlopen` of the libc that runs this test.
    Host,
}

/// How to open; all off is `RTLD_NOW | RTLD_LOCAL`.
#[derive(Clone, Copy, Default)]
pub(crate) struct With {
    pub(crate) global: bool,
    pub(crate) deep_bind: bool,
    pub(crate) no_load: bool,
    pub(crate) no_delete: bool,
    pub(crate) lazy: bool,
}

const PLAIN: With = With { global: false, deep_bind: false, no_load: false, no_delete: false, lazy: false };
pub(crate) const GLOBAL: With = With { global: true, ..PLAIN };
pub(crate) const DEEP_BIND: With = With { deep_bind: true, ..PLAIN };
pub(crate) const NO_LOAD: With = With { no_load: true, ..PLAIN };
pub(crate) const NO_DELETE: With = With { no_delete: true, ..PLAIN };
pub(crate) const LAZY: With = With { lazy: true, ..PLAIN };

/// A library opened by either loader; closed when dropped.
#[derive(Debug)]
pub(crate) enum Lib {
    Ours(soload::Library),
    Host(HostHandle),
}

/// What `dlopen` gave; `dlclose` takes it back.
#[derive(Debug)]
pub(crate) struct HostHandle(*mut c_void);

// SAFETY: a handle is a token; glibc locks what it stands for.
unsafe impl Send for HostHandle {}
unsafe impl Sync for HostHandle {}

impl Drop for HostHandle {
    fn drop(&mut self) {
        unsafe { libc::dlclose(self.0) };
    }
}

/// The path of a fixture: `x` is short for `libx.so`, any other name is relative to the folder of fixtures.
pub(crate) fn fixture(name: impl AsRef<Path>) -> PathBuf {
    let name = name.as_ref();
    let short = !name.as_os_str().as_bytes().iter().any(|byte| b"./".contains(byte));
    let file = if short { PathBuf::from(format!("lib{}.so", name.display())) } else { name.into() };
    Path::new(env!("SOLOAD_TEST_LIBS")).join(file)
}

/// Whether the C library is of that release, or a later one.
pub(crate) fn host_is_since(major: u32, minor: u32) -> bool {
    let release = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_str().unwrap();
    let numbers: Vec<u32> = release.split('.').map_while(|number| number.parse().ok()).collect();
    numbers >= vec![major, minor]
}

impl Loader {
    /// Whether this loader does the other thing, for the reason given.
    pub(crate) fn diverges(self, _why: &Divergence) -> bool {
        self == Self::Ours
    }

    #[track_caller]
    pub(crate) fn open(self, fixture: impl AsRef<Path>) -> Lib {
        self.open_with(fixture, With::default())
    }

    /// Opens a fixture that has packed relative relocations; `None` if the host refuses to, which does not know of them.
    #[track_caller]
    pub(crate) fn open_packed(self, fixture: &str) -> Option<Lib> {
        if self.diverges(&DIVERGENCE_ABILITIES) || host_is_since(2, 36) {
            return Some(self.open(fixture));
        }
        let error = self.try_open(fixture).expect_err("refused by who does not know of them");
        assert!(error.contains("GLIBC_ABI_DT_RELR"), "{error}");
        None
    }

    #[track_caller]
    pub(crate) fn open_with(self, fixture: impl AsRef<Path>, with: With) -> Lib {
        self.try_open_with(fixture, with).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    pub(crate) fn try_open(self, fixture: impl AsRef<Path>) -> Result<Lib, String> {
        self.try_open_with(fixture, With::default())
    }

    pub(crate) fn try_open_with(self, name: impl AsRef<Path>, with: With) -> Result<Lib, String> {
        self.try_open_bare(fixture(name).as_os_str(), with)
    }

    /// Opens by a name that is used as it is, so that one without a slash is searched for.
    pub(crate) fn try_open_bare(self, name: impl AsRef<OsStr>, with: With) -> Result<Lib, String> {
        let name = name.as_ref();
        match self {
            Self::Ours => unsafe {
                soload::OpenOptions::new()
                    .global(with.global)
                    .deep_bind(with.deep_bind)
                    .no_load(with.no_load)
                    .no_delete(with.no_delete)
                    .lazy(with.lazy)
                    .open(name)
            }
            .map(Lib::Ours)
            .map_err(|error| error.to_string()),
            Self::Host => {
                let flag = |on, flag| if on { flag } else { 0 };
                let flags = if with.lazy { libc::RTLD_LAZY } else { libc::RTLD_NOW }
                    | flag(with.global, libc::RTLD_GLOBAL)
                    | flag(with.deep_bind, libc::RTLD_DEEPBIND)
                    | flag(with.no_load, libc::RTLD_NOLOAD)
                    | flag(with.no_delete, libc::RTLD_NODELETE);
                let name = CString::new(name.as_bytes()).unwrap();
                let handle = unsafe { libc::dlopen(name.as_ptr(), flags) };
                if handle.is_null() { Err(host_error()) } else { Ok(Lib::Host(HostHandle(handle))) }
            }
        }
    }

    /// The handle of the program itself: the global scope.
    pub(crate) fn this(self) -> Lib {
        match self {
            Self::Ours => Lib::Ours(soload::Library::this()),
            Self::Host => Lib::Host(HostHandle(unsafe { libc::dlopen(std::ptr::null(), libc::RTLD_NOW) })),
        }
    }
}

fn host_error() -> String {
    let message = unsafe { libc::dlerror() };
    if message.is_null() { "no such library".into() } else { unsafe { text(message) } }
}

unsafe fn text(pointer: *const c_char) -> String {
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

impl Lib {
    /// The symbol's address, as `dlsym` finds it: in the library, then breadth-first in what it needs.
    pub(crate) fn try_address(&self, symbol: &str) -> Result<usize, String> {
        match self {
            Self::Ours(library) => {
                let symbol = unsafe { library.get::<*const c_void>(symbol) };
                symbol.map(|symbol| *symbol as usize).map_err(|error| error.to_string())
            }
            Self::Host(handle) => {
                let symbol = CString::new(symbol).unwrap();
                unsafe { libc::dlerror() };
                let address = unsafe { libc::dlsym(handle.0, symbol.as_ptr()) };
                // A null address is an error only if dlerror says so: symbols may have the value 0.
                let error = unsafe { libc::dlerror() };
                if error.is_null() { Ok(address as usize) } else { Err(unsafe { text(error) }) }
            }
        }
    }

    #[track_caller]
    pub(crate) fn address(&self, symbol: &str) -> usize {
        self.try_address(symbol).unwrap()
    }

    /// The address of one version of a symbol.
    pub(crate) fn try_address_of_version(&self, symbol: &str, version: &str) -> Result<usize, String> {
        match self {
            Self::Ours(library) => {
                let symbol = unsafe { library.get_version::<*const c_void>(symbol, version) };
                symbol.map(|symbol| *symbol as usize).map_err(|error| error.to_string())
            }
            Self::Host(handle) => {
                let (symbol, version) = (CString::new(symbol).unwrap(), CString::new(version).unwrap());
                let address = unsafe { libc::dlvsym(handle.0, symbol.as_ptr(), version.as_ptr()) };
                if address.is_null() { Err(host_error()) } else { Ok(address as usize) }
            }
        }
    }

    /// Calls an exported `int symbol(void)`.
    #[track_caller]
    pub(crate) fn call(&self, symbol: &str) -> c_int {
        call_at(self.address(symbol))
    }

    /// Calls one version of an exported `int symbol(void)`.
    #[track_caller]
    pub(crate) fn call_version(&self, symbol: &str, version: &str) -> c_int {
        call_at(self.try_address_of_version(symbol, version).unwrap())
    }

    /// Reads an exported variable.
    #[track_caller]
    pub(crate) fn read<T: Copy>(&self, symbol: &str) -> T {
        unsafe { (self.address(symbol) as *const T).read() }
    }

    /// Writes an exported variable.
    #[track_caller]
    pub(crate) fn write<T>(&self, symbol: &str, value: T) {
        unsafe { (self.address(symbol) as *mut T).write(value) };
    }

    /// Calls an exported `const char *symbol(void)`.
    #[track_caller]
    pub(crate) fn call_text(&self, symbol: &str) -> String {
        let function: extern "C" fn() -> *const c_char = unsafe { std::mem::transmute(self.address(symbol)) };
        unsafe { text(function()) }
    }

    /// Has the fixture `throws` throw and catch in its constructor, in one function, and across a call from outside.
    #[track_caller]
    pub(crate) fn throws_and_catches(&self) {
        assert_eq!(self.call("caught_in_constructor"), 7);
        assert_eq!(self.call("thrown_and_caught"), 1);
        let catch: extern "C" fn(usize) -> c_int = unsafe { std::mem::transmute(self.address("call_and_catch")) };
        assert_eq!(catch(self.address("throw_number")), 42);
    }

    /// Keeps it open until the process exits.
    pub(crate) fn leak(self) {
        std::mem::forget(self);
    }

    /// Closes it by name, where the test is about closing.
    pub(crate) fn close(self) {
        drop(self);
    }
}

fn call_at(address: usize) -> c_int {
    assert_ne!(address, 0, "a function at address 0");
    let function: extern "C" fn() -> c_int = unsafe { std::mem::transmute(address) };
    function()
}

/// Opens by ours, for what only ours can answer.
pub(crate) fn ours(name: impl AsRef<Path>) -> Result<soload::Library, soload::Error> {
    unsafe { soload::Library::new(fixture(name)) }
}
