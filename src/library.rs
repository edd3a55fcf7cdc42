//! The caller's handle: a library that is open, and the symbols got from it.
//!
//! # Safety
//! A symbol is a pointer that the caller has given a type; nothing can check that the type is right.

use std::ffi::{CStr, CString, OsStr, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::addr::{Addr, Bias};
use crate::error::{Error, ErrorKind, Undefined};
use crate::file::hash;
use crate::file::symbols::{Symbol as Entry, Symbols, Wanted, WantedVersion};
use crate::load::call::Code;
use crate::loader::{self, Opened, Wishes};
use crate::process::hooks;
use crate::process::host::thread_local_address;
use crate::process::module::Object;
use crate::process::registry::{self, Reason};
use crate::process::world::Look;

/// A library that is open. Dropping it closes it; what is still used by others stays loaded.
///
/// Source-compatible with `libloading::Library` where both do the same.
///
/// ```
/// // SAFETY: libm's constructors are sound, and `cos` has that type.
/// unsafe {
///     let library = soload::Library::new("libm.so.6")?;
///     let cos = library.get::<extern "C" fn(f64) -> f64>(b"cos")?;
///     assert_eq!(cos(0.0), 1.0);
/// }
/// # Ok::<(), soload::Error>(())
/// ```
pub struct Library {
    /// `None`: the program and everything global.
    opened: Option<Opened>,
}

/// How an open library is to be loaded and seen: `Library::new` with choices.
///
/// ```
/// // SAFETY: libm's constructors are sound.
/// let library = unsafe { soload::OpenOptions::new().global(true).open("libm.so.6") }?;
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    wishes: Wishes,
}

impl OpenOptions {
    /// The choices of [`Library::new`]: local scope, everything bound at once, nothing dubious allowed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether libraries loaded later may bind to its symbols (`RTLD_GLOBAL`). Also promotes one that is loaded already.
    pub fn global(&mut self, global: bool) -> &mut Self {
        self.wishes.global = global;
        self
    }

    /// A directory to look in, for it and for all it needs, before every other place. Those added first come first.
    pub fn search_dir(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.wishes.search_dirs.push(directory.into());
        self
    }

    /// Whether to open it only if it is loaded already (`RTLD_NOLOAD`).
    pub fn no_load(&mut self, no_load: bool) -> &mut Self {
        self.wishes.no_load = no_load;
        self
    }

    /// Whether it stays loaded for good (`RTLD_NODELETE`).
    pub fn no_delete(&mut self, no_delete: bool) -> &mut Self {
        self.wishes.no_delete = no_delete;
        self
    }

    /// Whether its own group's definitions come before the global ones (`RTLD_DEEPBIND`).
    pub fn deep_bind(&mut self, deep_bind: bool) -> &mut Self {
        self.wishes.deep_bind = deep_bind;
        self
    }

    /// Whether segments may be writable and executable at once. They are refused otherwise.
    pub fn allow_writable_executable(&mut self, allow: bool) -> &mut Self {
        self.wishes.allow_writable_executable = allow;
        self
    }

    /// Whether libraries that ask for an executable stack are loaded all the same. The stack stays as it is: code
    /// that really runs on the stack will fault.
    pub fn allow_executable_stack(&mut self, allow: bool) -> &mut Self {
        self.wishes.allow_executable_stack = allow;
        self
    }

    /// Opens `name` with these choices.
    ///
    /// # Errors
    /// See [`Library::new`]; [`ErrorKind::NotLoaded`] with [`OpenOptions::no_load`].
    ///
    /// # Safety
    /// As for [`Library::new`].
    pub unsafe fn open(&self, name: impl AsRef<OsStr>) -> Result<Library, Error> {
        loader::open(name.as_ref(), &self.wishes).map(|opened| Library { opened: Some(opened) })
    }
}

/// What became of a library whose handle was closed.
///
/// ```
/// // SAFETY: libm's constructors are sound.
/// let library = unsafe { soload::Library::new("libm.so.6") }?;
/// // The C library's own parts stay with the C library's loader.
/// let closed = library.close()?;
/// assert_eq!(closed, soload::Closed::StillMapped { reasons: vec![soload::Reason::OfTheHost] });
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Its destructors have run and its addresses are free.
    Unloaded,
    /// Something still uses it.
    StillMapped {
        /// All that keeps it.
        reasons: Vec<Reason>,
    },
}

