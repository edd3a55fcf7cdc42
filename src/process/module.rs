//! A loaded object: published, seen by every later load, gone when nothing uses it any more.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;

use super::debugger::Listed;
use super::host::{HostObject, Pin};
use super::lazy::Link;
use super::namespace::Namespace;
use super::storage::Storage;
use super::symbols::LateSymbols;
use super::unwind::Frames;
use crate::addr::{Addr, Bias, Vaddr};
use crate::error::Candidate;
use crate::file::symbols::Symbols;
use crate::find::{Rule, graph};
use crate::guard::Lease;
use crate::load::call::Functions;
use crate::load::map::Mapping;
use crate::load::scope::{Located, Provider};
use crate::sys::{Bytes, Identity};

/// Numbers modules in the order in which they were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) u64);

/// Which library a module is, and what is in its file, if it lies where it lies in all processes of a session.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
pub(crate) struct Shared {
    pub(crate) library: [u8; 32],
    pub(crate) content: [u8; 32],
}

/// A module. Dropping the last owner unmaps it.
pub(crate) struct Module {
    pub(crate) id: Id,
    /// The path that it was opened by, where that is not the one from the root on.
    pub(crate) relative_path: Option<Box<Path>>,
    /// Why it was looked for there, and what was tried before.
    pub(crate) rule: Rule,
    pub(crate) lost: Vec<Candidate>,
    pub(crate) instance: Instance,
    pub(crate) soname: Option<Box<[u8]>>,
    pub(crate) symbols: Arc<LateSymbols>,
    /// How debuggers see it.
    pub(crate) listed: Listed,
    /// Before the mapping: fields are dropped in this order, and the unwinder reads what is mapped.
    #[allow(dead_code)] // acts by being dropped
    pub(crate) frames: Option<Frames>,
    #[allow(dead_code)] // acts by being dropped, before the mapping
    pub(crate) lease: Option<Lease>,
    pub(crate) mapping: Arc<Mapping>,
    /// Code of ours that its calls of the host go through, if they do: one for the whole group.
    #[allow(dead_code)] // is called, and goes with the last of the group
    pub(crate) stubs: Option<Arc<Mapping>>,
    /// What binds its functions at their first call, if that was put off.
    #[allow(dead_code)] // the trampoline has its address
    pub(crate) link: Option<Box<Link>>,
    /// Its thread-local storage, if it has any.
    pub(crate) storage: Option<Box<Storage>>,
    /// Which library it is in all processes of the session.
    #[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
    pub(crate) shared: Option<Box<Shared>>,
    /// What it needs, in the order of `DT_NEEDED`.
    pub(crate) needed: Box<[Dependency]>,
    /// Modules that words of it refer to.
    pub(crate) bound_to: Box<[Id]>,
    /// Objects of the host that it needs or refers to, held.
    #[allow(dead_code)] // acts by being dropped
    pub(crate) pins: Vec<Arc<Pin>>,
    /// What the search for libraries that it opens itself goes by, and who brought it in.
    pub(crate) loaded_by: Option<Id>,
    /// Its directory, where its path does not say that from the root on.
    pub(crate) origin: Option<Box<Path>>,
    pub(crate) rpath: Option<Box<[u8]>>,
    pub(crate) runpath: Option<Box<[u8]>>,
    pub(crate) nodeflib: bool,
    /// Whether it asks itself before all others (`DT_SYMBOLIC`), and what was opened with it before what is global.
    pub(crate) symbolic: bool,
    pub(crate) deep_bind: bool,
    /// Its program headers, for whoever goes through all objects.
    pub(crate) headers: ProgramHeaders,
    /// Its `PT_GNU_EH_FRAME`, if it has one.
    pub(crate) eh_frame: Option<Vaddr>,
    pub(crate) functions: Functions,
}

/// Program headers, as `<elf.h>` lays them out.
pub(crate) enum ProgramHeaders {
    /// In the object's own memory, which stays as it is in the file.
    InPlace(Bytes),
    Copied(Vec<libc::Elf64_Phdr>),
}

