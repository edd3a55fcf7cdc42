//! The C interface: `dlopen` and its companions with glibc's semantics, for code that soload loads and for the drop-in.
//!
//! What is ours is answered here; what is the C library's is handed on to its own functions. Each function that must
//! know who calls is told the caller's address, as glibc goes by the return address.
//!
//! # Safety
//! These functions are called by foreign code with the arguments that `<dlfcn.h>` and `<link.h>` document: strings end,
//! pointers to results can be written.

mod backtrace;
mod entries;
mod handles;
mod log;
mod objects;

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use backtrace::{backtrace_symbols, backtrace_symbols_fd};
pub use entries::{
    dl_iterate_phdr, dladdr, dladdr1, dlclose, dlerror, dlinfo, dlmopen, dlopen, dlsym, dlvsym, find_object,
};

use crate::addr::Addr;
use crate::error::{Error, ErrorKind, errno_text, shown};
use crate::file::hash;
use crate::file::symbols::{Wanted, WantedVersion};
use crate::loader::{self, Wishes};
use crate::process::module::Object;
use crate::process::namespace::Namespace;
use crate::process::real;
use crate::process::scope::address;
use crate::process::world::Look;
use crate::process::{addresses, hooks, imports, registry, start};

/// The function that loaded code gets from us for an import of that name, if any.
pub(crate) fn import(name: &[u8]) -> Option<Addr> {
    if !matches!(name, [b'd', b'l', ..] | [b'_', ..] | [b'b', b'a', ..]) {
        return None;
    }
    entries::address(name).or_else(|| imports::own(name))
}

thread_local! {
    /// What went wrong last in this thread, and what `dlerror` gave out: that must stay until its next call.
    static ERROR: RefCell<(Option<CString>, Option<CString>)> = const { RefCell::new((None, None)) };
    /// The same in a thread that is ending, which has no place for the former any more: destructors at exit ask still.
    static LAST_ERROR: Cell<*mut c_char> = const { Cell::new(ptr::null_mut()) };
}

/// The flags of `dlopen` that there are; the last is `__RTLD_SPROF` of glibc's profiler.
const MODES: c_int = libc::RTLD_LAZY
    | libc::RTLD_NOW
    | libc::RTLD_NOLOAD
    | libc::RTLD_DEEPBIND
    | libc::RTLD_GLOBAL
    | libc::RTLD_NODELETE
    | 0x4000_0000;

/// Whether a call of ours ever failed.
static FAILED: AtomicBool = AtomicBool::new(false);

fn fail(text: String) {
    FAILED.store(true, Ordering::Relaxed);
    let mut text = CString::new(text.replace('\0', "\\0")).ok();
    if ERROR.try_with(|error| error.borrow_mut().0 = text.take()).is_err() {
        LAST_ERROR.set(text.map_or(ptr::null_mut(), CString::into_raw));
    }
}

/// Where a call goes that the C library answers as long as there are no modules; 0 once there are.
fn forward(function: impl FnOnce() -> usize) -> usize {
    if registry::any() {
        return 0;
    }
    if FAILED.load(Ordering::Relaxed) {
        clear_error();
    }
    function()
}

fn clear_error() {
    if ERROR.try_with(|error| error.borrow_mut().0 = None).is_err() {
        LAST_ERROR.set(ptr::null_mut());
    }
}

/// `dlerror`: ours, if our call failed last; otherwise the C library's.
fn error() -> *mut c_char {
    let ours = ERROR.try_with(|error| {
        let mut error = error.borrow_mut();
        error.1 = error.0.take();
        error.1.as_ref().map_or(ptr::null_mut(), |text| text.as_ptr().cast_mut())
    });
    let ours = ours.unwrap_or_else(|_| LAST_ERROR.replace(ptr::null_mut()));
    // SAFETY: no arguments.
    if ours.is_null() { unsafe { real::dlerror()() } } else { ours }
}

/// The object that has `caller` in its code, and the process as it sees it.
fn asker(caller: *const c_void) -> (Option<Object>, Look) {
    hooks::undisturbed(|| {
        let look = Look::now(Namespace::BASE);
        let asker = object_at(&look, Addr(caller as usize));
        let namespace = asker.as_ref().map_or(Namespace::BASE, Object::namespace);
        (asker, Look { namespace, ..look })
    })
}

fn object_at(look: &Look, addr: Addr) -> Option<Object> {
    let module = look.state.by_address(addr).map(Object::Module);
    module.or_else(|| look.host.by_address(addr).cloned().map(Object::Host))
}

