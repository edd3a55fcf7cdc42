//! The objects that the C library's own loader has loaded: seen, adopted, held, and opened through it where need be.
//!
//! # Safety
//! What is read here is memory of other objects. It is read while glibc's list is locked (`dl_iterate_phdr`), or for an
//! object that a [`Pin`] or the program's start keeps loaded; and only inside segments that its program headers name.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::ops::ControlFlow::{self, Break, Continue};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::hooks;
use super::loaded::{Loaded, Segments, segments};
use super::parts::{is_allocator, is_part_of_libc};
use super::real;
use crate::addr::{Addr, Bias, Vaddr};
use crate::arch::Machine;
use crate::error::ErrorKind;
use crate::file::Source;
use crate::file::dynamic::{Names, SymbolEntries};
use crate::file::hash;
use crate::file::image::Image;
use crate::file::relocations::Relocations;
use crate::file::symbols::{self, Symbols, Wanted};
use crate::file::view::Class;
use crate::file::view::View;
use crate::sys::{self, Identity, fault};

/// An object of the host, as it was when it was first seen.
pub(crate) struct HostObject {
    /// The path that the loader opened; empty for the program.
    name: CString,
    /// Where the program is, once that has been asked for.
    program_path: OnceLock<PathBuf>,
    pub(crate) bias: Bias,
    segments: Segments,
    /// Where its program headers are in memory, and how many there are.
    headers: (Addr, u16),
    entries: SymbolEntries,
    nodeflib: bool,
    pub(crate) names: Names,
    symbols: OnceLock<Option<Symbols>>,
    identity: OnceLock<Option<Identity>>,
    /// Loaded at the program's start, and so in the global scope, and for good.
    pub(crate) at_start: bool,
    /// Its thread-local storage, as `__tls_get_addr` knows it; 0 if it has none.
    pub(crate) tls_module: usize,
    /// The initial image of that storage, by its addresses in the file.
    pub(crate) tls_image: Option<Range<u64>>,
    pin: Mutex<Weak<Pin>>,
}

/// Keeps an object of the host loaded.
pub(crate) struct Pin(NonNull<c_void>);

// SAFETY: a handle of `dlopen`, good on any thread.
unsafe impl Send for Pin {}
// SAFETY: as above; nothing is done with it through a shared reference.
unsafe impl Sync for Pin {}

impl Drop for Pin {
    fn drop(&mut self) {
        // SAFETY: the handle came from `dlopen` and is closed once.
        hooks::in_loader(|| unsafe { real::dlclose()(self.0.as_ptr()) });
    }
}

/// The host's objects in the order of its list: the program first.
pub(crate) struct Host {
    pub(crate) objects: Vec<Arc<HostObject>>,
    /// How many objects were ever added and removed: the list has changed when these have.
    changes: (u64, u64),
    /// Whether these are all that the C library has loaded: it has no others in name spaces of its own (`dlmopen`).
    pub(super) are_all: bool,
}

impl Host {
    /// The host's objects as they are now.
    pub(crate) fn look() -> Arc<Self> {
        static LAST: Mutex<Option<Arc<Host>>> = Mutex::new(None);
        let before = LAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let changes = before.as_ref().map_or((0, 0), |_| changes());
        if let Some(before) = before.as_ref().filter(|before| before.changes == changes) {
            return Arc::clone(before);
        }
        let mut collected = Collected {
            objects: Vec::new(),
            changes,
            // An address may have been given back and taken again: with removals, only what is there for good is kept.
            before: before.as_ref().map_or(&[], |before| &before.objects),
            keep_all: before.as_ref().is_some_and(|before| before.changes.1 == changes.1),
        };
        let mut count = 0;
        iterate(&mut |info| {
            count += 1;
            collected.add(info);
            Continue(())
        });
        let changes = collected.changes;
        let are_all = changes.0.checked_sub(changes.1) == Some(count);
        let host = Arc::new(Host { objects: collected.finish(), changes, are_all });
        // Of two that look at once, both have what one has seen.
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = last.take().filter(|seen| seen.changes == changes);
        Arc::clone(last.insert(seen.unwrap_or(host)))
    }

    /// The program itself.
    pub(crate) fn program(&self) -> Option<&Arc<HostObject>> {
        self.objects.first()
    }

    pub(crate) fn by_name(&self, name: &[u8]) -> Option<&Arc<HostObject>> {
        self.objects.iter().skip(1).find(|object| object.is_called(name))
    }

