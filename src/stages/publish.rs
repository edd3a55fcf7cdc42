//! Publishing: a group becomes modules that everybody sees, or learns that the process has changed.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;

use super::bind::{Scope, Source};
use super::map::Mapped;
use super::seal::SealedGroup;
use crate::addr::Vaddr;
use crate::load::group::{Group, Slot};
use crate::load::unique::UniqueSymbols;
use crate::loader::Wishes;
use crate::process::debugger::{self, Listed};
use crate::process::module::{Dependency, Id, Instance, Module, Object};
use crate::process::newcomer::{Fit, Keep, Newcomer, Owner};
use crate::process::{hooks, registry};

/// A group that everybody sees.
pub(crate) struct Published {
    pub(crate) root: Arc<Module>,
    /// Its new modules, breadth first.
    pub(crate) modules: Vec<Arc<Module>>,
    /// The members in the order in which their constructors run, as numbers in the scope: some may have been run.
    pub(crate) order: Vec<usize>,
    /// Modules that were there and must be initialised first.
    pub(crate) rests_on: Vec<Id>,
    /// The whole group, breadth first.
    pub(crate) scope: Vec<Object>,
}

/// Makes the group's members modules that every later load sees; `None` if the process has changed so that it does not
/// fit any more.
pub(crate) fn publish(sealed: SealedGroup, wishes: &Wishes) -> Option<Published> {
    let SealedGroup { group: Group { members, needs, mut order }, scope: Scope { sources, pins, .. }, unique } = sealed;
    // Which of the new modules each member becomes: they come in the order in which they were found, as in glibc's list.
    let mut count = 0;
    let place = |member: &Slot<Object, Box<Mapped>>| {
        let place = count;
        count += usize::from(matches!(member, Slot::New(_)));
        place
    };
    let places: Vec<usize> = members.iter().map(place).collect();
    let first_to_run = members.iter().rposition(is_first);
    let owner = |source: &Source| match source {
        Source::Object(object) => Owner::Known(object.clone()),
        Source::Member(index) => match &members[*index] {
            Slot::New(mapped) => Owner::New(places[*index], Arc::clone(&mapped.symbols)),
            Slot::Known(object) => Owner::Known(object.clone()),
        },
    };
    let mut owners = Vec::new();
    if !unique.is_empty() {
        owners = sources.iter().map(owner).collect();
        keep_owners(&unique, &sources);
    }
    let rests_on = rests_on(&members, &sources);
    // What is known of each member, and what is new.
    let (mut known, mut new) = (Vec::with_capacity(members.len()), Vec::with_capacity(members.len()));
    let (namespace, mut instances) = (wishes.namespace, Vec::with_capacity(members.len()));
    for member in members {
        let (object, mapped) = match member {
            Slot::Known(object) => (Some(object), None),
            Slot::New(mapped) => {
                instances.push(Instance { namespace, file: mapped.new.image.identity() });
                (None, Some(mapped))
            }
        };
        known.push(object);
        new.push(mapped);
    }
    let fit = Fit { namespace, instances, rests_on: &rests_on, unique: &unique, owners };
    let newcomer = |first: Id, index: usize, mapped: Box<Mapped>| {
        let Mapped { mut new, mapping, symbols, headers, outcome, .. } = *mapped;
        let id = |index: usize| Id(first.0 + places[index] as u64);
        let dependency = |index: &usize| match &known[*index] {
            Some(object) => object.dependency(),
            None => Dependency::Module(id(*index)),
        };
        let needed = needs.of(index);
        // Most of them are objects of the host, or nothing but itself: counted first, they take no more than they need.
        let others = || {
            outcome.bound_to.iter().filter_map(|number| match &sources[number] {
                Source::Member(other) => Some(id(*other)).filter(|_| *other != index),
                Source::Object(object) => object.id(),
            })
        };
        let mut bound_to = Vec::with_capacity(others().count());
        bound_to.extend(others());
        let uses = |number: usize| match &sources[number] {
            _ if outcome.bound_to.contains(number) => true,
            Source::Object(object) => needed.iter().any(|need| known[*need].as_ref() == Some(object)),
            Source::Member(_) => false,
        };
        let pins = pins.iter().filter(|(number, _)| uses(*number));
        let path = new.image.path();
        let flags = new.image.dynamic();
        let stays = flags.is_some_and(|dynamic| dynamic.nodelete());
        let dynamic = new.image.dynamic_header().map_or(Vaddr(0), |header| header.vaddr);
        let module = Arc::new(Module {
            id: id(index),
            relative_path: (!path.is_absolute()).then(|| path.into()),
            listed: Listed::new(path, mapping.bias(), mapping.bias().at(dynamic)),
            headers,
            eh_frame: new.image.eh_frame_header(),
            rpath: new.image.rpath().map(Into::into),
            runpath: new.image.runpath().map(Into::into),
            nodeflib: flags.is_some_and(|dynamic| dynamic.nodeflib()),
            symbolic: flags.is_some_and(|dynamic| dynamic.symbolic),
            deep_bind: wishes.deep_bind,
            loaded_by: new.loaded_by.map(id),
            origin: new.origin,
            rule: new.rule,
            lost: new.lost,
            instance: Instance { namespace, file: new.image.identity() },
            soname: new.image.take_soname(),
            needed: needed.iter().map(dependency).collect(),
            bound_to: bound_to.into(),
            pins: pins.map(|(_, pin)| Arc::clone(pin)).collect(),
            symbols,
            frames: mapped.frames,
            lease: mapped.lease,
            mapping,
            stubs: mapped.stubs,
            link: mapped.link.inspect(|link| link.publish(first)),
            storage: mapped.storage,
            shared: mapped.shared,
            functions: mapped.functions,
        });
        let keep = (stays || (index == 0 && wishes.no_delete)).then_some(Keep::NoDelete);
        Newcomer { module, names: new.names, keep }
    };
    // One after another: there is never a second copy of what each consists of.
    let make =
        |first: Id| new.into_iter().enumerate().filter_map(move |(index, new)| Some(newcomer(first, index, new?)));
    let (modules, first) = registry::publish(fit, make)?;
    debugger::show(modules.iter().map(|module| &module.listed));
    let mut scope: Vec<Object> = Vec::with_capacity(known.len());
    for (index, object) in known.into_iter().enumerate() {
        scope.push(object.unwrap_or_else(|| Object::Module(Arc::clone(&modules[places[index]]))));
    }
    // What opens a name space is to it what the program is to the base.
    if first {
        registry::make_global(namespace, scope.iter().cloned());
    }
    if let Some(index) = first_to_run {
        order.retain(|other| *other != index);
        order.insert(0, index);
    }
    Some(Published { root: Arc::clone(&modules[0]), modules, order, rests_on, scope })
}

