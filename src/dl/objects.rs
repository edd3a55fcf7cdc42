//! Questions about objects: what lies at an address, what a handle stands for, which objects there are.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::fail;
use crate::addr::Addr;
use crate::loader;
use crate::process::addresses::{self, Place};
use crate::process::module::Module;
use crate::process::namespace::Namespace;
use crate::process::parts::is_part_of_libc;
use crate::process::real::{self, LinkMap};
use crate::process::registry;
use crate::process::storage::thread_local_address;

/// `dladdr`, and what `dladdr1` gives besides: the module's entry in the debugger's list, the symbol's in its table.
///
/// # Safety
/// `info` can be written.
pub(super) unsafe fn at_address(
    address: *const c_void,
    info: *mut libc::Dl_info,
) -> Option<(*mut LinkMap, *const c_void)> {
    let addr = Addr(address as usize);
    if !registry::any() {
        return None;
    }
    let module = registry::state().by_address(addr)?;
    let bias = module.mapping.bias();
    let vaddr = bias.vaddr(addr).0;
    let nearest = module.symbols.at_or_below(vaddr);
    let name = |offset| module.symbols.string(offset).map(|name| name.as_ptr());
    let found = nearest.and_then(|(index, symbol)| Some((index, symbol, name(symbol.name)?)));
    let map = module.listed.map();
    // SAFETY: the caller's promise; the strings are the module's own, which last as long as it does.
    unsafe {
        *info = libc::Dl_info {
            dli_fname: (*map).name,
            dli_fbase: module.mapping.range().start.0 as *mut c_void,
            dli_sname: found.map_or(std::ptr::null(), |(_, _, name)| name.cast()),
            dli_saddr: found.map_or(std::ptr::null_mut(), |(_, symbol, _)| {
                bias.at(crate::addr::Vaddr(symbol.value)).0 as *mut c_void
            }),
        };
    }
    let entry = found.and_then(|(index, ..)| module.symbols.entry(index)).unwrap_or(std::ptr::null());
    Some((map, entry.cast()))
}

/// `dlinfo` for a handle of ours.
///
/// # Safety
/// `answer` can be written as the request says.
pub(super) unsafe fn info(module: &Arc<Module>, request: c_int, answer: *mut c_void) -> c_int {
    const RTLD_DI_TLS_DATA: c_int = 10;
    const RTLD_DI_PHDR: c_int = 11;
    let map = module.listed.map();
    // SAFETY: the caller's promise, by request.
    unsafe {
        match request {
            libc::RTLD_DI_LMID => answer.cast::<libc::c_long>().write(module.instance.namespace.number()),
            libc::RTLD_DI_LINKMAP => answer.cast::<*mut LinkMap>().write(map),
            libc::RTLD_DI_ORIGIN => {
                let origin = module.origin().map_or(&b"/"[..], |origin| origin.as_os_str().as_encoded_bytes());
                answer.cast::<u8>().copy_from_nonoverlapping(origin.as_ptr(), origin.len());
                answer.cast::<u8>().add(origin.len()).write(0);
            }
            libc::RTLD_DI_TLS_MODID => {
                answer.cast::<usize>().write(module.storage.as_ref().map_or(0, |storage| storage.module));
            }
            RTLD_DI_TLS_DATA => {
                let block =
                    module.storage.as_ref().map(|storage| thread_local_address(storage.module, storage.shift).0);
                answer.cast::<usize>().write(block.unwrap_or(0));
            }
            RTLD_DI_PHDR => {
                answer.cast::<*const libc::Elf64_Phdr>().write(module.headers.as_ptr());
                return module.headers.len() as c_int;
            }
            libc::RTLD_DI_SERINFO | libc::RTLD_DI_SERINFOSIZE => {
                let told = search_info(module, answer.cast(), request == libc::RTLD_DI_SERINFO);
                if let Err(text) = told {
                    fail(text);
                    return -1;
                }
            }
            other => {
                fail(format!("dlinfo: expected a request that can be answered, found {other}"));
                return -1;
            }
        }
    }
    0
}

/// `Dl_serinfo` (<dlfcn.h>), without the array that follows.
#[repr(C)]
struct SearchInfo {
    size: usize,
    count: c_uint,
}

/// `Dl_serpath`.
#[repr(C)]
struct SearchPath {
    name: *mut u8,
    flags: c_uint,
}

/// Writes the size and the number of the directories that libraries opened by `module` are looked for in, or if `whole`
/// the directories themselves.
///
/// # Safety
/// `answer` can be written: as much as its size says, if `whole`.
unsafe fn search_info(module: &Arc<Module>, answer: *mut SearchInfo, whole: bool) -> Result<(), String> {
    let directories = loader::directories(module).map_err(|error| error.to_string())?;
    let text = |directory: &Path| match directory.as_os_str().as_bytes() {
        b"" => b".".to_vec(),
        b"/" => b"/".to_vec(),
        other => other.strip_suffix(b"/").unwrap_or(other).to_vec(),
    };
    let texts: Vec<Vec<u8>> = directories.iter().map(|directory| text(directory)).collect();
    let paths = size_of::<SearchInfo>() + texts.len() * size_of::<SearchPath>();
    let size = paths + texts.iter().map(|text| text.len() + 1).sum::<usize>();
    let count = texts.len() as c_uint;
    // SAFETY: the caller's promise; the array follows the structure, the texts follow the array.
    unsafe {
        if !whole {
            answer.write(SearchInfo { size, count });
            return Ok(());
        }
        let found = (*answer).size;
        if found < size || (*answer).count < count {
            return Err(format!("dlinfo: expected room for {size} bytes (RTLD_DI_SERINFOSIZE), found {found}"));
        }
        (*answer).count = count;
        let mut path = answer.add(1).cast::<SearchPath>();
        let mut name = answer.cast::<u8>().add(paths);
        for text in texts {
            path.write(SearchPath { name, flags: 0 });
            name.copy_from_nonoverlapping(text.as_ptr(), text.len());
            name.add(text.len()).write(0);
            (path, name) = (path.add(1), name.add(text.len() + 1));
        }
    }
    Ok(())
}

