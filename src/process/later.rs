//! The objects made global after the start, for those who must not wait: a signal handler may be the first to call.

use std::sync::{Arc, Weak};

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

/// Each in its name space.
static LIST: Current<Vec<(Namespace, Fleeting)>> = Current::none();

/// Calls `read` with the list as it is now.
pub(crate) fn read<T>(read: impl FnOnce(&[(Namespace, Fleeting)]) -> T) -> T {
    LIST.read(|list| read(list.map_or(&[], Vec::as_slice)))
}

/// Shows `objects` from now on. Called with the registry locked.
pub(super) fn replace(objects: &[(Namespace, Object)]) {
    LIST.replace(|_| objects.iter().map(|(namespace, object)| (*namespace, Fleeting::of(object))).collect());
}
