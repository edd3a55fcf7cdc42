//! The C library's own loader functions, found in its own tables: whoever stands in front of them, we reach the real ones.
//!
//! A program may have been started with other definitions of `dlopen` and its like before those of the C library: a
//! sanitizer's, or our own drop-in. An ordinary call would end there.
//!
//! # Safety
//! Reads the list of objects that the C library keeps for debuggers, and calls functions by the types that `<dlfcn.h>`
//! and `<link.h>` give them.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, OnceLock};

use super::host::HostObject;
use crate::addr::{Addr, Bias, Vaddr};
use crate::file::symbols::Wanted;
use crate::sys;

/// `struct link_map` as far as `<link.h>` shows it.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct LinkMap {
    pub(crate) bias: usize,
    pub(crate) name: *const c_char,
    pub(crate) dynamic: *const c_void,
    pub(crate) next: *mut LinkMap,
    pub(crate) previous: *mut LinkMap,
}

/// `struct r_debug_extended`: what a debugger goes by. The last field is there from version 2 on.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Debug {
    pub(crate) version: c_int,
    pub(crate) map: *mut LinkMap,
    /// Where a debugger has its breakpoint.
    pub(crate) changed: usize,
    pub(crate) state: c_int,
    pub(crate) loader: usize,
    pub(crate) next: *mut Debug,
}

type Iterate = unsafe extern "C" fn(
    Option<unsafe extern "C" fn(*mut libc::dl_phdr_info, usize, *mut c_void) -> c_int>,
    *mut c_void,
) -> c_int;

/// The functions themselves.
pub(crate) struct Real {
    pub(crate) dlopen: unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void,
    pub(crate) dlclose: unsafe extern "C" fn(*mut c_void) -> c_int,
    pub(crate) dlsym: unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void,
    pub(crate) dlvsym: unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void,
    pub(crate) dlerror: unsafe extern "C" fn() -> *mut c_char,
    pub(crate) dlinfo: unsafe extern "C" fn(*mut c_void, c_int, *mut c_void) -> c_int,
    pub(crate) dladdr: unsafe extern "C" fn(*const c_void, *mut libc::Dl_info) -> c_int,
    pub(crate) dladdr1: unsafe extern "C" fn(*const c_void, *mut libc::Dl_info, *mut *mut c_void, c_int) -> c_int,
    pub(crate) dlmopen: unsafe extern "C" fn(libc::c_long, *const c_char, c_int) -> *mut c_void,
    pub(crate) dl_iterate_phdr: Iterate,
    /// Since 2.35.
    pub(crate) find_object: Option<unsafe extern "C" fn(*const c_void, *mut c_void) -> c_int>,
    /// The C library's own object, by which they were found: its tables need not be read again.
    pub(super) libc: Option<Arc<HostObject>>,
}

/// The real functions. Where the C library cannot be found (a static program), the ones that this program is linked to.
pub(crate) fn real() -> &'static Real {
    static REAL: OnceLock<Real> = OnceLock::new();
    REAL.get_or_init(|| {
        let libc = object(b"libc.so.6");
        let find = |name: &[u8]| libc.as_ref().and_then(|libc| address(libc, name));
        macro_rules! function {
            ($name:ident) => {{
                let found = find(stringify!($name).as_bytes()).unwrap_or(linked::$name as *const () as usize);
                // The field's type is the annotation.
                #[allow(clippy::missing_transmute_annotations)]
                // SAFETY: the C library's function of that name has the type that its header gives it.
                let function = unsafe { std::mem::transmute::<usize, _>(found) };
                function
            }};
        }
        Real {
            dlopen: function!(dlopen),
            dlclose: function!(dlclose),
            dlsym: function!(dlsym),
            dlvsym: function!(dlvsym),
            dlerror: function!(dlerror),
            dlinfo: function!(dlinfo),
            dladdr: function!(dladdr),
            dladdr1: function!(dladdr1),
            dlmopen: function!(dlmopen),
            dl_iterate_phdr: function!(dl_iterate_phdr),
            // SAFETY: as above. It is ld.so's in glibc 2.35, and libc's since.
            find_object: unsafe {
                let name = b"_dl_find_object";
                let found = find(name).or_else(|| address(&*object(b"ld-linux-x86-64.so.2")?, name));
                std::mem::transmute::<usize, Option<_>>(found.unwrap_or(0))
            },
            libc,
        }
    })
}

