//! Thread-local storage: glibc's own, got by having it load a small object that has nothing but a `PT_TLS`.
//!
//! A loader beside glibc cannot hand out TLS module ids or room in the static block. glibc does both for any object it
//! loads, for threads that exist and threads to come. So for libraries with thread-local storage an object is made
//! in memory with the same size, alignment and initial image, and given to the real `dlopen`: the *carrier*. Its module
//! id, its offset from the thread pointer and its descriptors are then used for the library.
//!
//! # Safety
//! glibc is called with an object of our own making, without constructors, and its answers are read from the carrier's
//! memory, which the handle keeps mapped.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;

use super::real;
use super::reserve::{self, Part};
use super::{hooks, host};
use crate::addr::Addr;
use crate::error::ErrorKind;
use crate::sys::fault;

/// What a library needs of its thread-local storage.
#[derive(Default)]
pub(crate) struct Template {
    /// The initial image, relocated.
    pub(crate) image: Vec<u8>,
    /// Bytes in all; those after the image start as zero.
    pub(crate) size: u64,
    pub(crate) align: u64,
    /// Where the block starts, modulo its alignment.
    pub(crate) skew: u64,
    /// Whether code counts on one offset from the thread pointer (initial-exec, local-exec).
    pub(crate) needs_static: bool,
    /// Offsets in the block for which descriptors are wanted.
    pub(crate) descriptors: Vec<u64>,
}

impl Template {
    /// The first `size` bytes of it, as every thread is to start with them.
    pub(super) fn block(&self, size: usize) -> Vec<u8> {
        let mut block = self.image.clone();
        block.resize(size, 0);
        block
    }

    /// Puts `other` behind what is there, if it is worth it; answers where it starts.
    fn append(&mut self, other: &Self) -> Option<u64> {
        let align = other.align.max(1);
        let start = self.size.next_multiple_of(align) + other.skew % align;
        let size = start.checked_add(other.size).filter(|size| *size <= TOGETHER_MAX)?;
        if other.needs_static || !other.descriptors.is_empty() || align > TOGETHER_MAX {
            return None;
        }
        self.image.resize(start as usize, 0);
        self.image.extend(&other.image);
        (self.size, self.align) = (size, self.align.max(align));
        Some(start)
    }
}

/// Thread-local storage that glibc provides. Dropping it gives it back.
pub(crate) struct Storage {
    #[allow(dead_code)] // acts by being dropped
    source: Source,
    /// What `__tls_get_addr` knows it by.
    pub(crate) module: usize,
    /// Where the library's block starts in that.
    pub(crate) shift: u64,
    pub(crate) place: Place,
}

/// Where a block of thread-local storage is, as far as that was asked for.
#[derive(Clone, Default)]
pub(crate) struct Place {
    /// Where it starts, counted from the thread pointer, if that is the same in all threads.
    pub(crate) offset: Option<u64>,
    /// Function and argument, by offset in the block.
    pub(crate) descriptors: BTreeMap<u64, (u64, u64)>,
}

/// Where it comes from; held until the storage is dropped.
enum Source {
    /// And its name.
    Carrier(#[allow(dead_code)] Handle, CString),
    Reserve(#[allow(dead_code)] Part),
    /// A part of a block that several libraries have together.
    Part(Arc<Storage>),
}

/// Bytes of blocks that are worth one carrier instead of several: a thread that uses one has memory for all.
const TOGETHER_MAX: u64 = 4096;

/// A handle of `dlopen`.
struct Handle(NonNull<c_void>);

// SAFETY: good on any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle came from `dlopen` and is closed once.
        hooks::in_loader(|| unsafe { real::dlclose()(self.0.as_ptr()) });
    }
}

impl Storage {
    /// What `templates` say, in their order. Small blocks of which nothing is asked but that they are there are one to
    /// glibc: having it load an object is what storage costs. For small ones the reserve mostly does.
    pub(crate) fn for_all(templates: &[Template]) -> Vec<Result<Self, ErrorKind>> {
        let small = reserve::take_small(templates);
        let mut all = Template { align: 1, ..Template::default() };
        let append = |(template, small): (&Template, &Option<Part>)| match small {
            Some(_) => None,
            None => all.append(template),
        };
        let shifts: Vec<Option<u64>> = templates.iter().zip(&small).map(append).collect();
        let several = shifts.iter().flatten().nth(1).is_some();
        let together = if several { Self::new(&all).ok().map(Arc::new) } else { None };
        let storage = |((template, small), shift)| match (small, &together, shift) {
            (Some(part), ..) => Ok(Self::of_reserve(part)),
            (None, Some(all), Some(shift)) => Ok(Self {
                source: Source::Part(Arc::clone(all)),
                module: all.module,
                shift: all.shift + shift,
                place: Place::default(),
            }),
            _ => Self::new(template),
        };
        templates.iter().zip(small).zip(shifts).map(storage).collect()
    }

