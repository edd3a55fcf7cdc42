//! Sets of small numbers, a bit for each.

use smallvec::{SmallVec, smallvec};

use crate::file::relocations::SetBits;

/// Which of so many numbers are in it.
#[derive(Debug, Default)]
pub(crate) struct Numbers(SmallVec<[u64; 3]>);

impl Numbers {
    /// None of the numbers below `count`.
    pub(crate) fn none(count: usize) -> Self {
        Self(smallvec![0; count.div_ceil(64)])
    }

    pub(crate) fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    pub(crate) fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|bits| bits >> (number % 64) & 1 == 1)
    }

    /// In ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        let of = |(word, bits): (usize, &u64)| SetBits(*bits).map(move |bit| 64 * word + bit as usize);
        self.0.iter().enumerate().flat_map(of)
    }
}

#[cfg(test)]
mod tests {
    use super::Numbers;

    #[test]
    fn what_was_put_in_is_there() {
        let mut numbers = Numbers::none(130);
        for number in [129, 0, 64, 63, 0] {
            numbers.insert(number);
        }
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert!(!numbers.contains(1) && !numbers.contains(1000));
    }
}
