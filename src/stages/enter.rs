//! Entering: what an open comes down to, and whether it may be.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::Shared;
use crate::addr::Addr;
use crate::error::{Error, ErrorKind};
use crate::file::Homes;
use crate::file::image::Image;
use crate::file::plan::Plan;
use crate::find::again::Before;
use crate::find::graph::{self, Graph, New, Request, World};
use crate::find::needs::Needs;
use crate::find::{Asker, Search, Settings};
#[cfg(feature = "snapshots")]
use crate::guard::Guard;
use crate::load::group::{Group, Slot, init_order};
use crate::loader::{Opened, Wishes};
use crate::process::host::HostObject;
use crate::process::module::{Id, Module, Object};
use crate::process::scope::Scope;
use crate::process::world::Look;
use crate::process::{hooks, real, registry};
use crate::sys;

/// The search of this process.
fn search() -> &'static Search {
    static SEARCH: OnceLock<Search> = OnceLock::new();
    SEARCH.get_or_init(|| {
        let platform = sys::auxiliary_str(libc::AT_PLATFORM).map(std::ffi::CStr::to_bytes);
        let secure = sys::auxiliary(libc::AT_SECURE) != 0;
        Search::new(Settings::of_this_process(hooks::library_path(), secure, platform, real::processor))
    })
}

/// The program, as one that asks for `name`. Where it is, the kernel is asked only if that can matter: if it has search
/// paths of its own, or something may have a token in it.
fn program<'a>(look: &'a Look, name: &[u8]) -> Asker<'a> {
    let program = look.host.program();
    let rpath = program.and_then(|program| program.names.rpath.as_deref());
    let runpath = program.and_then(|program| program.names.runpath.as_deref());
    let has_token = |text: &[u8]| text.contains(&b'$');
    let matters = rpath.or(runpath).is_some() || has_token(name) || hooks::library_path().is_some_and(has_token);
    let place = program.filter(|_| matters).map(|program| program.path());
    Asker {
        name: place.unwrap_or(Path::new("the program")),
        origin: place.and_then(Path::parent),
        rpath,
        runpath,
        nodeflib: program.is_some_and(|program| program.nodeflib()),
        loaded_by: None,
    }
}

