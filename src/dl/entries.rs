//! The functions themselves, by their C names: those that must know their caller take the return address along.

use std::ffi::{c_char, c_int, c_long, c_void};

use super::objects;
use super::{clear_error, close, error, fail, handles, open, symbol};
use crate::addr::Addr;
use crate::process::namespace::Namespace;
use crate::process::real;
use crate::process::{registry, unwind};

/// The address of our function of that C name.
pub(super) fn address(name: &[u8]) -> Option<Addr> {
    Some(Addr(match name {
        b"dlopen" => dlopen as *const () as usize,
        b"dlmopen" => dlmopen as *const () as usize,
        b"dlsym" => dlsym as *const () as usize,
        b"dlvsym" => dlvsym as *const () as usize,
        b"dlclose" => dlclose as *const () as usize,
        b"dlerror" => dlerror as *const () as usize,
        b"dladdr" => dladdr as *const () as usize,
        b"dladdr1" => dladdr1 as *const () as usize,
        b"dlinfo" => dlinfo as *const () as usize,
        b"dl_iterate_phdr" => dl_iterate_phdr as *const () as usize,
        b"_dl_find_object" => find_object as *const () as usize,
        b"backtrace_symbols" => super::backtrace::backtrace_symbols as *const () as usize,
        b"backtrace_symbols_fd" => super::backtrace::backtrace_symbols_fd as *const () as usize,
        _ => return None,
    }))
}

/// Defines a function that adds its return address to its arguments and goes on to another.
macro_rules! with_caller {
    ($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty, $register:literal, $to:path) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As for the C function of that name.
        #[cfg(target_arch = "x86_64")]
        #[unsafe(naked)]
        pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            core::arch::naked_asm!(
                "endbr64",
                concat!("mov ", $register, ", [rsp]"),
                "jmp {to}",
                to = sym $to,
            )
        }

        $(#[$doc])*
        ///
        /// # Safety
        /// As for the C function of that name.
        #[cfg(not(target_arch = "x86_64"))]
        pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            // SAFETY: the caller's promise.
            unsafe { $to($($argument,)* std::ptr::null()) }
        }
    };
}

/// Defines such a function that, as long as there is no module, goes on to the C library's own function instead, which
/// then sees the caller too: who asks for the next definition after his own is known by his return address alone.
///
/// Sanitizers ask as soon as they are loaded, before anything of the C library may be called through them.
macro_rules! with_caller_once_there_are_modules {
    ($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty, $register:literal, $to:path) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As for the C function of that name.
        #[cfg(target_arch = "x86_64")]
        #[unsafe(naked)]
        pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            unsafe extern "C" fn forward() -> usize {
                super::forward(|| real::$name() as *const () as usize)
            }
            core::arch::naked_asm!(
                "endbr64",
                "push rdi",
                "push rsi",
                "push rdx",
                "call {forward}",
                "pop rdx",
                "pop rsi",
                "pop rdi",
                "test rax, rax",
                "jnz 2f",
                concat!("mov ", $register, ", [rsp]"),
                "jmp {to}",
                "2:",
                "jmp rax",
                forward = sym forward,
                to = sym $to,
            )
        }

        $(#[$doc])*
        ///
        /// # Safety
        /// As for the C function of that name.
        #[cfg(not(target_arch = "x86_64"))]
        pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            // SAFETY: the caller's promise.
            unsafe { $to($($argument,)* std::ptr::null()) }
        }
    };
}

