//! Which files are meant: those that were typed, and with `-R` all ELF files in the directories among them.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use soload::Error;

/// The files, in the order in which they were typed, those of a directory sorted by name. Links in directories are not
/// followed: what they lead to is a file of its own.
pub(super) fn all(typed: &[PathBuf], recursive: bool) -> impl Iterator<Item = Result<PathBuf, Error>> {
    typed.iter().flat_map(move |path| {
        let inside = recursive && path.is_dir();
        let mut pending = vec![path.clone()];
        std::iter::from_fn(move || {
            while let Some(path) = pending.pop() {
                if !inside {
                    return Some(Ok(path));
                }
                let Ok(meta) = fs::symlink_metadata(&path) else { continue };
                if meta.is_dir() || meta.is_symlink() && path.is_dir() && pending.is_empty() {
                    let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
                    // The last is taken first.
                    entries.sort_unstable_by(|a, b| b.cmp(a));
                    pending.extend(entries);
                } else if meta.is_file() && is_elf(&path) {
                    return Some(Ok(path));
                }
            }
            None
        })
    })
}

/// Whether it is a program or shared object, of either byte order.
fn is_elf(path: &Path) -> bool {
    let mut head = [0; 18];
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let read = file.and_then(|mut file| file.read_exact(&mut head));
    let kind = head[16] | head[17];
    read.is_ok() && head.starts_with(b"\x7fELF") && matches!(kind, 2 | 3)
}
