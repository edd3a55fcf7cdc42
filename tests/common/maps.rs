//! The address space of this process, from `/proc/self/maps`.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

/// One line of `/proc/self/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) range: Range<usize>,
    /// `r-xp` and the like.
    pub(crate) perms: String,
    pub(crate) offset: u64,
    pub(crate) path: String,
}

pub(crate) fn maps() -> Vec<Map> {
    fs::read_to_string("/proc/self/maps").unwrap().lines().map(Map::parse).collect()
}

impl Map {
    fn parse(line: &str) -> Self {
        let mut words = line.split_ascii_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let hex = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let (start, end) = word().split_once('-').unwrap();
        let (perms, offset, _device, _inode) = (word().to_owned(), hex(word()) as u64, word(), word());
        Self { range: hex(start)..hex(end), perms, offset, path: words.collect::<Vec<_>>().join(" ") }
    }
}

/// The protection of the page at an address, such as `r--p`.
#[track_caller]
pub(crate) fn protection(address: usize) -> String {
    maps()
        .into_iter()
        .find(|map| map.range.contains(&address))
        .unwrap_or_else(|| panic!("{address:#x}: not mapped"))
        .perms
}

/// Whether any part of a file of this name is mapped.
pub(crate) fn is_mapped(file_name: &str) -> bool {
    maps().iter().any(|map| PathBuf::from(&map.path).file_name().is_some_and(|name| name == file_name))
}

/// What must be the same before and after an open that failed.
///
/// The heap and the stack may grow, and the allocator may split and merge its anonymous ranges; they count as one range
/// where they touch, so that a mapping left behind still shows.
pub(crate) fn address_space() -> Vec<Map> {
    let mut space: Vec<Map> = Vec::new();
    for mut map in maps() {
        if map.path == "[heap]" || map.path == "[stack]" {
            continue;
        }
        if map.path.is_empty() {
            map.perms = "anonymous".into();
            if let Some(last) =
                space.last_mut().filter(|last| last.path.is_empty() && last.range.end == map.range.start)
            {
                last.range.end = map.range.end;
                continue;
            }
        }
        space.push(map);
    }
    space
}

/// Fails with the lines that differ.
#[track_caller]
pub(crate) fn assert_same_address_space(before: &[Map], what: &str) {
    let after = address_space();
    let lost: Vec<_> = before.iter().filter(|map| !after.contains(map)).collect();
    let new: Vec<_> = after.iter().filter(|map| !before.contains(map)).collect();
    assert!(lost.is_empty() && new.is_empty(), "{what}: the address space changed: gone {lost:#x?}, new {new:#x?}");
}
