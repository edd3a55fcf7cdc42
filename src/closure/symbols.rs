//! How the references of a closure bind: what is undefined, what is used, and which definitions of a symbol win or lose.

use std::path::PathBuf;

use super::{Closure, Role, Tag};
use crate::addr::Bias;
use crate::arch::Kind;
use crate::error::{Error, ErrorKind};
use crate::file::image::Image;
use crate::file::relocations::What;
use crate::file::symbols::{Symbols, Wanted};
use crate::find::Libc;
use crate::load::index::Demand;
use crate::load::scope::{Provider, Providers, Rules};

/// A reference that binds to nothing.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// assert!(closure.bind(true)?.undefined.iter().all(|reference| reference.weak));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unresolved {
    /// The object that refers to it: an index of [`Closure::objects`].
    pub user: usize,
    /// The symbol's name.
    pub symbol: Vec<u8>,
    /// The version that is asked for.
    pub version: Option<Vec<u8>>,
    /// The library that was expected to define it, by the name under which it is needed.
    pub expected_in: Option<Vec<u8>>,
    /// Whether it may stay undefined: its address is then zero.
    pub weak: bool,
    /// Whether glibc's own list names the version: where the library is missing it does only by chance.
    pub version_is_traced: bool,
}

/// How all references of a closure bind.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// let bindings = closure.bind(true)?;
/// let libc = closure.objects.iter().position(|object| object.name.starts_with(b"libc.so")).unwrap();
/// assert!(!bindings.unused.contains(&libc));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Bindings {
    /// References without definition, object by object.
    pub undefined: Vec<Unresolved>,
    /// What the root needs directly and has no reference to: indices of [`Closure::objects`].
    pub unused: Vec<usize>,
}

/// One definition of a symbol.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// let definitions = closure.trace(b"malloc", None)?.definitions;
/// assert!(definitions.iter().any(|definition| !definition.weak));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SymbolDefinition {
    /// The object that has it: an index of [`Closure::objects`].
    pub object: usize,
    /// Its version.
    pub version: Option<Vec<u8>>,
    /// Whether it is weak, which makes no difference to a loader.
    pub weak: bool,
}

/// How one symbol binds.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// let trace = closure.trace(b"malloc", None)?;
/// assert!(trace.references.iter().all(|(_, _, bound_to)| bound_to.is_some()));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SymbolTrace {
    /// Every definition, in the order in which objects are asked: the first that suits a reference wins.
    pub definitions: Vec<SymbolDefinition>,
    /// Every object that refers to it, the version it asks for, and the object that it binds to: two, where calls go
    /// elsewhere than the address leads (to the linkage table of a program that is not position-independent).
    pub references: Vec<(usize, Option<Vec<u8>>, Option<usize>)>,
}

/// An object whose symbols have been read.
pub(super) struct Opened {
    /// Its index of [`Closure::objects`].
    pub(super) object: usize,
    pub(super) path: PathBuf,
    pub(super) image: Image,
    pub(super) symbols: Symbols,
}