/// `dlopen` for a caller at that address, in that name space or in his own.
///
/// # Safety
/// `name` is null or a string.
unsafe fn open(namespace: Option<Namespace>, name: *const c_char, mode: c_int, caller: *const c_void) -> *mut c_void {
    clear_error();
    // SAFETY: the caller's promise.
    let name = if name.is_null() { c"" } else { unsafe { CStr::from_ptr(name) } };
    if name.is_empty() {
        // SAFETY: the program itself, which is the C library's to hand out.
        return handles::program(unsafe { real::dlopen()(ptr::null(), mode) });
    }
    // While somebody looks at the process, whatever changes it changes a copy.
    let (caller, Look { namespace: own, .. }) = asker(caller);
    let expected = if mode & (libc::RTLD_LAZY | libc::RTLD_NOW) == 0 {
        Some("RTLD_LAZY or RTLD_NOW")
    } else if mode & !MODES != 0 {
        Some("flags of <dlfcn.h>")
    } else {
        None
    };
    if let Some(expected) = expected {
        fail(format!("{}: mode of dlopen: expected {expected}, found {mode:#x}", name.to_string_lossy()));
        return ptr::null_mut();
    }
    let wishes = Wishes {
        global: mode & libc::RTLD_GLOBAL != 0,
        no_load: mode & libc::RTLD_NOLOAD != 0,
        no_delete: mode & libc::RTLD_NODELETE != 0,
        deep_bind: mode & libc::RTLD_DEEPBIND != 0,
        lazy: mode & libc::RTLD_NOW == 0,
        // What programs rest on: glibc takes such objects.
        allow_writable_executable: true,
        allow_executable_stack: true,
        namespace: namespace.unwrap_or(own),
        caller,
        imports: Some(import),
        ..Wishes::default()
    };
    let watched = log::watch();
    let opened = loader::open(OsStr::from_bytes(name.to_bytes()), &wishes);
    if let Some(watched) = watched {
        watched.say(name, &opened);
    }
    match opened {
        Ok(opened) => match &opened.object {
            Object::Module(_) => handles::of(opened),
            Object::Host(host) => {
                // It is the C library's: so is the handle, and the count.
                let known = CString::new(host.path().as_os_str().as_bytes()).unwrap_or_default();
                // SAFETY: two strings; the object is there, so nothing is loaded.
                unsafe {
                    let by_path = real::dlopen()(known.as_ptr(), mode);
                    if by_path.is_null() { real::dlopen()(name.as_ptr(), mode) } else { by_path }
                }
            }
        },
        // Not being there is the answer to that question, not an error.
        Err(error) if matches!(error.kind(), ErrorKind::NotLoaded) => ptr::null_mut(),
        Err(error) => {
            fail(told(&error));
            ptr::null_mut()
        }
    }
}

/// A failed open as `dlerror` tells it: in glibc's words where programs look for them (GHC and Ruby's FFI know a linker
/// script by theirs), with ours behind.
fn told(error: &Error) -> String {
    let kind = error.kind();
    let why = match kind {
        ErrorKind::NotFound { .. } => {
            format!("cannot open shared object file: {} ({kind})", errno_text(libc::ENOENT))
        }
        ErrorKind::Open { errno } => format!("cannot open shared object file: {}", errno_text(*errno)),
        ErrorKind::LinkerScript { .. } | ErrorKind::NotElf { .. } => format!("invalid ELF header ({kind})"),
        ErrorKind::UndefinedSymbols { symbols, .. } if !symbols.is_empty() => {
            format!("undefined symbol: {} ({kind})", symbols[0])
        }
        _ => kind.to_string(),
    };
    let needed_by = error.needed_by().map_or_else(String::new, |path| format!(" (needed by {})", shown(path)));
    format!("{}: {why}{needed_by}", shown(error.object()))
}

/// `dlclose`.
///
/// # Safety
/// `handle` came from `dlopen`.
unsafe fn close(handle: *mut c_void) -> c_int {
    clear_error();
    // As in glibc, what stays for good is not counted any more.
    if handles::module(handle).is_some_and(|module| registry::is_kept(&module)) {
        return 0;
    }
    match handles::release(handle) {
        Some(module) => {
            registry::release(module);
            0
        }
        // SAFETY: not ours, so the C library's; it checks handles itself.
        None => unsafe { real::dlclose()(handle) },
    }
}

