//! The directory as those see it who look at what is there and tidy it up.

use std::path::{Path, PathBuf};

use super::folder::{ENDING, Folder, lock, new_seed};
use super::refusal::Refusal;
use crate::error::{Error, Escaped};
use crate::sys;

/// A directory of snapshots, to be looked at and tidied up. Loading uses it by [`crate::OpenOptions::snapshots`].
///
/// A directory belongs to one user and one session: it has the *seed*, a random number that the addresses of all
/// libraries follow from. Whoever can read it knows the addresses of the libraries in every process that uses it.
///
/// ```
/// let directory = std::env::temp_dir().join(format!("soload-doc-snapshots-{}", std::process::id()));
/// let snapshots = soload::Snapshots::open(&directory)?;
/// assert!(snapshots.files().is_empty());
/// snapshots.rotate()?; // New addresses from here on.
/// # std::fs::remove_dir_all(&directory).unwrap();
/// # Ok::<(), soload::Error>(())
/// ```
pub struct Snapshots(Folder);

/// A snapshot in a directory.
///
/// ```
/// # let directory = std::env::temp_dir().join(format!("soload-doc-files-{}", std::process::id()));
/// for file in soload::Snapshots::open(&directory)?.files() {
///     println!("{} {}", file.bytes, file.name);
/// }
/// # std::fs::remove_dir_all(&directory).unwrap();
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its name in the directory: the hash of what it fits.
    pub name: String,
    /// How long it is.
    pub bytes: u64,
    /// When it was made: seconds since 1970, and nanoseconds.
    pub made: (i64, i64),
}

impl Snapshots {
    /// Opens the directory at `path`; makes it, if it is not there, with a new seed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Snapshot`]: the directory is a link, belongs to somebody else than root or the user, can be written
    /// by others, or cannot be read or made.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Folder::open(path).map(Self).map_err(|refusal| Error::new(path, refusal.kind()))
    }

    /// The directory that is used where none is named: `$XDG_RUNTIME_DIR/soload`, or `/run/user/UID/soload`; `None` where
    /// neither parent is there. Both are in memory, and gone when the user's session ends.
    ///
    /// ```
    /// if let Some(directory) = soload::Snapshots::default_directory() {
    ///     assert!(directory.ends_with("soload"));
    /// }
    /// ```
    #[must_use]
    pub fn default_directory() -> Option<PathBuf> {
        let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let parent = named.unwrap_or_else(|| format!("/run/user/{}", sys::effective_user()).into());
        parent.is_dir().then(|| parent.join("soload"))
    }

    /// All snapshots, by name.
    #[must_use]
    pub fn files(&self) -> Vec<SnapshotFile> {
        self.0.files(&[ENDING])
    }

    /// Checks one snapshot: owner and permissions, header, list of words, and the hash of all its pages. Answers the
    /// libraries that it has pages of.
    ///
    /// ```
    /// # let directory = std::env::temp_dir().join(format!("soload-doc-verify-{}", std::process::id()));
    /// let snapshots = soload::Snapshots::open(&directory)?;
    /// assert!(snapshots.verify("no-such").is_err());
    /// # std::fs::remove_dir_all(&directory).unwrap();
    /// # Ok::<(), soload::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::ErrorKind::Snapshot`]: what is wrong with it.
    pub fn verify(&self, name: &str) -> Result<Vec<PathBuf>, Error> {
        let error = |refusal: Refusal| Error::new(self.0.path.join(name), refusal.kind());
        let no_such = || Refusal::Folder(format!("{}: there is no such snapshot", Escaped(name.as_bytes())));
        let opened = self.0.named(name).and_then(|found| found.ok_or_else(no_such)).map_err(error)?;
        opened.verify_pages().map_err(error)?;
        Ok(opened.libraries())
    }

    /// What a snapshot has pages of, and their bytes, its header and list being sound.
    ///
    /// ```
    /// # let directory = std::env::temp_dir().join(format!("soload-doc-libraries-{}", std::process::id()));
    /// let snapshots = soload::Snapshots::open(&directory)?;
    /// assert_eq!(snapshots.libraries("no-such"), None);
    /// # std::fs::remove_dir_all(&directory).unwrap();
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn libraries(&self, name: &str) -> Option<Vec<PathBuf>> {
        Some(self.0.named(name).ok()??.libraries())
    }

    /// Removes the oldest snapshots until the rest has at most `bytes`, trails included, which go likewise; answers the
    /// snapshots that were removed. Processes that use them keep their pages.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Snapshot`]: another process keeps the directory locked.
    pub fn purge(&self, bytes: u64) -> Result<Vec<SnapshotFile>, Error> {
        let error = |refusal: Refusal| Error::new(&self.0.path, refusal.kind());
        let _lock = lock(&self.0.directory, &self.0.path).map_err(error)?;
        let mut removed = self.0.make_room(bytes);
        removed.retain(|file| file.name.ends_with(ENDING));
        Ok(removed)
    }

    /// Begins a new session: a new seed, and so new addresses, for all processes that start from here on. All snapshots
    /// go. Processes that run keep what they have.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Snapshot`]: the directory is locked, or cannot be written.
    pub fn rotate(&self) -> Result<(), Error> {
        let error = |refusal: Refusal| Error::new(&self.0.path, refusal.kind());
        let _lock = lock(&self.0.directory, &self.0.path).map_err(error)?;
        new_seed(&self.0.directory, &self.0.path).map_err(error)?;
        Ok(())
    }
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Snapshots").field(&self.0.path).finish()
    }
}