impl Closure {
    /// Binds every reference, as the loader does at once with `LD_BIND_NOW`; without `functions` only those that it
    /// cannot put off until the first call.
    ///
    /// # Errors
    /// A file is not readable any more, or its tables contradict themselves.
    pub fn bind(&self, functions: bool) -> Result<Bindings, Error> {
        let opened = self.open()?;
        let order = self.order_of(&opened);
        let mut tables = Vec::with_capacity(opened.len());
        for object in &opened {
            let read = object.image.relocations(&object.image.source());
            tables.push(read.map_err(|kind| Error::new(&object.path, kind))?);
        }
        let references = tables.iter().flatten().map(|table| table.references(false)).sum();
        let mut providers = providers(&opened, &order, references);
        let mut bindings = Bindings::default();
        let mut used = vec![false; self.objects.len()];
        for number in self.relocation_order(&opened) {
            let user = &opened[number];
            let (Some(table), Some(machine)) = (&tables[number], user.image.machine()) else { continue };
            // Theirs are bound already.
            if matches!(self.objects[user.object].role, Role::Loader | Role::Present) {
                continue;
            }
            let versions = user.symbols.wanted_versions();
            let symbolic = user.image.dynamic().is_some_and(|dynamic| dynamic.symbolic);
            let traced = self.traced_versions(user);
            // One bit for a reference as data, one for a call: each is bound once.
            let mut seen: Vec<u8> = Vec::new();
            let read: Result<(), ErrorKind> = table.try_each_symbolic(machine.relative, |relocation| {
                let What::Type(kind) = relocation.what else { return Ok(()) };
                if relocation.symbol == 0 || relocation.plt && !functions && !user.image.binds_now() {
                    return Ok(());
                }
                let for_call = kind == machine.jump_slot;
                let index = relocation.symbol as usize;
                if seen.len() <= index {
                    seen.resize(index + 1, 0);
                }
                let bit = 1 << u8::from(for_call);
                if seen[index] & bit != 0 {
                    return Ok(());
                }
                seen[index] |= bit;
                let is_copy = machine.relocation(kind).is_some_and(|of_type| of_type.kind == Kind::Copy);
                let Some(symbol) = user.symbols.get(relocation.symbol) else { return Ok(()) };
                // It binds to its own definition if to no other; and the root is the first to be asked.
                if symbol.is_defined() && !is_copy {
                    return Ok(());
                }
                let Some(name) = user.symbols.name(&symbol) else { return Ok(()) };
                let version_index = user.symbols.versions.index(relocation.symbol).map(|index| index.number);
                let version = version_index.and_then(|index| versions.get(usize::from(index)).copied().flatten());
                // To musl a version is no part of a name.
                let version = version.filter(|_| self.libc != Libc::Musl);
                let wanted = Wanted::reference(name, version, for_call);
                let provider = match is_copy {
                    // The executable's own variable is filled with the library's.
                    true => opened[1..].iter().position(|other| other.symbols.find(&wanted).is_some()).map(|at| at + 1),
                    false => providers.bind(number, &symbol, &wanted, symbolic).map(|found| found.provider),
                };
                match provider {
                    Some(provider) => used[opened[provider].object] |= user.object == 0,
                    None => {
                        let requirements = user.symbols.versions.requirements.iter();
                        let expected = requirements.filter(|need| Some(need.index) == version_index);
                        let expected = expected.filter_map(|need| user.symbols.string(need.file)).next();
                        bindings.undefined.push(Unresolved {
                            user: user.object,
                            symbol: name.text.to_vec(),
                            version: version.map(|version| version.name.to_vec()),
                            expected_in: expected.map(<[u8]>::to_vec),
                            weak: symbol.is_weak(),
                            version_is_traced: version_index.is_some_and(|index| index <= traced),
                        });
                    }
                }
                Ok(())
            });
            read.map_err(|kind| Error::new(&user.path, kind))?;
        }
        bindings.undefined.dedup();
        for need in &self.objects[0].needs {
            let object = need.object;
            if !used[object] && self.objects[object].path.is_some() && !bindings.unused.contains(&object) {
                bindings.unused.push(object);
            }
        }
        Ok(bindings)
    }

    /// Who defines the symbol `name`, and what each reference to it binds to.
    ///
    /// # Errors
    /// A file is not readable any more, or its tables contradict themselves.
    pub fn trace(&self, name: &[u8], version: Option<&[u8]>) -> Result<SymbolTrace, Error> {
        let opened = self.open()?;
        let order = self.order_of(&opened);
        let mut providers = providers(&opened, &order, 0);
        let mut trace = SymbolTrace::default();
        for number in order.iter().copied() {
            let object = &opened[number];
            let symbols = &object.symbols;
            let symbolic = object.image.dynamic().is_some_and(|dynamic| dynamic.symbolic);
            let mut uses = Vec::new();
            for index in 1..symbols.count() {
                let Some(symbol) = symbols.get(index) else { break };
                let Some(name) = symbols.name(&symbol).filter(|own| own.text == name) else { continue };
                let own = symbols.version_of(index).and_then(|version| symbols.wanted(version));
                if version.is_some() && own.map(|own| own.name) != version {
                    continue;
                }
                let text = own.map(|own| own.name.to_vec());
                if symbol.is_exported() {
                    let weak = symbol.is_weak();
                    trace.definitions.push(SymbolDefinition { object: object.object, version: text, weak });
                } else if !symbol.is_defined() {
                    // Gone through once, however many symbols have the name.
                    if uses.is_empty() {
                        uses = object.uses()?;
                    }
                    let [meant, called] = uses[index as usize];
                    let mut bound = Vec::with_capacity(2);
                    // As something else, if by no relocation.
                    for for_call in [called.then_some(true), (meant || !called).then_some(false)].into_iter().flatten()
                    {
                        let wanted = Wanted::reference(name, own, for_call);
                        let found = providers.bind(number, &symbol, &wanted, symbolic);
                        bound.push((object.object, text.clone(), found.map(|found| opened[found.provider].object)));
                    }
                    bound.dedup();
                    trace.references.extend(bound);
                }
            }
        }
        Ok(trace)
    }

