//! Sharing relocated pages: how it is asked for, and what has come of it.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::dl;
use crate::error::Error;
use crate::library::Library;
use crate::loader::{self, Wishes};
use crate::options::OpenOptions;
use crate::snapshot::{Snapshot, SnapshotUse};
use crate::stages::Wish;

impl OpenOptions {
    /// The directory to take relocated pages from, and to keep them in for other processes, instead of the one that the
    /// environment variable `SOLOAD_SNAPSHOTS` names. It is made if it is not there.
    ///
    /// The libraries then lie where they lie in all processes that use the directory, until the machine starts anew or
    /// [`crate::Snapshots::rotate`] is called. Who learns their addresses in one process knows them in the others. Whatever is in
    /// the way, such as a directory that others can write, is no error: the library is loaded without, and
    /// [`Library::snapshot`] says why.
    ///
    /// ```
    /// # let directory = std::env::temp_dir().join(format!("soload-doc-open-{}", std::process::id()));
    /// // SAFETY: zlib's constructors are sound.
    /// if let Ok(library) = unsafe { soload::OpenOptions::new().snapshots(&directory).open("libz.so.1") } {
    ///     println!("{}", library.snapshot());
    /// }
    /// # std::fs::remove_dir_all(&directory).ok();
    /// ```
    pub fn snapshots(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.wishes.sharing = Wish::Folder(directory.into());
        self
    }

    /// The snapshot to take relocated pages from. If it does not fit, the library is loaded without, and
    /// [`Library::snapshot`] says why.
    ///
    /// See [`Snapshot`] for an example.
    pub fn snapshot(&mut self, snapshot: &Snapshot) -> &mut Self {
        self.wishes.sharing = Wish::Memory(snapshot.clone());
        self
    }

    /// Whether to share no relocated pages, whatever `SOLOAD_SNAPSHOTS` says: addresses are then random in each process.
    ///
    /// ```
    /// // SAFETY: zlib's constructors are sound.
    /// if let Ok(library) = unsafe { soload::OpenOptions::new().private(true).open("libz.so.1") } {
    ///     assert_eq!(library.snapshot(), soload::SnapshotUse::Unasked);
    /// }
    /// ```
    pub fn private(&mut self, private: bool) -> &mut Self {
        self.wishes.sharing = if private { Wish::Private } else { Wish::default() };
        self
    }

    /// Makes a snapshot in memory of `name` and all it needs, as [`OpenOptions::open`] would load them. Nothing stays
    /// loaded; of foreign code only that of parts of the C library may run, which its own loader brings.
    ///
    /// ```
    /// if let Ok(snapshot) = soload::OpenOptions::new().create_snapshot("libz.so.1") {
    ///     assert_eq!(snapshot.libraries().len(), 1);
    /// }
    /// ```
    ///
    /// # Errors
    /// What [`OpenOptions::open`] would fail with; [`crate::ErrorKind::Snapshot`] if it cannot be shared, or is loaded already.
    pub fn create_snapshot(&self, name: impl AsRef<OsStr>) -> Result<Snapshot, Error> {
        let wishes = Wishes { imports: Some(dl::import), ..self.wishes.clone() };
        loader::snapshot(name.as_ref(), &wishes)
    }
}

impl Library {
    /// What snapshots did for this open.
    ///
    /// ```
    /// // SAFETY: zlib's constructors are sound.
    /// if let Ok(library) = unsafe { soload::OpenOptions::new().private(true).open("libz.so.1") } {
    ///     assert_eq!(library.snapshot().to_string(), "no snapshot asked for");
    /// }
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> SnapshotUse {
        self.opened.as_ref().map_or_else(SnapshotUse::default, |opened| opened.sharing.clone())
    }
}

impl Snapshot {
    /// Makes one of `name` and all it needs with the choices of [`Library::new`]; see [`OpenOptions::create_snapshot`].
    ///
    /// # Errors
    /// As for [`OpenOptions::create_snapshot`].
    pub fn create(name: impl AsRef<OsStr>) -> Result<Self, Error> {
        OpenOptions::new().create_snapshot(name)
    }
}
