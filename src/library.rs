//! The caller's handle: a library that is open, and the symbols got from it.
//!
//! # Safety
//! A symbol is a pointer that the caller has given a type; nothing can check that the type is right.

use std::ffi::{OsStr, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::addr::{Addr, Bias};
use crate::dl;
use crate::error::{Candidate, Error, ErrorKind, Undefined};
use crate::export::{Export, exports};
use crate::file::hash;
use crate::file::symbols::{Wanted, WantedVersion};
use crate::find::Rule;
use crate::guard::Guard;
use crate::loader::{self, Opened, Wishes};
use crate::process::hooks;
use crate::process::module::Object;
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
    opened: Option<Opened>,
}

/// How an open library is to be loaded and seen: `Library::new` with choices.
///
/// ```
/// // SAFETY: libm's constructors are sound.
/// let library = unsafe { soload::OpenOptions::new().global(true).open("libm.so.6") }?;
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct OpenOptions {
    wishes: Wishes,
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wishes = &self.wishes;
        f.debug_struct("OpenOptions")
            .field("global", &wishes.global)
            .field("no_load", &wishes.no_load)
            .field("no_delete", &wishes.no_delete)
            .field("deep_bind", &wishes.deep_bind)
            .field("lazy", &wishes.lazy)
            .field("search_dirs", &wishes.search_dirs)
            .field("allow_writable_executable", &wishes.allow_writable_executable)
            .field("allow_executable_stack", &wishes.allow_executable_stack)
            .field("huge_pages", &wishes.huge_pages)
            .field("guard", &wishes.guard)
            .finish()
    }
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

    /// Whether functions of other libraries are bound when they are first called (`RTLD_LAZY`), for it and all that it
    /// brings in. A function that nobody defines is no error then until it is called, which ends the program: a line on
    /// standard error, exit code 127.
    ///
    /// What that costs: the pages with the addresses of functions (`.got.plt`) stay writable; `PT_GNU_RELRO` is read-only
    /// before any constructor runs, as ever. Relocation writes the same pages either way. Variables and pointers to
    /// functions are bound at once; so is everything of libraries linked `-z now`, and of all if `LD_BIND_NOW` was set when
    /// the program started. A debugger told to step into a function passes over its first call.
    ///
    /// A first call asks what is global then, and what was opened along with the library. It takes no lock and no memory
    /// where the library itself, what it needs or what the program started with has the definition; whatever it finds
    /// elsewhere stays loaded as long as the library.
    pub fn lazy(&mut self, lazy: bool) -> &mut Self {
        self.wishes.lazy = lazy;
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

    /// Whether code is mapped in pages of 2 MiB, where the file system gives them: fewer faults, smaller page tables. What
    /// others have read in small pages already stays so (`soload warm` reads it anew).
    pub fn huge_pages(&mut self, huge: bool) -> &mut Self {
        self.wishes.huge_pages = huge;
        self
    }

    /// What keeps the files that are loaded as they are, should somebody overwrite them; [`Guard`] has costs and an example.
    pub fn guard(&mut self, guard: Guard) -> &mut Self {
        self.wishes.guard = guard;
        self
    }

    /// Whom to show each object that is loaded: its file and its load bias, once relocation is done and before any
    /// constructor runs. Its pages are then exactly as loading leaves them.
    ///
    /// ```
    /// let mut options = soload::OpenOptions::new();
    /// options.before_constructors(|path, bias| println!("{} at {:#x}", path.display(), bias.get()));
    /// // SAFETY: zlib's constructors are sound.
    /// let library = unsafe { options.open("libz.so.1") };
    /// ```
    pub fn before_constructors(&mut self, look: impl Fn(&Path, Bias) + Send + Sync + 'static) -> &mut Self {
        self.wishes.relocated = Some(Arc::new(look));
        self
    }

    /// The files that [`OpenOptions::open`] would load or find in the process, that of `name` first, then those of all
    /// it needs. Nothing is loaded, no code runs.
    ///
    /// ```
    /// let files = soload::OpenOptions::new().files("libm.so.6")?;
    /// assert!(files[0].ends_with("libm.so.6"));
    /// # Ok::<(), soload::Error>(())
    /// ```
    ///
    /// # Errors
    /// It, or something it needs, cannot be found or read.
    pub fn files(&self, name: impl AsRef<OsStr>) -> Result<Vec<PathBuf>, Error> {
        loader::files(name.as_ref(), &self.wishes)
    }

    /// Opens `name` with these choices.
    ///
    /// # Errors
    /// See [`Library::new`]; [`ErrorKind::NotLoaded`] with [`OpenOptions::no_load`].
    ///
    /// # Safety
    /// As for [`Library::new`].
    pub unsafe fn open(&self, name: impl AsRef<OsStr>) -> Result<Library, Error> {
        let wishes = Wishes { imports: Some(dl::import), ..self.wishes.clone() };
        loader::open(name.as_ref(), &wishes).map(|opened| Library { opened: Some(opened) })
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
            Object::Module(module) => Some((&*module.path, &module.rule, &*module.lost)),
        })
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

/// Where anything global has what is looked for.
fn global(wanted: &Wanted<'_>) -> Option<Addr> {
    let look = hooks::undisturbed(Look::now);
    let mut global = look.global_scope();
    // What the host may unload is held while it is asked; what has gone is not asked.
    let mut pins = Vec::new();
    global.retain(|object| match object {
        Object::Host(host) => host.pin().map(|pin| pins.push(pin)).is_ok(),
        Object::Module(_) => true,
    });
    hooks::undisturbed(|| {
        for object in &global {
            object.symbols();
        }
    });
    global.iter().find_map(|object| scope::address(object, wanted))
}

/// A name without the NUL at its end that libloading's users write.
fn plain(name: &[u8]) -> &[u8] {
    name.strip_suffix(&[0]).unwrap_or(name)
}