impl Published {
    /// Runs the constructors whose turn it is. What one that throws leaves is not this thread's any more, so that nobody
    /// waits for ever.
    pub(crate) fn initialise(&self) {
        struct Left<'a>(&'a [Arc<Module>]);
        impl Drop for Left<'_> {
            fn drop(&mut self) {
                registry::leave(self.0);
            }
        }
        let left = Left(&self.modules);
        initialise(&self.order, &self.scope);
        mem::forget(left);
    }
}

/// Runs the constructors of those objects in `scope` whose turn it is, in that order.
pub(crate) fn initialise(order: &[usize], scope: &[Object]) {
    for index in order {
        if let Object::Module(module) = &scope[*index] {
            hooks::initialise(module);
        }
    }
}

/// The modules that were there which a group needs or refers to: of what else is global there may be thousands. What it comes
/// to refer to at first calls is held then.
fn rests_on(members: &[Slot<Object, Box<Mapped>>], sources: &[Source]) -> Vec<Id> {
    let mut ids = Vec::new();
    for member in members {
        match member {
            Slot::Known(object) => ids.extend(object.id()),
            Slot::New(mapped) => ids.extend(mapped.outcome.bound_to.iter().filter_map(|number| sources[number].id())),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Whether a new member asks that its constructors run before all others (`DF_1_INITFIRST`).
fn is_first(member: &Slot<Object, Box<Mapped>>) -> bool {
    matches!(member, Slot::New(mapped) if mapped.new.image.dynamic().is_some_and(|dynamic| dynamic.initfirst()))
}

/// Keeps the objects of the host that have unique symbols which everybody is about to use. Nobody waits for us yet: that
/// asks the C library's loader.
fn keep_owners(unique: &UniqueSymbols, sources: &[Source]) {
    let owners: BTreeSet<u32> = unique.iter().map(|own| own.owner).collect();
    for owner in owners {
        if let Some(Source::Object(Object::Host(host))) = sources.get(owner as usize) {
            // Held until now, so that this cannot fail.
            host.keep();
        }
    }
}
