//! What the names stand for that one open has come across, each to be looked for once.

use crate::file::hash;

/// Lists that names are spread over.
const LISTS: usize = 256;

/// Names, and the numbers that they mean. Of several that a name may mean, it is the first.
pub(super) struct Called {
    /// Where each list begins in `all`; 0 where there is none, else one more.
    lists: Box<[u32; LISTS]>,
    all: Vec<Entry>,
    texts: Vec<u8>,
}

struct Entry {
    hash: u32,
    /// As `lists`, the one that follows.
    next: u32,
    /// Where its name begins.
    start: usize,
    len: usize,
    number: usize,
}

impl Called {
    pub(super) fn new() -> Self {
        Self { lists: Box::new([0; LISTS]), all: Vec::new(), texts: Vec::new() }
    }

    /// The number that `name` means.
    pub(super) fn number(&self, name: &[u8]) -> Option<usize> {
        self.find(hash_of(name), name)
    }

    fn find(&self, hash: u32, name: &[u8]) -> Option<usize> {
        let mut next = self.lists[hash as usize % LISTS];
        while let Some(entry) = (next as usize).checked_sub(1).and_then(|at| self.all.get(at)) {
            if entry.hash == hash && self.texts[entry.start..].get(..entry.len) == Some(name) {
                return Some(entry.number);
            }
            next = entry.next;
        }
        None
    }

    /// Has `name` mean `number` from here on, if it means nothing yet.
    pub(super) fn note(&mut self, name: &[u8], number: usize) {
        let hash = hash_of(name);
        if self.find(hash, name).is_none() {
            let list = &mut self.lists[hash as usize % LISTS];
            let (next, start, len) = (*list, self.texts.len(), name.len());
            self.all.push(Entry { hash, next, start, len, number });
            self.texts.extend_from_slice(name);
            *list = self.all.len() as u32;
        }
    }
}

/// What tells most names apart.
fn hash_of(name: &[u8]) -> u32 {
    hash::gnu(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_what_it_meant_first_whatever_else_is_in_its_list() {
        let mut called = Called::new();
        let name = |number: usize| format!("lib{number}.so").into_bytes();
        for number in 0..4 * LISTS {
            assert_eq!(called.number(&name(number)), None);
            called.note(&name(number), number);
            called.note(&name(number), usize::MAX);
        }
        assert!((0..4 * LISTS).all(|number| called.number(&name(number)) == Some(number)));
        assert_eq!((called.number(b""), called.number(b"lib1.s"), called.number(b"lib1.so.1")), (None, None, None));
    }
}
