//! The pipeline: what happens between a name and a library, in order.
//!
//! Nothing else is decided here.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::addr::Bias;
use crate::error::{Error, ErrorKind};
use crate::file::BuildId;
use crate::find::again::Before;
use crate::find::graph;
use crate::guard::Guard;
use crate::load::scope::Imports;
use crate::process::host::Pin;
use crate::process::module::{Module, Object};
use crate::process::namespace::Namespace;
use crate::process::scope::Scope;
use crate::process::world::Look;
use crate::process::{hooks, registry};
#[cfg(feature = "snapshots")]
use crate::snapshot::{Refusal, Snapshot};
pub(crate) use crate::stages::Shared;
use crate::stages::{self, Admitted, HostHelp, Sharing, Wish};

/// How often a load that does not fit the process any more is begun anew. Each time another thread has got on.
const ATTEMPTS_MAX: u64 = 100;

/// What the one who opens wants.
#[derive(Clone, Default)]
pub(crate) struct Wishes {
    pub(crate) global: bool,
    pub(crate) no_load: bool,
    pub(crate) no_delete: bool,
    pub(crate) deep_bind: bool,
    pub(crate) namespace: Namespace,
    /// Functions are bound when they are first called.
    pub(crate) lazy: bool,
    pub(crate) search_dirs: Vec<PathBuf>,
    pub(crate) allow_writable_executable: bool,
    pub(crate) allow_executable_stack: bool,
    /// Code in pages of 2 MiB, where the file system gives them.
    pub(crate) huge_pages: bool,
    pub(crate) guard: Guard,
    /// Who opens, if it is not the program: libraries are looked for where that object says.
    pub(crate) caller: Option<Object>,
    /// The functions that loaded code gets from us, by name.
    pub(crate) imports: Option<Imports>,
    /// Whether pages are to be shared with other processes.
    #[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
    pub(crate) sharing: Wish,
    /// Who looks at each new object once its pages are as relocation leaves them.
    pub(crate) relocated: Option<Onlooker>,
}

/// Told the file and the load bias of each new object, before any constructor runs.
pub(crate) type Onlooker = Arc<dyn Fn(&Path, Bias) + Send + Sync>;

