//! The directory of one session: its seed, its registry of addresses, and its snapshots.
//!
//! Every file is reached through the directory that was checked, and checked itself once it is open. Files come into being
//! without a name and are given one when they are whole: whoever writes may be killed at any moment.

use std::fs::{File, Metadata};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::arena::{Seed, Slots, Wanted};
use super::files::SnapshotFile;
use super::manifest::{FileStamp, Hash};
use super::opened::{Opened, encode};
use super::refusal::Refusal;
use super::trail::TRAIL;
use crate::addr::Addr;
use crate::error::shown;
use crate::sys;

const SEED: &str = "seed";
const REGISTRY: &str = "registry";
pub(super) const ENDING: &str = ".snapshot";

/// Bytes of snapshots in one directory, after which the oldest ones go.
pub(super) const LIMIT: u64 = 1 << 30;

/// How long to wait for others that write.
const PATIENCE: Duration = Duration::from_millis(500);

const REGISTRY_MAX: u64 = 1 << 22;

/// The directory, open and checked.
pub(crate) struct Folder {
    pub(super) path: PathBuf,
    pub(super) directory: File,
    pub(crate) seed: Seed,
    slots: Slots,
}

impl Folder {
    /// Opens the directory at `path`, and makes it if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, Refusal> {
        if sys::is_privileged() {
            return Err(Refusal::Privileged);
        }
        if path.as_os_str().is_empty() {
            return Err(Refusal::Folder("none is named, and there is none for this login session".into()));
        }
        let directory = directory(path)?;
        let seed = match read_seed(&directory, path)? {
            Some(seed) => seed,
            None => {
                let _lock = lock(&directory, path)?;
                // Another one may have made it while we waited.
                match read_seed(&directory, path)? {
                    Some(seed) => seed,
                    None => new_seed(&directory, path)?,
                }
            }
        };
        let mut folder = Self { path: path.to_owned(), directory, seed, slots: Slots::default() };
        folder.read_slots()?;
        Ok(folder)
    }

    /// Holds off all others that write to the directory, if its session still goes on: what would be written is of it.
    pub(super) fn lock(&self) -> Result<Flock<File>, Refusal> {
        let lock = lock(&self.directory, &self.path)?;
        match read_seed(&self.directory, &self.path)? {
            Some(seed) if seed.0 == self.seed.0 => Ok(lock),
            _ => Err(Refusal::Folder(format!("{}: its session has ended", shown(&self.path)))),
        }
    }

    fn read_slots(&mut self) -> Result<u64, Refusal> {
        let mut records = Vec::new();
        if let Some((file, meta)) = owned(&self.directory, &self.path, REGISTRY)? {
            records =
                read(&file, meta.len().min(REGISTRY_MAX)).map_err(|error| refused(&self.path.join(REGISTRY), error))?;
        }
        let len = records.len() as u64;
        self.slots = Slots::read(records);
        Ok(len)
    }

    /// Where each of `wanted` lies in this session; a library that is new here is given its place.
    pub(crate) fn place(&mut self, wanted: &[Wanted]) -> Result<Vec<Addr>, Refusal> {
        if let Some(places) = self.places(wanted) {
            return Ok(places);
        }
        let _lock = self.lock()?;
        let len = self.read_slots()?;
        let records = self.slots.assign(wanted, &self.seed);
        let path = self.path.join(REGISTRY);
        let wrong = |error: std::io::Error| refused(&path, error);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, REGISTRY, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let file = File::from(file.map_err(|errno| wrong(errno.into()))?);
        check_owner(&file.metadata().map_err(wrong)?, &path, 0o022)?;
        // The record of a writer that was killed is cut off; only then does one stand where its number says.
        let whole = len - len % super::arena::RECORD as u64;
        file.write_all_at(&records, whole).map_err(wrong)?;
        self.places(wanted).ok_or_else(|| Refusal::Place("the session's addresses have no room for it".into()))
    }

    /// Where `wanted` lies, if it has a place.
    pub(crate) fn slot(&self, wanted: &Wanted) -> Option<Addr> {
        self.slots.find(wanted, &self.seed)
    }

    fn places(&self, wanted: &[Wanted]) -> Option<Vec<Addr>> {
        wanted.iter().map(|wanted| self.slot(wanted)).collect()
    }

    /// The snapshot of that key, if there is one. `is_it` says whether what it fits is what has that key.
    pub(crate) fn find(&self, key: &Hash, is_it: impl FnOnce(&[u8]) -> bool) -> Result<Option<Opened>, Refusal> {
        let Some((file, meta)) = self.whole(&name(key, ENDING))? else { return Ok(None) };
        let opened = Opened::read(file, meta.len(), &self.seed.secret())?;
        match is_it(&opened.manifest()?.scope) {
            true => Ok(Some(opened)),
            false => Err(Refusal::snapshot("it has the name of another one")),
        }
    }

    /// File `name`, if it is there: one that nobody writes to any more.
    pub(super) fn whole(&self, name: &str) -> Result<Option<(File, Metadata)>, Refusal> {
        let found = owned(&self.directory, &self.path, name)?;
        found.iter().try_for_each(|(_, meta)| check_owner(meta, &self.path.join(name), 0o333))?;
        Ok(found)
    }

    /// The snapshot of that name, if there is one.
    pub(super) fn named(&self, name: &str) -> Result<Option<Opened>, Refusal> {
        let Some(key) = key_of(name) else { return Ok(None) };
        self.find(&key, |scope| super::key(scope) == key)
    }

    /// Puts a snapshot under its key in place of what is there.
    pub(crate) fn keep(&self, key: &Hash, snapshot: &[u8]) -> Result<(), Refusal> {
        let _lock = self.lock()?;
        self.remove(&name(key, ENDING));
        self.make_room(LIMIT.saturating_sub(snapshot.len() as u64));
        if snapshot.len() as u64 > LIMIT {
            return Err(Refusal::Folder(format!("{}: a snapshot larger than all may be together", shown(&self.path))));
        }
        write(&self.directory, &self.path, &name(key, ENDING), snapshot)
    }

    /// Puts a snapshot in place of itself, with what the system says of its files now.
    pub(crate) fn refresh(
        &self,
        key: &Hash,
        opened: &Opened,
        stamps: impl Iterator<Item = FileStamp>,
    ) -> Result<(), Refusal> {
        let mut manifest = opened.manifest()?;
        for (member, stamp) in manifest.members.to_mut().iter_mut().zip(stamps) {
            member.file = stamp;
        }
        let first = opened.header.first_page();
        let mut pages = vec![0; (opened.header.len - first) as usize];
        let read = opened.file.read_exact_at(&mut pages, first);
        read.map_err(|error| refused(&self.path.join(name(key, ENDING)), error))?;
        manifest.pages_from(0, first);
        self.keep(key, &encode(manifest, opened.header.page, &pages, &self.seed.secret()))
    }

    /// Removes what is of no use any more.
    pub(crate) fn forget(&self, key: &Hash) {
        self.remove(&name(key, ENDING));
    }

    pub(super) fn remove(&self, name: &str) {
        // If it is still there, the next one to look finds it as wanting as we did.
        let _ = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir);
    }

    /// Removes the oldest snapshots until all together have at most `bytes`. Answers what was removed.
    pub(super) fn make_room(&self, bytes: u64) -> Vec<SnapshotFile> {
        let mut files = self.files(&[ENDING, TRAIL]);
        files.sort_by_key(|file| file.made);
        // Small ones take a page, too.
        let room = |file: &SnapshotFile| file.bytes.next_multiple_of(4096);
        let mut total: u64 = files.iter().map(room).sum();
        let mut removed = Vec::new();
        for file in files {
            if total <= bytes {
                break;
            }
            total -= room(&file);
            self.remove(&file.name);
            removed.push(file);
        }
        removed
    }

    /// All files whose names have one of the `endings`, by name.
    pub(super) fn files(&self, endings: &[&str]) -> Vec<SnapshotFile> {
        // Through the open directory, not by its path, which may lead elsewhere by now.
        let entries = std::fs::read_dir(format!("/proc/self/fd/{}", self.directory.as_raw_fd()));
        let mut files: Vec<SnapshotFile> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry
                    .file_name()
                    .into_string()
                    .ok()
                    .filter(|name| endings.iter().any(|ending| name.ends_with(ending)))?;
                let meta = entry.metadata().ok()?;
                let made = (meta.mtime(), meta.mtime_nsec());
                Some(SnapshotFile { name, bytes: meta.len(), made })
            })
            .collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }
}

