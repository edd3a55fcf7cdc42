//! The objects made global after the start, for those who must not wait: a signal handler may be the first to call.

use std::sync::{Arc, OnceLock, Weak};

use super::current::Current;
use super::host::{HostObject, Pin};
use super::module::{Id, Object};
use super::namespace::Namespace;
use super::symbols::LateSymbols;
use crate::load::map::Mapping;

/// An object that may go at any moment, as look-ups at a first call know it.
#[derive(Clone)]
pub(crate) enum Fleeting {
    Module {
        id: Id,
        symbols: Weak<LateSymbols>,
        mapping: Weak<Mapping>,
    },
    /// Of the host; what holds it now.
    Host(Arc<HostObject>, Weak<Pin>),
}

impl Fleeting {
    pub(crate) fn of(object: &Object) -> Self {
        match object {
            Object::Host(host) => Self::Host(Arc::clone(host), host.held()),
            Object::Module(module) => {
                // Whoever must not wait cannot read them.
                module.symbols.read_now();
                let (symbols, mapping) = (Arc::downgrade(&module.symbols), Arc::downgrade(&module.mapping));
                Self::Module { id: module.id, symbols, mapping }
            }
        }
    }
}

/// Each in its name space, those that are there first: there is room for more, so that what becomes global is mostly added
/// and not all of it listed anew.
type List = Box<[OnceLock<(Namespace, Fleeting)>]>;

static LIST: Current<List> = Current::none();

/// The first answer that `find` gives, in the order of the list as it is now.
pub(crate) fn find<T>(find: impl FnMut(&(Namespace, Fleeting)) -> Option<T>) -> Option<T> {
    LIST.read(|list| list?.iter().map_while(OnceLock::get).find_map(find))
}

/// Shows `objects` from now on, the first of which are shown already. Called with the registry locked.
pub(super) fn extend(objects: &[(Namespace, Object)]) {
    let has_room = LIST.read(|list| {
        let Some(list) = list.filter(|list| objects.len() <= list.len()) else { return false };
        let shown = list.partition_point(|place| place.get().is_some());
        for (place, object) in list.iter().zip(objects).skip(shown) {
            let _ = place.set(fleeting(object));
        }
        true
    });
    if !has_room {
        replace(objects);
    }
}

/// Shows `objects` from now on. Called with the registry locked.
pub(super) fn replace(objects: &[(Namespace, Object)]) {
    let more = 4 + objects.len() / 4;
    let places = objects.iter().map(|object| fleeting(object).into());
    LIST.replace(|_| places.chain(std::iter::repeat_with(OnceLock::new).take(more)).collect());
}

fn fleeting((namespace, object): &(Namespace, Object)) -> (Namespace, Fleeting) {
    (*namespace, Fleeting::of(object))
}