impl ProgramHeaders {
    pub(crate) fn as_ptr(&self) -> *const libc::Elf64_Phdr {
        match self {
            Self::InPlace(bytes) => bytes.as_ptr().cast(),
            Self::Copied(headers) => headers.as_ptr(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::InPlace(bytes) => bytes.len() / size_of::<libc::Elf64_Phdr>(),
            Self::Copied(headers) => headers.len(),
        }
    }
}

/// Which object a module is: that file's, once in each name space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) namespace: Namespace,
    pub(crate) file: Identity,
}

impl Module {
    /// The path that it was opened by.
    pub(crate) fn path(&self) -> &Path {
        self.relative_path.as_deref().unwrap_or_else(|| self.listed.path())
    }

    /// Its directory, for `$ORIGIN`.
    pub(crate) fn origin(&self) -> Option<&Path> {
        graph::origin(self.path(), self.origin.as_deref())
    }

    /// Whether it names that module as needed.
    pub(super) fn needs(&self, id: Id) -> bool {
        self.needed.iter().any(|dependency| matches!(dependency, Dependency::Module(needed) if *needed == id))
    }
}

/// An object that another one needs.
#[derive(Clone)]
pub(crate) enum Dependency {
    Host(Arc<HostObject>),
    Module(Id),
}

/// An object in the process, whoever loaded it.
#[derive(Clone)]
pub(crate) enum Object {
    Host(Arc<HostObject>),
    Module(Arc<Module>),
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Host(a), Self::Host(b)) => Arc::ptr_eq(a, b),
            (Self::Module(a), Self::Module(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Object {}

impl PartialOrd for Object {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Any order will do: by which object it is, not by what is in it.
impl Ord for Object {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Host(a), Self::Host(b)) => Arc::as_ptr(a).cmp(&Arc::as_ptr(b)),
            (Self::Module(a), Self::Module(b)) => a.id.cmp(&b.id),
            (Self::Host(_), Self::Module(_)) => Ordering::Less,
            (Self::Module(_), Self::Host(_)) => Ordering::Greater,
        }
    }
}

impl Located for Object {
    fn path(&self) -> &Path {
        self.path()
    }
}

impl Object {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Host(object) => object.path(),
            Self::Module(module) => module.path(),
        }
    }

    /// What it calls itself.
    #[cfg(feature = "snapshots")]
    pub(crate) fn soname(&self) -> Option<&[u8]> {
        match self {
            Self::Host(object) => object.names.soname.as_deref(),
            Self::Module(module) => module.soname.as_deref(),
        }
    }

    /// Its symbols, if they can be read.
    #[inline]
    pub(crate) fn symbols(&self) -> Option<&Symbols> {
        match self {
            Self::Host(object) => object.symbols(),
            Self::Module(module) => Some(&module.symbols),
        }
    }

    /// Reads them, for those who may not take memory or wait.
    pub(crate) fn read_symbols(&self) {
        self.symbols().into_iter().for_each(Symbols::read_now);
    }

    /// What is added to the addresses in its file.
    #[inline]
    pub(crate) fn bias(&self) -> Bias {
        match self {
            Self::Host(object) => object.bias,
            Self::Module(module) => module.mapping.bias(),
        }
    }

    /// Itself as a provider of definitions; `None` if it has none to give.
    pub(crate) fn provider(&self) -> Option<Provider<'_>> {
        Some(Provider { symbols: self.symbols()?, bias: self.bias(), file: self })
    }

    /// Whether `addr` is code of it.
    pub(crate) fn is_code(&self, addr: Addr) -> bool {
        match self {
            Self::Host(object) => object.is_code(addr),
            Self::Module(module) => module.mapping.is_code(addr),
        }
    }

    /// The number of the module; `None` for an object of the host.
    pub(crate) fn id(&self) -> Option<Id> {
        match self {
            Self::Host(_) => None,
            Self::Module(module) => Some(module.id),
        }
    }

    /// The name space it is in: objects of the host are in that of the program.
    pub(crate) fn namespace(&self) -> Namespace {
        match self {
            Self::Host(_) => Namespace::BASE,
            Self::Module(module) => module.instance.namespace,
        }
    }

    pub(crate) fn dependency(&self) -> Dependency {
        match self {
            Self::Host(object) => Dependency::Host(Arc::clone(object)),
            Self::Module(module) => Dependency::Module(module.id),
        }
    }
}