with_caller! {
    /// `dlopen`, by soload.
    ///
    /// ```
    /// // SAFETY: libm's constructors are sound.
    /// let handle = unsafe { soload::dl::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW) };
    /// assert!(!handle.is_null());
    /// ```
    dlopen(name: *const c_char, mode: c_int) -> *mut c_void, "rdx", open_from
}
with_caller! {
    /// `dlmopen`: as many name spaces as are asked for, each with copies of its own of everything but the C library.
    ///
    /// ```
    /// // SAFETY: zlib's constructors are sound.
    /// unsafe {
    ///     let one = soload::dl::dlmopen(libc::LM_ID_NEWLM, c"libz.so.1".as_ptr(), libc::RTLD_NOW);
    ///     let other = soload::dl::dlmopen(libc::LM_ID_NEWLM, c"libz.so.1".as_ptr(), libc::RTLD_NOW);
    ///     assert!(one.is_null() || one != other);
    /// }
    /// ```
    dlmopen(space: c_long, name: *const c_char, mode: c_int) -> *mut c_void, "rcx", open_in_from
}
with_caller_once_there_are_modules! {
    /// `dlsym`, by soload for what it loaded.
    ///
    /// ```
    /// // SAFETY: a look-up.
    /// let getpid = unsafe { soload::dl::dlsym(libc::RTLD_DEFAULT, c"getpid".as_ptr()) };
    /// assert!(!getpid.is_null());
    /// ```
    dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void, "rdx", symbol_from
}
with_caller_once_there_are_modules! {
    /// `dlvsym`, by soload for what it loaded.
    ///
    /// ```
    /// // SAFETY: a look-up.
    /// let getpid = unsafe { soload::dl::dlvsym(libc::RTLD_DEFAULT, c"getpid".as_ptr(), c"GLIBC_2.2.5".as_ptr()) };
    /// assert!(!getpid.is_null());
    /// ```
    dlvsym(handle: *mut c_void, name: *const c_char, version: *const c_char) -> *mut c_void, "rcx", version_from
}

unsafe extern "C-unwind" fn open_from(name: *const c_char, mode: c_int, caller: *const c_void) -> *mut c_void {
    // SAFETY: arguments of `dlopen`.
    unsafe { open(None, name, mode, caller) }
}

unsafe extern "C-unwind" fn open_in_from(
    space: c_long,
    name: *const c_char,
    mode: c_int,
    caller: *const c_void,
) -> *mut c_void {
    clear_error();
    let namespace = match space {
        libc::LM_ID_NEWLM => Namespace::isolated(),
        number => match Namespace::of_number(number) {
            Some(namespace) => namespace,
            // One that the C library has made, or none at all.
            // SAFETY: arguments of `dlmopen`.
            None => return unsafe { real::dlmopen()(space, name, mode) },
        },
    };
    if !namespace.is_base() {
        // SAFETY: null or a string.
        if name.is_null() || unsafe { *name } == 0 {
            fail(format!("dlmopen: expected the base name space for the program, found {space}"));
            return std::ptr::null_mut();
        }
        if space != libc::LM_ID_NEWLM && !registry::state().is_inhabited(namespace) {
            fail(format!("dlmopen: expected a name space that has libraries, found {space}"));
            return std::ptr::null_mut();
        }
    }
    // SAFETY: arguments of `dlmopen`.
    unsafe { open(Some(namespace), name, mode, caller) }
}

unsafe extern "C-unwind" fn symbol_from(
    handle: *mut c_void,
    name: *const c_char,
    caller: *const c_void,
) -> *mut c_void {
    // SAFETY: arguments of `dlsym`.
    unsafe { symbol(handle, name, std::ptr::null(), caller) }
}

unsafe extern "C-unwind" fn version_from(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
    caller: *const c_void,
) -> *mut c_void {
    // SAFETY: arguments of `dlvsym`.
    unsafe { symbol(handle, name, version, caller) }
}

/// `dlclose`, by soload for what it loaded.
///
/// ```
/// // SAFETY: opened, then closed once.
/// unsafe {
///     let handle = soload::dl::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW);
///     assert_eq!(soload::dl::dlclose(handle), 0);
/// }
/// ```
///
/// # Safety
/// As for the C function of that name.
pub unsafe extern "C-unwind" fn dlclose(handle: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { close(handle) }
}

/// `dlerror`: the error of the last call in this thread that failed, once.
///
/// ```
/// // SAFETY: nothing is found, so nothing is loaded; the text is read before the next call.
/// unsafe {
///     assert!(soload::dl::dlopen(c"libno-such.so".as_ptr(), libc::RTLD_NOW).is_null());
///     let text = std::ffi::CStr::from_ptr(soload::dl::dlerror()).to_str().unwrap();
///     assert!(text.starts_with("libno-such.so: cannot open shared object file: No such file or directory"));
///     assert!(soload::dl::dlerror().is_null());
/// }
/// ```
///
/// # Safety
/// As for the C function of that name.
pub unsafe extern "C" fn dlerror() -> *mut c_char {
    error()
}

