//! The caller's handle: a library that is open, and the symbols got from it.
//!
//! # Safety
//! A symbol is a pointer that the caller has given a type; nothing can check that the type is right.

use std::ffi::{OsStr, c_void};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::addr::{Addr, Bias};
use crate::error::{Candidate, Error, ErrorKind, Undefined};
use crate::export::{Export, exports};
use crate::file::hash;
use crate::file::symbols::{Wanted, WantedVersion};
use crate::find::Rule;
use crate::loader::Opened;
use crate::options::OpenOptions;
use crate::process::hooks;
use crate::process::module::{Module, Object};
use crate::process::namespace::Namespace;
use crate::process::reason::Reason;
use crate::process::registry;
use crate::process::scope;
use crate::process::world::Look;
use crate::symbol::{AsSymbolName, OwnedSymbol, Symbol};

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
    pub(crate) opened: Option<Opened>,
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

    pub(crate) fn of(opened: Opened) -> Self {
        Self { opened: Some(opened) }
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
        let pointer = self.pointer_or_why::<T>(symbol.name(), None)?;
        Ok(Symbol::at(pointer))
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
        let pointer = self.pointer_or_why::<T>(symbol.name(), Some(version.name()))?;
        Ok(Symbol::at(pointer))
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
        let pointer = self.pointer_or_why::<T>(symbol.name(), None)?;
        Ok(OwnedSymbol::at(pointer, Arc::clone(self)))
    }

    /// As [`Library::get`], where it is no error that there is no such symbol: what a plugin may have or not.
    ///
    /// A symbol that is missing takes no more time than one that is there. That `T` has the size of a pointer is checked
    /// when the program is compiled.
    ///
    /// ```
    /// // SAFETY: `cos` has that type.
    /// unsafe {
    ///     let library = soload::Library::new("libm.so.6")?;
    ///     let cos = library.find::<extern "C" fn(f64) -> f64>(b"cos").unwrap();
    ///     assert_eq!(cos(0.0), 1.0);
    ///     assert!(library.find::<extern "C" fn(f64) -> f64>(b"cosine").is_none());
    /// }
    /// # Ok::<(), soload::Error>(())
    /// ```
    ///
    /// # Safety
    /// As for [`Library::get`].
    pub unsafe fn find<'lib, T>(&'lib self, symbol: impl AsSymbolName) -> Option<Symbol<'lib, T>> {
        const { assert!(size_of::<T>() == size_of::<*mut c_void>(), "a symbol is a pointer") };
        self.pointer(symbol.name(), None).map(Symbol::at)
    }

    fn pointer_or_why<T>(&self, name: &[u8], version: Option<&[u8]>) -> Result<*mut c_void, Error> {
        if size_of::<T>() != size_of::<*mut c_void>() {
            return Err(Error::new(self.path(), ErrorKind::WrongSize { found: size_of::<T>() }));
        }
        self.pointer(name, version).ok_or_else(|| self.missing(name, version))
    }

    fn pointer(&self, name: &[u8], version: Option<&[u8]>) -> Option<*mut c_void> {
        let exact = |version| {
            let name = plain(version);
            (!name.contains(&0)).then(|| WantedVersion { name, hash: hash::sysv(name), exact: true })
        };
        let version = match version {
            Some(version) => Some(exact(version)?),
            None => None,
        };
        let wanted = Wanted::by_name(plain(name), version)?;
        Some(self.address(&wanted)?.0 as *mut c_void)
    }

    /// Why there is no such symbol.
    #[cold]
    fn missing(&self, name: &[u8], version: Option<&[u8]>) -> Error {
        let (name, version) = (plain(name), version.map(plain));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Error::new(
            self.path(),
            match name.contains(&0) || version.is_some_and(|version| version.contains(&0)) {
                true => ErrorKind::NulInName,
                false => ErrorKind::NoSuchSymbol { symbol: Undefined { name: text(name), version: version.map(text) } },
            },
        )
    }

    /// Where what is looked for is, in this process and thread.
    fn address(&self, wanted: &Wanted<'_>) -> Option<Addr> {
        match &self.opened {
            Some(opened) => opened.scope.find(wanted),
            None => global(wanted),
        }
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

    /// The name space it is in: the base, unless it was opened in another and is none of the C library's parts.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        self.opened.as_ref().map_or(Namespace::BASE, |opened| opened.object.namespace())
    }

    /// The files of the library and of all it needs, breadth first, and whether soload loaded each itself.
    pub fn objects(&self) -> impl Iterator<Item = (&Path, bool)> {
        let scope = self.opened.as_ref().map_or(&[][..], |opened| &opened.scope);
        scope.iter().map(|object| (object.path(), matches!(object, Object::Module(_))))
    }

    /// For each object that soload loaded: its file, by which rule it was looked for there, and every candidate that was
    /// tried before, with the reason it lost.
    ///
    /// ```
    /// // SAFETY: zlib's constructors are sound.
    /// if let Ok(library) = unsafe { soload::Library::new("libz.so.1") } {
    ///     for (path, rule, lost) in library.searches() {
    ///         println!("{} by {rule}, after {} others", path.display(), lost.len());
    ///     }
    /// }
    /// ```
    pub fn searches(&self) -> impl Iterator<Item = (&Path, &Rule, &[Candidate])> {
        let scope = self.opened.as_ref().map_or(&[][..], |opened| &opened.scope);
        scope.iter().filter_map(|object| match object {
            Object::Host(_) => None,
            Object::Module(module) => Some((module.path(), &module.rule, &*module.lost)),
        })
    }

    /// How long each stage of this open took; empty if the library was loaded already. `host` is what it takes to know what
    /// the C library has loaded (all that in the first open of a process, whether it has changed in later ones), and to have
    /// it load parts of its own that are lacking.
    #[must_use]
    pub fn stages(&self) -> &[(&'static str, Duration)] {
        self.opened.as_ref().map_or(&[], |opened| &opened.stages)
    }

    /// Closes the library and says what became of it.
    ///
    /// # Errors
    /// None today; the signature is libloading's.
    pub fn close(mut self) -> Result<Closed, Error> {
        let reasons = self.take_module().map_or_else(|| vec![Reason::OfTheHost], registry::release_with_reasons);
        Ok(if reasons.is_empty() { Closed::Unloaded } else { Closed::StillMapped { reasons } })
    }

    /// The module, if it is one that this crate has loaded. The handle's other references go: the last owner unmaps.
    fn take_module(&mut self) -> Option<Arc<Module>> {
        match self.opened.take()?.object {
            Object::Host(_) => None,
            Object::Module(module) => Some(module),
        }
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
        self.take_module().into_iter().for_each(registry::release);
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// Where anything global has what is looked for.
#[cold]
fn global(wanted: &Wanted<'_>) -> Option<Addr> {
    let look = hooks::undisturbed(|| Look::now(Namespace::BASE));
    let mut global: Vec<Object> = look.global_scope().collect();
    // What the host may unload is held while it is asked; what has gone is not asked.
    let mut pins = Vec::new();
    global.retain(|object| match object {
        Object::Host(host) => host.pin().map(|pin| pins.push(pin)).is_ok(),
        Object::Module(_) => true,
    });
    hooks::undisturbed(|| {
        global.iter().for_each(Object::read_symbols);
    });
    global.iter().find_map(|object| scope::address(object, wanted))
}

/// A name without the NUL at its end that libloading's users write.
fn plain(name: &[u8]) -> &[u8] {
    match name {
        [name @ .., 0] => name,
        name => name,
    }
}
