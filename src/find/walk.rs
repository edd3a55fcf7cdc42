//! One search: place after place in glibc's order, up to the first that has the library.

use std::ffi::OsStr;
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::cache::Hit;
use super::rule::{Place, Rule, lost};
use super::tokens::{self, Owner};
use super::{Asker, Libc, Probe, Search};
use crate::error::{Candidate, ErrorKind};

/// Places of one search that are kept to be told.
const LOST_MAX: usize = 4096;

/// One search under way.
pub(super) struct Walk<'s, 'p, T> {
    pub(super) search: &'s Search,
    pub(super) name: &'s [u8],
    pub(super) probe: &'p mut dyn FnMut(&Path) -> Probe<T>,
    pub(super) lost: Vec<Candidate>,
    /// The directories passed so far, where they are noted instead of being looked into.
    pub(super) noted: Option<Vec<PathBuf>>,
}

/// What ends a search: a file that was found, and by which rule, or a fatal error. To continue is to have lost here.
pub(super) type Step<T, C = ()> = ControlFlow<Result<(T, Rule), ErrorKind>, C>;

/// How a candidate lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Try the next one.
    Alone,
    /// Its error spoils the directories that follow in the same list.
    WithList,
}

impl<T> Walk<'_, '_, T> {
    /// All places in order.
    pub(super) fn places(&mut self, asker: &Asker<'_>, extra_dirs: &[PathBuf]) -> Step<T> {
        let settings = &self.search.settings;
        if let Some(step) = self.as_given() {
            return step;
        }
        match settings.libc {
            Libc::Glibc => {}
            Libc::Musl => return self.places_of_musl(asker),
            Libc::Bionic => return self.places_of_bionic(asker),
        }
        self.fixed(extra_dirs, Place::SearchDir)?;
        if asker.runpath.is_none() {
            let chain = std::iter::successors(Some(asker), |link| link.loaded_by);
            for link in chain.filter(|link| link.runpath.is_none()) {
                let place = |item| Place::Rpath { of: link.name, item };
                self.list(link.rpath, b":", "directories in DT_RPATH", link.owner(), place)?;
            }
        }
        let program =
            Owner { origin: settings.program_origin.as_deref().or_else(|| asker.program().origin), program: true };
        let place = |item| Place::LibraryPath { item };
        self.list(Some(&settings.library_path), b":;", "directories in LD_LIBRARY_PATH", program, place)?;
        let place = |item| Place::Runpath { of: asker.name, item };
        self.list(asker.runpath, b":", "directories in DT_RUNPATH", asker.owner(), place)?;
        self.cached(asker.nodeflib)?;
        if asker.nodeflib { Continue(()) } else { self.fixed(&settings.built_in.directories, Place::Default) }
    }

    /// The directories of a search path.
    pub(super) fn list<'i>(
        &mut self,
        list: Option<&'i [u8]>,
        separators: &[u8],
        what: &'static str,
        owner: Owner<'_>,
        place: impl Fn(&'i [u8]) -> Place<'i>,
    ) -> Step<T> {
        let Some(list) = list.filter(|list| !list.is_empty()) else { return Continue(()) };
        let items = match tokens::items(list, separators, what) {
            Ok(items) => items,
            Err(kind) => return Break(Err(kind)),
        };
        let mut path = Vec::new();
        for item in items {
            path.clear();
            match tokens::expand(item, owner, &self.search.settings, &mut path) {
                // Only an item that is empty as written means the working directory.
                Ok(()) if path.is_empty() && !item.is_empty() => {}
                // To musl it means nothing at all.
                Ok(()) if path.is_empty() && self.search.settings.libc == Libc::Musl => {}
                Ok(()) => {
                    if self.directory(&mut path, place(item))? == Lost::WithList {
                        break;
                    }
                }
                Err(reason) => self.lose(lost(item, place(item), reason.into())),
            }
        }
        Continue(())
    }

    /// Directories that are written down without tokens.
    pub(super) fn fixed(&mut self, dirs: &[PathBuf], place: Place<'_>) -> Step<T> {
        let mut path = Vec::new();
        for dir in dirs {
            path.clear();
            path.extend_from_slice(dir.as_os_str().as_bytes());
            if self.directory(&mut path, place)? == Lost::WithList {
                break;
            }
        }
        Continue(())
    }

    /// The directory at `path`, which becomes that of a candidate, and its hwcaps subdirectories.
    fn directory(&mut self, path: &mut Vec<u8>, place: Place<'_>) -> Step<T, Lost> {
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        if let Some(noted) = &mut self.noted {
            noted.push(OsStr::from_bytes(path).into());
            return Continue(Lost::Alone);
        }
        let search = self.search;
        let present = match search.memory().known.present(path, search.subdirectories(), &search.settings.look) {
            Ok(present) => present,
            Err(reason) => {
                self.lose(lost(path, place, reason.into()));
                return Continue(Lost::Alone);
            }
        };
        let dir = path.len();
        let mut how = Lost::Alone;
        for (bit, sub) in search.subdirectories().iter().enumerate() {
            if present >> bit & 1 == 1 {
                path.truncate(dir);
                path.extend_from_slice(sub);
                path.extend_from_slice(self.name);
                how = self.candidate(path, place)?;
            }
        }
        // What counts is the last try, the one in the directory itself.
        Continue(how)
    }

    /// What the cache has for the name.
    fn cached(&mut self, nodeflib: bool) -> Step<T> {
        if self.noted.is_some() {
            return Continue(());
        }
        let settings = &self.search.settings;
        let cache = self.search.memory().cache.get(&settings.cache, &settings.root, settings.order);
        let hit = cache.as_ref().map_err(|reason| *reason).and_then(|cache| {
            cache.lookup(self.name, settings.cache_flags, &settings.hwcaps).ok_or("the cache has no such name")
        });
        match hit {
            Ok(hit) => self.hit(&hit, nodeflib),
            Err(reason) => {
                let path = settings.cache.as_os_str().as_bytes();
                self.lose(lost(path, Place::Cache { level: None }, reason.into()));
                Continue(())
            }
        }
    }

    /// The file that the cache has for the name.
    fn hit(&mut self, hit: &Hit<'_>, nodeflib: bool) -> Step<T> {
        let place = Place::Cache { level: hit.level };
        let path = Path::new(OsStr::from_bytes(hit.path));
        if nodeflib && self.search.settings.built_in.directories.iter().any(|dir| path.starts_with(dir)) {
            let reason = "in a default directory, and the object that asks excludes those";
            self.lose(lost(hit.path, place, reason.into()));
        } else {
            self.candidate(hit.path, place)?;
        }
        Continue(())
    }

    fn lose(&mut self, candidate: Candidate) {
        // Ancestors by the thousand can each have directories by the thousand.
        if self.lost.len() < LOST_MAX {
            // Mostly there is one, and it is kept as long as the object.
            self.lost.reserve_exact(usize::from(self.lost.is_empty()));
            self.lost.push(candidate);
        }
    }

    /// The file at `path`.
    pub(super) fn candidate(&mut self, path: &[u8], place: Place<'_>) -> Step<T, Lost> {
        let (reason, how) = match (self.probe)(Path::new(OsStr::from_bytes(path))) {
            Probe::Found(file) => return Break(Ok((file, place.rule()))),
            Probe::Fatal(kind) => return Break(Err(kind)),
            Probe::Absent(reason) | Probe::Unsuitable(reason) => (reason, Lost::Alone),
            Probe::Unreachable(reason) => (reason, Lost::WithList),
        };
        self.lose(lost(path, place, reason));
        Continue(how)
    }
}
