//! The stages of the pipeline: each takes a group from one state to the next, or fails and leaves nothing behind.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::addr::{Addr, Vaddr};
use crate::error::{At, Error, ErrorKind};
use crate::file::image::Image;
use crate::file::relocations::Relocations;
use crate::file::symbols::{Symbols, Wanted};
use crate::find::graph::{self, Graph, New, Request, World};
use crate::find::{Asker, Search};
use crate::load::call::Code;
use crate::load::group::{Group, Slot};
use crate::load::map::{MappedImage, Mapping};
use crate::load::plan::Plan;
use crate::load::relocate::{self as relocation, Outcome, Unit};
use crate::load::scope::{Definition, Provider, Providers};
use crate::load::seal as sealing;
use crate::loader::{Opened, Wishes};
use crate::process::hooks;
use crate::process::host::{self, Pin};
use crate::process::module::{Dependency, Id, Module, Object};
use crate::process::registry::{self, Fit, Keep, NewUnique, Newcomer, UniqueOwner};
use crate::process::world::Look;
use crate::sys;

/// Finds the object that is asked for and all it needs.
pub(crate) fn discover(name: &OsStr, wishes: &Wishes, look: &Look) -> Result<Graph<Object>, Error> {
    static SEARCH: OnceLock<Search> = OnceLock::new();
    let search = SEARCH.get_or_init(|| {
        let platform = sys::auxiliary_str(libc::AT_PLATFORM).map(std::ffi::CStr::to_bytes);
        Search::of_this_process(hooks::library_path(), sys::auxiliary(libc::AT_SECURE) != 0, platform)
    });
    let program = look.host.program();
    let caller = Asker {
        name: program.map_or(Path::new("the program"), |program| &program.path),
        origin: program.and_then(|program| program.path.parent()),
        rpath: program.and_then(|program| program.names.rpath.as_deref()),
        runpath: program.and_then(|program| program.names.runpath.as_deref()),
        nodeflib: program.is_some_and(|program| program.nodeflib()),
        loaded_by: None,
    };
    graph::discover(&Request { name, search_dirs: &wishes.search_dirs, caller: &caller }, search, look)
}

/// A group of which every new member has a plan.
pub(crate) type Planned = Group<Object, (Box<New>, Plan)>;

/// What an open comes down to.
pub(crate) enum Admitted {
    /// It is in the process already.
    Known(Object),
    /// It has to be loaded.
    Group(Planned),
}

/// Decides whether every new member may be loaded, and how.
pub(crate) fn admit(graph: Graph<Object>, wishes: &Wishes) -> Result<Admitted, Error> {
    let mut members = Vec::with_capacity(graph.members.len());
    let mut needed = Vec::with_capacity(graph.members.len());
    for (index, member) in graph.members.into_iter().enumerate() {
        needed.push(member.needed);
        members.push(match member.object {
            graph::Object::Known(object) if index == 0 => return Ok(Admitted::Known(object)),
            graph::Object::Known(object) => Slot::Known(object),
            graph::Object::New(new) => Slot::New(new),
        });
    }
    let group = Group { members, needed };
    let planned = group.advance(|_, new| {
        let plan = check(&new.image, wishes)
            .and_then(|()| Plan::of_segments(new.image.segments(), new.image.relro(), sys::page_size()));
        match plan {
            Err(kind) => Err(Error::new(new.image.path(), kind)),
            Ok(_) if wishes.no_load => Err(Error::new(new.image.path(), ErrorKind::NotLoaded)),
            Ok(plan) => Ok((new, plan)),
        }
    })?;
    Ok(Admitted::Group(planned))
}

/// What is refused though other loaders take it, unless the one who opens has allowed it.
fn check(image: &Image, wishes: &Wishes) -> Result<(), ErrorKind> {
    let both = image.segments().iter().find(|segment| segment.flags.write && segment.flags.execute);
    if let Some(segment) = both.filter(|_| !wishes.allow_writable_executable) {
        return Err(ErrorKind::WritableExecutable { header: segment.header });
    }
    if image.wants_executable_stack() && !wishes.allow_executable_stack {
        return Err(ErrorKind::ExecutableStack);
    }
    match image.thread_local() {
        Some((size, _)) if size > 0 => {
            let what = format!("expected none, found a block of {size:#x} bytes, which is not supported yet");
            Err(ErrorKind::ThreadLocal { what })
        }
        _ => Ok(()),
    }
}