    /// Where the program has that function of `malloc`'s kin; `None` for any other.
    pub(crate) fn allocator(&self, name: &[u8]) -> Option<Addr> {
        if !is_allocator(name) {
            return None;
        }
        let wanted = Wanted::by_name(name, None)?;
        let find = |object: &Arc<HostObject>| Some((object.bias, object.symbols()?.find(&wanted)?.1));
        let (bias, symbol) = self.objects.iter().filter(|object| object.at_start).find_map(find)?;
        (!symbol.is_ifunc()).then(|| bias.at(Vaddr(symbol.value)))
    }

    /// That object as it is now, if it is still there.
    pub(crate) fn known(&self, object: &HostObject) -> Option<&Arc<HostObject>> {
        self.objects.iter().find(|known| known.bias == object.bias && known.name == object.name)
    }

    /// Objects that the host has opened since the start, but those that we had it open for their storage.
    pub(crate) fn later(&self) -> impl Iterator<Item = &Arc<HostObject>> {
        self.objects.iter().filter(|object| !object.at_start && !object.has_number_for_name())
    }

    /// The object that has `addr` in one of its segments.
    pub(crate) fn by_address(&self, addr: Addr) -> Option<&Arc<HostObject>> {
        self.objects.iter().find(|object| {
            let vaddr = object.bias.vaddr(addr).0;
            object.segments.iter().any(|(range, _)| range.contains(&vaddr))
        })
    }

    /// The object that was loaded from that file. By its segments nearly every `image` is known to be none of them, without
    /// asking the kernel which file each of them is.
    pub(crate) fn by_identity(&self, identity: Identity, image: Option<&Image>) -> Option<&Arc<HostObject>> {
        let alike = |object: &HostObject| image.is_none_or(|image| object.is_laid_out_as(image));
        self.objects.iter().find(|object| alike(object) && object.identity() == Some(identity))
    }
}

impl HostObject {
    /// Where its file is.
    pub(crate) fn path(&self) -> &Path {
        match self.name.is_empty() {
            true => self.program_path.get_or_init(program_path),
            false => Path::new(OsStr::from_bytes(self.name.to_bytes())),
        }
    }

    /// Whether a `DT_NEEDED` or `dlopen` of that name means it.
    fn is_called(&self, name: &[u8]) -> bool {
        let path = self.name.to_bytes();
        match &self.names.soname {
            Some(soname) if **soname == *name => true,
            Some(_) => path == name,
            None => path == name || path.rsplit(|byte| *byte == b'/').next() == Some(name),
        }
    }

    /// Whether it is a part of the C library.
    pub(crate) fn is_part_of_libc(&self) -> bool {
        self.names.soname.as_deref().is_some_and(is_part_of_libc)
    }

    /// Whether it defines a version of that name.
    pub(crate) fn defines_version(&self, name: &[u8]) -> bool {
        let defines = |symbols: &Symbols| symbols.versions.defines(hash::sysv(name), name, symbols.strings());
        self.symbols().is_some_and(defines)
    }

    /// Whether it was opened by the number of an open file, as those are that we have the host open for their storage. That
    /// number means other files later.
    fn has_number_for_name(&self) -> bool {
        self.name.to_bytes().starts_with(b"/proc/")
    }

    /// Whether its segments are those of `image`.
    fn is_laid_out_as(&self, image: &Image) -> bool {
        let own = self.segments.iter().filter(|(range, _)| !range.is_empty()).cloned();
        own.eq(image.segments().iter().map(|segment| (segment.vaddr.0..segment.end().0, segment.flags)))
    }

    /// Which file it is, as long as its path still leads there.
    pub(crate) fn identity(&self) -> Option<Identity> {
        if self.has_number_for_name() {
            return None;
        }
        *self.identity.get_or_init(|| {
            if self.is_kernels() {
                return None;
            }
            let meta = std::fs::metadata(self.path()).ok()?;
            Some(Identity { device: meta.dev(), inode: meta.ino() })
        })
    }

    /// Its symbols. Only to be asked while it is sure to stay: loaded at the start, or pinned.
    #[inline]
    pub(crate) fn symbols(&self) -> Option<&Symbols> {
        let read = || Symbols::read_loaded(&self.entries, self, Class::NATIVE).ok();
        self.symbols.get_or_init(read).as_ref()
    }

