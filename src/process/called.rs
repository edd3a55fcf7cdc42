//! Which modules may be called by a name: their numbers, in order of the hashes of the names.

use super::module::Id;
use crate::file::hash;

/// The names of all modules. Two names may have one hash: who asks looks at the names themselves.
#[derive(Clone, Default)]
pub(super) struct Called(Vec<(u32, Id)>);

impl Called {
    pub(super) fn add(&mut self, name: &[u8], id: Id) {
        // A name with a NUL in it is nobody's.
        if let Some(hash) = hash::gnu(name) {
            self.0.insert(self.0.partition_point(|known| *known <= (hash, id)), (hash, id));
        }
    }

    /// The modules that may be called so, the oldest first.
    pub(super) fn by(&self, name: &[u8]) -> impl Iterator<Item = Id> {
        let hash = hash::gnu(name);
        let first = self.0.partition_point(|known| Some(known.0) < hash);
        self.0[first..].iter().take_while(move |known| Some(known.0) == hash).map(|(_, id)| *id)
    }

    /// Forgets modules that are gone.
    pub(super) fn retain(&mut self, stays: impl Fn(Id) -> bool) {
        self.0.retain(|(_, id)| stays(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_hash_are_both_found_oldest_first_until_they_are_gone() {
        let mut called = Called::default();
        // "bA" and "ab" have one hash: 'b' * 33 + 'A' is 'a' * 33 + 'b'.
        for (name, id) in [("bA", 3), ("ab", 1), ("ab", 2), ("libz.so.1", 2), ("with\0nul", 4)] {
            called.add(name.as_bytes(), Id(id));
        }
        let by = |called: &Called, name: &str| called.by(name.as_bytes()).map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(by(&called, "ab"), [1, 2, 3]);
        assert_eq!(by(&called, "libz.so.1"), [2]);
        assert_eq!((by(&called, "libz.so"), by(&called, "with\0nul")), (vec![], vec![]));
        called.retain(|id| id.0 != 2);
        assert_eq!((by(&called, "bA"), by(&called, "libz.so.1")), (vec![1, 3], vec![]));
    }
}
