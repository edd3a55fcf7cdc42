//! Files below a directory: one that stands for the root of the file system, or one in which many files are opened.

#[cfg(feature = "snapshots")]
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

#[cfg(feature = "snapshots")]
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::Mode;

use super::{QUIETLY, RegularFile};
#[cfg(feature = "snapshots")]
use super::{Stamp, fault, stamp_of};
use crate::error::ErrorKind;

impl RegularFile {
    /// Opens `path` as [`Self::open`] does, with `root` as the root of the file system: no link leads out of it.
    pub(crate) fn open_below(root: &OwnedFd, path: &Path) -> Result<Self, ErrorKind> {
        Self::of(path, open_below(root, path, QUIETLY))
    }
}

/// A directory that says when a name in it has changed.
#[cfg(feature = "snapshots")]
pub(crate) struct Directory(OwnedFd);

#[cfg(feature = "snapshots")]
impl Directory {
    pub(crate) fn open(path: &Path) -> Option<Self> {
        fault::point("open").ok()?;
        open_directory(path).ok().map(Self)
    }

    /// Which one it is, and when it was changed.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        nix::sys::stat::fstat(&self.0).ok().as_ref().map(stamp_of)
    }

    /// Whether what changes in it changes its time: others have fixed times, or those of one of several layers.
    pub(crate) fn keeps_time(&self) -> bool {
        use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC};
        let they_do = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC];
        nix::sys::statfs::fstatfs(&self.0).is_ok_and(|system| they_do.contains(&system.filesystem_type()))
    }

    /// The file that `name` in it leads to: where a link leads, or itself.
    pub(crate) fn target(&self, name: &OsStr) -> Option<OsString> {
        match nix::fcntl::readlinkat(&self.0, name) {
            Ok(target) => Some(target),
            Err(Errno::EINVAL) => Some(name.to_owned()),
            Err(_) => None,
        }
    }

    /// Opens the file `name` in it as [`RegularFile::open`] does; it is no link.
    pub(crate) fn file(&self, name: &OsStr) -> Option<RegularFile> {
        let flags = QUIETLY | OFlag::O_NOFOLLOW;
        let opened = fault::point("openat").and_then(|()| nix::fcntl::openat(&self.0, name, flags, Mode::empty()));
        RegularFile::of(Path::new(name), opened).ok()
    }
}

/// A directory, opened only to look up names below it.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, ErrorKind> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty()).map_err(|errno| ErrorKind::Open { errno: errno as i32 })
}

/// Where `path` leads if `root` is the root of the file system, as a path of this process's; nothing is opened for reading.
pub(crate) fn place_below(root: &OwnedFd, path: &Path) -> io::Result<(PathBuf, Metadata)> {
    let fd = open_below(root, path, OFlag::O_PATH | OFlag::O_CLOEXEC)?;
    let place = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok((place, File::from(fd).metadata()?))
}

/// Linux has this since 5.6. What a walk along the components would do, it does without a moment between look and step.
fn open_below(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    nix::fcntl::openat2(root, path, how)
}
