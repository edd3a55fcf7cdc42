//! Which module is at an address, told without any lock: unwinders ask that in signal handlers, too.
//!
//! glibc documents `_dl_find_object` as safe to be called there. A handler may have interrupted a thread that holds a lock,
//! or that is changing what is asked for.

use super::current::Current;
use super::module::{Id, Module};
use crate::addr::Addr;

/// Where a module is, and what an unwinder wants of it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) start: Addr,
    pub(crate) end: Addr,
    pub(super) id: Id,
    /// Of its `link_map`.
    pub(crate) map: Addr,
    /// Its `PT_GNU_EH_FRAME`, if it has one.
    pub(crate) frames: Option<Addr>,
    /// What is known of it: there as long as the registry has it.
    pub(crate) module: Addr,
}

#[derive(Default)]
struct Table {
    /// In order of their addresses.
    places: Vec<Place>,
    /// How many were ever added.
    added: u64,
}

static TABLE: Current<Table> = Current::none();

/// The module that has `addr` among its addresses.
pub(crate) fn at(addr: Addr) -> Option<Place> {
    TABLE.read(|table| {
        let places = &table?.places;
        let after = places.partition_point(|place| place.start <= addr);
        places[..after].last().filter(|place| addr < place.end).copied()
    })
}

/// How many modules were ever added and removed.
pub(crate) fn counts() -> (u64, u64) {
    TABLE.read(|table| table.map_or((0, 0), |table| (table.added, table.added - table.places.len() as u64)))
}

/// Calls `with` for each module, until it answers something.
pub(crate) fn each<T>(mut with: impl FnMut(&Place) -> Option<T>) -> Option<T> {
    TABLE.read(|table| table?.places.iter().find_map(&mut with))
}

/// Adds modules that everybody is to see.
pub(super) fn add<'m>(modules: impl Iterator<Item = &'m Module>) {
    let place = |module: &Module| {
        let (range, bias) = (module.mapping.range(), module.mapping.bias());
        let frames = module.eh_frame.map(|at| bias.at(at));
        let (map, module_at) =
            (Addr(module.listed.map() as usize), Addr(std::ptr::from_ref(module).expose_provenance()));
        Place { start: range.start, end: range.end, id: module.id, map, frames, module: module_at }
    };
    let new: Vec<Place> = modules.map(place).collect();
    TABLE.replace(|table| {
        let (old, added) = table.map_or((&[][..], 0), |table| (&table.places, table.added));
        let added = added + new.len() as u64;
        Table { places: merged(old, new), added }
    });
}

/// Those of both, in order of their addresses, as the `old` ones are.
fn merged(old: &[Place], mut new: Vec<Place>) -> Vec<Place> {
    let (mut places, mut old) = (Vec::with_capacity(old.len() + new.len()), old.iter().copied().peekable());
    new.sort_unstable_by_key(|place| place.start);
    for place in new {
        places.extend(std::iter::from_fn(|| old.next_if(|old| old.start < place.start)));
        places.push(place);
    }
    places.extend(old);
    places
}

/// Removes modules that are about to be unmapped.
pub(super) fn remove<'m>(modules: impl Iterator<Item = &'m Module>) {
    let mut starts: Vec<Addr> = modules.map(|module| module.mapping.range().start).collect();
    starts.sort_unstable();
    TABLE.replace(|table| {
        let (old, added) = table.map_or((&[][..], 0), |table| (&table.places, table.added));
        let stay = old.iter().filter(|place| starts.binary_search(&place.start).is_err());
        Table { places: stay.copied().collect(), added }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stay_in_order_wherever_new_ones_are() {
        let places = |starts: &[usize]| {
            let place = |start: &usize| Place {
                start: Addr(*start),
                end: Addr(start + 1),
                id: Id(0),
                map: Addr(0),
                frames: None,
                module: Addr(0),
            };
            starts.iter().map(place).collect::<Vec<_>>()
        };
        for (old, new) in [
            (&[][..], &[7, 3, 5][..]),
            (&[2, 4, 6], &[]),
            (&[2, 4, 6], &[1]),
            (&[2, 4, 6], &[9, 5, 3, 1]),
            (&[2, 4], &[8, 6]),
        ] {
            let all: Vec<usize> = merged(&places(old), places(new)).iter().map(|place| place.start.0).collect();
            assert!(all.is_sorted() && all.len() == old.len() + new.len(), "{all:?}");
            assert!(old.iter().chain(new).all(|start| all.contains(start)), "{all:?}");
        }
    }
}
