//! The drop-in: the functions of `<dlfcn.h>` and `<link.h>` under their C names, answered by soload.
//!
//! # Safety
//! Each function is a jump to soload's of the same type, so that the return address is still the caller's.

#![cfg(target_arch = "x86_64")]

use std::ffi::{c_char, c_int, c_long, c_void};

type Callback = Option<unsafe extern "C" fn(*mut libc::dl_phdr_info, usize, *mut c_void) -> c_int>;

macro_rules! exports {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $to:path;)*) => {$(
        /// The C function of that name, by soload.
        ///
        /// # Safety
        /// As `<dlfcn.h>` and `<link.h>` say.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            core::arch::naked_asm!("endbr64", "jmp {to}", to = sym $to)
        }
    )*};
}

exports! {
    dlopen(name: *const c_char, mode: c_int) -> *mut c_void = soload::dl::dlopen;
    dlmopen(space: c_long, name: *const c_char, mode: c_int) -> *mut c_void = soload::dl::dlmopen;
    dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void = soload::dl::dlsym;
    dlvsym(handle: *mut c_void, name: *const c_char, version: *const c_char) -> *mut c_void = soload::dl::dlvsym;
    dlclose(handle: *mut c_void) -> c_int = soload::dl::dlclose;
    dlerror() -> *mut c_char = soload::dl::dlerror;
    dladdr(address: *const c_void, info: *mut libc::Dl_info) -> c_int = soload::dl::dladdr;
    dladdr1(address: *const c_void, info: *mut libc::Dl_info, extra: *mut *mut c_void, what: c_int) -> c_int =
        soload::dl::dladdr1;
    dlinfo(handle: *mut c_void, request: c_int, answer: *mut c_void) -> c_int = soload::dl::dlinfo;
    dl_iterate_phdr(callback: Callback, data: *mut c_void) -> c_int = soload::dl::dl_iterate_phdr;
    _dl_find_object(address: *const c_void, answer: *mut c_void) -> c_int = soload::dl::find_object;
    backtrace_symbols(addresses: *const *mut c_void, count: c_int) -> *mut *mut c_char = soload::dl::backtrace_symbols;
    backtrace_symbols_fd(addresses: *const *mut c_void, count: c_int, file: c_int) -> () =
        soload::dl::backtrace_symbols_fd;
}
