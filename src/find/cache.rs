//! `/etc/ld.so.cache`, the index `ldconfig` writes: reads it as untrusted bytes and looks a name up as glibc does.

use std::cmp::Ordering;
use std::ffi::{CStr, c_char};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use super::hwcaps::Hwcaps;
use super::root::Root;
use crate::error::ErrorKind;
use crate::file::view::ByteOrder;
use crate::sys::{Bytes, Stamp};

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
    bytes: Bytes,
    order: ByteOrder,
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
    pub(super) fn parse(bytes: Bytes, order: ByteOrder) -> Result<Self, &'static str> {
        let (entries, new) = if bytes.starts_with(MAGIC) {
            (new_entries(&bytes, 0, order)?, Some(0))
        } else if bytes.starts_with(OLD_MAGIC) {
            let count = u32_at(order, &bytes, 12).ok_or("shorter than its header")? as usize;
            let end = OLD_HEADER + OLD_ENTRY * count;
            if bytes.len() < end {
                return Err("shorter than its table");
            }
            let new = end.next_multiple_of(8);
            if bytes.get(new..).is_some_and(|rest| rest.starts_with(MAGIC)) {
                (new_entries(&bytes, new, order)?, Some(new))
            } else {
                (Entries { start: OLD_HEADER, count, size: OLD_ENTRY, strings: end }, None)
            }
        } else {
            return Err("not a cache of shared libraries");
        };
        let names = new.and_then(|new| names(&bytes, new, order)).unwrap_or_default();
        Ok(Self { bytes, order, entries, names })
    }

    /// The file this machine's glibc would take for `name`: of entries with the same name the best
    /// `glibc-hwcaps` level, else the first whose older capabilities fit.
    pub(super) fn lookup(&self, name: &[u8], flags: u32, hwcaps: &dyn Deref<Target = Hwcaps>) -> Option<Hit<'_>> {
        let mut best: Option<(usize, Hit<'_>)> = None;
        for index in self.equal(name)? {
            let entry = self.entries.start + index * self.entries.size;
            if u32_at(self.order, &self.bytes, entry)? != flags {
                continue;
            }
            let Some(path) = self.entry_string(entry + 8) else { continue };
            let hwcap = self.hwcap(entry)?;
            if hwcap >> 32 & !LEVEL_MASK != NAMED >> 32 {
                // ldconfig puts the named ones first: whatever fitted among them is better than this.
                if best.is_some() {
                    break;
                }
                if hwcap == 0 || hwcaps.fits(hwcap) {
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

    /// Whether no entry of that name is for some processors only.
    #[cfg(feature = "snapshots")]
    pub(super) fn is_for_all(&self, name: &[u8], flags: u32) -> bool {
        let for_all = |index: usize| {
            let entry = self.entries.start + index * self.entries.size;
            u32_at(self.order, &self.bytes, entry) != Some(flags) || self.hwcap(entry) == Some(0)
        };
        self.equal(name).is_some_and(|mut entries| entries.all(for_all))
    }

    /// Which processors an entry is for; 0 for all. Old entries have no such field.
    fn hwcap(&self, entry: usize) -> Option<u64> {
        if self.entries.size == ENTRY { u64_at(self.order, &self.bytes, entry + 16) } else { Some(0) }
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
                    let after = (middle + 1..high).take_while(is_equal).count();
                    return Some(middle - before..middle + 1 + after);
                }
            }
        }
        None
    }

    /// The name of an entry, and what follows it: to compare names ends at the first NUL.
    fn key(&self, index: usize) -> Option<&[u8]> {
        self.from(self.entry_offset(self.entries.start + index * self.entries.size + 4)?)
    }

    fn entry_string(&self, field: usize) -> Option<&[u8]> {
        self.string(self.entry_offset(field)?)
    }

    fn entry_offset(&self, field: usize) -> Option<usize> {
        self.entries.strings.checked_add(u32_at(self.order, &self.bytes, field)? as usize)
    }

    fn level(&self, index: usize) -> Option<&[u8]> {
        let (start, count) = self.names;
        // Unlike those of entries, these offsets count from the start of the file in every format.
        if index < count { self.string(u32_at(self.order, &self.bytes, start + 4 * index)? as usize) } else { None }
    }

    /// The bytes from `offset`, which must lie in the file, to the next NUL or the end of the file.
    fn string(&self, offset: usize) -> Option<&[u8]> {
        let tail = self.from(offset)?;
        Some(CStr::from_bytes_until_nul(tail).map_or(tail, CStr::to_bytes))
    }

    fn from(&self, offset: usize) -> Option<&[u8]> {
        self.bytes.get(offset..).filter(|tail| !tail.is_empty())
    }
}