/// One more handle to what is there already; `None` if it has gone meanwhile.
pub(crate) fn reopen(object: Object, name: &OsStr, wishes: &Wishes, look: &Look) -> Result<Option<Opened>, Error> {
    let scope = look.closure(&object);
    let pin = match &object {
        Object::Host(host) => match host.pin() {
            Ok(pin) => pin,
            Err(_) => return Ok(None),
        },
        Object::Module(module) => {
            if !registry::retain(module, name.as_bytes()) {
                registry::wait_until_gone(&[module.identity]);
                return Ok(None);
            }
            if wishes.no_delete {
                registry::keep(module);
            }
            None
        }
    };
    // Tables are read now, not when a symbol is asked for.
    hooks::undisturbed(|| scope.iter().for_each(|object| drop(object.symbols())));
    if wishes.global {
        registry::make_global(scope.iter().cloned());
    }
    let modules: Vec<Id> = scope.iter().filter_map(Object::id).collect();
    registry::wait_until_initialised(&modules);
    Ok(Some(Opened { object, scope, pin, stages: Vec::new() }))
}

/// A member that has been mapped.
pub(crate) struct Mapped {
    new: Box<New>,
    mapping: Mapping,
    symbols: Symbols,
    relocations: Relocations,
}

/// Maps every new member, and reads its tables where they now are.
pub(crate) fn map(group: Planned) -> Result<Group<Object, Mapped>, Error> {
    let identities: Vec<_> = group.new_members().map(|(_, (new, _))| new.image.identity()).collect();
    registry::wait_until_gone(&identities);
    group.advance(|_, (new, plan)| {
        let mapped = (|| {
            let mapping = Mapping::new(&plan, &new.image)?;
            let source = MappedImage { mapping: &mapping, image: &new.image };
            let no_dynamic = || ErrorKind::malformed("PT_DYNAMIC", At::Object, "a dynamic section", "none");
            let symbols = new.image.symbols(&source)?.ok_or_else(no_dynamic)?;
            let relocations = new.image.relocations(&source)?.ok_or_else(no_dynamic)?;
            Ok((mapping, symbols, relocations))
        })();
        match mapped {
            Ok((mapping, symbols, relocations)) => Ok(Mapped { new, mapping, symbols, relocations }),
            Err(kind) => Err(Error::new(new.image.path(), kind)),
        }
    })
}

/// Who provides definitions: an object that was there, or a member of the group by its number.
enum Source {
    Object(Object),
    Member(usize),
}

/// Where the references of a group are looked for.
pub(crate) struct Scope {
    /// All providers: those of the global scope, then the group's, breadth first.
    sources: Vec<Source>,
    /// Their numbers, in the order in which they are asked.
    order: Vec<usize>,
    /// Holds objects of the host, by their numbers as providers.
    pins: Vec<(usize, Arc<Pin>)>,
}

/// Decides where references are looked for, and holds the objects of the host among those.
pub(crate) fn scope(group: &Group<Object, Mapped>, look: &Look, wishes: &Wishes) -> Result<Scope, Error> {
    let global = look.global_scope();
    let local = group.members.iter().enumerate().filter_map(|(index, member)| match member {
        Slot::New(_) => Some(Source::Member(index)),
        Slot::Known(object) => (!global.contains(object)).then(|| Source::Object(object.clone())),
    });
    let local: Vec<Source> = local.collect();
    let count = global.len();
    let sources: Vec<Source> = global.into_iter().map(Source::Object).chain(local).collect();
    let mut pins = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        if let Source::Object(Object::Host(host)) = source {
            let pin = host.pin().map_err(|kind| Error::new(host.path.clone(), kind))?;
            pins.extend(pin.map(|pin| (number, pin)));
        }
    }
    // As glibc: what is global first, then the group breadth first; the other way round with deep binding.
    let order = if wishes.deep_bind { local_first(group, &sources, count) } else { (0..sources.len()).collect() };
    Ok(Scope { sources, order, pins })
}

/// A group whose plain words are all written, and what it is bound to.
pub(crate) struct Bound {
    group: Group<Object, (Mapped, Outcome)>,
    scope: Scope,
    unique: HashMap<Box<[u8]>, Definition>,
}

