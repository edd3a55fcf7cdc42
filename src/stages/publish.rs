//! Publishing: a group becomes modules that everybody sees, or learns that the process has changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::bind::{Scope, Source};
use super::map::Mapped;
use super::seal::SealedGroup;
use crate::addr::Vaddr;
use crate::file::image::Image;
use crate::load::group::{Group, Slot};
use crate::load::unique::UniqueSymbols;
use crate::loader::Wishes;
use crate::process::debugger::{self, Listed};
use crate::process::module::{Dependency, Id, Instance, Module, Object};
use crate::process::newcomer::{Fit, Keep, Newcomer, Owner};
use crate::process::registry;

/// A group that everybody sees.
pub(crate) struct Published {
    pub(crate) root: Arc<Module>,
    /// Its new modules in the order in which their constructors run.
    pub(crate) modules: Vec<Arc<Module>>,
    /// Modules that were there and must be initialised first.
    pub(crate) rests_on: Vec<Id>,
    /// The whole group, breadth first.
    pub(crate) scope: Vec<Object>,
}

/// Makes the group's members modules that every later load sees; `None` if the process has changed so that it does not
/// fit any more.
pub(crate) fn publish(sealed: SealedGroup, wishes: &Wishes) -> Option<Published> {
    let SealedGroup { group, scope: Scope { sources, pins, .. }, unique } = sealed;
    let order = group.init_order().to_vec();
    let mut places = vec![0; group.members.len()];
    for (place, index) in order.iter().enumerate() {
        places[*index] = place;
    }
    let place = |index: usize| places[index];
    let rests_on: Vec<Id> = sources
        .iter()
        .filter_map(|source| match source {
            Source::Object(object) => object.id(),
            Source::Member(_) => None,
        })
        .collect();
    let owner = |source: &Source| match source {
        Source::Object(object) => Owner::Known(object.clone()),
        Source::Member(index) => match &group.members[*index] {
            Slot::New(mapped) => Owner::New(place(*index), Arc::clone(&mapped.symbols)),
            Slot::Known(object) => Owner::Known(object.clone()),
        },
    };
    let owners = if unique.is_empty() { Vec::new() } else { sources.iter().map(owner).collect() };
    let namespace = wishes.namespace;
    let instance = |image: &Image| Instance { namespace, file: image.identity() };
    let instances = group.new_members().map(|(_, mapped)| instance(&mapped.new.image)).collect();
    let fit = Fit { namespace, instances, rests_on: rests_on.clone(), unique: &unique, owners };
    keep_owners(&unique, &sources);
    let root = place(0);
    // What each member is, once the numbers of the new ones are known.
    let known: Vec<Option<Object>> = group
        .members
        .iter()
        .map(|member| match member {
            Slot::Known(object) => Some(object.clone()),
            Slot::New(_) => None,
        })
        .collect();
    let Group { members, needs, .. } = group;
    let newcomer = |first: Id, index: usize, mapped: Mapped| {
        let id = |index: usize| Id(first.0 + place(index) as u64);
        let dependency = |index: &usize| match &known[*index] {
            Some(object) => object.dependency(),
            None => Dependency::Module(id(*index)),
        };
        let needed = needs.of(index);
        let uses = |number: &usize| mapped.outcome.bound_to.contains(*number);
        let mut bound_to = Vec::with_capacity(mapped.outcome.bound_to.count());
        bound_to.extend(mapped.outcome.bound_to.iter().filter_map(|number| match &sources[number] {
            Source::Member(other) => Some(id(*other)).filter(|_| *other != index),
            Source::Object(object) => object.id(),
        }));
        let needs = |number: &usize| match &sources[*number] {
            Source::Object(object) => needed.iter().any(|need| known[*need].as_ref() == Some(object)),
            Source::Member(_) => false,
        };
        let pins = pins.iter().filter(|(number, _)| uses(number) || needs(number));
        let mut new = mapped.new;
        let path = new.image.path();
        let stays = new.image.dynamic().is_some_and(|dynamic| dynamic.nodelete());
        let dynamic = new.image.dynamic_header().map_or(Vaddr(0), |header| header.vaddr);
        let dynamic = mapped.mapping.bias().at(dynamic);
        let module = Arc::new(Module {
            id: id(index),
            relative_path: (!path.is_absolute()).then(|| path.into()),
            listed: Listed::new(path, mapped.mapping.bias(), dynamic),
            headers: mapped.headers,
            eh_frame: new.image.eh_frame_header(),
            rpath: new.image.rpath().map(Into::into),
            runpath: new.image.runpath().map(Into::into),
            nodeflib: new.image.dynamic().is_some_and(|dynamic| dynamic.nodeflib()),
            loaded_by: new.loaded_by.map(id),
            origin: new.origin,
            rule: new.rule,
            lost: new.lost,
            instance: instance(&new.image),
            soname: new.image.take_soname(),
            needed: needed.iter().map(dependency).collect(),
            bound_to,
            pins: pins.map(|(_, pin)| Arc::clone(pin)).collect(),
            symbols: mapped.symbols,
            frames: mapped.frames,
            lease: mapped.lease,
            mapping: mapped.mapping,
            stubs: mapped.stubs,
            link: mapped.link.inspect(|link| link.publish(first)),
            storage: mapped.storage,
            shared: mapped.shared,
            functions: mapped.functions,
        });
        let keep = (stays || (index == 0 && wishes.no_delete)).then_some(Keep::NoDelete);
        Newcomer { module, names: new.names, keep }
    };
    let make = |first: Id| {
        let mut mapped: Vec<Option<Box<Mapped>>> = members
            .into_iter()
            .map(|member| match member {
                Slot::New(mapped) => Some(mapped),
                Slot::Known(_) => None,
            })
            .collect();
        let newcomer = &newcomer;
        // One after another: there is never a second copy of what each consists of.
        order.iter().filter_map(move |index| Some(newcomer(first, *index, *mapped[*index].take()?)))
    };
    let (modules, first) = registry::publish(fit, root, make)?;
    debugger::show(modules.iter().map(|module| &module.listed));
    let object = |(index, known): (usize, Option<Object>)| {
        known.unwrap_or_else(|| Object::Module(Arc::clone(&modules[place(index)])))
    };
    let scope: Vec<Object> = known.clone().into_iter().enumerate().map(object).collect();
    // What opens a name space is to it what the program is to the base.
    if wishes.global || first {
        registry::make_global(namespace, scope.iter().cloned());
    }
    Some(Published { root: Arc::clone(&modules[root]), modules, rests_on, scope })
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
