//! The objects that a handle looks symbols up in: asked in turn, or through a table of all their names once that pays.

use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::hooks;
use super::module::Object;
use super::registry;
use super::storage::thread_local_address;
use crate::addr::{Addr, Bias, Vaddr};
use crate::file::rows::Plain;
use crate::file::symbols::{Symbol, Symbols, Wanted};
use crate::load::call::Code;

/// Entering a name into the table costs as much as asking that many objects.
const ENTER_COST: usize = 2;

/// Names in one table: the widest real scope has some hundreds of thousands.
const NAMES_MAX: usize = 1 << 24;

/// Objects in the order in which they are asked. While it is in use, all of them stay loaded.
pub(crate) struct Scope {
    objects: Vec<Object>,
    /// How many objects look-ups have asked in turn so far, about: threads may count over each other.
    asked: AtomicUsize,
    /// How many may be asked before a table would have cost as much.
    patience: OnceLock<usize>,
    names: OnceLock<Option<Names>>,
}

impl Scope {
    pub(crate) fn new(objects: Vec<Object>) -> Self {
        Self { objects, asked: AtomicUsize::new(0), patience: OnceLock::new(), names: OnceLock::new() }
    }

    /// Where the first object that has it has what is looked for, in this process and thread.
    ///
    /// Takes no lock and no memory, unless it is this look-up that makes the table, or what is found is a unique symbol.
    #[inline(always)]
    pub(crate) fn find(&self, wanted: &Wanted<'_>) -> Option<Addr> {
        let hash = wanted.gnu_hash();
        match self.names.get() {
            Some(Some(names)) => names.find(hash, &self.objects, wanted),
            _ => self.find_in_turn(wanted),
        }
    }

    #[inline(never)]
    fn find_in_turn(&self, wanted: &Wanted<'_>) -> Option<Addr> {
        let mut asked = 0;
        let found = self.objects.iter().inspect(|_| asked += 1).find_map(|object| address(object, wanted));
        self.note(asked);
        found
    }

    /// Counts what a look-up has cost; makes the table when as much has been spent as it costs. So whoever asks once pays
    /// for no table, and whoever asks often at most twice.
    fn note(&self, asked: usize) {
        let before = self.asked.load(Ordering::Relaxed);
        self.asked.store(before.saturating_add(asked), Ordering::Relaxed);
        if before >= *self.patience.get().unwrap_or(&0) && self.names.get().is_none() {
            // A fork must not find one of these half made.
            hooks::undisturbed(|| {
                let patience = *self.patience.get_or_init(|| {
                    let names = self.objects.iter().filter_map(Object::symbols).map(|symbols| symbols.count() as usize);
                    names.fold(0, usize::saturating_add).saturating_mul(ENTER_COST)
                });
                if before > patience {
                    self.names.get_or_init(|| Names::of(&self.objects));
                }
            });
        }
    }
}

impl Deref for Scope {
    type Target = [Object];

    fn deref(&self) -> &[Object] {
        &self.objects
    }
}

/// Where `object` has what is looked for, in this process and thread.
pub(crate) fn address(object: &Object, wanted: &Wanted<'_>) -> Option<Addr> {
    address_from(object, None, wanted)
}

/// The same, where it may be known which of its symbols is the first of that hash.
#[inline(never)]
fn address_from(object: &Object, known: Option<u32>, wanted: &Wanted<'_>) -> Option<Addr> {
    let (_, symbol) = object.symbols()?.find_from(known, wanted)?;
    place(object, &symbol, wanted)
}

/// Where that symbol of `object` is.
fn place(object: &Object, symbol: &Symbol, wanted: &Wanted<'_>) -> Option<Addr> {
    if symbol.is_tls() {
        return match object {
            Object::Host(host) => Some(thread_local_address(host.tls_module, symbol.value)),
            Object::Module(module) => module
                .storage
                .as_ref()
                .map(|storage| thread_local_address(storage.module, symbol.value.wrapping_add(storage.shift))),
        };
    }
    if symbol.is_unique()
        && let Some((addr, _)) = registry::state().unique(object.namespace(), wanted)
    {
        return Some(addr);
    }
    let addr = object.provider()?.address(symbol);
    if !symbol.is_ifunc() {
        return Some(addr);
    }
    Code::at(addr, |addr| object.is_code(addr)).map(hooks::resolve)
}