    /// What its loader applied. Only to be asked while it is sure to stay.
    pub(crate) fn relocations(&self) -> Option<Relocations> {
        let dynamic = self.loaded().dynamic(self.headers())?;
        Relocations::read(&dynamic, self, Class::NATIVE, Machine::native()?.number).ok()
    }

    /// What is read-only since it was relocated (`PT_GNU_RELRO`), by its addresses in the file. Only to be asked while it
    /// is sure to stay.
    pub(crate) fn relro(&self) -> Range<u64> {
        let relro = self.headers().iter().find(|header| header.p_type == libc::PT_GNU_RELRO);
        relro.map_or(0..0, |header| header.p_vaddr..header.p_vaddr + header.p_memsz)
    }

    /// Those pages of `range`, by its addresses in the file, that were made read-only since it was relocated; `None` if it is
    /// in no segment that is writable but for that. Only to be asked while it is sure to stay.
    pub(super) fn sealed(&self, range: Range<u64>) -> Option<Range<Addr>> {
        let is_around = |segment: &Range<u64>| segment.start <= range.start && range.end <= segment.end;
        self.segments.iter().find(|(segment, protection)| protection.write && is_around(segment))?;
        let (page, relro) = (sys::page_size(), self.relro());
        let start = page.down(range.start).max(page.down(relro.start));
        let end = page.up(range.end)?.min(page.down(relro.end)).max(start);
        Some(self.bias.at(Vaddr(start))..self.bias.at(Vaddr(end)))
    }

    /// Its program headers. Only to be asked while it is sure to stay.
    fn headers(&self) -> &[libc::Elf64_Phdr] {
        let (start, count) = self.headers;
        // SAFETY: glibc keeps the program headers that it loaded the object by as long as the object.
        unsafe { std::slice::from_raw_parts(start.0 as *const libc::Elf64_Phdr, count.into()) }
    }

    fn loaded(&self) -> Loaded<'_> {
        Loaded { bias: self.bias, segments: &self.segments }
    }

    /// Keeps it loaded; `None` if it is there for good. An error means that it has gone meanwhile.
    pub(crate) fn pin(&self) -> Result<Option<Arc<Pin>>, ErrorKind> {
        if self.at_start {
            return Ok(None);
        }
        let last = || self.pin.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pin) = hooks::undisturbed(|| last().upgrade()) {
            return Ok(Some(pin));
        }
        // glibc counts its handles: that two threads may both do this is no harm.
        let made = Arc::new(dlopen(&self.name, libc::RTLD_NOW | libc::RTLD_NOLOAD)?);
        // What has that name may have come since, and lie elsewhere.
        // SAFETY: the handle is open.
        if unsafe { real::bias_of(made.0) } != Some(self.bias.get()) {
            return Err(ErrorKind::Host { message: "it is no longer loaded".into() });
        }
        hooks::undisturbed(|| *last() = Arc::downgrade(&made));
        Ok(Some(made))
    }

    /// Keeps it loaded for good. Answers whether it will be.
    pub(crate) fn keep(&self) -> bool {
        let flags = libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        self.at_start || dlopen(&self.name, flags).is_ok()
    }

    /// What keeps it loaded at this moment, if something of ours does.
    pub(crate) fn held(&self) -> Weak<Pin> {
        self.pin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether `addr` is in one of its segments that may be executed.
    pub(crate) fn is_code(&self, addr: Addr) -> bool {
        let vaddr = self.bias.vaddr(addr).0;
        self.segments.iter().any(|(range, protection)| protection.execute && range.contains(&vaddr))
    }

    /// The build id that its linker gave it, as it stands in memory. Only to be asked while it is sure to stay.
    #[cfg(feature = "snapshots")]
    pub(crate) fn build_id(&self) -> Option<Vec<u8>> {
        let mut notes = self.headers().iter().filter(|header| header.p_type == libc::PT_NOTE);
        notes.find_map(|header| {
            let view = self.table(Vaddr(header.p_vaddr), Some(header.p_memsz))?;
            crate::file::notes::build_id_in(view.bytes(), view.order, header.p_align).map(<[u8]>::to_vec)
        })
    }

    /// The numbers that say where it has what: of its segments, and of the tables that symbols are found by.
    #[cfg(feature = "snapshots")]
    pub(crate) fn layout(&self) -> impl Iterator<Item = u64> {
        let segments = self.segments.iter().flat_map(|(range, _)| [range.start, range.end]);
        let SymbolEntries { symtab, strtab, strsz, gnu_hash, hash, versym, .. } = self.entries;
        let tables = [symtab, strtab, strsz, gnu_hash, hash, versym];
        segments.chain(tables.map(|number| number.get().unwrap_or(0)))
    }

    pub(crate) fn nodeflib(&self) -> bool {
        self.nodeflib
    }
}

