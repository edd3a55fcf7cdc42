//! What a program or library will bring into a process, decided from files alone: nothing is mapped for execution or run.
//!
//! The search is the loader's own (`find`), begun as the loader that would run the file begins a program: its needs
//! breadth first, what `LD_PRELOAD` and `/etc/ld.so.preload` name before them, the loader itself where it is first
//! needed. Which loader that is, glibc's, musl's or Android's, says the program's interpreter (`loader`).

mod facts;
mod hints;
mod injected;
mod loader;
mod resolve;
mod rivals;
mod symbols;
mod versions;

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Candidate, Error, ErrorKind};
use crate::find::{Libc, Root, Rule};
use crate::sys::{Identity, RegularFile};
use facts::Facts;
pub use injected::Auditor;
use loader::{Kind, Loader};
pub use rivals::Rivals;
pub use symbols::{Bindings, SymbolDefinition, SymbolTrace, Unresolved};
pub use versions::{VersionProblem, VersionUse};

/// Everything that comes into the process with one file, in the order in which the loader loads it.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// assert!(closure.is_complete());
/// let libc = closure.objects.iter().find(|object| object.name.starts_with(b"libc.so")).unwrap();
/// assert_eq!(libc.rule.as_ref().unwrap().to_string(), "ld.so.cache");
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Closure {
    /// Object 0 is the file itself. An object that is missing stands once for each that asks for it.
    pub objects: Vec<Object>,
    /// The program that runs it (`PT_INTERP`), and why it cannot, if it cannot.
    pub interpreter: Option<(PathBuf, Option<ErrorKind>)>,
    /// Versions that an object needs and the one that has to define them lacks.
    pub version_problems: Vec<VersionProblem>,
    /// What was to be preloaded and is ignored.
    pub preload_problems: Vec<Error>,
    /// What glibc's loader would run before the program, to tell it of every step. Nothing else here runs anything.
    pub auditors: Vec<Auditor>,
    /// The C library whose loader's rules were gone by.
    pub libc: Libc,
    /// Whether it is set-user-ID or set-group-ID: run by others, it ignores most of the environment.
    pub set_user_id: bool,
    root: Root,
    loader: Arc<Loader>,
}

/// One object of a [`Closure`].
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// assert_eq!(closure.objects[0].path.as_deref(), Some("/proc/self/exe".as_ref()));
/// assert!(closure.objects[1..].iter().all(|object| object.loaded_by.is_some()));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Object {
    /// The name by which it was first asked for, tokens expanded.
    pub name: Vec<u8>,
    /// Where it is; `None` if it is missing.
    pub path: Option<PathBuf>,
    /// Why it is there.
    pub role: Role,
    /// By which rule it was found.
    pub rule: Option<Rule>,
    /// The places where it was not found, in order.
    pub lost: Vec<Candidate>,
    /// What ends the loading: a file that is found and is no library.
    pub fatal: Option<ErrorKind>,
    /// The object that brought it in.
    pub loaded_by: Option<usize>,
    /// What it needs, in order.
    pub needs: Vec<Need>,
    origin: Option<PathBuf>,
    /// Whether neither it nor anything above it has a search path.
    pathless: bool,
    facts: Option<Arc<Facts>>,
}

/// Why an object is part of a [`Closure`].
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// assert_eq!(closure.objects[0].role, soload::Role::Root);
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// It is the file that was asked about.
    Root,
    /// `LD_PRELOAD` or `/etc/ld.so.preload` names it.
    Preloaded {
        /// Which of the two.
        by: &'static str,
    },
    /// Another object needs it.
    Needed,
    /// It stands in for the definitions of another object (`DT_FILTER`), or may (`DT_AUXILIARY`).
    Filtee {
        /// Whether the other object does without it.
        auxiliary: bool,
    },
    /// The dynamic loader, which is there from the start.
    Loader,
    /// The program that opens the file has it already, or is it.
    Present,
}

/// One `DT_NEEDED` entry of an [`Object`], or one that has the same effect.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// for need in &closure.objects[0].needs {
///     assert!(closure.objects[need.object].path.is_some());
/// }
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Need {
    /// The entry as it is written.
    pub name: Vec<u8>,
    /// What it means: an index of [`Closure::objects`].
    pub object: usize,
    /// How it came to mean that.
    pub via: Via,
    /// What kind of entry it is.
    pub tag: Tag,
}

/// The entries by which an object asks for another.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// assert!(closure.objects[0].needs.iter().all(|need| need.tag == soload::Tag::Needed));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tag {
    /// `DT_NEEDED`.
    Needed,
    /// `DT_FILTER`: the other's definitions stand in for its own.
    Filter,
    /// `DT_AUXILIARY`: the same, if the other is there.
    Auxiliary,
}