/// The functions as this program is linked to them.
mod linked {
    use super::{c_char, c_int, c_void};
    pub(super) use libc::{dl_iterate_phdr, dladdr, dlclose, dlerror, dlopen, dlsym, dlvsym};

    unsafe extern "C" {
        pub(super) fn dlinfo(handle: *mut c_void, request: c_int, answer: *mut c_void) -> c_int;
        pub(super) fn dladdr1(
            at: *const c_void,
            info: *mut libc::Dl_info,
            extra: *mut *mut c_void,
            what: c_int,
        ) -> c_int;
        pub(super) fn dlmopen(space: libc::c_long, name: *const c_char, mode: c_int) -> *mut c_void;
    }
}

/// The address of a function that the C library defines.
fn address(libc: &HostObject, name: &[u8]) -> Option<usize> {
    let symbols = libc.symbols()?;
    let (_, symbol) = symbols.find(&Wanted::by_name(name, None)?)?;
    Some(libc.bias.at(Vaddr(symbol.value)).0)
}

/// What the C library shows to debuggers: the program's `DT_DEBUG` points to it.
pub(crate) fn debug() -> Option<*mut Debug> {
    const DT_DEBUG: usize = 21;
    let headers = sys::auxiliary(libc::AT_PHDR) as *const libc::Elf64_Phdr;
    let count = sys::auxiliary(libc::AT_PHNUM) as usize;
    if headers.is_null() {
        return None;
    }
    // SAFETY: the kernel says where it put the program's headers, and how many there are.
    let headers = unsafe { std::slice::from_raw_parts(headers, count) };
    let own = headers.iter().find(|header| header.p_type == libc::PT_PHDR)?;
    let bias = Bias::between(Addr(headers.as_ptr() as usize), Vaddr(own.p_vaddr));
    let dynamic = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC)?;
    let entries = bias.at(Vaddr(dynamic.p_vaddr)).0 as *const [usize; 2];
    let count = dynamic.p_memsz as usize / size_of::<[usize; 2]>();
    // SAFETY: the program's own dynamic section, which it was started by.
    let mut entries = (0..count).map(|index| unsafe { entries.add(index).read() });
    let [_, at] = entries.find(|[tag, _]| *tag == DT_DEBUG)?;
    (at != 0).then_some(at as *mut Debug)
}

/// The object of the host of that file name, read from the list for debuggers.
fn object(file: &[u8]) -> Option<Arc<HostObject>> {
    // SAFETY: the list is glibc's own; the entries of the C library's parts never go.
    unsafe {
        let mut map = (*debug()?).map;
        while !map.is_null() {
            let name = CStr::from_ptr((*map).name);
            if name.to_bytes().rsplit(|byte| *byte == b'/').next() == Some(file) {
                break;
            }
            map = (*map).next;
        }
        if map.is_null() {
            return None;
        }
        // Its first segment begins with its header, which says where the program headers are.
        let header = (*map).bias as *const libc::Elf64_Ehdr;
        let info = libc::dl_phdr_info {
            dlpi_addr: (*map).bias as u64,
            dlpi_name: (*map).name,
            dlpi_phdr: ((*map).bias + (*header).e_phoff as usize) as *const libc::Elf64_Phdr,
            dlpi_phnum: (*header).e_phnum,
            dlpi_adds: 0,
            dlpi_subs: 0,
            dlpi_tls_modid: 0,
            dlpi_tls_data: std::ptr::null_mut(),
        };
        let bias = Bias::between(Addr((*map).bias), Vaddr(0));
        HostObject::read(&info, bias, CStr::from_ptr((*map).name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_finds_its_own_objects_through_its_own_function() {
        let Some(find) = real().find_object else { panic!("_dl_find_object is there since glibc 2.35") };
        let mut found = [0u64; 12];
        // SAFETY: the answer has room for `struct dl_find_object`.
        let answer = unsafe { find(libc::getpid as *const c_void, found.as_mut_ptr().cast()) };
        assert_eq!(answer, 0);
        assert!(found[1] <= libc::getpid as *const () as u64 && libc::getpid as *const () as u64 <= found[2]);
    }
}