/// An open library, and the objects its symbols are looked for in.
pub(crate) struct Opened {
    pub(crate) object: Object,
    /// It and all it needs, breadth first.
    pub(crate) scope: Scope,
    /// Keeps an object of the host loaded that was opened itself.
    #[allow(dead_code)] // acts by being dropped
    pub(crate) pin: Option<Arc<Pin>>,
    /// How long each stage took, by name.
    pub(crate) stages: Vec<(&'static str, Duration)>,
    /// What snapshots did for it.
    #[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
    pub(crate) sharing: Shared,
}

/// Opens `name`: finds it and what it needs, and loads what is not there yet.
pub(crate) fn open(name: &OsStr, wishes: &Wishes) -> Result<Opened, Error> {
    let mut help = HostHelp::default();
    let mut before = None;
    let mut sharing = hooks::undisturbed(|| Sharing::wished(wishes));
    let mut clock = Clock::start();
    for _ in 0..ATTEMPTS_MAX {
        let look = hooks::undisturbed(|| Look::now(wishes.namespace));
        clock.stage("host");
        if let Some(object) = stages::called(name, &look) {
            match stages::reopen(object, name, wishes, look)? {
                Some(opened) => return Ok(opened),
                None => continue,
            }
        }
        let graph = hooks::undisturbed(|| {
            // What an attempt or another process has found need not be found again.
            let before = before.take().or_else(|| sharing.trail(name, wishes, &look));
            let homes = |file: &_, id: BuildId<'_>, len| sharing.home(file, id, len);
            stages::discover(name, wishes, &look, &homes, before)
        })?;
        clock.stage("find");
        if !graph.for_host.is_empty() {
            help.bring(&graph.for_host, &look)?;
            before = Some(Before::Lacked(graph));
            continue;
        }
        let group = match stages::admit(graph, wishes)? {
            Admitted::Known(object) => match stages::reopen(object, name, wishes, look)? {
                Some(opened) => return Ok(opened),
                None => continue,
            },
            Admitted::Group(group) => group,
        };
        clock.stage("plan");

        // From here on no file is opened and no object joins the group. The process changes; whatever fails drops the
        // group, and with it every mapping it has made.

        let Some(scope) = stages::scope(&group, &look, wishes, &help) else { continue };
        let placed = hooks::undisturbed(|| sharing.place(&group, &scope, &look, &help));
        let group = match stages::map(group, &placed, wishes) {
            Err(error) if sharing.gives_up(&error) => continue,
            group => group?,
        };
        clock.stage("map");
        // The words come from a snapshot, or are computed; a snapshot that has just been made is used the next time.
        let bound = hooks::undisturbed(|| sharing.relocate(group, scope, placed, &look));
        if wishes.namespace.is_base() && help.finds(&bound) {
            continue;
        }
        let Some(bound) = bound? else { continue };
        clock.stage("relocate");

        // From here on foreign code runs: resolvers first. No lock of ours is held while it does.

        let sealed = match stages::seal(bound) {
            Err(error) if sharing.distrusts(&error) => continue,
            sealed => sealed?,
        };
        clock.stage("seal");
        // What nobody looks at any more is changed in place.
        drop(look);
        let Some(published) = stages::publish(sealed, wishes) else { continue };
        clock.stage("publish");

        // From here on nothing fails. Everybody sees the new modules; their constructors may do as they like.

        if let Some(look) = &wishes.relocated {
            published.modules.iter().for_each(|module| look(module.path(), module.mapping.bias()));
        }
        registry::wait_until_initialised_with_global(&published.rests_on, wishes.namespace);
        published.initialise();
        // As in glibc, not before: what a constructor opens is not bound to it.
        if wishes.global {
            registry::make_global(wishes.namespace, published.scope.iter().cloned());
        }
        clock.stage("constructors");
        let (object, scope) = (Object::Module(published.root), Scope::new(published.scope));
        return Ok(Opened { object, scope, pin: None, stages: clock.stages, sharing: sharing.outcome() });
    }
    Err(exhausted(name))
}

fn exhausted(name: &OsStr) -> Error {
    let found = ATTEMPTS_MAX + 1;
    Error::new(name, ErrorKind::Limit { what: "attempts to load", limit: ATTEMPTS_MAX, found })
}

/// The pages of `name` and of all it needs, relocated, for other processes. Nothing is loaded for good, and no code of it
/// runs.
#[cfg(feature = "snapshots")]
pub(crate) fn snapshot(name: &OsStr, wishes: &Wishes) -> Result<Snapshot, Error> {
    let mut help = HostHelp::default();
    for _ in 0..ATTEMPTS_MAX {
        let (look, graph) = hooks::undisturbed(|| {
            let look = Look::now(wishes.namespace);
            let graph = stages::discover(name, wishes, &look, &|_, _, _| None, None);
            (look, graph)
        });
        let graph = graph?;
        if !graph.for_host.is_empty() {
            help.bring(&graph.for_host, &look)?;
            continue;
        }
        let Admitted::Group(group) = stages::admit(graph, wishes)? else {
            let there = Refusal::Unsuitable("it is loaded already".into());
            return Err(Error::new(name, there.kind()));
        };
        let Some(scope) = stages::scope(&group, &look, wishes, &help) else { continue };
        return stages::create(group, scope, &look, &help, wishes);
    }
    Err(exhausted(name))
}

/// The files that opening `name` would bring in or find there, its own first. Nothing is loaded.
pub(crate) fn files(name: &OsStr, wishes: &Wishes) -> Result<Vec<PathBuf>, Error> {
    // Nothing stays mapped that would have to be guarded.
    let wishes = &Wishes { guard: Guard::Nothing, ..wishes.clone() };
    let (look, graph) = hooks::undisturbed(|| {
        let look = Look::now(wishes.namespace);
        let graph = stages::discover(name, wishes, &look, &|_, _, _| None, None);
        (look, graph)
    });
    let graph = graph?;
    // What only the C library's loader can bring lies beside the C library.
    let beside = look.host.by_name(b"libc.so.6").and_then(|libc| Some(libc.path().parent()?.to_owned()));
    let of_host = graph.for_host.iter().map(|name| beside.as_ref().map_or(name.clone(), |folder| folder.join(name)));
    let members = graph.members.iter().map(|member| match member {
        graph::Slot::New(new) => new.image.path().to_owned(),
        graph::Slot::Known(object) => object.path().to_owned(),
    });
    Ok(members.chain(of_host).collect())
}

/// The directories that a library which `module` opens is looked for in, in order: each with a slash at its end, the
/// working directory empty.
pub(crate) fn directories(module: &Arc<Module>) -> Result<Vec<PathBuf>, Error> {
    hooks::undisturbed(|| stages::directories(module, &Look::now(module.instance.namespace)))
}

/// Measures stages as they follow one another; what is begun anew counts as well.
struct Clock {
    last: Instant,
    stages: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn start() -> Self {
        Self { last: Instant::now(), stages: Vec::with_capacity(8) }
    }

