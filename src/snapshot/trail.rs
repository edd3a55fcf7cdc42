//! A *trail*: which files an open came to, and who needs whom, for others that open the same.
//!
//! Who follows one searches nothing: it opens each file, and goes on if it is the very file that the trail is about. What all
//! would read there the trail repeats: a call for each piece of each file is a tenth of what a wide load takes. A trail is a
//! file of the directory, sealed as snapshots are; whatever is wrong with it, everything is found as always.

use std::borrow::Cow;
use std::fs::{File, Metadata};
use std::os::unix::fs::FileExt;

use super::bytes::{Cut, Field, List, Reader, fields};
use super::folder::{Folder, LIMIT, name, write};
use super::manifest::{FileStamp, Hash};
use super::refusal::Refusal;
use crate::sys::Zeros;

/// How the names of trails end.
pub(super) const TRAIL: &str = ".trail";

const MAGIC: [u8; 8] = *b"soload\0T";
const VERSION: u32 = 3;
/// The seal, which comes first: the keyed hash of the trail's own key and of all that follows.
const SEAL: usize = size_of::<Hash>();

/// Bytes of one: the widest real open, of 161 files, has 217 kilobytes.
const TRAIL_MAX: u64 = 1 << 22;

/// What discovery went by, and what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trail<'a> {
    /// What was there already, or had to be brought by the host: each by a name that means it.
    pub(crate) there: Vec<Cow<'a, [u8]>>,
    /// Where many of the files are.
    pub(crate) around: Vec<Around<'a>>,
    /// What had to be loaded, breadth first.
    pub(crate) found: List<'a, Found<'a>>,
    /// The numbers of what each of them needs, and [`END`]: of what was found, and from their count on of what was there.
    pub(crate) needs: List<'a, u16>,
}
fields!(Trail, Trail<'a> {
    there: Vec<Cow<'a, [u8]>>,
    around: Vec<Around<'a>>,
    found: List<'a, Found<'a>>,
    needs: List<'a, u16>,
});

/// What ends the numbers of what one file needs, and is the number of nothing.
pub(crate) const END: u16 = u16::MAX;

/// A directory as it was: as long as it is, its links lead where they led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Around<'a> {
    pub(crate) path: Cow<'a, [u8]>,
    pub(crate) stamp: FileStamp,
}
fields!(Around, Around<'a> {
    path: Cow<'a, [u8]>,
    stamp: FileStamp,
});

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    pub(crate) path: Cow<'a, [u8]>,
    /// The directory that the path leads to, by its number; [`END`]: it is not known. And the file's own name in it.
    pub(crate) around: u16,
    pub(crate) name: Cow<'a, [u8]>,
    pub(crate) file: FileStamp,
    /// What it calls itself; empty if it does not.
    pub(crate) soname: Cow<'a, [u8]>,
    /// The names it was asked for by, but for that one.
    pub(crate) names: List<'a, Cow<'a, [u8]>>,
    /// 1 if `ld.so.cache` has the path, 0 if it was asked for by that.
    pub(crate) cached: u8,
    /// Which library it is, and bytes of address space that it takes: the registry says where.
    pub(crate) library: Hash,
    pub(crate) room: u64,
    /// Pieces of the file, empty where they are not known: its start, as far as its headers go, its dynamic section, and its
    /// arrays of functions to run.
    pub(crate) head: Cow<'a, [u8]>,
    pub(crate) dynamic: Cow<'a, [u8]>,
    pub(crate) arrays: Cow<'a, [u8]>,
    pub(crate) arrays_at: u64,
}
fields!(Found, Found<'a> {
    path: Cow<'a, [u8]>,
    around: u16,
    name: Cow<'a, [u8]>,
    file: FileStamp,
    soname: Cow<'a, [u8]>,
    names: List<'a, Cow<'a, [u8]>>,
    cached: u8,
    library: Hash,
    room: u64,
    head: Cow<'a, [u8]>,
    dynamic: Cow<'a, [u8]>,
    arrays: Cow<'a, [u8]>,
    arrays_at: u64,
});

/// What the trail of an open is called: by the name that is opened, `ld.so.cache`, and the paths of what the program started
/// with.
pub(crate) fn trail_key<'a>(name: &[u8], cache: &FileStamp, start: impl Iterator<Item = &'a [u8]>) -> Hash {
    const KEY: &Hash = b"soload snapshot: which trail....";
    let mut text = Vec::with_capacity(1024);
    VERSION.put(&mut text);
    Cow::from(name).put(&mut text);
    cache.put(&mut text);
    start.for_each(|path| Cow::from(path).put(&mut text));
    *blake3::keyed_hash(KEY, &text).as_bytes()
}

