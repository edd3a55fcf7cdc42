//! The unique symbols of a name space that are settled, and who has them.

use std::sync::Arc;

use super::module::{Id, Module, Object};
use super::newcomer::{Fit, Owner};
use crate::addr::Addr;
use crate::file::symbols::{Symbol, Wanted};
use crate::load::unique::{Unique, UniqueSymbols};

/// Unique symbols that everybody uses. Their owners stay for good.
#[derive(Clone, Default)]
pub(super) struct Settled {
    symbols: UniqueSymbols,
    owners: Vec<Object>,
}

impl Settled {
    /// Where the one of that name is.
    pub(super) fn get(&self, wanted: &Wanted<'_>) -> Option<(Addr, Symbol)> {
        let owner = |number: u32| self.owners.get(number as usize);
        let (own, symbol) = self.symbols.find(wanted, |number| owner(number)?.symbols())?;
        Some((owner(own.owner)?.provider()?.address(&symbol), symbol))
    }

    /// Adds those of a group that has become `modules`. Answers which modules have such, and the number of one of each.
    pub(super) fn add(&mut self, fit: &Fit<'_>, modules: &[Arc<Module>]) -> Vec<(Id, u32)> {
        let (mut numbers, mut having) = (vec![None; fit.owners.len()], Vec::new());
        let mut ours = |own: Unique| {
            let number = *numbers[own.owner as usize].get_or_insert_with(|| {
                let object = match &fit.owners[own.owner as usize] {
                    Owner::New(index, _) => Object::Module(Arc::clone(&modules[*index])),
                    Owner::Known(object) => object.clone(),
                };
                having.extend(object.id().map(|id| (id, own.index)));
                self.number(object)
            });
            Unique { owner: number, ..own }
        };
        let symbols = fit.unique.iter().map(&mut ours).collect();
        self.symbols.append(symbols);
        having
    }

    /// Whether a unique symbol of a group is settled already.
    pub(super) fn has_any_of(&self, fit: &Fit<'_>) -> bool {
        let settled = |own| fit.name(own).is_some_and(|name| self.get(&name).is_some());
        // Names are read of those only that may be.
        fit.unique.iter().any(|own| self.symbols.has_hash(own.hash) && settled(own))
    }

    fn number(&mut self, object: Object) -> u32 {
        let known = self.owners.iter().position(|known| *known == object);
        known.unwrap_or_else(|| {
            self.owners.push(object);
            self.owners.len() - 1
        }) as u32
    }
}
