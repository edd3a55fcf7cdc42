//! A snapshot that is open: its header and manifest checked, its pages ready to be mapped.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::manifest::{Damage, Hash, Header, Manifest, hash};
use super::refusal::Refusal;
use super::scope::Fits;
use crate::sys::Zeros;

/// A snapshot, open.
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) header: Header,
    /// Header and manifest, copied out: what is checked is what is used, whatever becomes of the file.
    head: Zeros<u8>,
}

impl Opened {
    /// Reads header and manifest of a file of `len` bytes. `secret` is what it must be sealed with.
    pub(crate) fn read(file: File, len: u64, secret: &Hash) -> Result<Self, Refusal> {
        let unread = |error: io::Error| Refusal::snapshot(format_args!("cannot be read: {error}"));
        let mut start = [0; Header::LEN];
        file.read_exact_at(&mut start, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged(Damage::Length),
            _ => unread(error),
        })?;
        let header = Header::decode(&start, len).map_err(damaged)?;
        let mut head = Zeros::in_pages(header.first_page() as usize).map_err(|errno| unread(errno.into()))?;
        file.read_exact_at(&mut head, 0).map_err(unread)?;
        Manifest::check(&header, &head, secret).map_err(damaged)?;
        Ok(Self { file, header, head })
    }

    /// What it says of itself.
    pub(crate) fn manifest(&self) -> Result<Manifest<'_>, Refusal> {
        Manifest::read(&self.header, &self.head).map_err(|cut| damaged(cut.into()))
    }

    /// The files of the libraries that it has pages of.
    pub(super) fn libraries(&self) -> Vec<PathBuf> {
        let manifest = self.manifest().ok();
        let members = manifest.iter().flat_map(|manifest| manifest.members.iter());
        members.map(|member| OsStr::from_bytes(&member.path).into()).collect()
    }

    /// What it fits.
    pub(crate) fn fits(&self) -> Option<Fits<'_>> {
        match self.manifest().ok()?.scope {
            Cow::Borrowed(scope) => Fits::decode(scope),
            Cow::Owned(_) => None,
        }
    }

    /// Whether the pages are those that it was made with. Reads all of them.
    pub(crate) fn verify_pages(&self) -> Result<(), Refusal> {
        let unread = |error: io::Error| Refusal::snapshot(format_args!("cannot be read: {error}"));
        let found = hash_from(&self.file, self.header.first_page()).map_err(unread)?;
        match found == self.header.pages {
            true => Ok(()),
            false => Err(Refusal::snapshot("damaged: its pages do not have the hash that it states")),
        }
    }
}

fn damaged(damage: Damage) -> Refusal {
    Refusal::Snapshot(match damage {
        Damage::Magic => "no snapshot: it does not begin as one".into(),
        Damage::Version(found) => format!("made in format {found}, expected {}", super::manifest::VERSION),
        Damage::Length => "damaged: it is not as long as it states".into(),
        Damage::Seal => "damaged, or made in another session: its seal does not fit".into(),
        Damage::Content => "damaged: its list of words or pages does not make sense".into(),
    })
}

/// Header, manifest and pages of a snapshot as bytes; `manifest` counts the offsets of pages from the first one.
pub(crate) fn encode(mut manifest: Manifest<'_>, page: u32, pages: &[u8], secret: &Hash) -> Vec<u8> {
    manifest.pages_from(manifest.encoded_len(page), 0);
    let mut bytes = manifest.encode(page, hash(pages), pages.len() as u64, secret);
    bytes.extend(pages);
    bytes
}

/// The hash of a file's whole content.
pub(crate) fn content_hash(file: &impl AsFd) -> io::Result<Hash> {
    let file: OwnedFd = file.as_fd().try_clone_to_owned()?;
    hash_from(&file.into(), 0)
}

fn hash_from(file: &File, mut at: u64) -> io::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(*hasher.finalize().as_bytes()),
            read => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}