/// Writes every word of the group that can be computed without running anything.
pub(crate) fn relocate(
    group: Group<Object, Mapped>,
    scope: Scope,
    look: &Look,
    help: &HostHelp,
) -> Result<Bound, Error> {
    let sources = &scope.sources;
    let member = |index: usize| match &group.members[index] {
        Slot::New(mapped) => Some(mapped),
        Slot::Known(_) => None,
    };
    let number_of = |index: usize| {
        sources.iter().position(|source| matches!(source, Source::Member(member) if *member == index)).unwrap_or(0)
    };
    let settled = |name: &[u8]| look.state.unique.get(name).map(|(addr, symbol, _)| (*addr, *symbol));
    let elsewhere = |wanted: &Wanted<'_>| help.definition(wanted);
    let mut all = Vec::with_capacity(sources.len());
    for source in sources {
        let provider = match source {
            Source::Object(object) => object.provider().ok_or_else(|| object.path()),
            Source::Member(index) => member(*index).map(Mapped::provider).ok_or(Path::new("")),
        };
        let unreadable = |path: &Path| {
            Error::new(path, ErrorKind::malformed("DT_SYMTAB", At::Object, "tables that can be read in memory", "none"))
        };
        all.push(provider.map_err(unreadable)?);
    }
    let mut providers = Providers { all, unique: HashMap::new(), settled: &settled, elsewhere: &elsewhere };
    let mut outcomes: Vec<Option<Outcome>> = group.members.iter().map(|_| None).collect();
    for index in group.init_order() {
        let Some(mapped) = member(index) else { continue };
        let own = number_of(index);
        let image = &mapped.new.image;
        let symbolic = image.dynamic().is_some_and(|dynamic| dynamic.symbolic);
        let order: Vec<usize> = symbolic.then_some(own).into_iter().chain(scope.order.iter().copied()).collect();
        let unit = Unit {
            provider: own,
            mapping: &mapped.mapping,
            symbols: &mapped.symbols,
            relocations: &mapped.relocations,
            scope: &order,
        };
        let named = |name: &[u8]| named(name, &group, look, &providers.all, sources);
        let outcome = relocation::check_versions(&mapped.symbols, named).and_then(|()| {
            let text = image.has_text_relocations();
            if text {
                mapped.mapping.open_text()?;
            }
            let outcome = relocation::relocate(&unit, &mut providers)?;
            if text {
                mapped.mapping.close_text()?;
            }
            Ok(outcome)
        });
        outcomes[index] = Some(outcome.map_err(|kind| Error::new(image.path(), kind))?);
    }
    let unique = providers.unique;
    let group = group.advance(|index, mapped| Ok((mapped, outcomes[index].take().unwrap_or_default())))?;
    Ok(Bound { group, scope, unique })
}

/// The numbers of the providers with the whole group before the rest of the global scope.
fn local_first(group: &Group<Object, Mapped>, sources: &[Source], global: usize) -> Vec<usize> {
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

/// The provider that a name in `DT_VERNEED` means.
fn named<'p>(
    name: &[u8],
    group: &Group<Object, Mapped>,
    look: &Look,
    providers: &[Provider<'p>],
    sources: &[Source],
) -> Option<Provider<'p>> {
    let member = group.new_members().find(|(_, mapped)| {
        mapped.new.names.iter().any(|own| **own == *name) || mapped.new.image.soname() == Some(name)
    });
    let number = match member {
        Some((index, _)) => sources.iter().position(|source| matches!(source, Source::Member(own) if *own == index)),
        None => {
            let known = look.by_name(name)?;
            sources.iter().position(|source| matches!(source, Source::Object(object) if *object == known))
        }
    };
    providers.get(number?).copied()
}

/// A member that only has to be published.
struct Sealed {
    mapped: Mapped,
    bound_to: Vec<bool>,
    constructors: Vec<Code>,
    destructors: Vec<Code>,
}

/// A group of which nothing is left to do but to be seen.
pub(crate) struct SealedGroup {
    group: Group<Object, Sealed>,
    scope: Scope,
    unique: HashMap<Box<[u8]>, Definition>,
}

