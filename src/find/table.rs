//! What names and members of a group have been met, found in a few steps however many there are.

use std::mem;
use std::ops::Range;

use crate::file::hash;

/// Numbers by the hashes of what has them.
#[derive(Default)]
pub(super) struct Table {
    /// As many as a power of two says, a half of them empty at least. What is not in its own place is in one of the next.
    slots: Vec<Option<(u32, usize)>>,
    len: usize,
}

impl Table {
    /// The first number of that hash that `is` the one.
    pub(super) fn find(&self, hash: u32, is: impl Fn(usize) -> bool) -> Option<usize> {
        let (before, from) = self.slots.split_at_checked(self.place(hash))?;
        let known = from.iter().chain(before).map_while(|slot| *slot);
        known.filter(|known| known.0 == hash).map(|known| known.1).find(|number| is(*number))
    }

    pub(super) fn add(&mut self, hash: u32, number: usize) {
        if 2 * self.len >= self.slots.len() {
            let wider = vec![None; (2 * self.slots.len()).max(8)];
            for (hash, number) in mem::replace(&mut self.slots, wider).into_iter().flatten() {
                self.put(hash, number);
            }
        }
        self.put(hash, number);
        self.len += 1;
    }

    fn put(&mut self, hash: u32, number: usize) {
        let mut at = self.place(hash);
        while self.slots[at].is_some() {
            at = (at + 1) % self.slots.len();
        }
        self.slots[at] = Some((hash, number));
    }

    /// Where to begin with that hash: the upper bits of its product with the golden ratio, which all its bits have a part in.
    fn place(&self, hash: u32) -> usize {
        ((u64::from(hash.wrapping_mul(0x9e37_79b9)) * self.slots.len() as u64) >> 32) as usize
    }
}

/// What names mean.
#[derive(Default)]
pub(super) struct Called {
    table: Table,
    /// The names, one behind the other.
    text: Vec<u8>,
    /// Where each is, and what it means.
    names: Vec<(Range<usize>, usize)>,
}

impl Called {
    pub(super) fn get(&self, name: &[u8]) -> Option<usize> {
        let is = |index: usize| self.text[self.names[index].0.clone()] == *name;
        self.table.find(hash_of(name), is).map(|index| self.names[index].1)
    }

    /// `name`, which has meant nothing so far, means `number`.
    pub(super) fn add(&mut self, name: &[u8], number: usize) {
        let start = self.text.len();
        self.text.extend_from_slice(name);
        self.table.add(hash_of(name), self.names.len());
        self.names.push((start..self.text.len(), number));
    }
}

/// One with a NUL in it is nobody's, and may have any.
fn hash_of(name: &[u8]) -> u32 {
    hash::gnu(name).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_what_was_said_of_it_and_not_of_another_of_its_hash() {
        let mut called = Called::default();
        assert_eq!(called.get(b"ab"), None);
        // "bA" and "ab" have one hash: 'b' * 33 + 'A' is 'a' * 33 + 'b'.
        for (name, number) in [("ab", 1), ("bA", 2), ("", 3), ("with\0nul", 4)] {
            called.add(name.as_bytes(), number);
        }
        let names = ["ab", "bA", "", "with\0nul", "a", "b"];
        let numbers = names.map(|name| called.get(name.as_bytes()));
        assert_eq!(numbers, [Some(1), Some(2), Some(3), Some(4), None, None]);
    }

    #[test]
    fn however_many_there_are_each_is_found() {
        let mut called = Called::default();
        for number in 0..5000 {
            called.add(format!("lib{number}.so").as_bytes(), number);
        }
        assert!((0..5000).all(|number| called.get(format!("lib{number}.so").as_bytes()) == Some(number)));
        assert_eq!(called.get(b"lib5000.so"), None);
        assert!(called.table.slots.len() <= 4 * 5000);
    }
}