/// `dladdr`, by soload for what it loaded.
///
/// ```
/// // SAFETY: the result has room.
/// unsafe {
///     let mut info = std::mem::zeroed::<libc::Dl_info>();
///     assert_ne!(soload::dl::dladdr(libc::getpid as *const libc::c_void, &mut info), 0);
/// }
/// ```
///
/// # Safety
/// As for the C function of that name.
pub unsafe extern "C" fn dladdr(address: *const c_void, info: *mut libc::Dl_info) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { if objects::at_address(address, info).is_some() { 1 } else { real::dladdr()(address, info) } }
}

/// `dladdr1`, by soload for what it loaded.
///
/// ```
/// // SAFETY: the results have room; 2 asks for the entry in the list of objects.
/// unsafe {
///     let (mut info, mut map) = (std::mem::zeroed::<libc::Dl_info>(), std::ptr::null_mut());
///     assert_ne!(soload::dl::dladdr1(libc::getpid as *const libc::c_void, &mut info, &mut map, 2), 0);
///     assert!(!map.is_null());
/// }
/// ```
///
/// # Safety
/// As for the C function of that name.
pub unsafe extern "C" fn dladdr1(
    address: *const c_void,
    info: *mut libc::Dl_info,
    extra: *mut *mut c_void,
    flags: c_int,
) -> c_int {
    const RTLD_DL_SYMENT: c_int = 1;
    const RTLD_DL_LINKMAP: c_int = 2;
    // SAFETY: the caller's promise.
    unsafe {
        let Some((map, entry)) = objects::at_address(address, info) else {
            return real::dladdr1()(address, info, extra, flags);
        };
        match flags {
            RTLD_DL_SYMENT => *extra = entry.cast_mut(),
            RTLD_DL_LINKMAP => *extra = map.cast(),
            _ => {}
        }
        1
    }
}

/// `dlinfo`, by soload for what it loaded.
///
/// ```
/// // SAFETY: the result has room for what is asked.
/// unsafe {
///     let handle = soload::dl::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW);
///     let mut map: *mut libc::c_void = std::ptr::null_mut();
///     assert_eq!(soload::dl::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()), 0);
/// }
/// ```
///
/// # Safety
/// As for the C function of that name.
pub unsafe extern "C" fn dlinfo(handle: *mut c_void, request: c_int, answer: *mut c_void) -> c_int {
    clear_error();
    // SAFETY: the caller's promise.
    unsafe {
        match handles::module(handle) {
            Some(module) => objects::info(&module, request, answer),
            None => real::dlinfo()(handle, request, answer),
        }
    }
}

with_caller! {
    /// `dl_iterate_phdr`: over the C library's objects and soload's, of the caller's name space.
    ///
    /// In a signal handler soload's part waits for no lock that the interrupted thread has; glibc's may, in the moment in which
    /// that gets its own.
    ///
    /// ```
    /// unsafe extern "C" fn count(_: *mut libc::dl_phdr_info, _: usize, count: *mut libc::c_void) -> i32 {
    ///     // SAFETY: the number below.
    ///     unsafe { *count.cast::<usize>() += 1 };
    ///     0
    /// }
    /// let mut objects = 0usize;
    /// // SAFETY: `count` takes a pointer to a number.
    /// unsafe { soload::dl::dl_iterate_phdr(Some(count), (&raw mut objects).cast()) };
    /// assert!(objects > 2);
    /// ```
    dl_iterate_phdr(callback: Option<objects::Callback>, data: *mut c_void) -> c_int, "rdx", iterate_from
}

unsafe extern "C-unwind" fn iterate_from(
    callback: Option<objects::Callback>,
    data: *mut c_void,
    caller: *const c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    callback.map_or(0, |callback| unsafe { objects::iterate(callback, data, caller) })
}

/// `_dl_find_object`: over soload's objects and the C library's.
///
/// ```
/// // SAFETY: the result has room for `struct dl_find_object`.
/// unsafe {
///     let mut found = [0u64; 12];
///     soload::dl::find_object(libc::getpid as *const libc::c_void, found.as_mut_ptr().cast());
/// }
/// ```
///
/// # Safety
/// As for the C function of that name.
pub unsafe extern "C" fn find_object(address: *const c_void, answer: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match (unwind::find(address, answer.cast()), real::find_object()) {
            (Some(()), _) => 0,
            (None, Some(find)) => find(address, answer),
            (None, None) => -1,
        }
    }
}