/// The entries of the new format whose header stands at `start`.
fn new_entries(bytes: &[u8], start: usize, order: ByteOrder) -> Result<Entries, &'static str> {
    let count = u32_at(order, bytes, start + 20).ok_or("shorter than its header")? as usize;
    let room = bytes.len().checked_sub(start + HEADER).ok_or("shorter than its header")?;
    if count > room / ENTRY {
        return Err("shorter than its table");
    }
    // The byte order: zero says nothing, two is little-endian, three is big-endian.
    match bytes[start + 28] {
        0 => {}
        flags if flags & 3 == if order == ByteOrder::Little { 2 } else { 3 } => {}
        _ => return Err("written for another byte order"),
    }
    Ok(Entries { start: start + HEADER, count, size: ENTRY, strings: start })
}

/// The extension with the names of `glibc-hwcaps` subdirectories: where its offsets stand, and how many.
fn names(bytes: &[u8], header: usize, order: ByteOrder) -> Option<(usize, usize)> {
    let directory = u32_at(order, bytes, header + 32)? as usize;
    if directory == 0 || !directory.is_multiple_of(4) || u32_at(order, bytes, directory)? != EXTENSION_MAGIC {
        return None;
    }
    let count = u32_at(order, bytes, directory + 4)? as usize;
    let sections = bytes.get(directory + 8..)?.get(..count.checked_mul(16)?)?;
    let mut names = None;
    for section in sections.chunks_exact(16) {
        let (tag, offset, size) =
            (u32_at(order, section, 0)?, u32_at(order, section, 8)? as usize, u32_at(order, section, 12)? as usize);
        // One section that leaves the file makes all of them unusable.
        bytes.get(offset..)?.get(..size)?;
        if tag == EXTENSION_HWCAPS {
            names = (offset.is_multiple_of(4) && size.is_multiple_of(4)).then_some((offset, size / 4));
        }
    }
    names
}

fn u32_at(order: ByteOrder, bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = *bytes.get(offset..)?.first_chunk()?;
    Some(if order == ByteOrder::Little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
}

fn u64_at(order: ByteOrder, bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = *bytes.get(offset..)?.first_chunk()?;
    Some(if order == ByteOrder::Little { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) })
}

/// The order of the cache: byte by byte, but runs of digits as numbers, which are greater than anything else.
///
/// So `libx.so.10` comes after `libx.so.9`, and `libx.so.1` and `libx.so.01` are the same name. The search must
/// order exactly as `ldconfig` did, also where that is odd: numbers wrap as C's `int` does, and bytes above 127 are
/// negative where C's `char` is signed.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    // What both begin with decides nothing, but for a number, of which a part says nothing.
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let same = same - a[..same].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (mut i, mut j) = (same, same);
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

/// A cache file, mapped when it is first asked for.
#[derive(Default)]
pub(super) struct CacheFile {
    /// What is mapped, and what the file looked like then.
    read: Option<Loaded>,
    /// Whether it still looked so since [`CacheFile::recheck`].
    checked: bool,
}

/// What a file looked like, if there was one, and what was in it. `ldconfig` writes a new file and renames it.
type Loaded = (Option<Stamp>, Result<Arc<Cache>, &'static str>);

impl CacheFile {
    /// The cache at `path` as it is now; the error says why there is none.
    pub(super) fn get(&mut self, path: &Path, root: &Root, order: ByteOrder) -> Result<Arc<Cache>, &'static str> {
        if !std::mem::replace(&mut self.checked, true) && self.read.is_some() {
            let now = root.stamp(path);
            self.read.take_if(|(then, _)| *then != now);
        }
        self.read.get_or_insert_with(|| load(path, root, order)).1.clone()
    }

    /// Compares the file with what was read of it before it is used again.
    pub(super) fn recheck(&mut self) {
        self.checked = false;
    }
}