    /// What `template` says: of glibc's, or else of the reserve.
    fn new(template: &Template) -> Result<Self, ErrorKind> {
        match Self::of_glibc(template) {
            Err(refused) if template.needs_static => reserve::take(template).ok_or(refused).map(Self::of_reserve),
            storage => storage,
        }
    }

    fn of_reserve(part: Part) -> Self {
        let place = Place { offset: Some(part.offset), ..Place::default() };
        Self { module: part.module, shift: part.shift, place, source: Source::Reserve(part) }
    }

    fn of_glibc(template: &Template) -> Result<Self, ErrorKind> {
        let carrier = Carrier::of(&Block::Own(template), template.needs_static, &template.descriptors);
        let (handle, name, place) = carrier.open(&template.descriptors).map_err(|says| ErrorKind::ThreadLocal {
            what: format!(
                "expected {:#x} bytes from the C library, which says: {}",
                template.size,
                without_name(&says)
            ),
        })?;
        let mut module = 0;
        let answer: *mut usize = &raw mut module;
        // SAFETY: `dlinfo` writes the number that this request is documented to give.
        let failed = unsafe { real::dlinfo()(handle.0.as_ptr(), libc::RTLD_DI_TLS_MODID, answer.cast()) };
        if failed != 0 || module == 0 {
            return Err(ErrorKind::ThreadLocal { what: "expected a module id from dlinfo, found none".into() });
        }
        Ok(Self { source: Source::Carrier(handle, name), module, shift: 0, place })
    }

    /// Where the block is for a library that refers to it later: at one offset in all threads if it `needs_static`, and
    /// by descriptors. The error is what glibc says.
    ///
    /// glibc settles on the first use by any thread whether a block that is made on demand could have one offset. Until
    /// then a second carrier that refers to the first has it do so; descriptors are made either way.
    pub(crate) fn place_for(&self, needs_static: bool, descriptors: &[u64]) -> Result<Place, String> {
        let carrier = match &self.source {
            Source::Carrier(_, name) if self.place.offset.is_none() => name,
            Source::Part(all) => {
                let shift = self.shift - all.shift;
                let wanted: Vec<u64> = descriptors.iter().map(|offset| offset + shift).collect();
                let place = all.place_for(needs_static, &wanted)?;
                let own = place.descriptors.into_iter().map(|(offset, made)| (offset - shift, made));
                return Ok(Place {
                    offset: place.offset.map(|offset| offset.wrapping_add(shift)),
                    descriptors: own.collect(),
                });
            }
            _ => return Ok(self.place.clone()),
        };
        // What glibc makes belongs to the first: the second may go at once.
        let relay = Carrier::of(&Block::Of(carrier), needs_static, descriptors);
        relay.open(descriptors).map(|(_relay, _, place)| place).map_err(|says| without_name(&says).to_owned())
    }
}

/// Has glibc map an object that lacks what it needs, and so unmap it: passing everything by which it tells debuggers.
pub(super) fn map_and_unmap() {
    let lacking = Carrier::of(&Block::Of(c"/dev/null/lacking"), false, &[]);
    let _refused = lacking.open(&[]);
}

/// What glibc says of an object, without the name that nobody knows.
fn without_name(says: &str) -> &str {
    says.split_once(": ").filter(|(name, _)| name.starts_with("/proc/")).map_or(says, |(_, says)| says)
}

