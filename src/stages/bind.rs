//! Binding: where references are looked for, and every plain word of the group written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::HostHelp;
use super::help::Versioned;
use super::map::Mapped;
use crate::addr::Vaddr;
use crate::arch::trampoline;
use crate::error::{At, Error, ErrorKind};
use crate::file::symbols::{Symbols, Wanted};
use crate::find::graph::World;
use crate::find::needs::Needs;
use crate::load::group::{Group, Slot};
use crate::load::index::Demand;
use crate::load::map::Mapping;
use crate::load::relocate::{self as relocation, Outcome, Pending, Unit};
use crate::load::scope::{Imports, Providers, Rules};
use crate::load::unique::{Unique, UniqueSymbols};
use crate::load::versions;
use crate::loader::Wishes;
use crate::process::host::{HostObject, Pin};
use crate::process::later::Fleeting;
use crate::process::lazy::{Later, Link, Member};
use crate::process::module::{Id, Object};
use crate::process::world::Look;
use crate::process::{hooks, imports, start};

/// Who provides definitions: an object that was there, or a member of the group by its number.
pub(super) enum Source {
    Object(Object),
    Member(usize),
}

impl Source {
    /// The number of the module, if it is one that was there.
    pub(super) fn id(&self) -> Option<Id> {
        match self {
            Self::Object(object) => object.id(),
            Self::Member(_) => None,
        }
    }
}

/// Where the references of a group are looked for.
pub(crate) struct Scope {
    /// All providers: those of the global scope, then the group's, breadth first.
    pub(super) sources: Vec<Source>,
    /// Their numbers, in the order in which they are asked.
    pub(super) order: Vec<usize>,
    /// The functions that the group gets from the loader.
    pub(super) imports: Imports,
    /// Whether functions are bound when they are first called, and whether the group's definitions come first then.
    pub(super) lazy: bool,
    deep_bind: bool,
    /// Holds objects of the host, by their numbers as providers.
    pub(super) pins: Vec<(usize, Arc<Pin>)>,
}

/// Decides where references are looked for, and holds the objects of the host among those; `None` if one of them has
/// gone meanwhile.
pub(crate) fn scope<T>(group: &Group<Object, T>, look: &Look, wishes: &Wishes, help: &HostHelp) -> Option<Scope> {
    // The program and the C library come first, mostly.
    let mut sources = Vec::with_capacity(4 + group.members.len());
    sources.extend(look.global_scope().map(Source::Object));
    let global = sources.len();
    for (index, member) in group.members.iter().enumerate() {
        match member {
            Slot::New(_) => sources.push(Source::Member(index)),
            Slot::Known(object) if has(&sources[..global], object) => {}
            Slot::Known(object) => sources.push(Source::Object(object.clone())),
        }
    }
    let own = sources.len();
    // Of these only what nobody else defines is wanted.
    for object in help.providers() {
        let object = Object::Host(Arc::clone(object));
        if !has(&sources, &object) {
            sources.push(Source::Object(object));
        }
    }
    let mut pins = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        if let Source::Object(Object::Host(host)) = source {
            pins.extend(host.pin().ok()?.map(|pin| (number, pin)));
        }
    }
    // As glibc: what is global first, then the group breadth first; the other way round with deep binding.
    let mut order = if wishes.deep_bind { local_first(group, &sources, global) } else { (0..own).collect() };
    order.extend(own..sources.len());
    let imports = wishes.imports.unwrap_or(imports::own);
    let (lazy, deep_bind) = (wishes.lazy && !hooks::bind_now(), wishes.deep_bind);
    Some(Scope { sources, order, imports, lazy, deep_bind, pins })
}

fn has(sources: &[Source], object: &Object) -> bool {
    sources.iter().any(|source| matches!(source, Source::Object(known) if known == object))
}

impl Scope {
    /// Whether these objects of the host are the first that are asked.
    fn begins_with(&self, objects: &[Arc<HostObject>]) -> bool {
        let asked = self.order.get(..objects.len()).unwrap_or_default();
        let same = |(number, object): (&usize, &Arc<HostObject>)| matches!(&self.sources[*number], Source::Object(Object::Host(host)) if Arc::ptr_eq(host, object));
        asked.len() == objects.len() && asked.iter().zip(objects).all(same)
    }
}