fn load(path: &Path, root: &Root, order: ByteOrder) -> Loaded {
    let file = match root.open(path) {
        Ok(file) => file,
        Err(ErrorKind::Open { errno: libc::ENOENT }) => return (None, Err("no such file")),
        Err(ErrorKind::NotMappable { .. }) => return (None, Err("not a regular file")),
        Err(_) => return (None, Err("cannot be opened")),
    };
    let looked = (file.identity, file.size, file.changed);
    let cache = if file.size > SIZE_LIMIT {
        Err("larger than any cache")
    } else {
        // A search looks at a few of its pages. What stands below another root may be anybody's to cut off meanwhile.
        let bytes = match root.is_own() {
            true => file.map(),
            false => file.read(0, SIZE_LIMIT as usize).map(Bytes::from),
        };
        bytes.map_err(|_| "cannot be read").and_then(|bytes| Cache::parse(bytes, order).map(Arc::new))
    };
    (Some(looked), cache)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The file of this machine's own file system.
    fn now(file: &mut CacheFile, path: &Path) -> Result<Arc<Cache>, &'static str> {
        file.get(path, &Root::default(), ByteOrder::Little)
    }

    pub(in crate::find) const X86_64: u32 = 0x303;

    /// Writes caches as `ldconfig` does.
    #[derive(Clone, Default)]
    pub(in crate::find) struct Writer {
        entries: Vec<(String, String, u32, u64)>,
        levels: Vec<String>,
    }

    impl Writer {
        pub(in crate::find) fn plain(self, name: &str, path: &str) -> Self {
            self.entry(name, path, X86_64, 0)
        }

        pub(in crate::find) fn entry(mut self, name: &str, path: &str, flags: u32, hwcap: u64) -> Self {
            self.entries.push((name.into(), path.into(), flags, hwcap));
            self
        }

        /// An entry for a subdirectory of `glibc-hwcaps`, marked with an instruction set level.
        pub(in crate::find) fn named(mut self, name: &str, path: &str, level: &str, isa: u64) -> Self {
            let index = self.levels.iter().position(|known| known == level).unwrap_or_else(|| {
                self.levels.push(level.into());
                self.levels.len() - 1
            });
            self.entry(name, path, X86_64, NAMED | isa << 32 | index as u64)
        }

        pub(in crate::find) fn write(&self) -> Vec<u8> {
            self.new_format(0)
        }

        /// The new format, to stand at `base` of the file.
        fn new_format(&self, base: usize) -> Vec<u8> {
            let mut entries = self.entries.clone();
            // Descending; of equal names, those for a subdirectory of glibc-hwcaps come first.
            let named = |hwcap: u64| hwcap & NAMED != 0;
            entries.sort_by(|a, b| {
                compare(b.0.as_bytes(), a.0.as_bytes()).then(named(b.3).cmp(&named(a.3))).then(b.3.cmp(&a.3))
            });
            let mut strings = Vec::new();
            let strings_at = HEADER + ENTRY * entries.len();
            let mut string = |text: &str| {
                let at = strings_at + strings.len();
                strings.extend_from_slice(text.as_bytes());
                strings.push(0);
                at as u32
            };
            let mut out = MAGIC.to_vec();
            out.extend((entries.len() as u32).to_le_bytes());
            out.extend([0; 24]);
            for (name, path, flags, hwcap) in &entries {
                out.extend([*flags, string(name), string(path), 0].map(u32::to_le_bytes).concat());
                out.extend(hwcap.to_le_bytes());
            }
            let levels: Vec<u32> = self.levels.iter().map(|level| base as u32 + string(level)).collect();
            out.extend(&strings);
            out[24..28].copy_from_slice(&(strings.len() as u32).to_le_bytes());
            out[28] = 2;
            out.resize(out.len().next_multiple_of(4), 0);
            let extension = (base + out.len()) as u32;
            out[32..36].copy_from_slice(&extension.to_le_bytes());
            out.extend([EXTENSION_MAGIC, 1, EXTENSION_HWCAPS, 0].map(u32::to_le_bytes).concat());
            out.extend([extension + 24, 4 * levels.len() as u32].map(u32::to_le_bytes).concat());
            out.extend(levels.iter().flat_map(|level| level.to_le_bytes()));
            out
        }

        /// The old format alone, or with the new one behind it.
        fn old_format(&self, and_new: bool) -> Vec<u8> {
            let mut entries: Vec<_> = self.entries.iter().filter(|entry| entry.3 == 0).collect();
            entries.sort_by(|a, b| compare(b.0.as_bytes(), a.0.as_bytes()));
            let mut out = [OLD_MAGIC, &[0], &(entries.len() as u32).to_le_bytes()].concat();
            let end = OLD_HEADER + OLD_ENTRY * entries.len();
            let new = if and_new { self.new_format(end.next_multiple_of(8)) } else { Vec::new() };
            let mut strings = vec![0; end.next_multiple_of(8) - end];
            strings.extend(new);
            for (name, path, flags, _) in entries {
                out.extend(flags.to_le_bytes());
                for text in [name, path] {
                    out.extend((strings.len() as u32).to_le_bytes());
                    strings.extend([text.as_bytes(), &[0]].concat());
                }
            }
            [out, strings].concat()
        }
    }

    fn sample() -> Writer {
        let mut writer = Writer::default();
        for number in [1, 2, 9, 10, 11, 100] {
            writer = writer.plain(&format!("libn.so.{number}"), &format!("/n/libn.so.{number}"));
        }
        let named =
            |writer: Writer, level: &str, isa| writer.named("libh.so", &format!("/h/{level}/libh.so"), level, isa);
        writer = named(writer, "x86-64-v2", 1);
        writer = named(writer, "x86-64-v3", 2);
        writer = named(writer, "x86-64-v4", 3);
        writer = named(writer, "z-other", 0);
        writer
            .plain("libh.so", "/h/libh.so")
            .entry("liba.so", "/a/avx512_1/liba.so", X86_64, 1 << 2)
            .entry("liba.so", "/a/liba.so", X86_64, 0)
            .entry("lib32.so", "/32/lib32.so", 3, 0)
            .plain("y", "/y")
            .plain("z", "/z")
    }

    /// What the cache says for a processor of a level from 1 to 4.
    fn path(bytes: &[u8], name: &str, level: usize) -> Option<String> {
        let cache = Cache::parse(bytes.to_vec().into(), ByteOrder::Little).unwrap();
        let hit = cache.lookup(name.as_bytes(), X86_64, &&Hwcaps::x86_64(level, false, Some(b"x86_64")))?;
        Some(String::from_utf8(hit.path.to_vec()).unwrap())
    }

    #[test]
    fn digits_are_compared_as_numbers_and_are_greater_than_text() {
        let sorted = ["", "lib", "lib.so", "libc", "lib1.so.9", "lib1.so.10", "lib1a", "lib2.so.1", "lib10.so.1"];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(compare(a.as_bytes(), b.as_bytes()), i.cmp(&j), "{a} and {b}");
            }
        }
        // Where char is signed, as on x86-64, a byte above 127 is less than the end of the name.
        let signed = c_char::MIN < 0;
        assert_eq!(compare(b"lib\xff", b"lib"), if signed { Ordering::Less } else { Ordering::Greater });
        assert_eq!(compare(b"lib", b"lib\xff"), if signed { Ordering::Greater } else { Ordering::Less });
        assert_eq!(compare(b"libx.so.01", b"libx.so.1"), Ordering::Equal);
    }

    #[test]
    fn every_name_is_found_in_each_of_the_three_formats() {
        for bytes in [sample().write(), sample().old_format(true), sample().old_format(false)] {
            for number in [1, 2, 9, 10, 11, 100] {
                let name = format!("libn.so.{number}");
                assert_eq!(path(&bytes, &name, 1), Some(format!("/n/{name}")));
            }
            assert_eq!(path(&bytes, "z", 1).as_deref(), Some("/z"));
            assert_eq!(path(&bytes, "libn.so.3", 1), None);
            assert_eq!(path(&bytes, "", 1), None);
        }
    }

    #[test]
    fn the_best_level_that_the_processor_has_wins() {
        for bytes in [sample().write(), sample().old_format(true)] {
            assert_eq!(path(&bytes, "libh.so", 1).as_deref(), Some("/h/libh.so"));
            assert_eq!(path(&bytes, "libh.so", 2).as_deref(), Some("/h/x86-64-v2/libh.so"));
            assert_eq!(path(&bytes, "libh.so", 3).as_deref(), Some("/h/x86-64-v3/libh.so"));
            assert_eq!(path(&bytes, "libh.so", 4).as_deref(), Some("/h/x86-64-v4/libh.so"));
        }
        let cache = Cache::parse(sample().write().into(), ByteOrder::Little).unwrap();
        let hit = cache.lookup(b"libh.so", X86_64, &&Hwcaps::x86_64(3, false, None)).unwrap();
        assert_eq!(hit.level, Some(b"x86-64-v3".as_slice()));
    }

    #[test]
    fn a_library_marked_for_a_higher_level_than_its_directory_is_passed_over() {
        let writer = Writer::default().named("l", "/v2/l", "x86-64-v2", 3).plain("l", "/l");
        assert_eq!(path(&writer.write(), "l", 2).as_deref(), Some("/l"));
        assert_eq!(path(&writer.write(), "l", 4).as_deref(), Some("/v2/l"));
        // Beyond any level there is.
        let writer = Writer::default().named("l", "/v2/l", "x86-64-v2", 64).plain("l", "/l");
        assert_eq!(path(&writer.write(), "l", 4).as_deref(), Some("/l"));
    }

    #[test]
    fn an_entry_for_older_capabilities_counts_only_where_they_are() {
        let bytes = sample().write();
        let cache = Cache::parse(bytes.into(), ByteOrder::Little).unwrap();
        let find = |hwcaps| cache.lookup(b"liba.so", X86_64, &&hwcaps).map(|hit| hit.path);
        assert_eq!(find(Hwcaps::x86_64(4, false, None)), Some(b"/a/liba.so".as_slice()));
        assert_eq!(find(Hwcaps::x86_64(4, true, None)), Some(b"/a/avx512_1/liba.so".as_slice()));
    }

    #[test]
    fn entries_of_other_machines_do_not_count() {
        let cache = Cache::parse(sample().write().into(), ByteOrder::Little).unwrap();
        let hwcaps = Hwcaps::x86_64(1, false, None);
        assert_eq!(cache.lookup(b"lib32.so", X86_64, &&hwcaps), None);
        assert!(cache.lookup(b"lib32.so", 3, &&hwcaps).is_some());
    }

    #[test]
    fn without_its_extension_a_cache_still_has_its_plain_entries() {
        let mut bytes = sample().write();
        let extension = u32_at(ByteOrder::Little, &bytes, 32).unwrap() as usize;
        bytes[extension] ^= 1;
        assert_eq!(path(&bytes, "libh.so", 4).as_deref(), Some("/h/libh.so"));
        bytes.truncate(extension);
        assert_eq!(path(&bytes, "libh.so", 4).as_deref(), Some("/h/libh.so"));
    }

    #[test]
    fn a_header_that_lies_is_refused_with_the_reason() {
        let refused = |bytes: &[u8]| Cache::parse(bytes.to_vec().into(), ByteOrder::Little).err();
        let good = sample().write();
        assert_eq!(refused(b""), Some("not a cache of shared libraries"));
        assert_eq!(refused(&good[..40]), Some("shorter than its header"));
        let mut bytes = good.clone();
        bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(refused(&bytes), Some("shorter than its table"));
        let mut bytes = good;
        bytes[28] = 3;
        assert_eq!(refused(&bytes), Some("written for another byte order"));
        let mut bytes = sample().old_format(false);
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(refused(&bytes), Some("shorter than its table"));
    }

    /// Marsaglia's xorshift: the same numbers in every run.
    fn random(state: &mut u64) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state as usize
    }

    #[test]
    fn no_damaged_cache_makes_a_lookup_panic_or_run_on() {
        let mut caches = vec![sample().write(), sample().old_format(true), sample().old_format(false)];
        caches.extend(std::fs::read("/etc/ld.so.cache"));
        let hwcaps = Hwcaps::x86_64(4, true, Some(b"haswell"));
        let mut state = 0x2545_f491_4f6c_dd1d;
        let mut found = 0;
        for _ in 0..5_000 {
            let mut bytes = caches[random(&mut state) % caches.len()].clone();
            for _ in 0..1 + random(&mut state) % 8 {
                // Half of the damage in the header and first entries, where it matters most.
                let reach = [bytes.len(), bytes.len().min(160)][random(&mut state) % 2];
                let at = random(&mut state) % reach;
                match random(&mut state) % 4 {
                    0 => bytes[at] = random(&mut state) as u8,
                    1 => bytes[at] ^= 1 << (random(&mut state) % 8),
                    2 => bytes[at] = 0xff,
                    _ => bytes.truncate(at.max(1)),
                }
            }
            let Ok(cache) = Cache::parse(bytes.into(), ByteOrder::Little) else { continue };
            for name in ["libh.so", "libn.so.10", "liba.so", "libc.so.6", "z", "", "\u{fffd}"] {
                found += usize::from(cache.lookup(name.as_bytes(), X86_64, &&hwcaps).is_some());
            }
        }
        assert!(found > 1_000, "most damage hits something else: {found}");
    }

    #[test]
    fn a_cache_file_is_read_again_only_after_it_changed_and_only_when_asked_to_check() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ld.so.cache");
        let mut file = CacheFile::default();
        assert_eq!(now(&mut file, &path).err(), Some("no such file"));
        std::fs::write(&path, sample().write()).unwrap();
        assert_eq!(now(&mut file, &path).err(), Some("no such file"));
        file.recheck();
        let first = now(&mut file, &path).unwrap();
        file.recheck();
        assert!(Arc::ptr_eq(&first, &now(&mut file, &path).unwrap()));
        let new = dir.path().join("new");
        std::fs::write(&new, sample().plain("libnew.so", "/new").write()).unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert!(Arc::ptr_eq(&first, &now(&mut file, &path).unwrap()));
        file.recheck();
        let second = now(&mut file, &path).unwrap();
        assert!(second.lookup(b"libnew.so", X86_64, &&Hwcaps::x86_64(1, false, None)).is_some());
    }

    #[test]
    fn a_cache_that_is_no_regular_file_or_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(now(&mut CacheFile::default(), &fifo).err(), Some("not a regular file"));
        let large = dir.path().join("large");
        std::fs::File::create(&large).unwrap().set_len(SIZE_LIMIT + 1).unwrap();
        assert_eq!(now(&mut CacheFile::default(), &large).err(), Some("larger than any cache"));
    }

    #[test]
    fn the_cache_of_this_machine_gives_what_ldconfig_lists() {
        let Ok(listed) = std::process::Command::new("/sbin/ldconfig").arg("-p").output() else { return };
        let Ok(cache) = now(&mut CacheFile::default(), Path::new("/etc/ld.so.cache")) else { return };
        let hwcaps = Hwcaps::x86_64(1, false, None);
        let text = String::from_utf8_lossy(&listed.stdout);
        let mut seen = std::collections::HashSet::new();
        for line in text.lines().filter(|line| !line.contains("hwcap")) {
            // "\tlibz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1"
            let Some((name, path)) = line.trim().split_once(" (libc6,x86-64) => ") else { continue };
            if seen.insert(name) {
                let hit = cache.lookup(name.as_bytes(), X86_64, &&hwcaps).map(|hit| hit.path);
                assert_eq!(hit, Some(path.as_bytes()), "{name}");
            }
        }
    }

    #[cfg(feature = "snapshots")]
    #[test]
    fn what_some_processors_get_another_file_of_is_not_for_all() {
        let writer = Writer::default()
            .plain("a", "/lib/a")
            .plain("b", "/lib/b")
            .named("b", "/lib/glibc-hwcaps/x86-64-v3/b", "x86-64-v3", 3)
            .plain("c", "/lib/c")
            .entry("c", "/lib32/c", 0x3, 1 << 3)
            .entry("d", "/lib/haswell/d", X86_64, 1 << 3);
        let cache = Cache::parse(writer.write().into(), ByteOrder::Little).unwrap();
        let is_for_all = ["a", "b", "c", "d", "e"].map(|name| cache.is_for_all(name.as_bytes(), X86_64));
        assert_eq!(is_for_all, [true, false, true, false, false]);
    }
}
