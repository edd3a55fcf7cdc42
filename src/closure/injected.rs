//! What comes into a process without being needed: objects that are to be preloaded, and auditors.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Role;
use super::resolve::Growth;
use crate::error::{Error, ErrorKind};
use crate::find::{Libc, Root};

/// Bytes of `/etc/ld.so.preload` that are read.
const PRELOAD_MAX: u64 = 1 << 16;

/// A library that glibc's loader loads beside the program and calls at every step, before anything of the program runs.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// assert!(closure.auditors.is_empty());
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Auditor {
    /// The name by which it is asked for.
    pub name: Vec<u8>,
    /// Who asks: `LD_AUDIT`, `DT_AUDIT` or `DT_DEPAUDIT`.
    pub by: &'static str,
    /// Where it is, or why it is ignored.
    pub place: Result<PathBuf, ErrorKind>,
}

impl Growth<'_> {
    /// Loads what is to be preloaded; what cannot be is ignored, as in glibc.
    pub(super) fn preload(&mut self) -> Vec<Error> {
        let file = match self.rules.libc {
            Libc::Glibc => self.resolver.preload_file.get_or_init(|| read_preload_file(&self.resolver.root)),
            Libc::Musl | Libc::Bionic => &Vec::new(),
        };
        let variable = self.resolver.preload.as_bytes().to_vec();
        let variable = variable.split(|byte| b" :".contains(byte));
        let file = file.split(|byte| b" :\t\n".contains(byte));
        let names = variable.map(|name| (name, "LD_PRELOAD")).chain(file.map(|name| (name, "/etc/ld.so.preload")));
        let mut problems = Vec::new();
        for (name, by) in names.filter(|(name, _)| !name.is_empty()) {
            // Whoever starts a set-user-ID program may only choose among the libraries of the system.
            if self.resolver.secure && by == "LD_PRELOAD" && name.contains(&b'/') {
                continue;
            }
            let before = self.objects.len();
            let Ok((index, _)) = self.name(name, 0, Role::Preloaded { by }) else { continue };
            let object = &mut self.objects[index];
            if object.path.is_none() || object.fatal.is_some() {
                let kind =
                    object.fatal.take().unwrap_or(ErrorKind::NotFound { tried: std::mem::take(&mut object.lost) });
                self.objects.truncate(before);
                self.order.truncate(before);
                problems.push(Error::new(OsStr::from_bytes(name), kind).with_needed_by(by));
            }
        }
        problems
    }

    /// The auditors of the program. They come with what they need themselves into a namespace of their own, so that
    /// nothing of them joins.
    pub(super) fn auditors(&self) -> Vec<Auditor> {
        if self.rules.libc != Libc::Glibc || self.objects[0].interpreter().is_none() {
            return Vec::new();
        }
        let root = self.objects[0].facts.clone();
        let names = root.as_ref().map(|facts| facts.names());
        let tag = |of: fn(&crate::file::dynamic::Names) -> &Option<Box<[u8]>>| {
            names.and_then(|names| of(names).as_deref()).unwrap_or_default()
        };
        let variable = if self.resolver.secure { b"" } else { self.resolver.audit.as_bytes() };
        let lists = [
            ("LD_AUDIT", variable),
            ("DT_AUDIT", tag(|names| &names.audit)),
            ("DT_DEPAUDIT", tag(|names| &names.depaudit)),
        ];
        let names =
            lists.into_iter().flat_map(|(by, list)| list.split(|byte| *byte == b':').map(move |name| (by, name)));
        let auditors = names.filter(|(_, name)| !name.is_empty()).map(|(by, name)| {
            let place = self.find(name, 0).map(|found| found.file.0);
            Auditor { name: name.to_vec(), by, place }
        });
        auditors.collect()
    }
}

/// What `/etc/ld.so.preload` says, its comments left out.
fn read_preload_file(root: &Root) -> Vec<u8> {
    let text = root.text(Path::new("/etc/ld.so.preload"), PRELOAD_MAX).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b'#').next());
    lines.flatten().collect::<Vec<_>>().join(&b'\n')
}