    fn stage(&mut self, name: &'static str) {
        let now = Instant::now();
        let time = now - self.last;
        match self.stages.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => *all += time,
            None => self.stages.push((name, time)),
        }
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::maps;
    use crate::sys::fault;

    /// Between them these need every call that loading makes: segments, zero pages, alignment, text relocations,
    /// dependencies, resolvers, thread-local storage of both kinds, stubs, pages that are copied together.
    const LIBRARIES: [&str; 10] = [
        "libbss.so",
        "libalign_2m.so",
        "librelr.so",
        "libifunc_outer.so",
        "liblife_root.so",
        "libtext_relocations.so",
        "libtls_general.so",
        "libtls_initial.so",
        "libgathered.so",
        "libmany_pages.so",
    ];

    /// Opens with every system call after the `calls`-th failing; answers whether it did not come to that.
    fn open_failing_after(path: &Path, wishes: &Wishes, calls: u32) -> bool {
        fault::SUCCEED.set(Some(calls));
        let opened = open(path.as_os_str(), wishes);
        fault::SUCCEED.set(None);
        match opened {
            Ok(opened) => {
                match opened.object {
                    Object::Module(module) => registry::release(module),
                    Object::Host(_) => unreachable!("{}: a library of our own", path.display()),
                }
                true
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                false
            }
        }
    }

    #[test]
    fn whichever_system_call_fails_the_open_fails_cleanly_and_the_address_space_is_as_before() {
        let name =
            "loader::tests::whichever_system_call_fails_the_open_fails_cleanly_and_the_address_space_is_as_before";
        if !fault::alone(name) {
            return;
        }
        let walk = |library: &str, wishes: &Wishes| {
            let path = Path::new(env!("SOLOAD_TEST_LIBS")).join(library);
            assert!(open_failing_after(&path, wishes, u32::MAX), "{library} loads at all");
            let before = maps::address_space();
            let mut calls = 0;
            while !open_failing_after(&path, wishes, calls) {
                maps::assert_same_address_space(&before, &format!("{library}, call {calls} failing"));
                calls += 1;
            }
            assert!(calls > 5, "{library}: {calls} calls were walked");
            println!("{library}: {calls} calls");
        };
        LIBRARIES.iter().for_each(|library| walk(library, &Wishes::default()));
        #[cfg(feature = "snapshots")]
        {
            let folder = tempfile::tempdir().unwrap();
            let sharing = Wish::Folder(folder.path().to_owned());
            let wishes = Wishes { sharing, ..Wishes::default() };
            LIBRARIES.iter().for_each(|library| walk(library, &wishes));
        }
    }
}
