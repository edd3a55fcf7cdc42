//! The C library's own loader functions, found in its own tables: whoever stands in front of them, we reach the real ones.
//!
//! A program may have been started with other definitions of `dlopen` and its like before those of the C library: a
//! sanitizer's, or our own drop-in. An ordinary call would end there.
//!
//! # Safety
//! Reads the list of objects that the C library keeps for debuggers, and calls functions by the types that `<dlfcn.h>`
//! and `<link.h>` give them.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use super::loaded::{Loaded, segments};
use crate::addr::{Addr, Bias, Vaddr};
use crate::arch::native::Features;
use crate::file::elf::tag;
use crate::file::hash;
use crate::file::probes;
use crate::file::symbols::Symbols;
use crate::file::view::Class;
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

/// Of each function one that answers which it is.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) -> $result:ty,)*) => {$(
        /// The C library's own function of that name; where the C library cannot be found (a static program), the one that
        /// this program is linked to.
        pub(crate) fn $name() -> unsafe extern "C" fn($($argument),*) -> $result {
            static FOUND: AtomicUsize = AtomicUsize::new(0);
            let found = found(&FOUND, stringify!($name).as_bytes(), || linked::$name as *const () as usize);
            // SAFETY: the C library's function of that name has the type that its header gives it.
            unsafe { std::mem::transmute::<usize, unsafe extern "C" fn($($argument),*) -> $result>(found) }
        }
    )*};
}

functions! {
    dlopen: fn(*const c_char, c_int) -> *mut c_void,
    dlclose: fn(*mut c_void) -> c_int,
    dlsym: fn(*mut c_void, *const c_char) -> *mut c_void,
    dlvsym: fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void,
    dlerror: fn() -> *mut c_char,
    dlinfo: fn(*mut c_void, c_int, *mut c_void) -> c_int,
    dladdr: fn(*const c_void, *mut libc::Dl_info) -> c_int,
    dladdr1: fn(*const c_void, *mut libc::Dl_info, *mut *mut c_void, c_int) -> c_int,
    dlmopen: fn(libc::c_long, *const c_char, c_int) -> *mut c_void,
    dl_iterate_phdr: fn(Option<Each>, *mut c_void) -> c_int,
}

/// What `dl_iterate_phdr` calls for each object.
type Each = unsafe extern "C" fn(*mut libc::dl_phdr_info, usize, *mut c_void) -> c_int;

/// `_dl_find_object`, since 2.35: of ld.so at first, and of libc later.
pub(crate) fn find_object() -> Option<unsafe extern "C" fn(*const c_void, *mut c_void) -> c_int> {
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    const NAME: &[u8] = b"_dl_find_object";
    // 1 stands for none, which is looked for once, too.
    let found = found(&FOUND, NAME, || address(b"ld-linux-x86-64.so.2", NAME).unwrap_or(1));
    // SAFETY: as above.
    (found != 1).then(|| unsafe {
        std::mem::transmute::<usize, unsafe extern "C" fn(*const c_void, *mut c_void) -> c_int>(found)
    })
}

/// What is added to the addresses of the object that `handle` is of, which must be an open one of `dlopen`.
///
/// # Safety
/// As stated.
pub(crate) unsafe fn bias_of(handle: NonNull<c_void>) -> Option<usize> {
    let mut map: *const LinkMap = std::ptr::null();
    // SAFETY: `dlinfo` writes the pointer that this request is documented to give; it lasts as long as the handle.
    unsafe {
        let failed = dlinfo()(handle.as_ptr(), libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) != 0;
        if failed || map.is_null() { None } else { Some((*map).bias) }
    }
}

/// What the processor offers, as the C library knows it (`<sys/platform/x86.h>`, since 2.33): it has asked already, and
/// leaves out what `GLIBC_TUNABLES` forbids.
pub(crate) fn processor() -> Features {
    /// `struct cpuid_feature`.
    #[repr(C)]
    struct Leaf {
        there: [u32; 4],
        usable: [u32; 4],
    }
    let Some(found) = address(LIBC, b"__x86_get_cpuid_feature_leaf") else {
        return Features::asked();
    };
    // SAFETY: the C library's function of that name has the type that the header gives it: it answers with a leaf for each number
    // there is, of zeroes if it does not know it.
    let usable = |leaf: u32| unsafe {
        let ask = std::mem::transmute::<usize, unsafe extern "C" fn(u32) -> *const Leaf>(found);
        (*ask(leaf)).usable
    };
    let ([_, _, basic, _], [_, structured, _, _], [_, _, extended, _]) = (usable(0), usable(1), usable(2));
    Features { basic, structured, extended }
}