impl Library {
    /// Opens the library `name`: a path if it has a slash, otherwise searched for as glibc does. Loads what it needs,
    /// binds every symbol, and runs constructors, those of its dependencies first.
    ///
    /// # Errors
    /// Whatever keeps it or something it needs from being loaded, as an [`ErrorKind`]. The process is then as before.
    ///
    /// # Safety
    /// Runs code of the library: its IFUNC resolvers and constructors, and its destructors when it is unloaded. The
    /// caller vouches for them, and for the files not being changed while they are mapped.
    pub unsafe fn new<P: AsRef<OsStr>>(name: P) -> Result<Self, Error> {
        // SAFETY: the caller's promise.
        unsafe { OpenOptions::new().open(name) }
    }

    /// The program itself with everything in the global scope, as `dlopen(NULL)`.
    ///
    /// ```
    /// // SAFETY: `getpid` has that type.
    /// let getpid = soload::Library::this();
    /// let getpid = unsafe { getpid.get::<extern "C" fn() -> i32>(b"getpid")? };
    /// assert_eq!(getpid() as u32, std::process::id());
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn this() -> Self {
        Self { opened: None }
    }

    /// The function or variable `symbol` of the library or, if it has none of that name, of what it needs.
    ///
    /// `T` is a function pointer, or a pointer to the variable. Of several versions the default one is meant.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchSymbol`], [`ErrorKind::WrongSize`] if `T` is not the size of a pointer,
    /// [`ErrorKind::NulInName`].
    ///
    /// # Safety
    /// `T` must be the type the symbol has. The symbol must not be used after the library is closed, as far as the
    /// lifetime does not see to that (function pointers copied out of it).
    pub unsafe fn get<'lib, T>(&'lib self, symbol: impl AsSymbolName) -> Result<Symbol<'lib, T>, Error> {
        let pointer = self.find::<T>(symbol.name(), None)?;
        Ok(Symbol { pointer, of: PhantomData })
    }

    /// Version `version` of the function or variable `symbol`, as `dlvsym`.
    ///
    /// ```
    /// // SAFETY: `cos` has that type.
    /// unsafe {
    ///     let library = soload::Library::new("libm.so.6")?;
    ///     let cos = library.get_version::<extern "C" fn(f64) -> f64>(b"cos", b"GLIBC_2.2.5")?;
    ///     assert!(library.get_version::<extern "C" fn(f64) -> f64>(b"cos", b"GLIBC_1.0").is_err());
    /// }
    /// # Ok::<(), soload::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Library::get`].
    ///
    /// # Safety
    /// As for [`Library::get`].
    pub unsafe fn get_version<'lib, T>(
        &'lib self,
        symbol: impl AsSymbolName,
        version: impl AsSymbolName,
    ) -> Result<Symbol<'lib, T>, Error> {
        let pointer = self.find::<T>(symbol.name(), Some(version.name()))?;
        Ok(Symbol { pointer, of: PhantomData })
    }

    /// As [`Library::get`], for a symbol that keeps the library open by itself.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// struct Plugin { cos: soload::OwnedSymbol<extern "C" fn(f64) -> f64> }
    /// // SAFETY: `cos` has that type.
    /// let plugin = unsafe {
    ///     let library = Arc::new(soload::Library::new("libm.so.6")?);
    ///     Plugin { cos: library.get_owned(b"cos")? }
    /// };
    /// assert_eq!((plugin.cos)(0.0), 1.0);
    /// # Ok::<(), soload::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Library::get`].
    ///
    /// # Safety
    /// As for [`Library::get`].
    pub unsafe fn get_owned<T>(self: &Arc<Self>, symbol: impl AsSymbolName) -> Result<OwnedSymbol<T>, Error> {
        let pointer = self.find::<T>(symbol.name(), None)?;
        Ok(OwnedSymbol { pointer, library: Arc::clone(self), of: PhantomData })
    }

    fn find<T>(&self, name: &[u8], version: Option<&[u8]>) -> Result<*mut c_void, Error> {
        let error = |kind| Error::new(self.path(), kind);
        if size_of::<T>() != size_of::<*mut c_void>() {
            return Err(error(ErrorKind::WrongSize { found: size_of::<T>() }));
        }
        // A NUL at the end is what libloading's users write; one elsewhere is in no symbol's name.
        let plain = |name: &'_ [u8]| name.strip_suffix(&[0]).map_or(name.to_vec(), <[u8]>::to_vec);
        let (name, version) = (plain(name), version.map(plain));
        if name.contains(&0) || version.as_ref().is_some_and(|version| version.contains(&0)) {
            return Err(error(ErrorKind::NulInName));
        }
        let asked =
            version.as_deref().map(|version| WantedVersion { name: version, hash: hash::sysv(version), exact: true });
        let wanted = Wanted::by_name(&name, asked);
        let found = match &self.opened {
            Some(opened) => opened.scope.iter().find_map(|object| address(object, &wanted)),
            None => {
                let global = hooks::undisturbed(|| {
                    let global = Look::now().global_scope();
                    global.iter().for_each(|object| drop(object.symbols()));
                    global
                });
                global.iter().find_map(|object| address(object, &wanted))
            }
        };
        found.map(|addr| addr.0 as *mut c_void).ok_or_else(|| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let symbol = Undefined { name: text(&name), version: version.as_deref().map(text) };
            error(ErrorKind::NoSuchSymbol { symbol })
        })
    }

    /// The symbols that the library itself defines for others.
    ///
    /// ```
    /// // SAFETY: libm's constructors are sound.
    /// let library = unsafe { soload::Library::new("libm.so.6") }?;
    /// let cos = library.exports().find(|export| export.name() == b"cos").unwrap();
    /// assert_eq!(cos.version(), Some(&b"GLIBC_2.2.5"[..]));
    /// # Ok::<(), soload::Error>(())
    /// ```
    pub fn exports(&self) -> impl Iterator<Item = Export<'_>> {
        let symbols = self.opened.as_ref().and_then(|opened| opened.object.symbols());
        symbols.into_iter().flat_map(exports)
    }

    /// The file it was loaded from, by the path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.opened.as_ref().map_or(Path::new("the program"), |opened| opened.object.path())
    }

    /// What is added to the addresses in the file to give those in this process; `None` for [`Library::this`].
    #[must_use]
    pub fn bias(&self) -> Option<Bias> {
        match &self.opened.as_ref()?.object {
            Object::Host(host) => Some(host.bias),
            Object::Module(module) => Some(module.mapping.bias()),
        }
    }

    /// The files of the library and of all it needs, breadth first, and whether soload loaded each itself.
    pub fn objects(&self) -> impl Iterator<Item = (&Path, bool)> {
        let scope = self.opened.as_ref().map_or(&[][..], |opened| &opened.scope);
        scope.iter().map(|object| (object.path(), matches!(object, Object::Module(_))))
    }

    /// How long each stage of this open took; empty if the library was loaded already.
    #[must_use]
    pub fn stages(&self) -> &[(&'static str, Duration)] {
        self.opened.as_ref().map_or(&[], |opened| &opened.stages)
    }

    /// Closes the library and says what became of it.
    ///
    /// # Errors
    /// None today; the signature is libloading's.
    pub fn close(mut self) -> Result<Closed, Error> {
        Ok(self.release())
    }

    fn release(&mut self) -> Closed {
        let reasons = match self.opened.take() {
            None => vec![Reason::OfTheHost],
            Some(opened) => match opened.object {
                Object::Host(_) => vec![Reason::OfTheHost],
                Object::Module(module) => {
                    // The handle's own references go first: the last owner unmaps.
                    drop(opened.scope);
                    registry::release(module)
                }
            },
        };
        if reasons.is_empty() { Closed::Unloaded } else { Closed::StillMapped { reasons } }
    }

    /// The handle as a pointer, for code that passes handles through C. [`Library::from_raw`] takes it back.
    #[must_use]
    pub fn into_raw(mut self) -> *mut c_void {
        self.opened.take().map_or(std::ptr::null_mut(), |opened| Box::into_raw(Box::new(opened)).cast())
    }

    /// The library of a pointer that [`Library::into_raw`] gave.
    ///
    /// # Safety
    /// The pointer came from [`Library::into_raw`] and is not used again.
    #[must_use]
    pub unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: the caller's promise; null stands for `Library::this`.
        Self { opened: (!raw.is_null()).then(|| unsafe { *Box::from_raw(raw.cast::<Opened>()) }) }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// Where `object` has what is looked for, in this process and thread.
fn address(object: &Object, wanted: &Wanted<'_>) -> Option<Addr> {
    let provider = object.provider()?;
    let (_, symbol) = provider.symbols.find(wanted)?;
    if symbol.is_tls() {
        return match object {
            Object::Host(host) => Some(thread_local_address(host.tls_module, symbol.value)),
            Object::Module(_) => None,
        };
    }
    if symbol.is_unique()
        && let Some((addr, ..)) = registry::state().unique.get(wanted.name)
    {
        return Some(*addr);
    }
    let addr = provider.address(&symbol);
    if !symbol.is_ifunc() {
        return Some(addr);
    }
    Code::at(addr, |addr| object.is_code(addr)).map(hooks::resolve)
}

/// A function or variable of a library, which it cannot outlive. Dereferences to it.
///
/// ```
/// // SAFETY: `cos` has that type.
/// unsafe {
///     let library = soload::Library::new("libm.so.6")?;
///     let cos: soload::Symbol<'_, extern "C" fn(f64) -> f64> = library.get(b"cos\0")?;
///     assert_eq!(cos(0.0), 1.0);
/// }
/// # Ok::<(), soload::Error>(())
/// ```
pub struct Symbol<'lib, T> {
    pointer: *mut c_void,
    of: PhantomData<&'lib T>,
}

