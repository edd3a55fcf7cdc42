//! `/etc/ld.so.cache`, the index `ldconfig` writes: reads it as untrusted bytes and looks a name up as glibc does.

use std::cmp::Ordering;
use std::ffi::c_char;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::hwcaps::Hwcaps;
use crate::error::ErrorKind;
use crate::sys::RegularFile;

/// The largest cache that is read. A real one has some hundred bytes for each library.
const SIZE_LIMIT: u64 = 16 << 20;

/// The format of glibc 2.0 and 2.1 (`ldconfig -c old`): header 16 bytes, entries 12, then strings.
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
/// The format since then, alone or (`ldconfig -c compat`) after the old entries.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// Starts the directory of extensions, and the tag of the one that names subdirectories of `glibc-hwcaps`.
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const EXTENSION_HWCAPS: u32 = 1;
/// In an entry's hwcap field: the low half is an index into that extension.
const NAMED: u64 = 1 << 62;
/// Beside it, the instruction set level that the library is marked with.
const LEVEL_MASK: u64 = 0x3ff;

/// A cache file that was read and has a sound header.
pub(super) struct Cache {
    bytes: Vec<u8>,
    entries: Entries,
    /// String offsets of the `glibc-hwcaps` names: where they stand, and how many.
    names: (usize, usize),
}

#[derive(Clone, Copy)]
struct Entries {
    start: usize,
    count: usize,
    /// [`ENTRY`] or [`OLD_ENTRY`].
    size: usize,
    /// What offsets of strings count from.
    strings: usize,
}

/// What the cache has for a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hit<'a> {
    pub(super) path: &'a [u8],
    /// The subdirectory of `glibc-hwcaps` it was found in.
    pub(super) level: Option<&'a [u8]>,
}

impl Cache {
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, &'static str> {
        let (entries, new) = if bytes.starts_with(MAGIC) {
            (new_entries(&bytes, 0)?, Some(0))
        } else if bytes.starts_with(OLD_MAGIC) {
            let count = u32_at(&bytes, 12).ok_or("shorter than its header")? as usize;
            let end = OLD_HEADER + OLD_ENTRY * count;
            if bytes.len() < end {
                return Err("shorter than its table");
            }
            let new = end.next_multiple_of(8);
            if bytes.get(new..).is_some_and(|rest| rest.starts_with(MAGIC)) {
                (new_entries(&bytes, new)?, Some(new))
            } else {
                (Entries { start: OLD_HEADER, count, size: OLD_ENTRY, strings: end }, None)
            }
        } else {
            return Err("not a cache of shared libraries");
        };
        let names = new.and_then(|new| names(&bytes, new)).unwrap_or_default();
        Ok(Self { bytes, entries, names })
    }

    /// The file this machine's glibc would take for `name`: of entries with the same name the best
    /// `glibc-hwcaps` level, else the first whose older capabilities fit.
    pub(super) fn lookup(&self, name: &[u8], flags: u32, hwcaps: &Hwcaps) -> Option<Hit<'_>> {
        let mut best: Option<(usize, Hit<'_>)> = None;
        for index in self.equal(name)? {
            let entry = self.entries.start + index * self.entries.size;
            if u32_at(&self.bytes, entry)? != flags {
                continue;
            }
            let Some(path) = self.entry_string(entry + 8) else { continue };
            // Old entries have no such field.
            let hwcap = if self.entries.size == ENTRY { u64_at(&self.bytes, entry + 16)? } else { 0 };
            if hwcap >> 32 & !LEVEL_MASK != NAMED >> 32 {
                // ldconfig puts the named ones first: whatever fitted among them is better than this.
                if best.is_some() {
                    break;
                }
                if hwcaps.fits(hwcap) {
                    return Some(Hit { path, level: None });
                }
            } else if hwcaps.runs((hwcap >> 32 & LEVEL_MASK) as u32) {
                let Some(level) = self.level(hwcap as u32 as usize) else { continue };
                let Some(rank) = hwcaps.rank(level) else { continue };
                if best.as_ref().is_none_or(|(best, _)| rank < *best) {
                    best = Some((rank, Hit { path, level: Some(level) }));
                }
            }
        }
        best.map(|(_, hit)| hit)
    }

    /// The indices of all entries called `name`. The table is in descending order of [`compare`].
    fn equal(&self, name: &[u8]) -> Option<std::ops::Range<usize>> {
        let order = |index: usize| Some(compare(name, self.key(index)?));
        let (mut low, mut high) = (0, self.entries.count);
        while low < high {
            let middle = (low + high - 1) / 2;
            match order(middle)? {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => {
                    let is_equal = |index: &usize| order(*index) == Some(Ordering::Equal);
                    let before = (low..middle).rev().take_while(is_equal).count();
                    let after = (middle..high).take_while(is_equal).count();
                    return Some(middle - before..middle + after);
                }
            }
        }
        None
    }

    fn key(&self, index: usize) -> Option<&[u8]> {
        self.entry_string(self.entries.start + index * self.entries.size + 4)
    }

    fn entry_string(&self, field: usize) -> Option<&[u8]> {
        self.string(self.entries.strings.checked_add(u32_at(&self.bytes, field)? as usize)?)
    }

    fn level(&self, index: usize) -> Option<&[u8]> {
        let (start, count) = self.names;
        // Unlike those of entries, these offsets count from the start of the file in every format.
        if index < count { self.string(u32_at(&self.bytes, start + 4 * index)? as usize) } else { None }
    }

    /// The bytes from `offset` to the next NUL.
    fn string(&self, offset: usize) -> Option<&[u8]> {
        let tail = self.bytes.get(offset..)?;
        Some(&tail[..tail.iter().position(|&byte| byte == 0)?])
    }
}