/// `dlsym` and `dlvsym` for a caller at that address.
///
/// # Safety
/// `handle` came from `dlopen` or is one of the two special ones; the names are strings, `version` may be null.
unsafe fn symbol(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
    caller: *const c_void,
) -> *mut c_void {
    clear_error();
    // SAFETY: the caller's promise.
    let (name_text, version_text) =
        unsafe { (CStr::from_ptr(name).to_bytes(), (!version.is_null()).then(|| CStr::from_ptr(version).to_bytes())) };
    let exact = |name| WantedVersion { name, hash: hash::sysv(name), exact: true };
    let Some(wanted) = Wanted::by_name(name_text, version_text.map(exact)) else { return ptr::null_mut() };
    // SAFETY: the caller's own arguments, handed on.
    let of_host = |handle| unsafe {
        match version.is_null() {
            true => real::dlsym()(handle, name),
            false => real::dlvsym()(handle, name, version),
        }
    };
    if let Some(scope) = handles::scope(handle) {
        return match scope.find(&wanted) {
            Some(found) => found.0 as *mut c_void,
            None => missing(scope.first(), name_text, version_text),
        };
    }
    let (next, of_program) = (handle == libc::RTLD_NEXT, handles::is_program(handle));
    if handle != libc::RTLD_DEFAULT && !next && !of_program {
        return of_host(handle);
    }
    let of_module = addresses::at(Addr(caller as usize)).is_some();
    // A module asks for one of the functions that it would be bound to.
    if of_module
        && !next
        && let Some(ours) = import(name_text)
    {
        return ours.0 as *mut c_void;
    }
    let mut asked = 0;
    if !next && (of_program || !of_module) {
        let start = start::objects();
        if let Some(found) = start.iter().find_map(|object| address(object, &wanted)) {
            return found.0 as *mut c_void;
        }
        asked = start.len();
    }
    // The program is in the base, whoever has its handle.
    let (asker, look) = asker(if of_program { ptr::null() } else { caller });
    // Most of what is asked for is global: closures need not be gone through for it.
    let first =
        asker.as_ref().is_some_and(|asker| matches!(asker, Object::Module(own) if own.symbolic || own.deep_bind));
    if !next
        && !first
        && let Some(found) = first_of(global(&look, asked), &wanted, handle, asker.as_ref())
    {
        return found;
    }
    // What the program started with is not opened along with anything that came later.
    let sees_more = |asker: &Object| !matches!(asker, Object::Host(host) if host.at_start);
    let more = next || asker.as_ref().is_some_and(sees_more);
    let scope = if more { around(asker.as_ref(), &look, next) } else { Vec::new() };
    // After the asker only, if it wants the next one.
    let place = asker.as_ref().filter(|_| next).and_then(|asker| scope.iter().position(|object| object == asker));
    let after = place.map_or(0, |at| at + 1);
    if let Some(found) = first_of(scope[after..].iter().cloned(), &wanted, handle, asker.as_ref()) {
        return found;
    }
    // What the host opened RTLD_GLOBAL after the start only it can find.
    if look.namespace.is_base() && !next {
        return of_host(handle);
    }
    missing(scope.first(), name_text, version_text)
}

/// The first definition in `scope`, for `asker`, who asked with `handle`.
fn first_of(
    mut scope: impl Iterator<Item = Object>,
    wanted: &Wanted<'_>,
    handle: *mut c_void,
    asker: Option<&Object>,
) -> Option<*mut c_void> {
    let (found, object) = scope.find_map(|object| Some((address(&object, wanted)?, object)))?;
    // Who asks the world at large names no library that he would keep open: as in glibc, it stays as long as he does.
    if let (Object::Module(module), libc::RTLD_DEFAULT) = (object, handle) {
        match asker {
            Some(Object::Module(asker)) => drop(registry::refer(asker.id, module.id)),
            _ => registry::keep(&module),
        }
    }
    Some(found.0 as *mut c_void)
}

/// Says as glibc does that there is no such symbol where `first` is the first to be asked.
fn missing(first: Option<&Object>, name: &[u8], version: Option<&[u8]>) -> *mut c_void {
    let version = version.map_or_else(String::new, |version| format!(", version {}", String::from_utf8_lossy(version)));
    let name = String::from_utf8_lossy(name);
    let object = first.map_or_else(String::new, |object| object.path().display().to_string());
    fail(format!("{object}: undefined symbol: {name}{version}"));
    ptr::null_mut()
}

/// What is global, but for the first `asked` objects. Of the host's later ones only what somebody who is there needs is sure to
/// stay.
fn global(look: &Look, asked: usize) -> impl Iterator<Item = Object> {
    let stays = |object: &Object| !matches!(object, Object::Host(host) if !host.at_start);
    look.global_scope().skip(asked).filter(stays).inspect(|object| hooks::undisturbed(|| object.read_symbols()))
}

/// Where code of `asker` looks for symbols: the global scope, then its own object with all that was opened along with
/// it first, and then later. If it asks for the `next` definition, what was first alone: what it hides from others comes
/// after it there.
fn around(asker: Option<&Object>, look: &Look, next: bool) -> Vec<Object> {
    hooks::undisturbed(|| {
        let mut scope = Vec::new();
        let mut add = |object: &Object| {
            if !scope.contains(object) {
                scope.push(object.clone());
            }
        };
        let wide = !next || !matches!(asker, Some(Object::Module(_)));
        let along = asker.map_or_else(Vec::new, |asker| look.closure(&look.state.brought_in(asker)));
        if let Some(Object::Module(own)) = asker.filter(|_| wide) {
            asker.filter(|_| own.symbolic).into_iter().for_each(&mut add);
            along.iter().filter(|_| own.deep_bind).for_each(&mut add);
        }
        if wide {
            global(look, 0).for_each(|object| add(&object));
        }
        along.iter().for_each(&mut add);
        if let Some(asker) = asker {
            let roots =
                look.state.opened().filter(|_| wide).map(|root| look.closure(&Object::Module(Arc::clone(root))));
            roots.filter(|along| along.contains(asker)).flatten().for_each(|object| add(&object));
        }
        scope.iter().for_each(Object::read_symbols);
        scope
    })
}
