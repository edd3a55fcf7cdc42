//! The host's `dlopen`, for comparison with ours.
//!
//! # Safety
//! Only pointers that the C library gave are followed, while what they belong to is loaded.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A library that `dlopen` has opened; closed when dropped.
pub(super) struct HostLibrary(*mut c_void);

/// The beginning of `struct link_map` (`<link.h>`).
#[repr(C)]
struct LinkMap {
    bias: usize,
    name: *const c_char,
}

impl HostLibrary {
    /// `dlopen(name, RTLD_NOW)`; the error is what `dlerror` says.
    ///
    /// # Safety
    /// Runs the library's constructors; the caller vouches for them.
    pub(super) unsafe fn open(name: &OsStr) -> Result<Self, String> {
        let name = CString::new(name.as_bytes()).map_err(|_| "the name has a NUL byte".to_owned())?;
        // SAFETY: a C string; the caller vouches for the constructors.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if !handle.is_null() {
            return Ok(Self(handle));
        }
        // SAFETY: no other thread calls the C library's loader, so the message stays until it is copied.
        let message = unsafe { libc::dlerror() };
        if message.is_null() {
            return Err("dlopen failed without a message".into());
        }
        // SAFETY: not null, so a C string.
        Err(unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned())
    }

    /// The file it was loaded from.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let map = self.link_map()?;
        // SAFETY: `link_map` gives a record of an open library; `l_name` is a C string.
        let name = unsafe { CStr::from_ptr((*map).name) };
        Some(OsString::from_vec(name.to_bytes().to_vec()).into())
    }

    /// What is added to the addresses in the file.
    pub(super) fn bias(&self) -> usize {
        // SAFETY: as in `path`.
        self.link_map().map_or(0, |map| unsafe { (*map).bias })
    }
    /// The address of a symbol, if it has one of that name.
    pub(super) fn address(&self, symbol: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is open, the name a C string.
        let address = unsafe { libc::dlsym(self.0, symbol.as_ptr()) };
        (!address.is_null()).then_some(address)
    }

    fn link_map(&self) -> Option<*const LinkMap> {
        let mut map: *const LinkMap = std::ptr::null();
        // SAFETY: the handle is open; RTLD_DI_LINKMAP writes one pointer, to a `link_map` that lives as long.
        let failed = unsafe { libc::dlinfo(self.0, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) } != 0;
        (!failed && !map.is_null()).then_some(map)
    }
}

impl Drop for HostLibrary {
    fn drop(&mut self) {
        // SAFETY: the handle came from `dlopen` and is not used again.
        unsafe { libc::dlclose(self.0) };
    }
}

/// How many objects the C library's loader has loaded since the process began.
pub(super) fn objects_loaded() -> u64 {
    extern "C" fn note(info: *mut libc::dl_phdr_info, _size: usize, loaded: *mut c_void) -> c_int {
        // SAFETY: `dl_iterate_phdr` passes a valid record, and the pointer that it was given, to a `u64`.
        unsafe { *loaded.cast::<u64>() = (*info).dlpi_adds };
        1 // The count is the same in every record.
    }
    let mut loaded = 0_u64;
    // SAFETY: `note` has the type that is asked for, and `loaded` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut loaded).cast()) };
    loaded
}
