//! Lazy binding: which function a call means is decided when it is first made, and written for all later ones.
//!
//! A signal handler may be the first to call, and whoever it has interrupted may hold any lock. So definitions in the
//! object itself, in what it needs and in what the program started with are found without locks and without memory, as
//! in glibc. Whatever is found elsewhere has to be held for the one who refers to it, which takes the registry's lock.
//!
//! # Safety
//! [`bind`] is called by the trampoline alone, with the [`Link`] that was written for it into a mapping that the link's
//! owner outlives.

use std::ptr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::host::{self, Host, HostObject, Pin};
use super::later::{self, Fleeting};
use super::module::Id;
use super::namespace::Namespace;
use super::symbols::LateSymbols;
use super::{hooks, registry};
use crate::addr::{Addr, Bias};
use crate::arch::Machine;
use crate::arch::trampoline::Binder;
use crate::error::{At, Error, ErrorKind, Undefined};
use crate::file::hash;
use crate::file::relocations::{Relocation, Relocations, What};
use crate::file::symbols::{Symbol, Symbols, Wanted};
use crate::load::call::Code;
use crate::load::map::Mapping;
use crate::load::scope::Imports;

/// Where the functions of a group are looked for at their first call.
pub(crate) struct Later {
    pub(crate) namespace: Namespace,
    /// What the program started with: asked first, and there for good.
    pub(crate) start: Vec<Arc<HostObject>>,
    /// Where the process's allocator is, for those who do not see the program.
    pub(crate) host: Option<Arc<Host>>,
    /// The group, breadth first.
    pub(crate) members: Vec<Member>,
    /// Whether the group is asked before everything else.
    pub(crate) deep_bind: bool,
    /// The functions that the group gets from the loader.
    pub(crate) imports: Imports,
    /// The number of the group's first new module, once it has one. Until then nothing found elsewhere is kept.
    pub(crate) first: OnceLock<Id>,
}

/// A member of a group.
pub(crate) enum Member {
    /// A module on its way in, by its place in the order of initialisation.
    New { place: u64, symbols: Weak<LateSymbols>, mapping: Weak<Mapping> },
    /// An object that was there.
    Known(Fleeting),
}

/// What binds the functions of one module: the trampoline gets its address.
#[repr(C)]
pub(crate) struct Link {
    binder: Binder,
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) symbols: Arc<LateSymbols>,
    pub(crate) relocations: Relocations,
    /// Whether its own definitions come before the scope's (`DT_SYMBOLIC`).
    pub(crate) symbolic: bool,
    /// Its number among the members.
    pub(crate) own: usize,
    /// Which members it needs, directly or through others: they stay as long as it does.
    pub(crate) needed: Vec<bool>,
    pub(crate) scope: Arc<Later>,
    /// Holds objects of the host that it has come to refer to.
    pins: Mutex<Vec<Arc<Pin>>>,
    path: Box<std::path::Path>,
}

/// What a look-up has found.
struct Found {
    value: Addr,
    symbol: Symbol,
    provider: Provider,
    holds: Holds,
}

/// Who has it, held while that is asked.
enum Provider {
    Host(Arc<HostObject>),
    Module(Arc<Mapping>),
}

/// What keeps the one who has it, for the one who refers to it.
enum Holds {
    /// It stays anyway.
    Nothing,
    /// By its number, once it has one.
    Module(Option<Id>),
    Host(Arc<Pin>),
}

impl Link {
    pub(crate) fn new(
        (mapping, symbols, relocations): (Arc<Mapping>, Arc<LateSymbols>, Relocations),
        path: &std::path::Path,
        symbolic: bool,
        own: usize,
        needed: Vec<bool>,
        scope: Arc<Later>,
    ) -> Box<Self> {
        let (binder, pins, path) = (Binder { bind }, Mutex::default(), path.into());
        Box::new(Self { binder, mapping, symbols, relocations, symbolic, own, needed, scope, pins, path })
    }

    /// What the trampoline is to be given.
    pub(crate) fn binder(&self) -> *const Binder {
        ptr::from_ref(&self.binder)
    }

    /// Says that the group has been published, and which number its first module has.
    pub(crate) fn publish(&self, first: Id) {
        // Every link of the group says the same.
        let _ = self.scope.first.set(first);
    }

    /// The number of a new module of the group, once it has one.
    fn id(&self, place: u64) -> Option<Id> {
        self.scope.first.get().map(|first| Id(first.0 + place))
    }

    fn own_id(&self) -> Option<Id> {
        match self.scope.members[self.own] {
            Member::New { place, .. } => self.id(place),
            Member::Known(_) => None,
        }
    }