// SAFETY: it is a `T` that borrows the library, and as free to travel as a `T`.
unsafe impl<T: Send> Send for Symbol<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Symbol<'_, T> {}

impl<'lib, T> Symbol<'lib, T> {
    /// The address itself.
    #[must_use]
    pub fn as_raw_ptr(&self) -> *mut c_void {
        self.pointer
    }

    /// The address, free of the lifetime.
    ///
    /// # Safety
    /// The caller sees to it that the address is not used after the library is closed.
    #[must_use]
    pub unsafe fn into_raw(self) -> *mut c_void {
        self.pointer
    }

    /// A symbol from an address and the library that it belongs to.
    ///
    /// # Safety
    /// The address came from [`Symbol::into_raw`] for the same library and type.
    #[must_use]
    pub unsafe fn from_raw(pointer: *mut c_void, library: &'lib Library) -> Self {
        let _ = library;
        Self { pointer, of: PhantomData }
    }
}

impl<'lib, T> Symbol<'lib, Option<T>> {
    /// The symbol, unless its address is null.
    ///
    /// ```
    /// // SAFETY: `cos` has that type.
    /// unsafe {
    ///     let library = soload::Library::new("libm.so.6")?;
    ///     let cos: soload::Symbol<'_, Option<extern "C" fn(f64) -> f64>> = library.get("cos")?;
    ///     assert_eq!(cos.lift_option().unwrap()(0.0), 1.0);
    /// }
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn lift_option(self) -> Option<Symbol<'lib, T>> {
        (!self.pointer.is_null()).then_some(Symbol { pointer: self.pointer, of: PhantomData })
    }
}

