//! Files below a directory that stands for the root of the file system.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::Mode;

use super::{QUIETLY, RegularFile};
use crate::error::ErrorKind;

impl RegularFile {
    /// Opens `path` as [`Self::open`] does, with `root` as the root of the file system: no link leads out of it.
    pub(crate) fn open_below(root: &OwnedFd, path: &Path) -> Result<Self, ErrorKind> {
        Self::of(path, open_below(root, path, QUIETLY))
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