/// A group whose plain words are all written, and what it is bound to.
pub(crate) struct Bound {
    pub(super) group: Group<Object, Box<Mapped>>,
    pub(super) scope: Scope,
    /// Unique symbols that it is the first to use.
    pub(super) unique: UniqueSymbols,
    /// Unique symbols that were settled before, see [`Providers::settled`].
    #[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
    pub(super) settled: BTreeMap<Unique, bool>,
    /// If some of its calls go through such.
    pub(super) stubs: Option<Stubs>,
}

/// Code of ours that leads to functions which lie elsewhere in each process, and the table that it goes by.
#[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
pub(crate) struct Stubs {
    pub(super) mapping: Arc<Mapping>,
    /// The words of the table that resolvers decide.
    pub(super) pending: Vec<Pending>,
}

/// What is noted while words are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// What is needed to go on.
    Nothing,
    /// Which words would be others in another process, too.
    #[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
    Foreign,
}

impl Bound {
    /// Whether weak references of its new members ask for what nobody defines.
    pub(super) fn misses_any(&self) -> bool {
        self.group.new_members().any(|(_, mapped)| !mapped.outcome.missing.is_empty())
    }

    /// What those ask for.
    pub(super) fn missing(&self) -> impl Iterator<Item = Versioned<'_>> {
        self.group.new_members().flat_map(|(_, mapped)| mapped.missing())
    }
}

