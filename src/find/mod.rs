//! Which file a needed name means, where it was found, and why every other candidate lost.
//!
//! The order is that of glibc 2.36 (`ld.so(8)`, gABI chapter 5 "Shared Object Dependencies"). A name with a slash is a
//! path. Any other name is looked for in
//!
//! 1. the directories the caller gave (`OpenOptions::search_dir`),
//! 2. the RPATH of the asker, of the object that loaded it, and so on up to the program: all of this only if the asker
//!    has no RUNPATH, and skipping every object that has one,
//! 3. `LD_LIBRARY_PATH`, unless the program is set-user-ID,
//! 4. the RUNPATH of the asker alone,
//! 5. `/etc/ld.so.cache`, and 6. the directories built into the loader; neither of the latter two for an object that
//!    was linked with `-z nodefaultlib`.
//!
//! The search itself decides; what touches the system comes in as `Look` and as the caller's `probe`.

mod cache;
mod dirs;
pub(crate) mod graph;
mod hwcaps;
mod rule;
mod settings;
mod tokens;
mod walk;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Candidate, ErrorKind};
use cache::{Cache, CacheFile};
pub use rule::Rule;
use rule::{Place, lost};
pub(crate) use settings::Settings;
use tokens::Owner;
use walk::Walk;

/// The object that asks for a library: one link of the chain along which `DT_RPATH` is inherited.
///
/// The last link is the program. Where libraries are opened at run time, that means: the chain of an opened library
/// goes straight on to the program, as glibc consults the program's RPATH for every search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// How messages call it.
    pub(crate) name: &'a Path,
    /// Its directory, the value of `$ORIGIN`.
    pub(crate) origin: Option<&'a Path>,
    /// `DT_RPATH`.
    pub(crate) rpath: Option<&'a [u8]>,
    /// `DT_RUNPATH`. Even an empty one disables every RPATH.
    pub(crate) runpath: Option<&'a [u8]>,
    /// Whether it was linked with `-z nodefaultlib` (`DF_1_NODEFLIB`).
    pub(crate) nodeflib: bool,
    /// The object that brought it in.
    pub(crate) loaded_by: Option<&'a Asker<'a>>,
}

/// What opening a candidate gave; `T` is whatever the caller keeps of the open file.
#[derive(Debug)]
pub(crate) enum Probe<T> {
    /// There is no such file, or no permission to open it (`ENOENT`, `EACCES`). The text is the reason.
    Absent(String),
    /// A library for another class or machine. It is passed over, as glibc does.
    Unsuitable(String),
    /// Any other error of opening it, such as a circle of links. glibc then leaves the rest of this list of
    /// directories alone and goes on with the next rule.
    Unreachable(String),
    /// The one.
    Found(T),
    /// A file that ends the search, such as one that is not an ELF file at all.
    Fatal(ErrorKind),
}

/// A library that was found.
#[derive(Debug)]
pub(crate) struct Found<T> {
    /// What the probe kept of it.
    pub(crate) file: T,
    /// The path under which it was opened: relative if the directory was.
    pub(crate) path: PathBuf,
    /// Why it was looked for there.
    pub(crate) rule: Rule,
    /// What was tried before, in order.
    pub(crate) lost: Vec<Candidate>,
}

/// The search of one loader: its settings, and what it knows of the file system.
pub(crate) struct Search {
    settings: Settings,
    /// Where to look in every directory: hwcaps subdirectories best first, then the directory itself.
    subdirectories: Vec<Vec<u8>>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    known: dirs::Known,
    cache: CacheFile,
    /// Whether the cache file was compared with what was read of it.
    checked: bool,
}

impl Search {
    /// A search by these settings.
    pub(crate) fn new(settings: Settings) -> Self {
        Self { subdirectories: settings.hwcaps.subdirectories(), settings, memory: Mutex::default() }
    }

    /// The search that the loader of this process does. `platform` is what the kernel says (`AT_PLATFORM`).
    pub(crate) fn of_this_process(library_path: Option<&[u8]>, secure: bool, platform: Option<&[u8]>) -> Self {
        Self::new(Settings::of_this_process(library_path, secure, platform))
    }

    /// Forgets which directories exist, and has the cache file looked at again. To be called before each `open`, so
    /// that directories are asked for once per group, and yet are seen when they appear between two.
    pub(crate) fn refresh(&self) {
        let mut memory = self.memory();
        memory.known = dirs::Known::default();
        memory.checked = false;
    }

    /// The file that `name` means when `asker` needs it, as `probe` opened it.
    pub(crate) fn find<T>(
        &self,
        name: &[u8],
        asker: &Asker<'_>,
        extra_dirs: &[PathBuf],
        probe: &mut dyn FnMut(&Path) -> Probe<T>,
    ) -> Result<Found<T>, ErrorKind> {
        let name = &*self.plain_name(name, asker)?;
        let mut walk = Walk { search: self, name, probe, path: Vec::with_capacity(256), lost: Vec::new() };
        match walk.places(asker, extra_dirs)? {
            Some((file, rule)) => Ok(Found { file, path: OsStr::from_bytes(&walk.path).into(), rule, lost: walk.lost }),
            None => Err(ErrorKind::NotFound { tried: walk.lost }),
        }
    }

    /// `name` with its tokens expanded.
    fn plain_name<'n>(&self, name: &'n [u8], asker: &Asker<'_>) -> Result<Cow<'n, [u8]>, ErrorKind> {
        if name.contains(&0) {
            return Err(ErrorKind::NulInName);
        }
        if name.len() > tokens::PATH_LIMIT {
            let (limit, found) = (tokens::PATH_LIMIT as u64, name.len() as u64);
            return Err(ErrorKind::Limit { what: "length of a library's name", limit, found });
        }
        if !tokens::has_token(name) {
            return Ok(name.into());
        }
        let mut plain = Vec::new();
        let expanded = if self.settings.secure {
            Err("tokens in names are not for set-user-ID programs")
        } else {
            tokens::expand(name, asker.owner(), &self.settings, &mut plain)
        };
        expanded
            .map(|()| plain.into())
            .map_err(|reason| ErrorKind::NotFound { tried: vec![lost(name, Place::AsGiven, reason.into())] })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // What is in there is complete after every statement, so a panic elsewhere does not spoil it.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> Result<Arc<Cache>, &'static str> {
        let memory = &mut *self.memory();
        match memory.cache.last() {
            Some(cache) if memory.checked => cache,
            _ => {
                memory.checked = true;
                memory.cache.read(&self.settings.cache)
            }
        }
    }
}

impl Asker<'_> {
    fn owner(&self) -> Owner<'_> {
        Owner { origin: self.origin, program: self.loaded_by.is_none() }
    }
}