/// A trail, copied out of its file: what is checked is what is used.
pub(crate) struct OpenTrail(Zeros<u8>);

impl OpenTrail {
    fn read(file: &File, meta: &Metadata, key: &Hash, secret: &Hash) -> Option<Self> {
        let len = Some(meta.len()).filter(|len| *len <= TRAIL_MAX)?;
        let mut bytes = Zeros::in_pages(len as usize).ok()?;
        file.read_exact_at(&mut bytes, 0).ok()?;
        let (stated, rest) = bytes.split_first_chunk::<SEAL>()?;
        // Compared in constant time, as the type does.
        (seal(key, rest, secret) == blake3::Hash::from_bytes(*stated)).then_some(Self(bytes))
    }

    /// What it says; `None` if that does not make sense.
    pub(crate) fn trail(&self) -> Option<Trail<'_>> {
        let mut reader = Reader::new(self.0.get(SEAL..)?);
        let known = reader.read() == Ok(MAGIC) && reader.read() == Ok(VERSION);
        let trail: Trail<'_> = reader.read().ok().filter(|_| known)?;
        reader.end().ok()?;
        Some(trail)
    }
}

impl Trail<'_> {
    fn encode(&self, key: &Hash, secret: &Hash) -> Vec<u8> {
        let mut bytes = vec![0; SEAL];
        MAGIC.put(&mut bytes);
        VERSION.put(&mut bytes);
        self.put(&mut bytes);
        let (stated, rest) = bytes.split_at_mut(SEAL);
        stated.copy_from_slice(seal(key, rest, secret).as_bytes());
        bytes
    }
}

impl Folder {
    /// The trail of that key, if there is one that is whole.
    pub(crate) fn trail(&self, key: &Hash) -> Option<OpenTrail> {
        let (file, meta) = self.whole(&name(key, TRAIL)).ok()??;
        OpenTrail::read(&file, &meta, key, &self.seed.secret())
    }

    /// Removes one that leads nowhere any more.
    pub(crate) fn forget_trail(&self, key: &Hash) {
        self.remove(&name(key, TRAIL));
    }

    /// Puts a trail in place of what is there. Nothing depends on it.
    pub(crate) fn leave(&self, key: &Hash, trail: &Trail<'_>) -> Result<(), Refusal> {
        let bytes = trail.encode(key, &self.seed.secret());
        if bytes.len() as u64 > TRAIL_MAX {
            return Ok(());
        }
        let name = name(key, TRAIL);
        // Nobody waits for a lock, as for a snapshot: of two that leave one at once, one may find the other's there.
        self.remove(&name);
        write(&self.directory, &self.path, &name, &bytes)?;
        self.make_room(LIMIT);
        Ok(())
    }
}

/// One that stands where another should is none.
fn seal(key: &Hash, rest: &[u8], secret: &Hash) -> blake3::Hash {
    blake3::Hasher::new_keyed(secret).update(key).update(rest).finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trail_is_called_by_depends_on_the_name_the_cache_and_what_the_program_started_with() {
        let cache = |changed_nanos| FileStamp {
            device: 1,
            inode: 2,
            size: 3,
            modified: 4,
            modified_nanos: 5,
            changed: 6,
            changed_nanos,
        };
        let key = |name: &str, nanos, start: &[&str]| {
            trail_key(name.as_bytes(), &cache(nanos), start.iter().map(|path| path.as_bytes()))
        };
        let plain = key("liba.so", 7, &["/lib/libc.so.6", "/lib/libm.so.6"]);
        assert_eq!(plain, key("liba.so", 7, &["/lib/libc.so.6", "/lib/libm.so.6"]));
        for other in [
            key("libb.so", 7, &["/lib/libc.so.6", "/lib/libm.so.6"]),
            key("liba.so", 8, &["/lib/libc.so.6", "/lib/libm.so.6"]),
            key("liba.so", 7, &["/lib/libm.so.6", "/lib/libc.so.6"]),
            key("liba.so", 7, &["/lib/libc.so.6"]),
            key("liba.so", 7, &["/lib/libc.so.6/lib/libm.so.6"]),
        ] {
            assert_ne!(plain, other);
        }
    }
}