/// How a name came to mean an object.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// assert_eq!(closure.objects[0].needs[0].via, soload::Via::Search);
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Via {
    /// It was searched for, and this entry brought it in or found it missing.
    Search,
    /// An object that was there already has that name or soname.
    Name,
    /// The search ended at a file that was there already under another name.
    File,
}

/// Resolves files, each afresh; what it reads of a file it keeps for the next.
///
/// ```
/// let mut resolver = soload::Resolver::new();
/// resolver.secure(true);
/// assert!(resolver.resolve("/proc/self/exe".as_ref())?.is_complete());
/// # Ok::<(), soload::Error>(())
/// ```
pub struct Resolver {
    library_path: OsString,
    preload: OsString,
    audit: OsString,
    secure: bool,
    root: Root,
    cpu: Option<String>,
    libc: Option<Libc>,
    /// What `/etc/ld.so.preload` says, read when it is first asked for.
    preload_file: OnceLock<Vec<u8>>,
    loaders: Mutex<HashMap<Kind, Arc<Loader>>>,
    read: Mutex<Read>,
}

/// What is known of files: by path, and by identity.
#[derive(Default)]
struct Read {
    by_path: HashMap<Box<[u8]>, Result<Arc<Facts>, ErrorKind>>,
    by_identity: HashMap<Identity, Arc<Facts>>,
    /// Room for the pieces of the file that is being read.
    buffer: Vec<u8>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}

impl Resolver {
    /// One that goes by this process's environment (`LD_LIBRARY_PATH`, `LD_PRELOAD`), file system and processor.
    #[must_use]
    pub fn new() -> Self {
        let variable = |name| std::env::var_os(name).unwrap_or_default();
        let (library_path, preload) = (variable("LD_LIBRARY_PATH"), variable("LD_PRELOAD"));
        let audit = variable("LD_AUDIT");
        Self {
            library_path,
            preload,
            audit,
            secure: false,
            root: Root::default(),
            cpu: None,
            libc: None,
            preload_file: OnceLock::new(),
            loaders: Mutex::default(),
            read: Mutex::default(),
        }
    }

    /// Whether to resolve as for a set-user-ID program that another user runs.
    pub fn secure(&mut self, secure: bool) -> &mut Self {
        self.secure = secure;
        self.forget();
        self
    }

    /// Takes `directory` for the root of the file system: every path is one in it, links stay inside, and its own cache
    /// and configuration count. The environment of this process does not.
    ///
    /// # Errors
    /// The directory cannot be opened, or this kernel (before 5.6) cannot confine links to it.
    ///
    /// ```
    /// let mut resolver = soload::Resolver::new();
    /// resolver.root("/".as_ref())?;
    /// let closure = resolver.resolve("/usr/bin/env".as_ref())?;
    /// assert!(closure.is_complete());
    /// # Ok::<(), soload::Error>(())
    /// ```
    pub fn root(&mut self, directory: &Path) -> Result<&mut Self, Error> {
        self.root = Root::at(directory).map_err(|kind| Error::new(directory, kind))?;
        (self.library_path, self.preload, self.audit) = Default::default();
        self.forget();
        Ok(self)
    }

    /// Resolves as for a processor of this level, the name of a subdirectory of `glibc-hwcaps` such as `x86-64-v3`;
    /// for the least one of its machine if that has no such level. Without this it is the processor of this process.
    pub fn cpu(&mut self, level: &str) -> &mut Self {
        self.cpu = Some(level.to_owned());
        self.forget();
        self
    }

    /// Resolves as the loader of this C library does, whatever the file says.
    pub fn libc(&mut self, libc: Libc) -> &mut Self {
        self.libc = Some(libc);
        self.forget();
        self
    }

    /// Where a path that is asked about, or that an answer has, lies in this process's file system: somewhere else only
    /// with [`Resolver::root`].
    ///
    /// ```
    /// assert_eq!(soload::Resolver::new().place("/bin/ls".as_ref()), std::path::Path::new("/bin/ls"));
    /// ```
    #[must_use]
    pub fn place(&self, path: &Path) -> PathBuf {
        self.root.outside(&self.root.inside(path))
    }

    fn forget(&mut self) {
        self.preload_file = OnceLock::new();
        self.loaders = Mutex::default();
        self.read = Mutex::default();
    }

    /// What comes into the process with the file at `path`, if it is run or loaded.
    ///
    /// # Errors
    /// The file cannot be read, is no ELF file, or is neither program nor shared object.
    pub fn resolve(&self, path: &Path) -> Result<Closure, Error> {
        resolve::resolve(self, path, None).map_err(|kind| Error::new(path, kind))
    }