/// Writes every word of the group that can be computed without running anything.
pub(crate) fn relocate(
    mut group: Group<Object, Box<Mapped>>,
    scope: Scope,
    look: &Look,
    noted: Noted,
) -> Result<Bound, Error> {
    // Pages that others are to have are bound at once: they pay nothing for it.
    let later = (scope.lazy && noted == Noted::Nothing).then(|| later(&group, look, scope.imports, scope.deep_bind));
    let sources = &scope.sources;
    let member = |index: usize| match &group.members[index] {
        Slot::New(mapped) => Some(mapped),
        Slot::Known(_) => None,
    };
    let mut numbers = vec![0; group.members.len()];
    for (number, source) in sources.iter().enumerate() {
        if let Source::Member(index) = source {
            numbers[*index] = number;
        }
    }
    // What names in DT_VERNEED mean: where two members go by one name, the first.
    let mut newcomers: BTreeMap<&[u8], usize> = BTreeMap::new();
    for (index, mapped) in group.new_members() {
        for name in mapped.new.names.iter().map(|name| &**name).chain(mapped.new.image.soname()) {
            newcomers.entry(name).or_insert(numbers[index]);
        }
    }
    // These are asked by the library's handle, too, which takes no memory for that.
    for member in &group.members {
        if let Slot::Known(Object::Host(host)) = member {
            host.symbols().into_iter().for_each(Symbols::read_now);
        }
    }
    let settled = |wanted: &Wanted<'_>| look.state.unique(look.namespace, wanted);
    // Memory passes between the C library and whoever calls it, and so between all name spaces.
    let own = |name: &[u8]| {
        (scope.imports)(name).or_else(|| if look.namespace.is_base() { None } else { look.host.allocator(name) })
    };
    let mut all = Vec::with_capacity(sources.len());
    for source in sources {
        let provider = match source {
            Source::Object(object) => object.provider().ok_or_else(|| object.path()),
            Source::Member(index) => member(*index).map(|mapped| mapped.provider()).ok_or(Path::new("")),
        };
        let unreadable = |path: &Path| {
            Error::new(path, ErrorKind::malformed("DT_SYMTAB", At::Object, "tables that can be read in memory", "none"))
        };
        all.push(provider.map_err(unreadable)?);
    }
    // References to one symbol mostly follow one another, and are bound once. Of an object that exports nothing it is not
    // known how many symbols it has.
    let symbols = |symbols: &Symbols| if symbols.exports_any() { symbols.count() as usize } else { usize::MAX };
    let lazy = |mapped: &Mapped| later.is_some() && mapped.may_wait();
    let of_member = |mapped: &Mapped| mapped.relocations.references(lazy(mapped)).min(symbols(&mapped.symbols));
    let references = group.new_members().map(|(_, mapped)| of_member(mapped)).sum();
    let rules = Rules { settled: &settled, own: &own };
    let of_host = |source: &Source| matches!(source, Source::Object(Object::Host(_)));
    let elsewhere: Option<Vec<bool>> = (noted == Noted::Foreign).then(|| sources.iter().map(of_host).collect());
    let start = if scope.deep_bind { None } else { start::names(look, references) };
    let start = start.filter(|start| scope.begins_with(&start.objects));
    let leading = start.map(|start| (&start.names, start.objects.len()));
    let (mut demand, led) = (Demand::default(), leading.map_or(0, |(_, objects)| objects));
    for (rank, number) in scope.order.iter().enumerate() {
        if let Source::Member(index) = sources[*number]
            && let Some(mapped) = member(index)
        {
            let (before, asked) = (rank.saturating_sub(led), scope.order.len().saturating_sub(led));
            demand.add(&mapped.symbols, of_member(mapped), before, asked);
        }
    }
    let mut providers = Providers::new(all, &scope.order, &demand, leading, rules);
    let mut outcomes = Vec::with_capacity(group.new_members().count());
    for &index in &group.order {
        let Some(mapped) = member(index) else { continue };
        let image = &mapped.new.image;
        let symbolic = image.dynamic().is_some_and(|dynamic| dynamic.symbolic);
        let unit = Unit {
            provider: numbers[index],
            mapping: &mapped.mapping,
            symbols: &mapped.symbols,
            relocations: &mapped.relocations,
            symbolic,
            lazy: lazy(mapped),
            elsewhere: elsewhere.as_deref(),
        };
        let named = |name: &[u8]| {
            let number = |known: Object| {
                sources.iter().position(|source| matches!(source, Source::Object(object) if *object == known))
            };
            // The part itself may have come after something else has been found in its place.
            let known = || look.by_name(name).and_then(number).or_else(|| look.in_place_of(name).and_then(number));
            // One that was there has been found by its file, under a name that it was not known by.
            let found = || {
                let searched = |name: &&[u8]| look.by_name(name).is_some() || look.in_place_of(name).is_none();
                let place = image.needed().filter(searched).position(|needed| needed == name)?;
                match &group.members[*group.needs.of(index).get(place)?] {
                    Slot::Known(object) => number(object.clone()),
                    Slot::New(_) => None,
                }
            };
            providers.get(newcomers.get(name).copied().or_else(known).or_else(found)?)
        };
        let mut outcome = Outcome::default();
        let relocated = versions::check(&mapped.symbols, named).and_then(|()| {
            let text = image.has_text_relocations();
            if text {
                mapped.mapping.open_text()?;
            }
            relocation::relocate(&unit, &mut providers, &mut outcome)?;
            image.dynamic_header().map_or(Ok(()), |section| relocation::rebase_dynamic(&mapped.mapping, section))?;
            if text { mapped.mapping.close_text() } else { Ok(()) }
        });
        relocated.map_err(|kind| Error::new(image.path(), kind))?;
        outcomes.push((index, outcome));
    }
    let Providers { unique, settled, .. } = providers;
    for (index, outcome) in outcomes {
        let Slot::New(mapped) = &mut group.members[index] else { continue };
        if let Some(later) = later.as_ref().filter(|_| outcome.lazy) {
            let link = mapped.link(index, needed_by(index, &group.needs), later);
            mapped.link = Some(link.map_err(|kind| Error::new(mapped.new.image.path(), kind))?);
        }
        mapped.outcome = outcome;
    }
    Ok(Bound { group, scope, unique, settled, stubs: None })
}