    /// In which order they are asked: as they were loaded, but whatever a program has comes before what it opens.
    pub(super) fn order_of(&self, opened: &[Opened]) -> Vec<usize> {
        let has_program = self.objects.iter().any(|object| object.role == Role::Present);
        let opens_later = |number: &usize| {
            has_program && !matches!(self.objects[opened[*number].object].role, Role::Present | Role::Loader)
        };
        // The root is the first object, but what stands in for its definitions is asked before it.
        let filtees = self.objects[0].needs.iter().filter(|need| need.tag != Tag::Needed);
        let filtees: Vec<usize> = filtees.map(|need| need.object).collect();
        let stands_in = |number: &usize| filtees.contains(&opened[*number].object);
        let mut order: Vec<usize> = (0..opened.len()).collect();
        order.sort_by_key(|number| (opens_later(number), !stands_in(number)));
        order
    }

    /// The objects in the order in which glibc relocates them: whatever one needs comes before it, as far as that can be,
    /// and the root at the end (`_dl_sort_maps_dfs`).
    fn relocation_order(&self, opened: &[Opened]) -> Vec<usize> {
        let mut number_of = vec![None; self.objects.len()];
        for (number, of) in opened.iter().enumerate() {
            number_of[of.object] = Some(number);
        }
        let mut seen = vec![false; opened.len()];
        let mut order = Vec::with_capacity(opened.len());
        // Objects with the number of needs that have been followed, instead of calls within calls.
        let mut path: Vec<(usize, usize)> = Vec::new();
        for start in (1..opened.len()).rev() {
            if !std::mem::replace(&mut seen[start], true) {
                path.push((start, 0));
            }
            while let Some((number, followed)) = path.last_mut() {
                match self.objects[opened[*number].object].needs.get(*followed) {
                    Some(need) => {
                        *followed += 1;
                        let next = number_of[need.object].filter(|next| *next != 0 && !seen[*next]);
                        if let Some(next) = next {
                            seen[next] = true;
                            path.push((next, 0));
                        }
                    }
                    None => {
                        order.push(*number);
                        path.pop();
                    }
                }
            }
        }
        order.extend((!opened.is_empty()).then_some(0));
        order
    }

    /// The highest index of a version that glibc's list knows of an object: of those that a missing library was to define
    /// it reads none (`_dl_check_map_versions`).
    fn traced_versions(&self, user: &Opened) -> u16 {
        let versions = &user.symbols.versions;
        let is_missing = |file: u32| {
            let name = user.symbols.string(file).unwrap_or_default();
            self.objects.iter().any(|object| object.path.is_none() && object.name == name)
        };
        let needed = versions.requirements.iter().filter(|need| !is_missing(need.file)).map(|need| need.index);
        needed.chain(versions.defined_indices()).max().unwrap_or(0)
    }

    /// Every object that is there, its symbols read.
    pub(super) fn open(&self) -> Result<Vec<Opened>, Error> {
        let mut opened = Vec::with_capacity(self.objects.len());
        for (object, path) in self.objects.iter().enumerate().filter_map(|(index, o)| Some((index, o.path.as_ref()?))) {
            let read = || {
                let image = Image::read(path.clone(), self.root.open(path)?)?;
                let symbols = image.symbols(&image.source())?;
                Ok((image, symbols))
            };
            let (image, symbols) = read().map_err(|kind| Error::new(path, kind))?;
            if let Some(symbols) = symbols {
                opened.push(Opened { object, path: path.clone(), image: *image, symbols: *symbols });
            }
        }
        Ok(opened)
    }
}

impl Opened {
    /// How relocations refer to each symbol: otherwise than for calls, and for calls.
    fn uses(&self) -> Result<Vec<[bool; 2]>, Error> {
        let mut uses = vec![[false; 2]; self.symbols.count() as usize];
        let failed = |kind| Error::new(&self.path, kind);
        let table = self.image.relocations(&self.image.source()).map_err(failed)?;
        if let (Some(table), Some(machine)) = (table, self.image.machine()) {
            let each = table.try_each_symbolic(machine.relative, |relocation| {
                if let Some(uses) = uses.get_mut(relocation.symbol as usize) {
                    uses[usize::from(relocation.what == What::Type(machine.jump_slot))] = true;
                }
                Ok(())
            });
            each.map_err(failed)?;
        }
        Ok(uses)
    }
}

/// The scope of a program that starts: all objects in load order, with nothing that a process would add.
pub(super) fn providers<'a>(opened: &'a [Opened], order: &'a [usize], references: usize) -> Providers<'a> {
    let provider =
        |object: &'a Opened| Provider { symbols: &object.symbols, bias: Bias::default(), file: &object.path };
    let rules = Rules { settled: &|_| None, own: &|_| None };
    // No look-up is prepared here: each asks half of the objects, on average.
    let questions = references.saturating_mul(opened.len()) / 2;
    let demand = Demand { questions, by: opened.iter().map(|object| &object.symbols).collect() };
    Providers::new(opened.iter().map(provider).collect(), order, &demand, None, rules)
}