pub(super) fn name(key: &Hash, ending: &str) -> String {
    format!("{}{ending}", blake3::Hash::from_bytes(*key).to_hex())
}

fn refused(path: &Path, error: impl Into<std::io::Error>) -> Refusal {
    let text = crate::error::errno_text(error.into().raw_os_error().unwrap_or(libc::EIO));
    Refusal::Folder(format!("{}: {text}", shown(path)))
}

/// The directory itself, which nobody but root and the user can write.
fn directory(path: &Path) -> Result<File, Refusal> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = open(path, flags, Mode::empty()).or_else(|errno| match errno {
        Errno::ENOENT => {
            let made = std::fs::DirBuilder::new().mode(0o700).create(path);
            made.or_else(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
            })?;
            open(path, flags, Mode::empty())
        }
        errno => Err(errno),
    });
    let file = File::from(opened.map_err(|errno| match errno {
        Errno::ELOOP | Errno::ENOTDIR => {
            Refusal::Folder(format!("{}: expected a directory, found something else or a link", shown(path)))
        }
        errno => refused(path, errno),
    })?);
    check_owner(&file.metadata().map_err(|error| refused(path, error))?, path, 0o022)?;
    Ok(file)
}

/// File `name` of the directory, if it is there: a regular one, of root or the user, that nobody else can write.
fn owned(directory: &File, path: &Path, name: &str) -> Result<Option<(File, Metadata)>, Refusal> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let path = path.join(name);
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP) => {
            return Err(Refusal::Folder(format!("{}: expected a regular file, found a link", shown(&path))));
        }
        Err(errno) => return Err(refused(&path, errno)),
    };
    let meta = file.metadata().map_err(|error| refused(&path, error))?;
    if !meta.is_file() {
        return Err(Refusal::Folder(format!("{}: expected a regular file, found something else", shown(&path))));
    }
    check_owner(&meta, &path, 0o022)?;
    Ok(Some((file, meta)))
}