impl Source for HostObject {
    fn table(&self, vaddr: Vaddr, len: Option<u64>) -> Option<View> {
        self.loaded().table(vaddr, len)
    }
}

/// Has `write` write to pages that are read-only, by which they are [`HostObject::sealed`]. Answers whether it could.
pub(super) fn write_sealed(pages: &Range<Addr>, write: impl FnOnce()) -> bool {
    let written = unseal(pages).then(write);
    // If they cannot be made as they were, they may be written to, as where nothing is read-only.
    written.map(|()| protect(pages, libc::PROT_READ)).is_some()
}

/// Makes pages that are [`HostObject::sealed`] writable. Answers whether they are.
pub(super) fn unseal(pages: &Range<Addr>) -> bool {
    fault::point("mprotect").is_ok() && protect(pages, libc::PROT_READ | libc::PROT_WRITE)
}

fn protect(pages: &Range<Addr>, protection: i32) -> bool {
    let (start, len) = (pages.start.0 as *mut c_void, pages.end.0 - pages.start.0);
    // SAFETY: pages of an object, which were written to before and which nobody but who asks for it writes to now.
    len == 0 || unsafe { libc::mprotect(start, len, protection) } == 0
}

/// What is gathered while glibc's list is locked.
struct Collected<'a> {
    objects: Vec<Arc<HostObject>>,
    changes: (u64, u64),
    before: &'a [Arc<HostObject>],
    keep_all: bool,
}

impl Collected<'_> {
    fn add(&mut self, info: &libc::dl_phdr_info) {
        self.changes = (info.dlpi_adds, info.dlpi_subs);
        let bias = Bias::between(Addr(info.dlpi_addr as usize), Vaddr(0));
        // SAFETY: glibc gives a NUL-terminated name, or null.
        let name = if info.dlpi_name.is_null() { c"" } else { unsafe { CStr::from_ptr(info.dlpi_name) } };
        let same = |seen: &&Arc<HostObject>| {
            (self.keep_all || seen.at_start) && seen.bias == bias && seen.name.as_c_str() == name
        };
        let seen = self.before.iter().find(same).map(Arc::clone);
        self.objects.extend(seen.or_else(|| HostObject::read(info, bias, name)));
    }

    /// Tells which objects the program started with.
    fn finish(mut self) -> Vec<Arc<HostObject>> {
        let at_start = started_with(&self.objects);
        for (object, at_start) in self.objects.iter_mut().zip(at_start) {
            // One that was seen before has other owners, too, and stays as it is.
            if let Some(new) = Arc::get_mut(object) {
                new.at_start = at_start;
                // Nearly every library refers to versions of these.
                if at_start && new.is_part_of_libc() {
                    new.symbols().into_iter().for_each(Symbols::read_now);
                }
            }
        }
        self.objects
    }
}

/// Which objects of the list the program started with.
///
/// glibc does not say, but its list does: start-up puts the program, preloaded libraries and all they need in front of
/// everything opened later, and everything the program needs was there at the start.
fn started_with(objects: &[Arc<HostObject>]) -> Vec<bool> {
    let mut started = vec![false; objects.len()];
    let mut todo = vec![0usize];
    while !todo.is_empty() {
        while let Some(index) = todo.pop() {
            let Some(object) = objects.get(index).filter(|_| !std::mem::replace(&mut started[index], true)) else {
                continue;
            };
            for name in object.names.needed.iter() {
                todo.extend(objects.iter().position(|other| other.is_called(name)));
            }
        }
        // Whatever stands before the last one found stood there at the start: preloaded libraries.
        let last = started.iter().rposition(|started| *started).unwrap_or(0);
        todo.extend((0..last).filter(|index| !started[*index]));
    }
    started
}

