//! One look at the process: the host's objects and our modules at one moment, for one open to decide by.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::host::{Host, HostObject};
use super::module::{Dependency, Id, Instance, Object};
use super::namespace::Namespace;
use super::parts::{SINCE, is_part_of_libc, may_be_empty};
use super::registry::{State, state};
use crate::file::image::Image;
use crate::find::graph::World;
use crate::sys::Identity;

/// The process as one open saw it, from within one name space.
pub(crate) struct Look {
    pub(crate) namespace: Namespace,
    pub(crate) host: Arc<Host>,
    pub(crate) state: Arc<State>,
}

impl Look {
    pub(crate) fn now(namespace: Namespace) -> Self {
        Self { namespace, state: state(), host: Host::look() }
    }

    /// Whether an object of the host is seen: from an isolated name space only the C library is.
    fn sees(&self, object: &HostObject) -> bool {
        self.namespace.is_base() || object.is_part_of_libc()
    }

    /// The objects every reference is looked for in first: what the program started with, then what was made global.
    pub(crate) fn global_scope(&self) -> impl Iterator<Item = Object> {
        // What the host loaded along with something global may have gone with it, or was seen anew since.
        let global = self.state.global(self.namespace).filter_map(|object| match object {
            Object::Host(host) => self.host.known(host).cloned().map(Object::Host),
            Object::Module(_) => Some(object.clone()),
        });
        self.start().cloned().map(Object::Host).chain(global)
    }

    /// The objects that the program started with.
    pub(crate) fn start(&self) -> impl Iterator<Item = &Arc<HostObject>> {
        let base = self.namespace.is_base();
        self.host.objects.iter().filter(move |object| base && object.at_start && !object.is_kernels())
    }

    /// `object` and all it needs, breadth first.
    #[allow(clippy::mutable_key_type)] // an object is hashed by which one it is, not by what is in it
    pub(crate) fn closure(&self, object: &Object) -> Vec<Object> {
        let mut closure = vec![object.clone()];
        let mut seen = BTreeSet::from([object.clone()]);
        let mut next = 0;
        while next < closure.len() {
            let new = |need: &Object| seen.insert(need.clone());
            let needs: Vec<Object> =
                self.needed(&closure[next]).filter_map(|named| self.object(named)).filter(new).collect();
            closure.extend(needs);
            next += 1;
        }
        closure
    }
}

/// Which object is meant, without holding it.
#[derive(Clone, Copy)]
pub(crate) enum Named<'a> {
    Host(&'a Arc<HostObject>),
    Module(Id),
}

impl World for Look {
    type Object = Object;
    type Named<'a> = Named<'a>;

    fn by_name(&self, name: &[u8]) -> Option<Object> {
        let module = self.state.by_name(self.namespace, name).map(Object::Module);
        module.or_else(|| self.host.by_name(name).filter(|host| self.sees(host)).cloned().map(Object::Host))
    }

    fn by_identity(&self, identity: Identity) -> Option<Object> {
        self.state.instance(Instance { namespace: self.namespace, file: identity }).map(Object::Module)
    }

    fn of_host(&self, identity: Identity, image: Option<&Image>) -> Option<Object> {
        self.host.by_identity(identity, image).filter(|host| self.sees(host)).cloned().map(Object::Host)
    }

    fn still(&self, object: &Object) -> Option<Object> {
        match object {
            Object::Host(object) => self.host.known(object).cloned().map(Object::Host),
            Object::Module(module) => self.state.module(module.id).map(Object::Module),
        }
    }

    fn named<'a>(&'a self, object: &'a Object) -> Named<'a> {
        match object {
            Object::Host(object) => Named::Host(object),
            Object::Module(module) => Named::Module(module.id),
        }
    }

    fn object(&self, named: Named<'_>) -> Option<Object> {
        match named {
            Named::Host(object) => Some(Object::Host(Arc::clone(object))),
            Named::Module(id) => self.state.module(id).map(Object::Module),
        }
    }

    fn is(&self, object: &Object, named: Named<'_>) -> bool {
        match (object, named) {
            (Object::Host(object), Named::Host(host)) => Arc::ptr_eq(object, host),
            (Object::Module(module), Named::Module(id)) => module.id == id,
            _ => false,
        }
    }

    fn hash(&self, named: Named<'_>) -> u32 {
        match named {
            Named::Host(object) => (Arc::as_ptr(object).addr() / align_of::<HostObject>()) as u32,
            Named::Module(id) => id.0 as u32,
        }
    }

    fn needed<'a>(&'a self, object: &'a Object) -> impl Iterator<Item = Named<'a>> {
        let (host, module) = match object {
            Object::Host(object) => (Some(object), None),
            Object::Module(module) => (None, Some(module)),
        };
        let names = host.into_iter().flat_map(|object| object.names.needed.iter());
        let of_host = names.filter_map(|name| self.host.by_name(name)).map(Named::Host);
        let of_module = module.into_iter().flat_map(|module| &module.needed).map(|dependency| match dependency {
            Dependency::Host(object) => Named::Host(object),
            Dependency::Module(id) => Named::Module(*id),
        });
        of_host.chain(of_module)
    }

    fn belongs_to_host(&self, name: &[u8]) -> bool {
        is_part_of_libc(name)
    }

    fn in_place_of(&self, name: &[u8]) -> Option<Object> {
        let libc = if may_be_empty(name) { self.host.by_name(b"libc.so.6")? } else { return None };
        libc.defines_version(SINCE).then(|| Object::Host(Arc::clone(libc)))
    }
}