impl<T> Clone for Symbol<'_, T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<T> Deref for Symbol<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `find` checked that `T` has the size of a pointer; the caller of `get` that it is the symbol's type.
        unsafe { &*(&raw const self.pointer).cast::<T>() }
    }
}

impl<T> fmt::Debug for Symbol<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Symbol({:p})", self.pointer)
    }
}

/// A function or variable that keeps its library open. Dereferences to it. See [`Library::get_owned`].
///
/// ```
/// # use std::sync::Arc;
/// // SAFETY: `cos` has that type.
/// let cos: soload::OwnedSymbol<extern "C" fn(f64) -> f64> =
///     unsafe { Arc::new(soload::Library::new("libm.so.6")?).get_owned(b"cos")? };
/// assert_eq!(cos(0.0), 1.0);
/// # Ok::<(), soload::Error>(())
/// ```
pub struct OwnedSymbol<T> {
    pointer: *mut c_void,
    library: Arc<Library>,
    of: PhantomData<T>,
}

// SAFETY: it is a `T` and a handle to the library, which is free to travel.
unsafe impl<T: Send> Send for OwnedSymbol<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for OwnedSymbol<T> {}

impl<T> OwnedSymbol<T> {
    /// The library it keeps open.
    #[must_use]
    pub fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// The address itself.
    #[must_use]
    pub fn as_raw_ptr(&self) -> *mut c_void {
        self.pointer
    }
}