/// The hashes of all names of a scope, each with the first symbol of an object that has it.
///
/// Open addressing: where several objects have a name, the first one was entered first and is met first.
struct Names {
    /// From the highest bit on: part of the hash, the object's rank in the scope, and the symbol's number there; 0 is a free
    /// slot.
    slots: Vec<u64>,
    shift: u32,
    /// Of each object what most look-ups go by.
    plain: Vec<Option<(Plain, Bias)>>,
}

const NUMBER_BITS: u32 = 24;
const RANK_BITS: u32 = 12;
/// What of a slot is not the hash.
const PLACE: u64 = (1 << (RANK_BITS + NUMBER_BITS)) - 1;

impl Names {
    /// `None` if an object has no hashes (the old kind of table), or if their like would fill the table badly.
    fn of(objects: &[Object]) -> Option<Self> {
        let symbols = || objects.iter().map(Object::symbols);
        let count =
            symbols().flatten().try_fold(0usize, |count, symbols| count.checked_add(symbols.hashes()?.len()))?;
        let fits = |symbols: &Symbols| symbols.count() < 1 << NUMBER_BITS;
        if count > NAMES_MAX || objects.len() > 1 << RANK_BITS || !symbols().flatten().all(fits) {
            return None;
        }
        let size = (count * 3 / 2).next_power_of_two().max(2);
        let plain = objects.iter().map(|object| Some((object.symbols()?.plain()?, object.bias()))).collect();
        let mut names = Self { slots: vec![0; size], shift: 32 - size.trailing_zeros(), plain };
        // A table that somebody has filled with what falls on one place would take for ever to make.
        let mut steps_left = count.saturating_mul(16);
        for (rank, symbols) in (0u64..).zip(symbols()) {
            let Some(symbols) = symbols else { continue };
            let hashes = symbols.hashes()?;
            let first = symbols.count().checked_sub(hashes.len() as u32)?;
            let mut chain = rank << NUMBER_BITS | u64::from(first);
            for (place, hash) in (chain..).zip(hashes) {
                let steps = names.enter(hash, place, chain);
                steps_left = steps_left.checked_sub(steps)?;
                // The lowest bit is not the hash's.
                if hash & 1 == 1 {
                    chain = place + 1;
                }
            }
        }
        Some(names)
    }

    /// Where a name of that hash is looked for first, and what its slots have of the hash: never 0.
    #[inline(always)]
    fn start(&self, hash: u32) -> (usize, u64) {
        // Fibonacci hashing: the low bits of the names' own hash are worn by the objects' bucket counts, the lowest is not
        // known. The high bits say where the slot is.
        let spread = (hash | 1).wrapping_mul(0x9e37_79b9);
        ((spread >> self.shift) as usize, u64::from(spread) << (RANK_BITS + NUMBER_BITS))
    }

    /// Enters a symbol of the chain that begins at `chain`, unless one of that chain with the same hash is there: a search
    /// that begins with that one meets this one too. How many slots were looked at.
    fn enter(&mut self, hash: u32, place: u64, chain: u64) -> usize {
        let mask = self.slots.len() - 1;
        let ((mut at, part), mut steps) = (self.start(hash), 1);
        while self.slots[at] != 0 {
            let slot = self.slots[at];
            if slot & !PLACE == part && slot & PLACE >= chain {
                return steps;
            }
            at = (at + 1) & mask;
            steps += 1;
        }
        self.slots[at] = part | place;
        steps
    }

