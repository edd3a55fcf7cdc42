//! What would probably bring a missing library back: where something like it is, and why the loader does not look there.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Closure, Object};
use crate::error::Error;
use crate::find::{Libc, Root};

/// Bytes of one file of `ld.so.conf`, files that it includes, and directories that it names.
const CONF_MAX: u64 = 1 << 16;
const FILES_MAX: usize = 256;
const DIRECTORIES_MAX: usize = 1024;

impl Closure {
    /// What to do about object number `object` if it is missing, as far as the file system shows it.
    ///
    /// ```
    /// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
    /// assert_eq!(closure.hint(0), None);
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn hint(&self, object: usize) -> Option<String> {
        let missing = self.objects.get(object).filter(|object| !object.is_there())?;
        if let Some(kind) = &missing.fatal {
            return Error::new(OsStr::from_bytes(&missing.name), kind.clone()).help();
        }
        let name = Path::new(OsStr::from_bytes(&missing.name));
        if missing.name.contains(&b'/') {
            return Some("that path is written into the file; put the library there, or link the file anew".into());
        }
        if let Some(other) = missing.lost.iter().find(|lost| lost.reason.contains(": expected ")) {
            let place = crate::error::shown(&other.path);
            return Some(format!("{place} is for another kind of machine; install the library for this one"));
        }
        self.not_in_the_cache(name)
            .or_else(|| self.beside_its_user(missing, name))
            .or_else(|| self.other_version(name))
            .or_else(|| Some("no directory that is searched has it; install the package that does".into()))
    }

    /// `ldconfig` has not run since it was put there: glibc's loader does not read `ld.so.conf`.
    fn not_in_the_cache(&self, name: &Path) -> Option<String> {
        if self.libc != Libc::Glibc {
            return None;
        }
        let directories = directories_of_conf(&self.root);
        let place = directories.iter().map(|directory| directory.join(name)).find(|place| self.has(place))?;
        let place = crate::error::shown(place.parent()?).to_string();
        Some(format!("it is in {place}, which ld.so.conf names, but not in the cache: run `ldconfig`"))
    }

    fn beside_its_user(&self, missing: &Object, name: &Path) -> Option<String> {
        let user = self.objects[missing.loaded_by?].path.as_deref()?;
        let directory = user.parent()?;
        if !self.has(&directory.join(name)) {
            return None;
        }
        let (user, directory) = (crate::error::shown(user), crate::error::shown(directory));
        Some(format!(
            "it is beside {user}, which does not look there: give that the RUNPATH $ORIGIN, or set LD_LIBRARY_PATH={directory}"
        ))
    }

    /// The same library with another number behind `.so`.
    fn other_version(&self, name: &Path) -> Option<String> {
        let name = name.as_os_str().as_bytes();
        let stem = name.windows(3).position(|part| part == b".so").map(|at| &name[..at + 3])?;
        let defaults = self.loader.search.settings().built_in.directories.clone();
        let known = self.objects.iter().filter_map(|object| Some(object.path.as_deref()?.parent()?.to_owned()));
        let directories: BTreeSet<PathBuf> = defaults.into_iter().chain(known).collect();
        let mut others = BTreeSet::new();
        for directory in directories {
            let entries = std::fs::read_dir(self.root.outside(&directory)).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name());
            let alike = names.filter(|other| {
                let rest = other.as_bytes().strip_prefix(stem);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
            });
            others.extend(alike.map(|other| directory.join(other)));
        }
        let other = others.into_iter().next()?;
        Some(format!("there is {}, of another version: install the one that is asked for", crate::error::shown(&other)))
    }

    fn has(&self, place: &Path) -> bool {
        self.root.metadata(place).is_ok_and(|metadata| metadata.is_file())
    }
}

/// The directories that `ldconfig` would go through.
fn directories_of_conf(root: &Root) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    // The next at the end.
    let mut pending = vec![PathBuf::from("/etc/ld.so.conf")];
    let mut read = 0;
    while let Some(file) = pending.pop().filter(|_| read < FILES_MAX) {
        read += 1;
        let text = root.text(&file, CONF_MAX).unwrap_or_default();
        let mut included = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
            match line.strip_prefix(b"include").filter(|rest| rest.starts_with(b" ") || rest.starts_with(b"\t")) {
                Some(patterns) => {
                    let patterns = patterns.split(u8::is_ascii_whitespace).filter(|pattern| !pattern.is_empty());
                    included.extend(patterns.flat_map(|pattern| matching(root, &file, pattern)));
                }
                None => {
                    let items = line.split(|byte| b" \t:,".contains(byte)).filter(|item| item.starts_with(b"/"));
                    directories.extend(items.map(|item| PathBuf::from(OsStr::from_bytes(item))));
                }
            }
        }
        pending.extend(included.into_iter().rev());
    }
    directories.truncate(DIRECTORIES_MAX);
    directories
}

/// The files that a pattern names: one star in the last component is all that is written in practice.
fn matching(root: &Root, from: &Path, pattern: &[u8]) -> Vec<PathBuf> {
    let pattern = from.parent().unwrap_or(from).join(OsStr::from_bytes(pattern));
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name()) else { return Vec::new() };
    let name = name.as_bytes();
    let Some(star) = name.iter().position(|byte| *byte == b'*') else { return vec![pattern] };
    let (before, after) = (&name[..star], &name[star + 1..]);
    let entries = std::fs::read_dir(root.outside(directory)).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name()).filter(|name| {
        let rest = name.as_bytes().strip_prefix(before);
        rest.is_some_and(|rest| rest.ends_with(after)) && !name.as_bytes().starts_with(b".")
    });
    let mut files: Vec<PathBuf> = names.map(|name| directory.join(name)).collect();
    files.sort_unstable();
    files
}