impl<T> Clone for OwnedSymbol<T> {
    fn clone(&self) -> Self {
        Self { pointer: self.pointer, library: Arc::clone(&self.library), of: PhantomData }
    }
}

impl<T> Deref for OwnedSymbol<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: as for `Symbol`; the library is open as long as `self.library` is.
        unsafe { &*(&raw const self.pointer).cast::<T>() }
    }
}

impl<T> fmt::Debug for OwnedSymbol<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnedSymbol({:p} of {:?})", self.pointer, self.library.path())
    }
}

/// A symbol that a library defines for others.
///
/// ```
/// // SAFETY: libm's constructors are sound.
/// let library = unsafe { soload::Library::new("libm.so.6") }?;
/// assert!(library.exports().any(|export| export.kind() == soload::ExportKind::Function && export.size() > 0));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Export<'lib> {
    symbols: &'lib Symbols,
    index: u32,
    symbol: Entry,
    name: &'lib [u8],
}

/// What a symbol is.
///
/// ```
/// assert_ne!(soload::ExportKind::Function, soload::ExportKind::Variable);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExportKind {
    /// A function (`STT_FUNC`).
    Function,
    /// A function whose implementation is chosen when it is bound (`STT_GNU_IFUNC`).
    IndirectFunction,
    /// A variable (`STT_OBJECT`, `STT_COMMON`).
    Variable,
    /// A thread-local variable (`STT_TLS`).
    ThreadLocal,
    /// Not stated (`STT_NOTYPE`), or something else.
    Other,
}

impl<'lib> Export<'lib> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'lib [u8] {
        self.name
    }

    /// Its version, if the library gives its symbols versions.
    #[must_use]
    pub fn version(&self) -> Option<&'lib [u8]> {
        let version = self.symbols.version_of(self.index)?;
        self.symbols.string(version.name)
    }

    /// Whether it is the version that `get` finds, of several of one name.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.symbols.versions.index(self.index).is_none_or(|index| !index.hidden)
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> ExportKind {
        match self.symbol.kind() {
            1 | 5 => ExportKind::Variable,
            2 => ExportKind::Function,
            6 => ExportKind::ThreadLocal,
            10 => ExportKind::IndirectFunction,
            _ => ExportKind::Other,
        }
    }

    /// Its size in bytes; 0 if not stated.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.symbol.size
    }
}

impl fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_struct("Export")
            .field("name", &text(self.name()))
            .field("version", &self.version().map(text))
            .field("kind", &self.kind())
            .field("size", &self.size())
            .finish()
    }
}

/// All symbols of a table that others may bind to.
pub(crate) fn exports(symbols: &Symbols) -> impl Iterator<Item = Export<'_>> {
    (0..symbols.count()).filter_map(move |index| {
        let symbol = symbols.get(index).filter(Entry::is_exported)?;
        Some(Export { symbols, index, symbol, name: symbols.string(symbol.name)? })
    })
}

/// What may name a symbol: bytes, text or a C string, with or without a NUL at the end.
///
/// ```
/// use soload::AsSymbolName;
/// assert_eq!(b"cos".name(), "cos".name());
/// ```
pub trait AsSymbolName {
    /// The name as bytes.
    fn name(&self) -> &[u8];
}

impl<T: AsSymbolName + ?Sized> AsSymbolName for &T {
    fn name(&self) -> &[u8] {
        (**self).name()
    }
}

impl AsSymbolName for [u8] {
    fn name(&self) -> &[u8] {
        self
    }
}

impl<const N: usize> AsSymbolName for [u8; N] {
    fn name(&self) -> &[u8] {
        self
    }
}

impl AsSymbolName for str {
    fn name(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsSymbolName for String {
    fn name(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsSymbolName for CStr {
    fn name(&self) -> &[u8] {
        self.to_bytes()
    }
}

impl AsSymbolName for CString {
    fn name(&self) -> &[u8] {
        self.to_bytes()
    }
}
