//! Which directories of a search path exist, so that what is absent is not asked for every library again.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How to ask whether a directory exists; the error is why not.
pub(crate) type Look = Box<dyn Fn(&Path) -> Result<(), &'static str> + Send + Sync>;

/// The answer of this machine's file system.
pub(crate) fn look(dir: &Path) -> Result<(), &'static str> {
    match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err("not a directory"),
        Err(error) => Err(match error.kind() {
            std::io::ErrorKind::NotFound => "no such directory",
            std::io::ErrorKind::PermissionDenied => "no permission to enter the directory",
            std::io::ErrorKind::NotADirectory => "not a directory",
            _ => "the directory cannot be examined",
        }),
    }
}

/// Which of a directory's hwcaps subdirectories exist: bit n stands for the n-th of them.
pub(super) type Present = Result<u32, &'static str>;

/// What is known of directories, by their path with a slash at the end.
#[derive(Default)]
pub(super) struct Known(HashMap<Box<[u8]>, Present>);

impl Known {
    /// What exists of `dir` (empty, or with a slash at the end).
    ///
    /// Only absolute paths are remembered: another working directory makes other directories of the relative ones.
    pub(super) fn present(&mut self, dir: &[u8], subdirectories: &[Vec<u8>], look: &Look) -> Present {
        if let Some(present) = self.0.get(dir) {
            return *present;
        }
        let present = survey(dir, subdirectories, look);
        if dir.starts_with(b"/") {
            self.0.insert(dir.into(), present);
        }
        present
    }
}

fn survey(dir: &[u8], subdirectories: &[Vec<u8>], look: &Look) -> Present {
    let mut path = dir.to_vec();
    let mut exists = |sub: &[u8]| {
        path.truncate(dir.len());
        path.extend_from_slice(sub);
        look(Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { &path })))
    };
    exists(b"")?;
    // Most directories have none of the subdirectories; asking for the first component of each is enough to know.
    let mut roots: Vec<(&[u8], bool)> = Vec::new();
    let mut present = 0;
    for (bit, sub) in subdirectories.iter().enumerate() {
        let root = sub.split_inclusive(|&byte| byte == b'/').next().unwrap_or_default();
        let root_exists = roots.iter().find(|(known, _)| *known == root).map(|(_, exists)| *exists);
        let root_exists = root_exists.unwrap_or_else(|| {
            roots.push((root, exists(root).is_ok()));
            roots[roots.len() - 1].1
        });
        if root_exists && (sub == root || exists(sub).is_ok()) {
            present |= 1 << bit;
        }
    }
    Ok(present)
}
