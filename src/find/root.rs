//! The file system in which names are looked up: this process's, or a directory that stands for the root of another.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dirs;
use crate::error::ErrorKind;
use crate::sys::{self, RegularFile, Stamp};

/// Where paths begin. A link in a directory that stands for the root leads nowhere outside of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Root(Option<Arc<(OwnedFd, PathBuf)>>);

impl Root {
    /// The directory `dir` as root.
    pub(crate) fn at(dir: &Path) -> Result<Self, ErrorKind> {
        let fd = sys::open_directory(dir)?;
        let (real, _) = sys::place_below(&fd, Path::new("/")).map_err(|error| open_error(&error))?;
        Ok(Self(Some(Arc::new((fd, real)))))
    }

    /// Whether it is this process's own.
    pub(crate) fn is_own(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn open(&self, path: &Path) -> Result<RegularFile, ErrorKind> {
        match &self.0 {
            Some(root) => RegularFile::open_below(&root.0, path),
            None => RegularFile::open(path),
        }
    }

    pub(crate) fn metadata(&self, path: &Path) -> std::io::Result<Metadata> {
        match &self.0 {
            Some(root) => Ok(sys::place_below(&root.0, path)?.1),
            None => std::fs::metadata(path),
        }
    }

    /// What the file at `path` looks like from outside.
    pub(crate) fn stamp(&self, path: &Path) -> Option<Stamp> {
        match &self.0 {
            Some(_) => self.open(path).ok().map(|file| (file.identity, file.size, file.changed)),
            None => sys::stamp(path),
        }
    }

    /// Whether a directory exists; the error is why not.
    pub(crate) fn look(&self, dir: &Path) -> Result<(), &'static str> {
        match self.0 {
            Some(_) => dirs::answer(self.metadata(dir)),
            None => dirs::look(dir),
        }
    }

    /// `path` with every link followed.
    pub(crate) fn real(&self, path: &Path) -> Option<PathBuf> {
        match &self.0 {
            Some(root) => {
                let (place, _) = sys::place_below(&root.0, path).ok()?;
                Some(Path::new("/").join(place.strip_prefix(&root.1).ok()?))
            }
            None => std::fs::canonicalize(path).ok(),
        }
    }

    /// A path in this root, of one that may also be typed as it lies in this process's file system.
    pub(crate) fn inside(&self, typed: &Path) -> PathBuf {
        let Some(root) = &self.0 else { return typed.into() };
        let parent = typed.parent().unwrap_or(typed);
        let host = std::fs::canonicalize(if parent == Path::new("") { Path::new(".") } else { parent });
        let host = host.map(|parent| typed.file_name().map_or(parent.clone(), |name| parent.join(name)));
        match host.as_deref().map(|host| host.strip_prefix(&root.1)) {
            Ok(Ok(inside)) => Path::new("/").join(inside),
            _ => Path::new("/").join(typed),
        }
    }

    /// Where a path in this root lies in this process's file system.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        match &self.0 {
            Some(root) => sys::place_below(&root.0, path).map_or_else(|_| path.into(), |(place, _)| place),
            None => path.into(),
        }
    }

    /// Whether it is this process's file system.
    pub(crate) fn is_host(&self) -> bool {
        self.0.is_none()
    }

    /// Up to `limit` bytes of a file that is expected to be short; nothing if it cannot be read.
    pub(crate) fn text(&self, path: &Path, limit: u64) -> Option<Vec<u8>> {
        let file = File::from(self.open(path).ok()?.fd);
        let mut text = Vec::new();
        file.take(limit).read_to_end(&mut text).ok().map(|_| text)
    }
}

fn open_error(error: &std::io::Error) -> ErrorKind {
    ErrorKind::Open { errno: error.raw_os_error().unwrap_or(libc::EIO) }
}
