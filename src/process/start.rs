//! The names of what the program started with, as one filter: nearly every reference is looked for there first, mostly in vain.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::hooks;
use super::host::HostObject;
use super::module::Object;
use super::namespace::Namespace;
use super::world::Look;
use crate::file::symbols::Symbols;
use crate::load::index::{self, Filter};

/// The objects that the program started with, in the order in which they are asked.
pub(crate) struct Start {
    pub(crate) names: Filter,
    pub(crate) objects: Vec<Arc<HostObject>>,
}

/// The same objects, for look-ups by name, which ask them before all that was opened later.
pub(crate) fn objects() -> &'static [Object] {
    static OBJECTS: OnceLock<Vec<Object>> = OnceLock::new();
    // A fork must not find it half made. An allocator may be who asks: nothing is allocated while others would wait for it.
    let make = || {
        let look = Look::now(Namespace::BASE);
        let all = look.start().cloned().map(Object::Host).inspect(Object::read_symbols).collect();
        OBJECTS.get_or_init(|| all)
    };
    OBJECTS.get().unwrap_or_else(|| hooks::undisturbed(make))
}

/// Exports that are entered at once: somewhat more than the C library has, with libm and libgcc_s. The first open in a process
/// takes 7 µs longer for these, if few references are bound; each later one takes less, 2 µs with fifty references and 15 µs
/// with four hundred.
const AT_ONCE: usize = 5000;

/// Of more, how many are entered for each reference that is bound.
const PAYS: usize = 8;

/// The filter, if it pays: a program that has many names itself makes it once so many references have been bound in the
/// process, `references` of this time included. Only libraries of the base name space are bound to these objects.
pub(crate) fn names(look: &Look, references: usize) -> Option<&'static Start> {
    static BOUND: AtomicUsize = AtomicUsize::new(0);
    static ENOUGH: OnceLock<Option<usize>> = OnceLock::new();
    static START: OnceLock<Option<Start>> = OnceLock::new();
    if references == 0 || !look.namespace.is_base() {
        return None;
    }
    let bound = BOUND.fetch_add(references, Ordering::Relaxed).saturating_add(references);
    let symbols = || look.start().map(|object| object.symbols());
    let enough = ENOUGH.get_or_init(|| {
        let symbols = symbols().collect::<Option<Vec<&Symbols>>>()?;
        Some(index::exports(symbols.into_iter())?.saturating_sub(AT_ONCE) / PAYS)
    });
    if enough.is_none_or(|enough| bound < enough) {
        return None;
    }
    let start = START.get_or_init(|| {
        let names = Filter::of_exports(symbols().collect::<Option<Vec<&Symbols>>>()?.into_iter())?;
        Some(Start { names, objects: look.start().cloned().collect() })
    });
    start.as_ref()
}