/// Lets IFUNC resolvers decide, checks the functions that will be called, and makes read-only what may be.
pub(crate) fn seal(bound: Bound) -> Result<SealedGroup, Error> {
    let Bound { group, scope, unique } = bound;
    let sources = &scope.sources;
    let members: Vec<Option<&Mapped>> = group
        .members
        .iter()
        .map(|member| match member {
            Slot::New((mapped, _)) => Some(mapped),
            Slot::Known(_) => None,
        })
        .collect();
    let is_code = |provider: usize, addr: Addr| match sources.get(provider) {
        Some(Source::Object(object)) => object.is_code(addr),
        Some(Source::Member(index)) => members[*index].is_some_and(|mapped| mapped.mapping.is_code(addr)),
        None => false,
    };
    let mut answers = sealing::Answers::new();
    for index in group.init_order() {
        let Slot::New((mapped, outcome)) = &group.members[index] else { continue };
        let image = &mapped.new.image;
        let text = image.has_text_relocations();
        sealing::resolve(&mapped.mapping, text, &outcome.pending, &mut answers, is_code, hooks::resolve)
            .map_err(|kind| Error::new(image.path(), kind))?;
    }
    let mut functions: Vec<_> = members
        .iter()
        .map(|member| {
            let Some(mapped) = member else { return Ok(None) };
            let anywhere = |addr| (0..sources.len()).any(|provider| is_code(provider, addr));
            mapped.functions(anywhere).map(Some).map_err(|kind| Error::new(mapped.new.image.path(), kind))
        })
        .collect::<Result<_, Error>>()?;
    let group = group.advance(|index, (mapped, outcome)| {
        mapped.mapping.seal().map_err(|kind| Error::new(mapped.new.image.path(), kind))?;
        let (constructors, destructors) = functions[index].take().unwrap_or_default();
        Ok(Sealed { mapped, bound_to: outcome.bound_to, constructors, destructors })
    })?;
    Ok(SealedGroup { group, scope, unique })
}

impl Mapped {
    fn provider(&self) -> Provider<'_> {
        Provider { symbols: &self.symbols, bias: self.mapping.bias(), path: self.new.image.path() }
    }

    /// Constructors and destructors in the order in which they run (gABI chapter 5, "Initialization and Termination").
    fn functions(&self, is_code: impl Fn(Addr) -> bool) -> Result<(Vec<Code>, Vec<Code>), ErrorKind> {
        let Some(dynamic) = self.new.image.dynamic() else { return Ok(Default::default()) };
        let bias = self.mapping.bias();
        let code = |what: &str, addr: usize| {
            Code::at(Addr(addr), &is_code).ok_or_else(|| {
                let expected = "the address of a function in an executable segment";
                ErrorKind::malformed(what, At::Object, expected, bias.vaddr(Addr(addr)))
            })
        };
        let array = |what, at: Option<u64>, size: Option<u64>| {
            let words = at.map_or_else(Vec::new, |at| self.mapping.words(at, size.unwrap_or(0)));
            // 0 and -1 are what old linkers put around lists of functions.
            let functions = words.into_iter().filter(|word| !matches!(*word, 0 | usize::MAX));
            functions.map(|word| code(what, word)).collect::<Result<Vec<_>, _>>()
        };
        let single =
            |what, at: Option<u64>| at.filter(|at| *at != 0).map(|at| code(what, bias.at(Vaddr(at)).0)).transpose();
        let mut constructors = Vec::from_iter(single("DT_INIT", dynamic.init)?);
        constructors.extend(array("DT_INIT_ARRAY", dynamic.init_array, dynamic.init_arraysz)?);
        let mut destructors = array("DT_FINI_ARRAY", dynamic.fini_array, dynamic.fini_arraysz)?;
        destructors.reverse();
        destructors.extend(single("DT_FINI", dynamic.fini)?);
        Ok((constructors, destructors))
    }
}

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
    let order = group.init_order();
    let place = |index: usize| order.iter().position(|member| *member == index).unwrap_or(0);
    let rests_on: Vec<Id> = sources
        .iter()
        .filter_map(|source| match source {
            Source::Object(object) => object.id(),
            Source::Member(_) => None,
        })
        .collect();
    let unique = unique.into_iter().map(|(name, found)| {
        let owner = match &sources[found.provider] {
            Source::Member(index) => UniqueOwner::New(place(*index)),
            Source::Object(object) => UniqueOwner::Known(object.clone()),
        };
        NewUnique { name, addr: found.value, symbol: found.symbol, owner }
    });
    let identities = group.new_members().map(|(_, sealed)| sealed.mapped.new.image.identity());
    let fit = Fit { identities: identities.collect(), rests_on: rests_on.clone(), unique: unique.collect() };
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
    let make = |first: Id| {
        let id = |index: usize| Id(first.0 + place(index) as u64);
        let dependency = |index: &usize| match &known[*index] {
            Some(object) => object.dependency(),
            None => Dependency::Module(id(*index)),
        };
        let mut newcomers: Vec<(usize, Newcomer)> = Vec::with_capacity(order.len());
        for (index, (member, needed)) in group.members.into_iter().zip(&group.needed).enumerate() {
            let Slot::New(sealed) = member else { continue };
            let uses = |number: &usize| sealed.bound_to.get(*number) == Some(&true);
            let bound_to = (0..sources.len()).filter(uses).filter_map(|number| match &sources[number] {
                Source::Member(other) => Some(id(*other)).filter(|_| *other != index),
                Source::Object(object) => object.id(),
            });
            let needs = |number: &usize| match &sources[*number] {
                Source::Object(object) => needed.iter().any(|need| known[*need].as_ref() == Some(object)),
                Source::Member(_) => false,
            };
            let pins = pins.iter().filter(|(number, _)| uses(number) || needs(number));
            let new = sealed.mapped.new;
            let stays = new.image.dynamic().is_some_and(|dynamic| dynamic.nodelete());
            let module = Module {
                id: id(index),
                path: new.image.path().to_owned(),
                identity: new.image.identity(),
                soname: new.image.soname().map(Into::into),
                needed: needed.iter().map(dependency).collect(),
                bound_to: bound_to.collect(),
                pins: pins.map(|(_, pin)| Arc::clone(pin)).collect(),
                symbols: sealed.mapped.symbols,
                mapping: sealed.mapped.mapping,
                constructors: sealed.constructors,
                destructors: sealed.destructors,
            };
            let keep = (stays || (index == 0 && wishes.no_delete)).then_some(Keep::NoDelete);
            newcomers.push((index, Newcomer { module, names: new.names, keep }));
        }
        newcomers.sort_by_key(|(index, _)| place(*index));
        newcomers.into_iter().map(|(_, newcomer)| newcomer).collect()
    };
    let modules = registry::publish(fit, root, make)?;
    let object = |(index, known): (usize, Option<Object>)| {
        known.unwrap_or_else(|| Object::Module(Arc::clone(&modules[place(index)])))
    };
    let scope: Vec<Object> = known.clone().into_iter().enumerate().map(object).collect();
    if wishes.global {
        registry::make_global(scope.iter().cloned());
    }
    Some(Published { root: Arc::clone(&modules[root]), modules, rests_on, scope })
}