/// Refuses what belongs to somebody else, or has one of the permissions `forbidden`.
fn check_owner(meta: &Metadata, path: &Path, forbidden: u32) -> Result<(), Refusal> {
    let wrong = |what: &str, expected: &str, found: String| {
        Err(Refusal::Folder(format!("{}: {what}: expected {expected}, found {found}", shown(path))))
    };
    if meta.uid() != 0 && meta.uid() != sys::effective_user() {
        return wrong("owner", "root or the user", meta.uid().to_string());
    }
    if meta.mode() & forbidden != 0 {
        let expected = if forbidden == 0o022 { "not writable by others" } else { "not writable at all" };
        return wrong("permissions", expected, format!("{:04o}", meta.mode() & 0o7777));
    }
    Ok(())
}

/// Holds off all others that write to the directory.
pub(super) fn lock(directory: &File, path: &Path) -> Result<Flock<File>, Refusal> {
    // A description of its own: a lock belongs to one, and the directory's may be shared with a child.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut own = File::from(openat(directory, ".", flags, Mode::empty()).map_err(|errno| refused(path, errno))?);
    let begun = Instant::now();
    loop {
        match Flock::lock(own, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if begun.elapsed() < PATIENCE => {
                own = back;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(Refusal::Folder(format!("{}: another process keeps it locked", shown(path))));
            }
            Err((_, errno)) => return Err(refused(path, errno)),
        }
    }
}

/// Writes a file that is there as a whole or not at all.
pub(super) fn write(directory: &File, path: &Path, name: &str, content: &[u8]) -> Result<(), Refusal> {
    let wrong = |error: std::io::Error| refused(&path.join(name), error);
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let fd = openat(directory, ".", flags, Mode::S_IRUSR).map_err(|errno| wrong(errno.into()))?;
    let mut file = File::from(fd);
    file.write_all(content).map_err(wrong)?;
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(AT_FDCWD, &*own, directory.as_fd(), name, AtFlags::AT_SYMLINK_FOLLOW) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(wrong(errno.into())),
    }
}

/// The seed, followed by the name of the boot it was made in: addresses do not outlive that.
fn read_seed(directory: &File, path: &Path) -> Result<Option<Seed>, Refusal> {
    let Some((file, meta)) = owned(directory, path, SEED)? else { return Ok(None) };
    let content = read(&file, meta.len().min(128)).unwrap_or_default();
    let parts = content.split_first_chunk().filter(|(_, boot)| *boot == this_boot());
    Ok(parts.map(|(seed, _)| Seed(*seed)))
}

fn this_boot() -> Vec<u8> {
    let file = File::open("/proc/sys/kernel/random/boot_id");
    // The text of a UUID, and the end of its line.
    file.and_then(|file| read(&file, 37)).unwrap_or_default()
}

/// The first `len` bytes of a small file, or all it has.
fn read(file: &File, len: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Begins a new session: what the one before has left is of no use any more.
pub(super) fn new_seed(directory: &File, path: &Path) -> Result<Seed, Refusal> {
    let seed = sys::random().map_err(|errno| refused(path, errno))?;
    let folder = Folder {
        path: path.to_owned(),
        directory: directory.try_clone().map_err(|error| refused(path, error))?,
        seed: Seed(seed),
        slots: Slots::default(),
    };
    folder.clear();
    let mut content = seed.to_vec();
    content.extend(this_boot());
    write(directory, path, SEED, &content)?;
    Ok(folder.seed)
}

impl Folder {
    fn clear(&self) {
        self.files(&[ENDING, TRAIL]).iter().for_each(|file| self.remove(&file.name));
        self.remove(REGISTRY);
        self.remove(SEED);
    }
}

fn key_of(name: &str) -> Option<Hash> {
    blake3::Hash::from_hex(name.strip_suffix(ENDING)?).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Snapshots;

    #[test]
    fn nothing_is_written_for_a_session_that_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(directory.path()).unwrap();
        let wanted = [Wanted { id: [1; 32], len: 4096, align: 4096 }];
        folder.keep(&[7; 32], b"pages").unwrap();
        Snapshots::open(directory.path()).unwrap().rotate().unwrap();
        let ended = Refusal::Folder(format!("{}: its session has ended", directory.path().display()));
        assert_eq!(folder.keep(&[7; 32], b"pages"), Err(ended.clone()));
        assert_eq!(folder.place(&wanted), Err(ended));
        let left: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["seed"]);
    }
}
