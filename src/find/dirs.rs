//! Which directories of a search path exist, so that what is absent is not asked for every library again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How to ask whether a directory exists; the error is why not.
pub(crate) type Look = Box<dyn Fn(&Path) -> Result<(), &'static str> + Send + Sync>;

/// The answer of this machine's file system.
pub(crate) fn look(dir: &Path) -> Result<(), &'static str> {
    answer(std::fs::metadata(dir))
}

/// What it means that a directory is, or is not, to be had.
pub(super) fn answer(metadata: std::io::Result<std::fs::Metadata>) -> Result<(), &'static str> {
    match metadata {
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

/// Directories that are remembered from one group to the next.
const REMEMBERED_MAX: usize = 1024;

/// What is known of directories, by their path with a slash at the end.
#[derive(Default)]
pub(super) struct Known {
    present: BTreeMap<Box<[u8]>, u32>,
    absent: BTreeMap<Box<[u8]>, &'static str>,
}

impl Known {
    /// What exists of `dir` (empty, or with a slash at the end).
    ///
    /// Only absolute paths are remembered: another working directory makes other directories of the relative ones.
    pub(super) fn present(&mut self, dir: &[u8], subdirectories: &[Vec<u8>], look: &Look) -> Present {
        if let Some(present) = self.present.get(dir) {
            return Ok(*present);
        }
        if let Some(reason) = self.absent.get(dir) {
            return Err(reason);
        }
        let answer = survey(dir, subdirectories, look);
        if dir.starts_with(b"/") {
            match answer {
                Ok(present) => drop(self.present.insert(dir.into(), present)),
                Err(reason) => drop(self.absent.insert(dir.into(), reason)),
            }
        }
        answer
    }

    /// Has what did not exist asked for again. What did is kept, as glibc keeps it for as long as the process runs: where it
    /// is gone, opening a file in it says so.
    pub(super) fn refresh(&mut self) {
        self.absent.clear();
        if self.present.len() > REMEMBERED_MAX {
            self.present.clear();
        }
    }
}

fn survey(dir: &[u8], subdirectories: &[Vec<u8>], look: &Look) -> Present {
    let mut path = dir.to_vec();
    let mut exists = |sub: &[u8]| {
        path.truncate(dir.len());
        path.extend_from_slice(sub);
        look(Path::new(OsStr::from_bytes(&path)))
    };
    // A relative directory counts as existing, as in glibc: opening a file in it shows whether it does.
    if dir.starts_with(b"/") {
        exists(b"")?;
    }
    // Most directories have no subdirectory of this kind; asking for the first component of each is enough to know.
    let mut roots: Vec<(&[u8], bool)> = vec![(b"", true)];
    let mut present = 0;
    for (bit, sub) in subdirectories.iter().enumerate() {
        let root = sub.split_inclusive(|&byte| byte == b'/').next().unwrap_or_default();
        let root_exists = roots.iter().find(|(known, _)| *known == root).map(|(_, exists)| *exists);
        let root_exists = root_exists.unwrap_or_else(|| {
            let answer = exists(root).is_ok();
            roots.push((root, answer));
            answer
        });
        if root_exists && (sub == root || exists(sub).is_ok()) {
            present |= 1 << bit;
        }
    }
    Ok(present)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A file system of these directories, and what it was asked.
    fn directories(existing: &'static [&'static str]) -> (Look, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let look = move |path: &Path| {
            let path = path.to_str().unwrap();
            log.lock().unwrap().push(path.to_owned());
            if existing.contains(&path) { Ok(()) } else { Err("no such directory") }
        };
        (Box::new(look), asked)
    }

    fn subdirectories() -> Vec<Vec<u8>> {
        ["h/v3/", "h/v2/", "tls/x/", "tls/", "x/", ""].map(|sub| sub.as_bytes().to_vec()).to_vec()
    }

    #[test]
    fn a_directory_is_asked_for_once_and_so_is_each_first_component() {
        let (look, asked) = directories(&["/a/", "/a/h/", "/a/h/v2/", "/a/x/"]);
        let mut known = Known::default();
        for _ in 0..3 {
            assert_eq!(known.present(b"/a/", &subdirectories(), &look), Ok(0b11_0010));
        }
        assert_eq!(*asked.lock().unwrap(), ["/a/", "/a/h/", "/a/h/v3/", "/a/h/v2/", "/a/tls/", "/a/x/"]);
    }

    #[test]
    fn nothing_is_asked_below_a_directory_that_does_not_exist() {
        let (look, asked) = directories(&[]);
        let mut known = Known::default();
        for _ in 0..3 {
            assert_eq!(known.present(b"/a/", &subdirectories(), &look), Err("no such directory"));
        }
        assert_eq!(*asked.lock().unwrap(), ["/a/"]);
    }

    #[test]
    fn what_exists_is_remembered_and_what_does_not_is_asked_for_again() {
        let (look, asked) = directories(&["/a/", "/a/h/"]);
        let mut known = Known::default();
        for _ in 0..3 {
            assert_eq!(known.present(b"/a/", &subdirectories(), &look), Ok(0b10_0000));
            assert_eq!(known.present(b"/b/", &subdirectories(), &look), Err("no such directory"));
            known.refresh();
        }
        let of_a = ["/a/", "/a/h/", "/a/h/v3/", "/a/h/v2/", "/a/tls/", "/a/x/"];
        assert_eq!(*asked.lock().unwrap(), [&of_a[..], &["/b/"; 3]].concat());
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut known = Known::default();
        let look: Look = Box::new(|_| Ok(()));
        for n in 0..10 * REMEMBERED_MAX {
            known.present(format!("/{n}/").as_bytes(), &[Vec::new()], &look).unwrap();
            known.refresh();
        }
        assert!(known.present.len() <= REMEMBERED_MAX + 1);
    }

    #[test]
    fn a_relative_directory_counts_as_existing_and_is_not_remembered() {
        let (look, asked) = directories(&["tls/"]);
        let mut known = Known::default();
        assert_eq!(known.present(b"", &subdirectories(), &look), Ok(0b10_1000));
        assert_eq!(known.present(b"a/", &subdirectories(), &look), Ok(0b10_0000));
        let before = asked.lock().unwrap().len();
        assert_eq!(known.present(b"", &subdirectories(), &look), Ok(0b10_1000));
        assert!(asked.lock().unwrap().len() > before);
    }

    #[test]
    fn the_file_system_says_why_a_directory_is_none() {
        assert_eq!(look(Path::new("/")), Ok(()));
        assert_eq!(look(Path::new("/no/such")), Err("no such directory"));
        assert_eq!(look(Path::new("/proc/self/exe")), Err("not a directory"));
        assert_eq!(look(Path::new("/proc/self/exe/x")), Err("not a directory"));
    }
}