impl HostObject {
    fn read(info: &libc::dl_phdr_info, bias: Bias, name: &CStr) -> Option<Arc<Self>> {
        // SAFETY: glibc gives the program headers that it loaded the object by.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let segments = segments(headers);
        let loaded = Loaded { bias, segments: &segments };
        let dynamic = loaded.dynamic(headers)?;
        let strings = symbols::strings(&dynamic.symbols, &loaded).ok()?;
        Some(Arc::new(Self {
            names: Names::read(&dynamic, &strings).ok()?,
            name: name.to_owned(),
            program_path: OnceLock::new(),
            bias,
            segments,
            headers: (Addr(info.dlpi_phdr as usize), info.dlpi_phnum),
            entries: dynamic.symbols,
            nodeflib: dynamic.nodeflib(),
            // Those of the C library were read before, for its functions.
            symbols: real::symbols_at(bias).map_or_else(OnceLock::new, |symbols| Some(symbols.clone()).into()),
            identity: OnceLock::new(),
            at_start: false,
            tls_module: info.dlpi_tls_modid,
            tls_image: headers
                .iter()
                .find(|header| header.p_type == libc::PT_TLS)
                .map(|header| header.p_vaddr..header.p_vaddr + header.p_filesz),
            pin: Mutex::default(),
        }))
    }

    /// The kernel's own object: no file, and no definitions for anybody.
    pub(crate) fn is_kernels(&self) -> bool {
        self.name.to_bytes().starts_with(b"linux-vdso") || self.name.to_bytes().starts_with(b"linux-gate")
    }
}

fn program_path() -> PathBuf {
    std::fs::read_link("/proc/self/exe").unwrap_or_else(|_| PathBuf::from("/proc/self/exe"))
}

fn changes() -> (u64, u64) {
    let mut changes = (0, 0);
    iterate(&mut |info| {
        changes = (info.dlpi_adds, info.dlpi_subs);
        // They are the same in every record.
        Break(())
    });
    changes
}

fn iterate(each: &mut dyn FnMut(&libc::dl_phdr_info) -> ControlFlow<()>) {
    unsafe extern "C" fn call(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
        // SAFETY: `data` is the closure below, glibc's `info` is good for the call; a panic cannot leave `extern "C"`.
        let go_on = unsafe { (*data.cast::<&mut dyn FnMut(&libc::dl_phdr_info) -> ControlFlow<()>>())(&*info) };
        go_on.is_break().into()
    }
    let mut each = each;
    // SAFETY: `call` takes exactly this pointer, during this call only.
    unsafe { real::dl_iterate_phdr()(Some(call), (&raw mut each).cast()) };
}

/// Opens a part of the C library through its own loader.
pub(crate) fn open_part(path: &Path) -> Result<Pin, ErrorKind> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| ErrorKind::NulInName)?;
    dlopen(&name, libc::RTLD_NOW | libc::RTLD_LOCAL)
}

fn dlopen(name: &CStr, flags: c_int) -> Result<Pin, ErrorKind> {
    // SAFETY: runs constructors of a part of the C library at most, which it would run for the program too.
    let handle = hooks::in_loader(|| unsafe { real::dlopen()(name.as_ptr(), flags) });
    NonNull::new(handle).map(Pin).ok_or_else(|| ErrorKind::Host { message: last_error() })
}

/// What the C library's `dlerror` says.
pub(crate) fn last_error() -> String {
    // SAFETY: glibc keeps the text for this thread until its next call.
    let text = unsafe {
        let text: *const c_char = real::dlerror()();
        if text.is_null() { None } else { Some(CStr::from_ptr(text).to_string_lossy().into_owned()) }
    };
    text.unwrap_or_else(|| "it is no longer loaded".into())
}

/// A definition that only glibc's own lookup sees: of an object that the host opened `RTLD_GLOBAL` after the start.
pub(crate) fn global_symbol(name: &[u8], version: Option<&[u8]>) -> Option<Addr> {
    let name = CString::new(name).ok()?;
    // Not RTLD_DEFAULT: glibc would keep what it finds for good, as something that we refer to.
    let program = dlopen(c"", libc::RTLD_NOW).ok()?;
    // SAFETY: two look-ups in glibc's tables.
    let found = unsafe {
        match version {
            Some(version) => real::dlvsym()(program.0.as_ptr(), name.as_ptr(), CString::new(version).ok()?.as_ptr()),
            None => real::dlsym()(program.0.as_ptr(), name.as_ptr()),
        }
    };
    (!found.is_null()).then_some(Addr(found as usize))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn threads_that_look_at_once_have_the_same_objects() {
        if !fault::alone("process::host::tests::threads_that_look_at_once_have_the_same_objects") {
            return;
        }
        const THREADS: usize = 8;
        let together = Barrier::new(THREADS);
        let look = || {
            together.wait();
            Host::look()
        };
        let seen: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(look)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|host| Arc::ptr_eq(host, &Host::look())));
    }
}
