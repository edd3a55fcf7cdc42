//! A group on its way into the registry: what it brings, and what it was made to fit.

use std::sync::Arc;

use super::module::{Id, Instance, Module, Object};
use super::namespace::Namespace;
use crate::addr::Addr;
use crate::file::symbols::Symbol;

/// What a group was made to fit: if the process has changed in one of these, it has to be made anew.
pub(crate) struct Fit {
    /// The name space it is loaded in.
    pub(crate) namespace: Namespace,
    /// What its new modules are: nobody else may have loaded them meanwhile.
    pub(crate) instances: Vec<Instance>,
    /// Modules of the process that it rests on: they must still be there.
    pub(crate) rests_on: Vec<Id>,
    /// Unique symbols it was first to define.
    pub(crate) unique: Vec<NewUnique>,
}

/// A unique symbol: its name, where it is, and who has it.
pub(crate) struct NewUnique {
    pub(crate) name: Box<[u8]>,
    pub(crate) addr: Addr,
    pub(crate) symbol: Symbol,
    pub(crate) owner: UniqueOwner,
}

/// Who has a unique symbol.
pub(crate) enum UniqueOwner {
    /// A new module, by its place in the group's order of initialisation.
    New(usize),
    Known(Object),
}

/// A module on its way into the registry.
pub(crate) struct Newcomer {
    pub(crate) module: Arc<Module>,
    /// The names it was asked for by.
    pub(crate) names: Vec<Box<[u8]>>,
    pub(crate) keep: Option<Keep>,
}

/// Why a module stays for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// It asks for that (`DF_1_NODELETE`), or the one who opened it did.
    NoDelete,
    /// It has the definition of a unique symbol that everybody uses.
    Unique(Box<[u8]>),
}
