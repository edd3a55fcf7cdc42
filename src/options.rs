//! How a library is to be opened: choices, and the open itself.
//!
//! # Safety
//! Whoever opens a library promises that its code may run.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::addr::Bias;
use crate::dl;
use crate::error::Error;
use crate::guard::Guard;
use crate::library::Library;
use crate::loader::{self, Wishes};
use crate::process::namespace::Namespace;

/// How an open library is to be loaded and seen: `Library::new` with choices.
///
/// ```
/// // SAFETY: libm's constructors are sound.
/// let library = unsafe { soload::OpenOptions::new().global(true).open("libm.so.6") }?;
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct OpenOptions {
    pub(crate) wishes: Wishes,
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
            .field("namespace", &wishes.namespace)
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

    /// The name space to open it in. In one other than [`Namespace::BASE`] it is a copy of its own, with copies of all it
    /// needs but the C library, and sees nothing else of the process.
    ///
    /// ```
    /// // SAFETY: zlib's constructors are sound.
    /// let copy = unsafe { soload::OpenOptions::new().namespace(soload::Namespace::isolated()).open("libz.so.1") };
    /// ```
    pub fn namespace(&mut self, namespace: Namespace) -> &mut Self {
        self.wishes.namespace = namespace;
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
    /// See [`Library::new`]; [`ErrorKind::NotLoaded`](crate::ErrorKind::NotLoaded) with [`OpenOptions::no_load`].
    ///
    /// # Safety
    /// As for [`Library::new`].
    pub unsafe fn open(&self, name: impl AsRef<OsStr>) -> Result<Library, Error> {
        let wishes = Wishes { imports: Some(dl::import), ..self.wishes.clone() };
        loader::open(name.as_ref(), &wishes).map(Library::of)
    }
}