    /// The function that relocation number `index` is about; its word is written, so that it is not asked for again.
    fn bind(&self, index: usize) -> Result<Addr, ErrorKind> {
        let machine = Machine::native().map(|machine| machine.jump_slot);
        let relocation = self.relocations.of_plt(index as u64);
        let relocation = relocation.filter(|relocation| Some(relocation.what) == machine.map(What::Type));
        let relocation = relocation.ok_or_else(|| {
            let what = format!("number {index} that an entry of the procedure linkage table pushes");
            ErrorKind::malformed(what, At::Object, "that of a relocation in DT_JMPREL for a function", "none")
        })?;
        let mut gone = Vec::new();
        loop {
            let found = self.look_up(&relocation, &gone)?;
            // An undefined weak function is at 0: calling it is the caller's fault.
            let Some(found) = found else { return Ok(Addr(0)) };
            let keeps = match self.hold(&found.holds) {
                Ok(keeps) => keeps,
                Err(provider) => {
                    gone.push(provider);
                    continue;
                }
            };
            let addr = match found.symbol.is_ifunc() && found.symbol.is_defined() {
                false => found.value,
                true => {
                    let code = Code::at(found.value, |addr| found.provider.is_code(addr)).ok_or_else(|| {
                        let expected = "a resolver in an executable segment";
                        ErrorKind::malformed("IFUNC", At::Vaddr(relocation.place), expected, found.value)
                    })?;
                    hooks::resolve(code)
                }
            };
            if keeps {
                self.mapping.write_while_running(relocation.place, addr.0 as u64);
            }
            return Ok(addr);
        }
    }

    /// Sees to it that a definition stays for as long as this module, or answers which module is going with it. `false` if
    /// it is only sure to be there for this one call: the group has not been published yet.
    fn hold(&self, holds: &Holds) -> Result<bool, Id> {
        match holds {
            Holds::Nothing => Ok(true),
            Holds::Module(provider) => match self.own_id().zip(*provider) {
                Some((user, provider)) if registry::refer(user, provider) => Ok(true),
                Some((_, provider)) => Err(provider),
                None => Ok(false),
            },
            Holds::Host(pin) => {
                hooks::undisturbed(|| {
                    let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
                    if !pins.iter().any(|known| Arc::ptr_eq(known, pin)) {
                        pins.push(Arc::clone(pin));
                    }
                });
                Ok(true)
            }
        }
    }

    /// What a function's relocation binds to (as `load::scope` does for all that is bound at once); `None` if it may be
    /// undefined. Modules that are going, or gone, are not asked.
    fn look_up(&self, relocation: &Relocation, gone: &[Id]) -> Result<Option<Found>, ErrorKind> {
        let symbols = &*self.symbols;
        let own = symbols.get(relocation.symbol);
        let named = own.and_then(|own| Some((own, symbols.name(&own)?)));
        let (own, name) = named.ok_or_else(|| {
            let expected = "a symbol inside DT_SYMTAB with a name inside DT_STRTAB";
            let found = format!("symbol {}", relocation.symbol);
            ErrorKind::malformed("r_info of relocation", At::Vaddr(relocation.place), expected, found)
        })?;
        let version = symbols.version_of(relocation.symbol).and_then(|version| symbols.wanted(version));
        let wanted = Wanted::reference(name, version, true);
        // A protected definition serves its own object.
        if own.binds_locally() || (own.is_protected() && own.is_defined()) {
            return Ok(Some(self.itself(own)));
        }
        if !own.is_defined()
            && let Some(value) = self.scope.import(wanted.name)
        {
            return Ok(Some(Found { value, ..self.itself(own) }));
        }
        let found = self.find(&wanted, gone).or_else(|| self.find_elsewhere(&wanted, own));
        if wanted.given_up.get() {
            let found = u64::from(hash::CHAIN_MAX) + 1;
            return Err(ErrorKind::Limit { what: "symbols in one hash chain", limit: found - 1, found });
        }
        if found.is_none() && !own.is_weak() {
            return Err(self.undefined(&wanted));
        }
        Ok(found)
    }

    fn find(&self, wanted: &Wanted<'_>, gone: &[Id]) -> Option<Found> {
        let scope = &*self.scope;
        let start = || {
            scope.start.iter().find_map(|host| {
                let (value, symbol) = definition(scope.namespace, host.symbols()?, host.bias, wanted)?;
                Some(Found { value, symbol, provider: Provider::Host(Arc::clone(host)), holds: Holds::Nothing })
            })
        };
        let later = || {
            let global = |(of, object): &(Namespace, Fleeting)| match *of == scope.namespace {
                true => fleeting(scope.namespace, object, false, gone, wanted),
                false => None,
            };
            later::find(global)
        };
        let group = || {
            scope.members.iter().zip(&self.needed).enumerate().find_map(|(number, (member, needed))| match member {
                Member::Known(object) => fleeting(scope.namespace, object, *needed, gone, wanted),
                Member::New { place, symbols, mapping } => {
                    let id = self.id(*place);
                    if id.is_some_and(|id| gone.contains(&id)) {
                        return None;
                    }
                    let (symbols, mapping) = (symbols.upgrade()?, mapping.upgrade()?);
                    let (value, symbol) = definition(scope.namespace, &symbols, mapping.bias(), wanted)?;
                    let stays = *needed || number == self.own;
                    let holds = if stays { Holds::Nothing } else { Holds::Module(id) };
                    Some(Found { value, symbol, provider: Provider::Module(mapping), holds })
                }
            })
        };
        let own = || {
            let (value, symbol) = definition(scope.namespace, &self.symbols, self.mapping.bias(), wanted)?;
            Some(Found { value, ..self.itself(symbol) })
        };
        let first = if self.symbolic { own() } else { None };
        first.or_else(|| match scope.deep_bind {
            true => group().or_else(start).or_else(later),
            false => start().or_else(later).or_else(group),
        })
    }