/// What `dl_iterate_phdr` calls for each object.
pub(super) type Callback = unsafe extern "C" fn(*mut libc::dl_phdr_info, usize, *mut c_void) -> c_int;

/// `dl_iterate_phdr` for a caller at that address: the host's objects, then ours. From an isolated name space
/// only the C library is seen of the former.
///
/// # Safety
/// `callback` takes what `<link.h>` says.
pub(super) unsafe fn iterate(callback: Callback, data: *mut c_void, caller: *const c_void) -> c_int {
    struct Wrapped {
        callback: Callback,
        data: *mut c_void,
        added: u64,
        removed: u64,
        host: (u64, u64),
        /// In whose name space the caller is.
        namespace: Namespace,
    }
    /// Counts our comings and goings too: whoever keeps what he saw goes by these numbers.
    unsafe extern "C" fn wrapped(info: *mut libc::dl_phdr_info, size: usize, data: *mut c_void) -> c_int {
        // SAFETY: `data` is the value below; `info` is glibc's.
        unsafe {
            let this = &mut *data.cast::<Wrapped>();
            let mut info = std::ptr::read(info);
            let name = if info.dlpi_name.is_null() { c"" } else { CStr::from_ptr(info.dlpi_name) };
            this.host = (info.dlpi_adds, info.dlpi_subs);
            info.dlpi_adds += this.added;
            info.dlpi_subs += this.removed;
            if !this.namespace.is_base()
                && !is_part_of_libc(name.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default())
            {
                return 0;
            }
            (this.callback)(&raw mut info, size.min(size_of::<libc::dl_phdr_info>()), this.data)
        }
    }
    if !registry::any() {
        // SAFETY: the caller's promise.
        return unsafe { real::dl_iterate_phdr()(Some(callback), data) };
    }
    let state = registry::state_in_handler();
    let caller = addresses::at(Addr(caller as usize));
    // SAFETY: the caller's code is a module's, which stays loaded while that runs.
    let namespace = caller.map_or(Namespace::BASE, |caller| unsafe { module_at(&caller) }.instance.namespace);
    // Of the very modules that are told: others may come and go meanwhile.
    let (added, removed) = state.as_ref().map_or_else(addresses::counts, |state| state.counts());
    let mut this = Wrapped { callback, data, added, removed, host: (0, 0), namespace };
    // SAFETY: `wrapped` takes this pointer, during this call.
    let answer = unsafe { real::dl_iterate_phdr()(Some(wrapped), (&raw mut this).cast()) };
    if answer != 0 {
        return answer;
    }
    let tell = |module: &Module| {
        if module.instance.namespace != namespace {
            return None;
        }
        let mut info = libc::dl_phdr_info {
            dlpi_addr: module.mapping.bias().get() as u64,
            // SAFETY: the node lasts as long as the module.
            dlpi_name: unsafe { (*module.listed.map()).name },
            dlpi_phdr: module.headers.as_ptr(),
            dlpi_phnum: module.headers.len() as u16,
            dlpi_adds: this.host.0 + added,
            dlpi_subs: this.host.1 + removed,
            dlpi_tls_modid: module.storage.as_ref().map_or(0, |storage| storage.module),
            dlpi_tls_data: std::ptr::null_mut(),
        };
        // SAFETY: the caller's promise.
        let answer = unsafe { callback(&raw mut info, size_of::<libc::dl_phdr_info>(), data) };
        Some(answer).filter(|answer| *answer != 0)
    };
    let answer = match &state {
        Some(state) => state.modules().find_map(tell),
        // SAFETY: a handler, which has interrupted this thread while it changes the tables: until it returns, nothing is
        // taken from them.
        None => addresses::each(|place| tell(unsafe { module_at(place) })),
    };
    answer.unwrap_or(0)
}

/// The module of a place.
///
/// # Safety
/// The registry has it, or somebody holds it, as long as the answer is used.
unsafe fn module_at(place: &Place) -> &Module {
    // SAFETY: where it is, as `addresses` was told; the rest is the caller's promise.
    unsafe { &*std::ptr::with_exposed_provenance(place.module.0) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_handler_that_has_interrupted_who_changes_the_tables_is_told_of_all_objects() {
        unsafe extern "C" fn count(_: *mut libc::dl_phdr_info, _: usize, objects: *mut c_void) -> c_int {
            // SAFETY: the number below.
            unsafe { *objects.cast::<usize>() += 1 };
            0
        }
        let objects = || {
            let mut objects = 0usize;
            // SAFETY: `count` takes a pointer to a number.
            assert_eq!(unsafe { iterate(count, (&raw mut objects).cast(), std::ptr::null()) }, 0);
            objects
        };
        let path = Path::new(env!("SOLOAD_TEST_LIBS")).join("libdemo.so");
        // SAFETY: the fixture's constructors are sound.
        let library = unsafe { crate::Library::new(path) }.unwrap();
        let (send, told) = mpsc::channel();
        std::thread::spawn(move || {
            let held = registry::hold();
            let while_held = objects();
            drop(held);
            send.send((while_held, objects())).unwrap();
        });
        let Ok((while_held, afterwards)) = told.recv_timeout(Duration::from_secs(30)) else {
            eprintln!("the thread waits for itself, and whoever opens or closes from here on waits for it");
            std::process::abort();
        };
        assert!(while_held > 3 && afterwards > 3, "{while_held}, {afterwards}");
        drop(library);
    }
}
