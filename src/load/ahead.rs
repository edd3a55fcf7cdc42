//! What a run of look-ups is about to read is asked of memory beforehand, for all of them at once.
//!
//! A look-up reads some six places, each found by the one before and far from it. One look-up after another mostly waits
//! for memory; here the first places of all are asked for, then the second of all, and so on, so that memory answers many
//! at once. Nothing is decided: what is asked for in vain costs a moment. It pays where there is a table over a wide
//! scope, and costs more than it brings where less is read than the caches hold.

use super::scope::{Own, Providers};
use crate::file::relocations::AHEAD;

impl Providers<'_> {
    /// Prefetches what look-ups of these symbols of object `own` will read, [`AHEAD`] of them at most.
    pub(super) fn prefetch(&self, own: &Own<'_>, numbers: &[u32]) {
        let symbols = own.symbols;
        numbers.iter().for_each(|number| symbols.prefetch(*number));
        // Of its own definitions the hash is known, and is all that is read as a rule.
        let (mut others, mut count) = ([0; AHEAD], 0);
        for number in numbers {
            match own.hash(*number) {
                Some(hash) => self.prefetch_slots(hash),
                None => {
                    symbols.prefetch_name(*number);
                    others[count] = *number;
                    count += 1;
                }
            }
        }
        let mut hashes = [0; AHEAD];
        for (hash, number) in hashes.iter_mut().zip(&others[..count]) {
            let name = symbols.get(*number).and_then(|symbol| symbols.name(&symbol));
            *hash = name.map_or(0, |name| name.gnu_hash());
            self.prefetch_slots(*hash);
        }
        let found = hashes.map(|hash| if hash == 0 { None } else { self.likely(hash) });
        found.iter().flatten().for_each(|(symbols, number)| symbols.prefetch(*number));
        found.iter().flatten().for_each(|(symbols, number)| symbols.prefetch_name(*number));
    }
}