/// Whether the C library says that there is no thread but this one (`__libc_single_threaded`, since 2.32).
pub(crate) fn is_single_threaded() -> bool {
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    // 1 stands for none.
    let found = found(&FOUND, b"__libc_single_threaded", || 1);
    // SAFETY: a `char` of the C library's by <sys/single_threaded.h>, which other threads than this one may write.
    found != 1 && unsafe { AtomicU8::from_ptr(found as *mut u8) }.load(Ordering::Relaxed) != 0
}

/// Where the C library has the function or variable of that name, or else what `otherwise` says. Looked for at the first
/// call; without a lock, as that may be in a signal handler.
fn found(place: &AtomicUsize, name: &[u8], otherwise: impl FnOnce() -> usize) -> usize {
    match place.load(Ordering::Relaxed) {
        0 => {
            // Before 2.34 the functions of <dlfcn.h> are in a library of their own.
            let beside = || if sys::c_library_release() < Some((2, 34)) { address(b"libdl.so.2", name) } else { None };
            let found = address(LIBC, name).or_else(beside).unwrap_or_else(otherwise);
            place.store(found, Ordering::Relaxed);
            found
        }
        found => found,
    }
}

/// The symbols of the C library, if it is the object with that bias.
pub(super) fn symbols_at(bias: Bias) -> Option<&'static Symbols> {
    static SYMBOLS: OnceLock<Option<(Bias, Symbols)>> = OnceLock::new();
    SYMBOLS.get_or_init(symbols).as_ref().filter(|(own, _)| *own == bias).map(|(_, symbols)| symbols)
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

/// Where ld.so has its probe of unmapping, if it has probes.
///
/// # Safety
/// `debug` is the C library's.
pub(super) unsafe fn probe(debug: *const Debug) -> Option<Addr> {
    const START: usize = 4096;
    // SAFETY: the caller's promise. Zero where no ld.so has said where it is (a static program).
    let loader = Some(unsafe { (*debug).loader }).filter(|loader| *loader != 0)?;
    let map = listed(|map| map.bias == loader)?;
    // SAFETY: ld.so never goes. Its first page, which nobody writes, is there as it is in the file.
    let start = unsafe { std::slice::from_raw_parts(map.bias as *const u8, START) };
    let path = Path::new(OsStr::from_bytes(map.path()));
    Some(Bias::between(Addr(map.bias), Vaddr(0)).at(probes::of_unmapping(path, start)?))
}

const LIBC: &[u8] = b"libc.so.6";

impl LinkMap {
    fn path(&self) -> &[u8] {
        // SAFETY: each entry has a name. Who looks for a part of the C library finds it before any that may go.
        unsafe { CStr::from_ptr(self.name) }.to_bytes()
    }

    fn is_called(&self, file: &[u8]) -> bool {
        self.path().rsplit(|byte| *byte == b'/').next() == Some(file)
    }
}

/// The first object in the list for debuggers that is the wanted part of the C library.
fn listed(is_wanted: impl Fn(&LinkMap) -> bool) -> Option<&'static LinkMap> {
    // SAFETY: the list is glibc's own; the entries of the C library's parts never go.
    unsafe {
        let mut map = (*debug()?).map.as_ref()?;
        while !is_wanted(map) {
            map = map.next.as_ref()?;
        }
        Some(map)
    }
}

/// What the C library is added to in memory, and its symbols.
fn symbols() -> Option<(Bias, Symbols)> {
    let start = listed(|map| map.is_called(LIBC))?.bias;
    // SAFETY: its first segment begins with its header, which says where the program headers are; it never goes.
    let headers = unsafe {
        let header = start as *const libc::Elf64_Ehdr;
        let headers = (start + (*header).e_phoff as usize) as *const libc::Elf64_Phdr;
        std::slice::from_raw_parts(headers, (*header).e_phnum.into())
    };
    let bias = Bias::between(Addr(start), Vaddr(0));
    let loaded = Loaded { bias, segments: &segments(headers) };
    let entries = loaded.dynamic(headers)?.symbols;
    Some((bias, Symbols::read_loaded(&entries, &loaded, Class::NATIVE).ok()?))
}

