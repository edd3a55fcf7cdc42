//! Which files are meant: those that were typed, and with `-R` all programs and libraries in the directories among them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use soload::{Error, ErrorKind, Resolver};

/// One file.
pub(super) struct Named {
    pub(super) path: PathBuf,
    /// Whether it was typed, not met in a directory: then it is to be a program or library.
    pub(super) typed: bool,
}

/// The files, in the order in which they were typed, those of a directory sorted by name. Links in directories are not
/// followed: what they lead to is a file of its own.
pub(super) fn all<'a>(
    typed: &'a [PathBuf],
    recursive: bool,
    resolver: &'a Resolver,
) -> impl Iterator<Item = Named> + 'a {
    typed.iter().flat_map(move |typed| {
        // In another root the directory lies somewhere else.
        let path = if recursive { resolver.place(typed) } else { typed.clone() };
        let is_directory = recursive && path.is_dir();
        let path = if is_directory { path } else { typed.clone() };
        // What is still to be looked at, the next at the end, and whether it is a directory.
        let mut pending = vec![(path, is_directory)];
        std::iter::from_fn(move || {
            while let Some((path, directory)) = pending.pop() {
                if !directory && (!is_directory || begins_as_elf(&path)) {
                    return Some(Named { path, typed: !is_directory });
                }
                if !directory {
                    continue;
                }
                let first = pending.len();
                pending.extend(entries(&path));
                // The last is taken first.
                pending[first..].sort_unstable_by(|(a, _), (b, _)| b.as_os_str().cmp(a.as_os_str()));
            }
            None
        })
    })
}

/// The regular files and directories in a directory; of one that cannot be read, none.
fn entries(directory: &Path) -> impl Iterator<Item = (PathBuf, bool)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let kind = entry.file_type().ok()?;
        (kind.is_dir() || kind.is_file()).then(|| (entry.path(), kind.is_dir()))
    })
}

/// Whether a file may be worth a closer look: of nineteen in twenty, four bytes say that it is not.
fn begins_as_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW).open(path);
    // A file that cannot be opened is told of by whoever opens it next.
    file.map_or(true, |file| file.read_exact_at(&mut magic, 0).is_ok() && magic == *b"\x7fELF")
}

impl Named {
    /// Whether an error says only that the file is none of those that are looked for.
    pub(super) fn is_beside_the_point(&self, error: &Error) -> bool {
        let kind = error.kind();
        let other = matches!(kind, ErrorKind::NotElf { .. } | ErrorKind::LinkerScript { .. });
        !self.typed && (other || matches!(kind, ErrorKind::Foreign { what: "type", .. }))
    }
}