/// Where the functions of a group are looked for when they are first called.
fn later(group: &Group<Object, Box<Mapped>>, look: &Look, imports: Imports, deep_bind: bool) -> Arc<Later> {
    let mut places = 0..;
    let members = group.members.iter().map(|member| match member {
        Slot::Known(object) => Member::Known(Fleeting::of(object)),
        Slot::New(mapped) => Member::New {
            place: places.next().unwrap_or_default(),
            symbols: Arc::downgrade(&mapped.symbols),
            mapping: Arc::downgrade(&mapped.mapping),
        },
    });
    let (members, first) = (members.collect(), OnceLock::new());
    let (namespace, start): (_, Vec<_>) = (look.namespace, look.start().cloned().collect());
    // Who calls first may be unable to read them.
    start.iter().filter_map(|host| host.symbols()).for_each(Symbols::read_now);
    let host = (!namespace.is_base()).then(|| Arc::clone(&look.host));
    Arc::new(Later { namespace, start, host, members, deep_bind, imports, first })
}

/// Which members member `index` needs, directly or through others.
fn needed_by(index: usize, needs: &Needs) -> Vec<bool> {
    let mut needed = vec![false; needs.len()];
    let mut todo = needs.of(index).to_vec();
    while let Some(member) = todo.pop() {
        if !std::mem::replace(&mut needed[member], true) {
            todo.extend(needs.of(member));
        }
    }
    needed
}

impl Mapped {
    /// What its weak references ask for that nobody defines.
    fn missing(&self) -> impl Iterator<Item = Versioned<'_>> {
        let symbols: &Symbols = &self.symbols;
        let named = |index: &u32| {
            let version = symbols.versions.index(*index).map(|index| index.number);
            let version = symbols.versions.requirements.iter().find(|need| Some(need.index) == version);
            let version = version.and_then(|need| symbols.string(need.version.name));
            Some((symbols.string(symbols.get(*index)?.name)?, version))
        };
        self.outcome.missing.iter().filter_map(named)
    }

    /// Whether its functions may be bound when they are first called: it does not ask for the contrary, and there is
    /// room for what the trampoline needs.
    fn may_wait(&self) -> bool {
        let table =
            self.new.image.dynamic().filter(|dynamic| !dynamic.bind_now).and_then(|dynamic| dynamic.pltgot.get());
        let ours = |at: u64| table.and_then(|table| self.mapping.read(Vaddr(table.checked_add(at)?), 8).ok());
        trampoline::address() != 0 && ours(8).is_some() && ours(16).is_some()
    }

    /// Makes what binds its functions at their first call, and says in its table who that is (psABI, "Procedure Linkage
    /// Table").
    fn link(&self, own: usize, needed: Vec<bool>, later: &Arc<Later>) -> Result<Box<Link>, ErrorKind> {
        let dynamic = self.new.image.dynamic();
        let table = dynamic.and_then(|dynamic| dynamic.pltgot.get()).unwrap_or(0);
        let symbolic = dynamic.is_some_and(|dynamic| dynamic.symbolic);
        let tables = (Arc::clone(&self.mapping), Arc::clone(&self.symbols), self.relocations.clone());
        let link = Link::new(tables, self.new.image.path(), symbolic, own, needed, Arc::clone(later));
        self.mapping.write(Vaddr(table + 8), 8, link.binder() as u64)?;
        self.mapping.write(Vaddr(table + 16), 8, trampoline::address() as u64)?;
        Ok(link)
    }
}

/// The numbers of the providers with the whole group before the rest of the global scope.
fn local_first<T>(group: &Group<Object, T>, sources: &[Source], global: usize) -> Vec<usize> {
    let mut order = Vec::with_capacity(sources.len());
    for (index, member) in group.members.iter().enumerate() {
        let number = sources.iter().position(|source| match (source, member) {
            (Source::Member(own), Slot::New(_)) => *own == index,
            (Source::Object(object), Slot::Known(known)) => object == known,
            _ => false,
        });
        order.extend(number);
    }
    let rest: Vec<usize> = (0..global).filter(|number| !order.contains(number)).collect();
    order.extend(rest);
    order
}
