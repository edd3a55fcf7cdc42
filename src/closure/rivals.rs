//! Symbols that several objects of a closure define: which definition wins, and who thought it would be another.

use std::collections::HashMap;

use super::symbols::{Opened, providers};
use super::{Closure, Role};
use crate::arch::Kind;
use crate::error::{Error, ErrorKind};
use crate::file::relocations::What;
use crate::file::symbols::Wanted;

/// Symbols with more than one definition: the widest closure has some tens of thousands.
const RIVALS_MAX: u64 = 1 << 22;

/// A symbol that more than one object defines.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// assert!(closure.rivals()?.iter().all(|rivals| rivals.objects.len() > 1));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rivals {
    /// Its name.
    pub symbol: Vec<u8>,
    /// The version of the definitions; those of different versions are no rivals.
    pub version: Option<Vec<u8>>,
    /// The objects that define it, in the order in which they are asked: the first one wins. Indices of
    /// [`Closure::objects`].
    pub objects: Vec<usize>,
    /// Those of them whose own references get the definition of another: they are interposed upon.
    pub interposed: Vec<usize>,
    /// Whether every definition is weak or unique, as those of C++ templates and inline functions are: all alike.
    pub weak: bool,
}

impl Closure {
    /// The symbols that several objects define, by name.
    ///
    /// # Errors
    /// A file is not readable any more, or its tables contradict themselves.
    pub fn rivals(&self) -> Result<Vec<Rivals>, Error> {
        let opened = self.open()?;
        let order = self.order_of(&opened);
        let mut all: HashMap<(&[u8], Option<&[u8]>), Rivals> = HashMap::new();
        let mut definitions = 0;
        for number in &order {
            let Opened { object, path, symbols, .. } = &opened[*number];
            for index in 1..symbols.count() {
                let Some(symbol) = symbols.get(index).filter(|symbol| symbol.is_exported()) else { continue };
                let Some(name) = symbols.name(&symbol) else { continue };
                let version = symbols.version_of(index).and_then(|version| symbols.string(version.name));
                // Linkers define a version as a symbol of its own name.
                if symbol.is_absolute() && version == Some(name.text) {
                    continue;
                }
                definitions += 1;
                if definitions > RIVALS_MAX {
                    let kind =
                        ErrorKind::Limit { what: "definitions of a closure", limit: RIVALS_MAX, found: definitions };
                    return Err(Error::new(path, kind));
                }
                let rivals = all.entry((name.text, version)).or_insert_with(|| Rivals {
                    symbol: name.text.to_vec(),
                    version: version.map(<[u8]>::to_vec),
                    objects: Vec::new(),
                    interposed: Vec::new(),
                    weak: true,
                });
                rivals.weak &= symbol.is_weak() || symbol.is_unique();
                if rivals.objects.last() != Some(object) {
                    rivals.objects.push(*object);
                }
            }
        }
        all.retain(|_, rivals| rivals.objects.len() > 1);
        self.find_interposed(&opened, &order, &mut all)?;
        let mut rivals: Vec<Rivals> = all.into_values().collect();
        rivals.sort_unstable_by(|a, b| (&a.symbol, &a.version).cmp(&(&b.symbol, &b.version)));
        Ok(rivals)
    }

    /// Who refers to a symbol of its own and gets another's.
    fn find_interposed<'o>(
        &self,
        opened: &'o [Opened],
        order: &[usize],
        all: &mut HashMap<(&'o [u8], Option<&'o [u8]>), Rivals>,
    ) -> Result<(), Error> {
        let mut scope = providers(opened, order, all.len());
        for (number, user) in opened.iter().enumerate() {
            let read = user.image.relocations(&user.image.source()).map_err(|kind| Error::new(&user.path, kind))?;
            let (Some(table), Some(machine)) = (read, user.image.machine()) else { continue };
            if self.objects[user.object].role == Role::Loader {
                continue;
            }
            let symbolic = user.image.dynamic().is_some_and(|dynamic| dynamic.symbolic);
            let mut seen = vec![false; user.symbols.count() as usize + 1];
            let each: Result<(), ErrorKind> = table.try_each_symbolic(machine.relative, |relocation| {
                let What::Type(kind) = relocation.what else { return Ok(()) };
                let is_copy = machine.relocation(kind).is_some_and(|of_type| of_type.kind == Kind::Copy);
                let index = relocation.symbol;
                let Some(seen) = seen.get_mut(index as usize).filter(|seen| !is_copy && !**seen) else {
                    return Ok(());
                };
                *seen = true;
                let Some(symbol) = user.symbols.get(index).filter(|symbol| symbol.is_exported()) else {
                    return Ok(());
                };
                let Some(name) = user.symbols.name(&symbol) else { return Ok(()) };
                let own = user.symbols.version_of(index);
                let version = own.and_then(|version| user.symbols.string(version.name));
                let Some(rivals) = all.get_mut(&(name.text, version)) else { return Ok(()) };
                let wanted = own.and_then(|version| user.symbols.wanted(version));
                let wanted = Wanted::reference(name, wanted, kind == machine.jump_slot);
                let found = scope.bind(number, &symbol, &wanted, symbolic);
                if found.is_some_and(|found| found.provider != number) && !rivals.interposed.contains(&user.object) {
                    rivals.interposed.push(user.object);
                }
                Ok(())
            });
            each.map_err(|kind| Error::new(&user.path, kind))?;
        }
        Ok(())
    }
}