/// What the host's own loader has to do for a load: bring parts of the C library, and look symbols up that only it
/// sees. Both are asked for between two attempts, when nothing of ours is half done.
#[derive(Default)]
pub(crate) struct HostHelp {
    parts: Vec<(PathBuf, Pin)>,
    definitions: HashMap<(Box<[u8]>, Option<Box<[u8]>>), Addr>,
}

impl HostHelp {
    /// Has the host open `parts`; they stay at least until this is dropped.
    pub(crate) fn bring(&mut self, parts: &[PathBuf]) -> Result<(), Error> {
        for path in parts {
            if self.parts.iter().any(|(known, _)| known == path) {
                let message = "it was loaded under another name".to_owned();
                return Err(Error::new(path.clone(), ErrorKind::Host { message }));
            }
            let pin = host::open_part(path).map_err(|kind| Error::new(path.clone(), kind))?;
            self.parts.push((path.clone(), pin));
        }
        Ok(())
    }

    /// Whether the host's own lookup finds a definition that `error` says is missing, which is worth another attempt.
    pub(crate) fn finds(&mut self, error: &Error) -> bool {
        let ErrorKind::UndefinedSymbols { symbols, .. } = error.kind() else { return false };
        let mut all = true;
        for symbol in symbols {
            let (name, version) = (symbol.name.as_bytes(), symbol.version.as_ref().map(String::as_bytes));
            let key = (name.into(), version.map(Into::into));
            let found = if self.definitions.contains_key(&key) { None } else { host::global_symbol(name, version) };
            all &= found.is_some();
            self.definitions.extend(found.map(|addr| (key, addr)));
        }
        all
    }

    fn definition(&self, wanted: &Wanted<'_>) -> Option<Addr> {
        if self.definitions.is_empty() {
            return None;
        }
        self.definitions.get(&(wanted.name.into(), wanted.version.map(|version| version.name.into()))).copied()
    }
}