/// Where the object of that file name, a part of the C library, has the function or variable of that name. Takes neither
/// memory nor a lock: who asks for `dlsym` may be somebody's `malloc`.
fn address(file: &[u8], name: &[u8]) -> Option<usize> {
    const HIDDEN: u16 = 0x8000;
    let (map, wanted) = (listed(|map| map.is_called(file))?, hash::gnu(name)?);
    // SAFETY: the C library's own tables, as the gABI and GNU's hash table have them; glibc itself looks names up there. They
    // never go, and nobody writes them.
    unsafe {
        let table = |wanted: u64| {
            let mut entry = map.dynamic.cast::<[u64; 2]>();
            while (*entry)[0] != wanted {
                if (*entry)[0] == tag::DT_NULL {
                    return None;
                }
                entry = entry.add(1);
            }
            // The bias has been added already where the section can be written to.
            let at = (*entry)[1] as usize;
            Some(if at < map.bias { at + map.bias } else { at })
        };
        let hashes = table(tag::DT_GNU_HASH)? as *const u32;
        let symbols = table(tag::DT_SYMTAB)? as *const libc::Elf64_Sym;
        let (strings, versions) = (table(tag::DT_STRTAB)? as *const c_char, table(tag::DT_VERSYM));
        let [buckets, first, words] = [0, 1, 2].map(|at| *hashes.add(at));
        let bucket = hashes.add(4 + 2 * words as usize);
        let chain = bucket.add(buckets as usize);
        let mut number = *bucket.add(wanted.checked_rem(buckets)? as usize);
        loop {
            let hash = *chain.add(number.checked_sub(first)? as usize);
            let symbol = &*symbols.add(number as usize);
            let is_default = || versions.is_none_or(|at| *(at as *const u16).add(number as usize) & HIDDEN == 0);
            let is_named = || CStr::from_ptr(strings.add(symbol.st_name as usize)).to_bytes() == name;
            if hash | 1 == wanted | 1 && symbol.st_shndx != 0 && is_default() && is_named() {
                return Some(map.bias + symbol.st_value as usize);
            }
            if hash & 1 == 1 {
                return None;
            }
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_knows_of_the_processor_what_the_processor_says() {
        let (known, asked) = (processor(), Features::asked());
        // Of what decides between builds of a library; glibc calls more unusable than that.
        for feature in [1 << 9, 1 << 12, 1 << 23, 1 << 28, 1 << 29] {
            assert_eq!(known.basic & feature, asked.basic & feature, "{feature:#x}");
        }
        for feature in [1 << 3, 1 << 5, 1 << 8, 1 << 16, 1 << 31] {
            assert_eq!(known.structured & feature, asked.structured & feature, "{feature:#x}");
        }
        assert_eq!(known.extended & 0x21, asked.extended & 0x21);
    }

    #[test]
    fn names_are_found_in_the_c_library_where_it_finds_them_itself() {
        // The last two have older versions, which are other functions and come before.
        let names = [c"dlopen", c"dlsym", c"dl_iterate_phdr", c"environ", c"getpid", c"glob", c"sched_setaffinity"];
        for name in names.into_iter().chain([c"no_such_function"]) {
            // SAFETY: a string; what is found is not used.
            let theirs = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) } as usize;
            let found = address(LIBC, name.to_bytes()).or_else(|| address(b"libdl.so.2", name.to_bytes()));
            assert_eq!(found.unwrap_or(0), theirs, "{name:?}");
        }
        assert_eq!(address(b"libno_such.so", b"getpid"), None);
    }

    #[test]
    fn the_c_library_finds_its_own_objects_through_its_own_function() {
        let Some(find) = find_object() else { panic!("_dl_find_object is there since glibc 2.35") };
        let mut found = [0u64; 12];
        // SAFETY: the answer has room for `struct dl_find_object`.
        let answer = unsafe { find(libc::getpid as *const c_void, found.as_mut_ptr().cast()) };
        assert_eq!(answer, 0);
        assert!(found[1] <= libc::getpid as *const () as u64 && libc::getpid as *const () as u64 <= found[2]);
    }
}
