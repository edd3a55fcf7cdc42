//! One search: place after place in glibc's order, up to the first that has the library.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::rule::{Place, Rule, lost};
use super::tokens::{self, Owner};
use super::{Asker, Probe, Search};
use crate::error::{Candidate, ErrorKind};

/// One search under way.
pub(super) struct Walk<'s, 'p, T> {
    pub(super) search: &'s Search,
    pub(super) name: &'s [u8],
    pub(super) probe: &'p mut dyn FnMut(&Path) -> Probe<T>,
    /// The candidate, or the directory that is to become one; in the end, the file that was found.
    pub(super) path: Vec<u8>,
    pub(super) lost: Vec<Candidate>,
}

/// What is in one place: a file that was found and why, nothing, or what ends the whole search.
pub(super) type Step<T> = Result<Option<(T, Rule)>, ErrorKind>;

impl<T> Walk<'_, '_, T> {
    /// All places in order, up to the first that has the library.
    pub(super) fn places(&mut self, asker: &Asker<'_>, extra_dirs: &[PathBuf]) -> Step<T> {
        if self.name.is_empty() {
            return Ok(None);
        }
        if self.name.contains(&b'/') {
            self.path.extend_from_slice(self.name);
            return Ok(self.candidate(Place::AsGiven)?.found);
        }
        let search = self.search;
        if let found @ Some(_) = self.fixed(extra_dirs, Place::SearchDir)? {
            return Ok(found);
        }
        if asker.runpath.is_none() {
            let chain = std::iter::successors(Some(asker), |asker| asker.loaded_by);
            for link in chain.filter(|link| link.runpath.is_none()) {
                let rpath = link.rpath.unwrap_or_default();
                let place = |item| Place::Rpath { of: link.name, item };
                if let found @ Some(_) = self.list(rpath, b":", "directories in DT_RPATH", link.owner(), place)? {
                    return Ok(found);
                }
            }
        }
        let settings = &search.settings;
        let program = Owner { origin: settings.program_origin.as_deref(), program: true };
        let place = |item| Place::LibraryPath { item };
        let what = "directories in LD_LIBRARY_PATH";
        if let found @ Some(_) = self.list(&settings.library_path, b":;", what, program, place)? {
            return Ok(found);
        }
        let runpath = asker.runpath.unwrap_or_default();
        let place = |item| Place::Runpath { of: asker.name, item };
        if let found @ Some(_) = self.list(runpath, b":", "directories in DT_RUNPATH", asker.owner(), place)? {
            return Ok(found);
        }
        if let found @ Some(_) = self.cached(asker.nodeflib)? {
            return Ok(found);
        }
        if asker.nodeflib { Ok(None) } else { self.fixed(&settings.default_dirs, Place::Default) }
    }

    /// The directories of a search path.
    fn list<'i>(
        &mut self,
        list: &'i [u8],
        separators: &[u8],
        what: &'static str,
        owner: Owner<'_>,
        place: impl Fn(&'i [u8]) -> Place<'i>,
    ) -> Step<T> {
        if list.is_empty() {
            return Ok(None);
        }
        for item in tokens::items(list, separators, what)? {
            self.path.clear();
            let place = place(item);
            if let Err(reason) = tokens::expand(item, owner, &self.search.settings, &mut self.path) {
                self.lost.push(lost(item, place, reason.into()));
                continue;
            }
            if self.path.is_empty() && !item.is_empty() {
                continue;
            }
            let tried = self.directory(place)?;
            if tried.found.is_some() || tried.unreachable {
                return Ok(tried.found);
            }
        }
        Ok(None)
    }

    /// Directories that are written down without tokens.
    fn fixed(&mut self, dirs: &[PathBuf], place: Place<'_>) -> Step<T> {
        for dir in dirs {
            self.path.clear();
            self.path.extend_from_slice(dir.as_os_str().as_bytes());
            let tried = self.directory(place)?;
            if tried.found.is_some() || tried.unreachable {
                return Ok(tried.found);
            }
        }
        Ok(None)
    }

    /// The directory in `path` and its hwcaps subdirectories.
    fn directory(&mut self, place: Place<'_>) -> Result<Tried<T>, ErrorKind> {
        while self.path.len() > 1 && self.path.ends_with(b"/") {
            self.path.pop();
        }
        if !self.path.is_empty() && !self.path.ends_with(b"/") {
            self.path.push(b'/');
        }
        let search = self.search;
        let present = search.memory().known.present(&self.path, &search.subdirectories, &search.settings.look);
        let present = match present {
            Ok(present) => present,
            Err(reason) => {
                self.lost.push(lost(&self.path, place, reason.into()));
                return Ok(Tried { found: None, unreachable: false });
            }
        };
        let dir = self.path.len();
        let mut tried = Tried { found: None, unreachable: false };
        for (bit, sub) in search.subdirectories.iter().enumerate() {
            if present >> bit & 1 == 1 {
                self.path.truncate(dir);
                self.path.extend_from_slice(sub);
                self.path.extend_from_slice(self.name);
                tried = self.candidate(place)?;
                if tried.found.is_some() {
                    break;
                }
            }
        }
        // What counts is the error of the last try, the one in the directory itself.
        Ok(tried)
    }

    /// What the cache has for the name.
    fn cached(&mut self, nodeflib: bool) -> Step<T> {
        let search = self.search;
        let settings = &search.settings;
        let cache = search.cache();
        let hit = cache.as_ref().map_err(|reason| *reason).and_then(|cache| {
            cache.lookup(self.name, settings.cache_flags, &settings.hwcaps).ok_or("the cache has no such name")
        });
        let hit = match hit {
            Ok(hit) => hit,
            Err(reason) => {
                let path = settings.cache.as_os_str().as_bytes();
                self.lost.push(lost(path, Place::Cache { level: None }, reason.into()));
                return Ok(None);
            }
        };
        let place = Place::Cache { level: hit.level };
        let path = Path::new(OsStr::from_bytes(hit.path));
        if nodeflib && settings.default_dirs.iter().any(|dir| path.starts_with(dir)) {
            self.lost.push(lost(hit.path, place, "in a default directory, which the asker excludes".into()));
            return Ok(None);
        }
        self.path.clear();
        self.path.extend_from_slice(hit.path);
        Ok(self.candidate(place)?.found)
    }

    /// The file at `path`.
    fn candidate(&mut self, place: Place<'_>) -> Result<Tried<T>, ErrorKind> {
        let (reason, unreachable) = match (self.probe)(Path::new(OsStr::from_bytes(&self.path))) {
            Probe::Found(file) => return Ok(Tried { found: Some((file, place.rule())), unreachable: false }),
            Probe::Fatal(kind) => return Err(kind),
            Probe::Absent(reason) | Probe::Unsuitable(reason) => (reason, false),
            Probe::Unreachable(reason) => (reason, true),
        };
        self.lost.push(lost(&self.path, place, reason));
        Ok(Tried { found: None, unreachable })
    }
}

/// What trying a file or directory gave.
struct Tried<T> {
    found: Option<(T, Rule)>,
    /// Whether it failed in a way that ends the list of directories it stands in.
    unreachable: bool,
}