/// Calls `then` with `object` as one that asks for libraries, those that brought it in behind it up to the program.
fn with_asker<T>(
    object: Option<&Object>,
    look: &Look,
    program: &Asker<'_>,
    then: &mut dyn FnMut(&Asker<'_>) -> T,
) -> T {
    match object {
        Some(Object::Module(module)) => {
            // A chain without circles: what brings a member in was found before it.
            let loader = module.loaded_by.and_then(|id| look.state.module(id)).map(Object::Module);
            with_asker(loader.as_ref(), look, program, &mut |loader| {
                then(&Asker {
                    name: module.path(),
                    origin: module.origin(),
                    rpath: module.rpath.as_deref(),
                    runpath: module.runpath.as_deref(),
                    nodeflib: module.nodeflib,
                    loaded_by: Some(loader),
                })
            })
        }
        Some(Object::Host(host)) if look.host.program().is_none_or(|program| !Arc::ptr_eq(program, host)) => {
            then(&Asker {
                name: host.path(),
                origin: host.path().parent(),
                rpath: host.names.rpath.as_deref(),
                runpath: host.names.runpath.as_deref(),
                nodeflib: host.nodeflib(),
                loaded_by: Some(program),
            })
        }
        _ => then(program),
    }
}

/// The object in the process that is called `name`: that is the one, wherever there are files of that name.
pub(crate) fn called(name: &OsStr, look: &Look) -> Option<Object> {
    let name = name.as_bytes();
    if name.contains(&b'$') { None } else { look.by_name(name) }
}

/// Finds the object that is asked for and all it needs, among the files of the attempt before first.
pub(crate) fn discover(
    name: &OsStr,
    wishes: &Wishes,
    look: &Look,
    homes: &Homes<'_>,
    mut before: Option<Before<Object>>,
) -> Result<Graph<Object>, Error> {
    let program = program(look, name.as_bytes());
    with_asker(wishes.caller.as_ref(), look, &program, &mut |caller| {
        let request = Request {
            name,
            search_dirs: &wishes.search_dirs,
            caller,
            program: &program,
            guard: wishes.guard,
            huge_pages: wishes.huge_pages,
            homes,
            no_load: wishes.no_load,
        };
        graph::discover(&request, search(), look, before.take())
    })
}

/// The directories that a library which a module opens is looked for in, in order.
pub(crate) fn directories(module: &Arc<Module>, look: &Look) -> Result<Vec<PathBuf>, Error> {
    let (program, object) = (program(look, b""), Object::Module(Arc::clone(module)));
    with_asker(Some(&object), look, &program, &mut |asker| search().directories(asker))
        .map_err(|kind| Error::new(module.path(), kind))
}

/// `ld.so.cache` as it is, if that alone says which files an open of `name` comes to: nobody who asks names directories of
/// its own.
#[cfg(feature = "snapshots")]
pub(super) fn cache_alone(name: &OsStr, wishes: &Wishes, look: &Look) -> Option<sys::Stamp> {
    fn asks_elsewhere(asker: &Asker<'_>) -> bool {
        let own = asker.rpath.is_some() || asker.runpath.is_some() || asker.nodeflib;
        own || asker.loaded_by.is_some_and(asks_elsewhere)
    }
    let (search, program) = (search(), program(look, name.as_bytes()));
    let elsewhere = with_asker(wishes.caller.as_ref(), look, &program, &mut |asker| asks_elsewhere(asker));
    let directories = elsewhere || !wishes.search_dirs.is_empty() || !search.settings().library_path.is_empty();
    let plainly = wishes.guard == Guard::Nothing && !wishes.huge_pages && !wishes.no_load;
    search.refresh();
    Some(()).filter(|()| plainly && !directories && !name.as_bytes().contains(&b'$'))?;
    sys::stamp(&search.settings().cache)
}

/// Whether `ld.so.cache` has one file of that name for all processors.
#[cfg(feature = "snapshots")]
pub(super) fn cached_for_all(name: &[u8]) -> bool {
    search().cached_for_all(name)
}

/// Where the C library's own loader will find the part of it that is called `name`, if that is certain: the cache says so,
/// the C library itself came from that directory, and nothing is asked before the cache. Told where, that loader need not map
/// the cache for each part anew.
pub(super) fn path_of_part(name: &[u8], look: &Look) -> Option<PathBuf> {
    // It looks for what this crate asks for as for a part of the object that this crate is in.
    let own = look.host.by_address(Addr(path_of_part as *const () as usize))?;
    let asks_elsewhere = |object: &Arc<HostObject>| {
        let names = &object.names;
        let audits = names.audit.is_some() || names.depaudit.is_some();
        names.rpath.is_some() || names.runpath.is_some() || object.nodeflib() || audits
    };
    // No loader of its own: the program is an argument of the loader, which may have been given directories, too.
    let started_by_loader = sys::auxiliary(libc::AT_BASE) == 0;
    let mut at_start = look.host.objects.iter().filter(|object| object.at_start && !object.is_kernels());
    if !own.at_start || started_by_loader || hooks::is_audited() || at_start.any(asks_elsewhere) {
        return None;
    }
    let libc = look.host.by_name(b"libc.so.6")?;
    search().in_cache(name).filter(|path| path.parent() == libc.path().parent())
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
    if let Some(Slot::Known(object)) = graph.members.first() {
        return Ok(Admitted::Known(object.clone()));
    }
    let group = Group::new(graph.members, graph.needs).advance(|_, mut new| {
        match check(&new.image, wishes).and_then(|()| new.image.take_plan()) {
            Err(kind) => Err(Error::new(new.image.path(), kind)),
            Ok(plan) => Ok((new, plan)),
        }
    })?;
    Ok(Admitted::Group(group))
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
    Ok(())
}

/// One more handle to what is there already; `None` if it has gone meanwhile.
pub(crate) fn reopen(object: Object, name: &OsStr, wishes: &Wishes, look: Look) -> Result<Option<Opened>, Error> {
    let scope = look.closure(&object);
    // What nobody looks at any more is changed in place.
    drop(look);
    let pin = match &object {
        Object::Host(host) => match host.pin() {
            Ok(pin) => pin,
            Err(_) => return Ok(None),
        },
        Object::Module(module) => {
            if !registry::retain(module, name.as_bytes()) {
                registry::wait_until_gone(&[module.instance]);
                return Ok(None);
            }
            if wishes.no_delete {
                registry::keep(module);
            }
            None
        }
    };
    // Tables are read now, not when a symbol is asked for.
    hooks::undisturbed(|| {
        scope.iter().for_each(Object::read_symbols);
    });
    let modules: Vec<Id> = scope.iter().filter_map(Object::id).collect();
    registry::wait_until_initialised(&modules);
    // What came in as a need of others, and a constructor of this very thread opens it before its own have been run.
    let is_need = matches!(&object, Object::Module(module) if module.loaded_by.is_some());
    if is_need && registry::state().are_to_run(&modules) {
        let (look, mut needs) = (hooks::undisturbed(|| Look::now(wishes.namespace)), Needs::default());
        for member in &scope {
            let place = |named| scope.iter().position(|other| look.is(other, named));
            look.needed(member).filter_map(place).for_each(|need| needs.push(need));
            needs.end();
        }
        super::initialise(&init_order(&needs), &scope);
    }
    if wishes.global {
        registry::make_global(wishes.namespace, scope.iter().cloned());
    }
    Ok(Some(Opened { object, scope: Scope::new(scope), pin, stages: Vec::new(), sharing: Shared::default() }))
}
