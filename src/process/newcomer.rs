//! A group on its way into the registry: what it brings, and what it was made to fit.

use std::sync::Arc;

use super::addresses;
use super::hooks;
use super::module::{Id, Instance, Module, Object};
use super::namespace::Namespace;
use super::registry::{Entry, Phase, State};
use super::symbols::LateSymbols;
use crate::file::symbols::{Symbols, Wanted};
use crate::load::unique::{Unique, UniqueSymbols};

/// What a group was made to fit: if the process has changed in one of these, it has to be made anew.
pub(crate) struct Fit<'a> {
    /// The name space it is loaded in.
    pub(crate) namespace: Namespace,
    /// What its new modules are: nobody else may have loaded them meanwhile.
    pub(crate) instances: Vec<Instance>,
    /// Modules of the process that it rests on: they must still be there.
    pub(crate) rests_on: &'a [Id],
    /// Unique symbols it was first to use.
    pub(crate) unique: &'a UniqueSymbols,
    /// Who has them, by the owners' numbers.
    pub(crate) owners: Vec<Owner>,
}

impl Fit<'_> {
    /// The name of a unique symbol, as one that is looked for.
    pub(super) fn name(&self, own: Unique) -> Option<Wanted<'_>> {
        Wanted::by_name(own.name(self.owners.get(own.owner as usize)?.symbols()?)?, None)
    }
}

/// Who may have a unique symbol.
pub(crate) enum Owner {
    /// A new module: its place among those of the group, and its symbols.
    New(usize, Arc<LateSymbols>),
    Known(Object),
}

impl Owner {
    fn symbols(&self) -> Option<&Symbols> {
        match self {
            Self::New(_, symbols) => Some(symbols),
            Self::Known(object) => object.symbols(),
        }
    }
}

/// A module on its way into the registry.
pub(crate) struct Newcomer {
    pub(crate) module: Arc<Module>,
    /// The names it was asked for by, but for its soname.
    pub(crate) names: Vec<Box<[u8]>>,
    pub(crate) keep: Option<Keep>,
}

/// Why a module stays for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// It asks for that (`DF_1_NODELETE`), or the one who opened it did.
    NoDelete,
    /// It has the definition of a unique symbol that everybody uses: its symbol of that number.
    Unique(u32),
}

impl State {
    /// Whether nothing has changed that a group was made to fit.
    pub(super) fn suits(&self, fit: &Fit<'_>) -> bool {
        let gone = |id: &Id| self.entry(*id).is_none_or(|entry| !entry.is_live());
        !fit.rests_on.iter().any(gone)
            && !fit.instances.iter().any(|instance| self.instance(*instance).is_some())
            && !self.unique.get(&fit.namespace).is_some_and(|settled| settled.has_any_of(fit))
    }

    /// Takes a group in. Answers its modules, and whether they are the first of an isolated name space. See
    /// [`publish`](super::registry::publish).
    pub(super) fn enter<M: Iterator<Item = Newcomer>>(
        &mut self,
        fit: &Fit<'_>,
        make: impl FnOnce(Id) -> M,
    ) -> (Vec<Arc<Module>>, bool) {
        let first = !fit.namespace.is_base() && !self.is_inhabited(fit.namespace);
        let phase = Phase::Entered(Some(hooks::this_thread()));
        let mut modules = Vec::with_capacity(fit.instances.len());
        let (count, known) = (fit.instances.len(), self.entries.len());
        if self.entries.capacity() - known < count {
            // Not twofold: room that nobody needs is memory all the same.
            self.entries.reserve_exact(count.max(known / 8));
        }
        for (index, Newcomer { module, names, keep }) in make(Id(self.next)).enumerate() {
            self.next += 1;
            for name in module.soname.iter().chain(&names) {
                self.called.add(name, module.id);
            }
            let (id, handles) = (module.id, usize::from(index == 0));
            let (thread_destructors, bound_later) = (0, Vec::new());
            modules.push(Arc::clone(&module));
            self.entries.push(Entry { id, module, names, handles, thread_destructors, phase, bound_later, keep });
        }
        addresses::add(modules.iter().map(|module| &**module));
        // What has settled something stays for good; nothing else of a name space may be left when it has gone.
        if !fit.unique.is_empty() {
            for (id, index) in self.unique.entry(fit.namespace).or_default().add(fit, &modules) {
                if let Some(entry) = self.entry_mut(id) {
                    entry.keep.get_or_insert(Keep::Unique(index));
                }
            }
        }
        (modules, first)
    }
}