    /// What comes into the process when the program at `program`, once it runs, opens the library at `path`: what the
    /// program has serves the library too, and the program's own search path counts (`DT_RPATH`).
    ///
    /// # Errors
    /// As [`Resolver::resolve`], of either file.
    ///
    /// ```
    /// let closure = soload::Resolver::new().resolve_in("/lib64/ld-linux-x86-64.so.2".as_ref(), "/proc/self/exe".as_ref());
    /// # #[cfg(target_arch = "x86_64")]
    /// assert!(closure?.objects.iter().any(|object| object.role == soload::Role::Present));
    /// # Ok::<(), soload::Error>(())
    /// ```
    pub fn resolve_in(&self, path: &Path, program: &Path) -> Result<Closure, Error> {
        self.asked(&self.root.inside(program)).map_err(|kind| Error::new(program, kind))?;
        resolve::resolve(self, path, Some(program)).map_err(|kind| Error::new(path, kind))
    }

    /// Whether it matters in which directory the program lies: finding that out takes a system call for each link on the
    /// way, and few programs have a token anywhere.
    fn wants_origin(&self, program: &Facts) -> bool {
        let names = program.names();
        let single = [&names.rpath, &names.runpath, &names.audit, &names.depaudit].into_iter().flatten();
        let texts = single.chain(names.filters.iter().map(|(_, name)| name)).map(|text| &**text);
        let texts = texts.chain(names.needed.iter());
        let variables = [&self.library_path, &self.preload, &self.audit].map(|variable| variable.as_bytes());
        texts.chain(variables).any(|text| text.contains(&b'$'))
    }

    /// The loader that would run it.
    fn loader(&self, root: &Facts) -> Arc<Loader> {
        let kind = Loader::kind(self, root);
        let mut loaders = self.loaders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = loaders.get(&kind) {
            return Arc::clone(known);
        }
        let loader = Arc::new(Loader::of(self, root, kind.0));
        loaders.insert(kind, Arc::clone(&loader));
        loader
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn facts(&self, path: &Path) -> Result<Arc<Facts>, ErrorKind> {
        // A path as bytes: comparing and hashing its components takes longer than reading the file.
        let name = path.as_os_str().as_bytes();
        let mut read = self.read();
        if let Some(known) = read.by_path.get(name) {
            return known.clone();
        }
        let facts = self.root.open(path).and_then(|file| read.facts(file));
        read.by_path.insert(name.into(), facts.clone());
        facts
    }

    /// A file that is asked about. Of thousands of those nothing is remembered that is no object.
    fn asked(&self, path: &Path) -> Result<Arc<Facts>, ErrorKind> {
        self.read().facts(self.root.open(path)?)
    }
}

impl Read {
    fn facts(&mut self, file: RegularFile) -> Result<Arc<Facts>, ErrorKind> {
        if let Some(known) = self.by_identity.get(&file.identity) {
            return Ok(Arc::clone(known));
        }
        let facts = Arc::new(Facts::read(file, &mut self.buffer)?);
        self.by_identity.insert(facts.identity, Arc::clone(&facts));
        Ok(facts)
    }
}

impl Closure {
    /// Whether the loader would get as far as running it: every library, version and the interpreter is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let interpreter = self.interpreter.as_ref().is_none_or(|(_, error)| error.is_none());
        let fatal = self.version_problems.iter().any(|problem| problem.fatal);
        interpreter && !fatal && self.objects.iter().all(|object| object.is_there() || object.is_dispensable())
    }

    /// Whether nothing is needed at all: a static program, or a library that rests on nothing.
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.objects[0].facts.as_ref().is_some_and(|facts| facts.names().needed.is_empty())
    }

    /// Whether it has a dynamic section: without one no loader has anything to do.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        self.objects[0].facts.as_ref().is_some_and(|facts| facts.dynamic)
    }

    /// Whether the file is for the machine that this process runs on.
    #[must_use]
    pub fn is_native(&self) -> bool {
        self.objects[0].facts.as_ref().is_some_and(|facts| facts.is_native())
    }
}

impl Object {
    /// Whether it was found and can be loaded.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.path.is_some() && self.fatal.is_none()
    }

    /// Whether whoever asks for it does without it.
    #[must_use]
    pub fn is_dispensable(&self) -> bool {
        self.role == Role::Filtee { auxiliary: true }
    }

    /// The program that runs it, if it names one (`PT_INTERP`).
    #[must_use]
    pub fn interpreter(&self) -> Option<&[u8]> {
        self.facts.as_ref()?.brief.interpreter.as_deref()
    }

    /// What it says that it may open at run time (`.note.dlopen`): one JSON text for each note, as it stands.
    pub fn may_open(&self) -> impl Iterator<Item = &[u8]> {
        self.facts.iter().flat_map(|facts| facts.brief.opens.iter().map(|text| &**text))
    }

    /// Its own name (`DT_SONAME`).
    #[must_use]
    pub fn soname(&self) -> Option<&[u8]> {
        self.facts.as_ref()?.names().soname.as_deref()
    }
}