    /// What only the host's own lookup finds.
    fn find_elsewhere(&self, wanted: &Wanted<'_>, own: Symbol) -> Option<Found> {
        if !self.scope.namespace.is_base() {
            return None;
        }
        let value = host::global_symbol(wanted.name, wanted.version.map(|version| version.name))?;
        let host = hooks::undisturbed(Host::look).by_address(value).cloned();
        let holds = host.and_then(|host| host.pin().ok()?).map_or(Holds::Nothing, Holds::Host);
        Some(Found { value, holds, ..self.itself(own) })
    }

    /// Its own definition.
    fn itself(&self, symbol: Symbol) -> Found {
        let value = address(&symbol, self.mapping.bias());
        Found { value, symbol, provider: Provider::Module(Arc::clone(&self.mapping)), holds: Holds::Nothing }
    }

    fn undefined(&self, wanted: &Wanted<'_>) -> ErrorKind {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let symbol = Undefined { name: text(wanted.name), version: wanted.version.map(|version| text(version.name)) };
        let searched =
            self.scope.start.iter().map(|host| host.path().to_owned()).chain([self.path.to_path_buf()]).collect();
        ErrorKind::UndefinedSymbols { symbols: vec![symbol], searched }
    }
}

impl Later {
    /// The function that the group gets in place of any object's, as at a load.
    fn import(&self, name: &[u8]) -> Option<Addr> {
        (self.imports)(name).or_else(|| self.host.as_ref()?.allocator(name))
    }
}

impl Provider {
    fn is_code(&self, addr: Addr) -> bool {
        match self {
            Self::Host(host) => host.is_code(addr),
            Self::Module(mapping) => mapping.is_code(addr),
        }
    }
}

/// A definition in an object that may go; `stays` if it will not before the one who asks.
fn fleeting(namespace: Namespace, object: &Fleeting, stays: bool, gone: &[Id], wanted: &Wanted<'_>) -> Option<Found> {
    match object {
        Fleeting::Module { id, .. } if gone.contains(id) => None,
        Fleeting::Module { id, symbols, mapping } => {
            let (symbols, mapping) = (symbols.upgrade()?, mapping.upgrade()?);
            let (value, symbol) = definition(namespace, &symbols, mapping.bias(), wanted)?;
            let holds = if stays { Holds::Nothing } else { Holds::Module(Some(*id)) };
            Some(Found { value, symbol, provider: Provider::Module(mapping), holds })
        }
        Fleeting::Host(host, pin) => {
            // Asked only while it is held.
            let pin = if stays || host.at_start { None } else { Some(pin.upgrade().or_else(|| host.pin().ok()?)?) };
            let (value, symbol) = definition(namespace, host.symbols()?, host.bias, wanted)?;
            let holds = pin.map_or(Holds::Nothing, Holds::Host);
            Some(Found { value, symbol, provider: Provider::Host(Arc::clone(host)), holds })
        }
    }
}

fn definition(namespace: Namespace, symbols: &Symbols, bias: Bias, wanted: &Wanted<'_>) -> Option<(Addr, Symbol)> {
    let (_, symbol) = symbols.find(wanted)?;
    // One for the whole name space, whoever defines it: settled by the load that was first to use it.
    let settled = if symbol.is_unique() { registry::state().unique(namespace, wanted) } else { None };
    Some((settled.map(|(addr, _)| addr).unwrap_or_else(|| address(&symbol, bias)), symbol))
}

fn address(symbol: &Symbol, bias: Bias) -> Addr {
    if symbol.is_absolute() { Addr(symbol.value as usize) } else { bias.at(crate::addr::Vaddr(symbol.value)) }
}

/// What the trampoline calls. An undefined function ends the process, as in glibc: its caller cannot be told.
unsafe extern "C" fn bind(binder: *const Binder, index: usize) -> usize {
    // SAFETY: the trampoline passes on the word that was written into the module's table: the address of its link, whose
    // first field this is, and which is freed with the module.
    let link = unsafe { &*binder.cast::<Link>() };
    // SAFETY: the thread's own number of the last error, which the call that is being bound must not see change.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { errno.read() };
    match link.bind(index) {
        Ok(function) => {
            // SAFETY: as above.
            unsafe { errno.write(before) };
            function.0
        }
        Err(kind) => give_up(&Error::new(&*link.path, kind)),
    }
}

fn give_up(error: &Error) -> ! {
    let program = hooks::program_name().map_or("soload".into(), |name| name.to_string_lossy());
    let line = format!("{program}: symbol lookup error: {error}\n");
    // SAFETY: writes text of ours, then ends the process without running anything.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len());
        libc::_exit(127)
    }
}