/// The entries of the new format whose header stands at `start`.
fn new_entries(bytes: &[u8], start: usize) -> Result<Entries, &'static str> {
    let count = u32_at(bytes, start + 20).ok_or("shorter than its header")? as usize;
    let room = bytes.len().checked_sub(start + HEADER).ok_or("shorter than its header")?;
    if count > room / ENTRY {
        return Err("shorter than its table");
    }
    // The byte order: zero says nothing, two is little-endian.
    match bytes[start + 28] {
        0 => {}
        flags if flags & 3 == 2 => {}
        _ => return Err("written for another byte order"),
    }
    Ok(Entries { start: start + HEADER, count, size: ENTRY, strings: start })
}

/// The extension with the names of `glibc-hwcaps` subdirectories: where its offsets stand, and how many.
fn names(bytes: &[u8], header: usize) -> Option<(usize, usize)> {
    let directory = u32_at(bytes, header + 32)? as usize;
    if directory == 0 || !directory.is_multiple_of(4) || u32_at(bytes, directory)? != EXTENSION_MAGIC {
        return None;
    }
    let count = u32_at(bytes, directory + 4)? as usize;
    let sections = bytes.get(directory + 8..)?.get(..count.checked_mul(16)?)?;
    let mut names = None;
    for section in sections.chunks_exact(16) {
        let (tag, offset, size) = (u32_at(section, 0)?, u32_at(section, 8)? as usize, u32_at(section, 12)? as usize);
        // One section that leaves the file makes all of them unusable.
        bytes.get(offset..)?.get(..size)?;
        if tag == EXTENSION_HWCAPS {
            names = (offset.is_multiple_of(4) && size.is_multiple_of(4)).then_some((offset, size / 4));
        }
    }
    names
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The order of the cache: byte by byte, but runs of digits as numbers, which are greater than anything else.
///
/// So `libx.so.10` comes after `libx.so.9`, and `libx.so.1` and `libx.so.01` are the same name. The search must
/// order exactly as `ldconfig` did, also where that is odd: numbers wrap as C's `int` does, and bytes above 127 are
/// negative where C's `char` is signed.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let (mut i, mut j) = (0, 0);
    let at = |text: &[u8], index: usize| text.get(index).copied().unwrap_or(0);
    loop {
        let (x, y) = (at(a, i), at(b, j));
        match (x.is_ascii_digit(), y.is_ascii_digit()) {
            _ if x == 0 => return 0.cmp(&(y as c_char)),
            (true, true) => match number(a, &mut i).wrapping_sub(number(b, &mut j)).cmp(&0) {
                Ordering::Equal => {}
                unequal => return unequal,
            },
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) if x != y => return (x as c_char).cmp(&(y as c_char)),
            (false, false) => (i, j) = (i + 1, j + 1),
        }
    }
}

/// The number at `index`, which moves behind it.
fn number(text: &[u8], index: &mut usize) -> i32 {
    let mut value = 0_i32;
    while let Some(digit) = text.get(*index).filter(|byte| byte.is_ascii_digit()) {
        value = value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'));
        *index += 1;
    }
    value
}

/// A cache file and what it looked like when it was read.
#[derive(Default)]
pub(super) struct CacheFile {
    stamp: Option<Stamp>,
    cache: Option<Result<Arc<Cache>, &'static str>>,
}

/// Device, inode, size, and the times of change: `ldconfig` writes a new file and renames it.
type Stamp = (u64, u64, u64, [i64; 4]);

impl CacheFile {
    /// The cache at `path`, read again only if the file is not the one it was. `Err` says why there is none.
    pub(super) fn read(&mut self, path: &Path) -> Result<Arc<Cache>, &'static str> {
        let stamp = std::fs::metadata(path).ok().as_ref().map(stamp);
        match &self.cache {
            Some(cache) if self.stamp == stamp => cache.clone(),
            _ => {
                let (stamp, cache) = load(path);
                self.stamp = stamp;
                self.cache.insert(cache.map(Arc::new)).clone()
            }
        }
    }

    /// The cache as it was read last, if it was.
    pub(super) fn last(&self) -> Option<Result<Arc<Cache>, &'static str>> {
        self.cache.clone()
    }
}

fn stamp(meta: &std::fs::Metadata) -> Stamp {
    (meta.dev(), meta.ino(), meta.len(), [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()])
}

fn load(path: &Path) -> (Option<Stamp>, Result<Cache, &'static str>) {
    let file = match RegularFile::open(path) {
        Ok(file) => File::from(file.fd),
        Err(ErrorKind::Open { errno: libc::ENOENT }) => return (None, Err("no such file")),
        Err(ErrorKind::NotMappable { .. }) => return (None, Err("not a regular file")),
        Err(_) => return (None, Err("cannot be opened")),
    };
    let Ok(meta) = file.metadata() else { return (None, Err("cannot be examined")) };
    if meta.len() > SIZE_LIMIT {
        return (Some(stamp(&meta)), Err("larger than any cache"));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    let cache = match file.take(SIZE_LIMIT).read_to_end(&mut bytes) {
        Ok(_) => Cache::parse(bytes),
        Err(_) => Err("cannot be read"),
    };
    (Some(stamp(&meta)), cache)
}