    /// Whose symbol of that hash comes next from `at` on, and at which slot: rank and number.
    #[inline(always)]
    fn next(&self, mut at: usize, part: u64) -> Option<(usize, u32, usize)> {
        loop {
            let slot = *self.slots.get(at)?;
            if slot == 0 {
                return None;
            }
            if slot & !PLACE == part {
                let (rank, number) = ((slot & PLACE) >> NUMBER_BITS, slot as u32 & ((1 << NUMBER_BITS) - 1));
                return Some((rank as usize, number, at));
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// Where what is looked for is, the hash of which is `hash`.
    #[inline(always)]
    fn find(&self, hash: u32, objects: &[Object], wanted: &Wanted<'_>) -> Option<Addr> {
        let (at, part) = self.start(hash);
        let (rank, number, at) = self.next(at, part)?;
        if let Some((plain, bias)) = self.plain.get(rank)?
            && let Some(value) = plain.value(number, wanted)
        {
            return Some(bias.at(Vaddr(value)));
        }
        self.find_from(at, objects, wanted)
    }

    /// The same from slot number `at` on, whatever kind of symbol it is.
    #[inline(never)]
    fn find_from(&self, mut at: usize, objects: &[Object], wanted: &Wanted<'_>) -> Option<Addr> {
        let (_, part) = self.start(wanted.gnu_hash());
        loop {
            let (rank, number, found_at) = self.next(at, part)?;
            if let found @ Some(_) = address_from(objects.get(rank)?, Some(number), wanted) {
                return found;
            }
            at = (found_at + 1) & (self.slots.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::hash;
    use crate::file::symbols::WantedVersion;
    use crate::process::namespace::Namespace;
    use crate::process::world::Look;

    /// Every name that the objects define, without its version and with it.
    fn names(objects: &[Object]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut names = vec![(b"soload_no_such_symbol".to_vec(), None)];
        for symbols in objects.iter().filter_map(Object::symbols) {
            let all = (0..symbols.count()).filter_map(|index| Some((index, symbols.get(index)?)));
            for (index, symbol) in all.filter(|(_, symbol)| symbol.is_exported()) {
                let name = symbols.string(symbol.name).unwrap().to_vec();
                let version = symbols.version_of(index).and_then(|version| symbols.string(version.name));
                names.extend(version.map(|version| (name.clone(), Some(version.to_vec()))));
                names.push((name, None));
            }
        }
        names
    }

    fn asked<T>((name, version): &(Vec<u8>, Option<Vec<u8>>), ask: impl FnOnce(&Wanted<'_>) -> T) -> T {
        let exact = |name| WantedVersion { name, hash: hash::sysv(name), exact: true };
        ask(&Wanted::by_name(name, version.as_deref().map(exact)).unwrap())
    }

    #[test]
    fn the_table_answers_as_asking_in_turn_does() {
        let scope = Scope::new(Look::now(Namespace::BASE).global_scope().collect());
        let names = names(&scope);
        assert!(names.len() > 3000, "the C library is among them");
        let in_turn: Vec<_> = names
            .iter()
            .map(|name| asked(name, |wanted| scope.iter().find_map(|object| address(object, wanted))))
            .collect();
        assert!(scope.names.get().is_none(), "nobody has asked the scope itself yet");
        for _ in 0..100_000 {
            asked(&names[0], |wanted| assert_eq!(scope.find(wanted), None));
        }
        assert!(scope.names.get().is_some_and(Option::is_some), "so much asking is worth a table");
        for (name, in_turn) in names.iter().zip(in_turn) {
            assert_eq!(asked(name, |wanted| scope.find(wanted)), in_turn, "{:?}", String::from_utf8_lossy(&name.0));
        }
    }

    #[test]
    fn more_objects_than_a_table_has_numbers_for_are_asked_in_turn() {
        let look = Look::now(Namespace::BASE);
        let empty = look.global_scope().find(|object| object.symbols().is_some_and(|symbols| !symbols.exports_any()));
        let many = |count| vec![empty.clone().expect("the test itself exports nothing"); count];
        assert!(Names::of(&many(1 << RANK_BITS)).is_some() && Names::of(&many((1 << RANK_BITS) + 1)).is_none());
    }

    #[test]
    fn whoever_asks_a_few_times_pays_for_no_table() {
        let scope = Scope::new(Look::now(Namespace::BASE).global_scope().collect());
        for name in names(&scope).iter().take(100) {
            asked(name, |wanted| scope.find(wanted));
        }
        assert!(scope.names.get().is_none());
    }
}