/// What a carrier is for: a block of its own, or one that another carrier has.
enum Block<'a> {
    Own(&'a Template),
    Of(&'a CStr),
}

/// The file of a carrier, and where in it glibc leaves its answers.
struct Carrier {
    bytes: Vec<u8>,
    /// The word that becomes the block's offset from the thread pointer.
    offset_at: Option<u64>,
    descriptors_at: u64,
}

impl Carrier {
    /// Writes the object: header, four program headers, dynamic section, symbol table, hash table, strings, relocations,
    /// the words that they change, the initial image.
    ///
    /// A block of its own is there for others by a symbol; that of another carrier is referred to by the same one.
    fn of(block: &Block<'_>, needs_static: bool, descriptors: &[u64]) -> Self {
        const R_TPOFF64: u64 = 18;
        const R_TLSDESC: u64 = 36;
        const DF_STATIC_TLS: u64 = 0x10;
        /// Global, thread-local.
        const SYMBOL: u64 = 0x16 << 32;
        const DEFINED: u64 = 1 << 48;
        let strings = {
            let needed = if let Block::Of(name) = block { name.to_bytes() } else { b"" };
            [b"\0soload block\0", needed, b"\0"].concat()
        };
        let (image, size, align, skew) = match block {
            Block::Own(template) => (&*template.image, template.size, template.align.max(1), template.skew),
            Block::Of(_) => (&[][..], 0, 1, 0),
        };
        let words = |count: usize| count as u64 * 8;
        let headers = 64 + 4 * 56;
        let dynamic_at = headers;
        let dynamic_len = words(2 * 11);
        let symbols_at = dynamic_at + dynamic_len;
        let hash_at = symbols_at + 2 * 24;
        let strings_at = hash_at + 5 * 4;
        let relocations_at = (strings_at + strings.len() as u64).next_multiple_of(8);
        let relocation_count = descriptors.len() + usize::from(needs_static);
        let offset_at = relocations_at + words(3 * relocation_count);
        let descriptors_at = offset_at + 8;
        let words_end = descriptors_at + words(2 * descriptors.len());
        // The image stands where it does modulo its alignment, as in the library: glibc keeps that skew.
        let image_at = words_end.next_multiple_of(align) + skew % align;
        let end = image_at + image.len() as u64;

        let mut bytes = Vec::with_capacity(end as usize);
        let half = |bytes: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        let word = |bytes: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        let long = |bytes: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        // ELF header: 64-bit, little-endian, ET_DYN, x86-64.
        bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        half(&mut bytes, &[3, 62]);
        word(&mut bytes, &[1]);
        long(&mut bytes, &[0, 64, 0]);
        word(&mut bytes, &[0]);
        half(&mut bytes, &[64, 56, 4, 0, 0, 0]);
        let mut header = |kind: u32, at: u64, file: u64, memory: u64, align: u64| {
            const READ_WRITE: u32 = 6;
            word(&mut bytes, &[kind, READ_WRITE]);
            long(&mut bytes, &[at, at, at, file, memory, align]);
        };
        header(libc::PT_LOAD, 0, end, end, 0x1000);
        header(libc::PT_DYNAMIC, dynamic_at, dynamic_len, dynamic_len, 8);
        match block {
            Block::Own(_) => header(libc::PT_TLS, image_at, image.len() as u64, size, align),
            Block::Of(_) => header(libc::PT_NULL, 0, 0, 0, 1),
        }
        header(libc::PT_GNU_STACK, 0, 0, 0, 16);
        let flags = if needs_static { DF_STATIC_TLS } else { 0 };
        const DT_NEEDED: u64 = 1;
        const DT_NULL: u64 = 0;
        let (needed, symbol, in_bucket) = match block {
            Block::Own(_) => ([DT_NULL, 0], [1 | SYMBOL | DEFINED, 0, size], 1),
            // Behind the symbol's name.
            Block::Of(_) => ([DT_NEEDED, 14], [1 | SYMBOL, 0, 0], 0),
        };
        let entries: [[u64; 2]; 11] = [
            [4, hash_at],
            [5, strings_at],
            [6, symbols_at],
            [10, strings.len() as u64],
            [11, 24],
            [7, relocations_at],
            [8, words(3 * relocation_count)],
            [9, 24],
            [30, flags],
            needed,
            [DT_NULL, 0],
        ];
        entries.iter().for_each(|entry| long(&mut bytes, entry));
        long(&mut bytes, &[0, 0, 0]);
        long(&mut bytes, &symbol);
        word(&mut bytes, &[1, 2, in_bucket, 0, 0]);
        bytes.extend(&strings);
        bytes.resize(relocations_at as usize, 0);
        let kind = |number: u64| if let Block::Of(_) = block { 1 << 32 | number } else { number };
        if needs_static {
            long(&mut bytes, &[offset_at, kind(R_TPOFF64), 0]);
        }
        for (index, offset) in descriptors.iter().enumerate() {
            long(&mut bytes, &[descriptors_at + words(2 * index), kind(R_TLSDESC), *offset]);
        }
        bytes.resize(image_at as usize, 0);
        bytes.extend(image);
        Self { bytes, offset_at: needs_static.then_some(offset_at), descriptors_at }
    }

    /// Has glibc load it; answers the handle, the name, and where the block is as far as that was asked for.
    fn open(&self, descriptors: &[u64]) -> Result<(Handle, CString, Place), String> {
        let file = memory_file(&self.bytes).map_err(|kind| kind.to_string())?;
        let name = unique_name(file.as_raw_fd());
        let handle = match fault::point("dlopen") {
            // SAFETY: the object has no code at all. glibc maps it and relocates its own words.
            Ok(()) => hooks::in_loader(|| unsafe { real::dlopen()(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) }),
            Err(_) => std::ptr::null_mut(),
        };
        let handle = NonNull::new(handle).map(Handle).ok_or_else(host::last_error)?;
        // SAFETY: the handle is open.
        let base = unsafe { real::bias_of(handle.0) }.ok_or_else(host::last_error)?;
        // SAFETY: words of the carrier, which lie in its one segment, relocated by glibc.
        let word = |at: u64| unsafe { ((base + at as usize) as *const u64).read() };
        let places = (self.descriptors_at..).step_by(16).map(|at| (word(at), word(at + 8)));
        let place =
            Place { offset: self.offset_at.map(word), descriptors: descriptors.iter().copied().zip(places).collect() };
        Ok((handle, name, place))
    }
}

/// A file without a name, with `bytes` in it: in memory or, where that is refused, in the directory for temporary files.
fn memory_file(bytes: &[u8]) -> Result<File, ErrorKind> {
    let memory = fault::point("memfd_create").and_then(|()| memfd_create(c"soload-tls", MFdFlags::MFD_CLOEXEC));
    let fd = memory.or_else(|errno| {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        fault::point("open")
            .and_then(|()| nix::fcntl::open(&std::env::temp_dir(), flags, Mode::S_IRUSR | Mode::S_IWUSR))
            .map_err(|_| ErrorKind::System { call: "memfd_create for thread-local storage", errno: errno as i32 })
    })?;
    let mut file = File::from(fd);
    let failed = |error: std::io::Error| ErrorKind::System {
        call: "write of the object for thread-local storage",
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    };
    file.write_all(bytes).map_err(failed)?;
    Ok(file)
}

/// A path to an open file that no other carrier has: glibc takes an object of a known name for the known object, and
/// numbers of files are used again.
fn unique_name(fd: c_int) -> CString {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // `/` and `/.` lead nowhere: they spell the number. The process's own number, not `self`: debuggers read the name.
    let mut name = format!("/proc/{}/fd", std::process::id());
    for bit in 0..u32::BITS - count.leading_zeros() {
        name.push_str(if count >> bit & 1 == 1 { "/." } else { "/" });
    }
    name.push_str(&format!("/{fd}"));
    CString::new(name).unwrap_or_default()
}

/// Where thread-local storage of module `module` has `offset` in this thread.
pub(crate) fn thread_local_address(module: usize, offset: u64) -> Addr {
    #[repr(C)]
    struct Index {
        module: usize,
        offset: usize,
    }
    unsafe extern "C" {
        fn __tls_get_addr(index: *const Index) -> *mut c_void;
    }
    let index = Index { module, offset: offset as usize };
    // SAFETY: the module is one that glibc numbered, of an object that stays loaded.
    Addr(unsafe { __tls_get_addr(&raw const index) } as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_which_nothing_is_asked_but_that_they_are_there_are_put_together() {
        let block = |size, align, skew| Template { size, align, skew, ..Template::default() };
        let mut all = block(0, 1, 0);
        assert!(all.append(&block(8, 2 * TOGETHER_MAX, 0)).is_none(), "of so large an alignment");
        assert_eq!((all.append(&block(8, 8, 0)), all.append(&block(8, 16, 4))), (Some(0), Some(20)));
        assert_eq!((all.size, all.align, all.image.len()), (28, 16, 20));
        assert!(all.append(&Template { needs_static: true, ..block(8, 8, 0) }).is_none());
        assert!(all.append(&Template { descriptors: vec![0], ..block(8, 8, 0) }).is_none());
        assert!(all.append(&block(TOGETHER_MAX - 31, 8, 0)).is_none(), "of so large a size");
        assert_eq!(all.append(&block(TOGETHER_MAX - 32, 8, 0)), Some(32));
    }
}
