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
}

/// In order of their addresses.
type Table = Vec<Place>;

static TABLE: Current<Table> = Current::none();

/// The module that has `addr` among its addresses.
pub(crate) fn at(addr: Addr) -> Option<Place> {
    TABLE.read(|table| {
        let table = table?;
        let after = table.partition_point(|place| place.start <= addr);
        table[..after].last().filter(|place| addr < place.end).copied()
    })
}

/// Adds modules that everybody is to see.
pub(super) fn add<'m>(modules: impl Iterator<Item = &'m Module>) {
    let place = |module: &Module| {
        let (range, bias) = (module.mapping.range(), module.mapping.bias());
        let frames = module.eh_frame.map(|at| bias.at(at));
        Place { start: range.start, end: range.end, id: module.id, map: Addr(module.listed.map() as usize), frames }
    };
    change(|table| {
        table.extend(modules.map(place));
        table.sort_unstable_by_key(|place| place.start);
    });
}

/// Removes modules that are about to be unmapped.
pub(super) fn remove<'m>(modules: impl Iterator<Item = &'m Module>) {
    let starts: Vec<Addr> = modules.map(|module| module.mapping.range().start).collect();
    change(|table| table.retain(|place| !starts.contains(&place.start)));
}

fn change(edit: impl FnOnce(&mut Table)) {
    TABLE.replace(|table| {
        let mut table = table.cloned().unwrap_or_default();
        edit(&mut table);
        table
    });
}
