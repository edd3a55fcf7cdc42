//! The pipeline: what happens between a name and a library, in order.
//!
//! Nothing else is decided here.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};
use crate::process::host::Pin;
use crate::process::module::Object;
use crate::process::world::Look;
use crate::process::{hooks, registry};
use crate::stages::{self, Admitted, HostHelp};

/// How often a load that does not fit the process any more is begun anew. Each time another thread has got on.
const ATTEMPTS_MAX: u64 = 100;

/// What the one who opens wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) global: bool,
    pub(crate) no_load: bool,
    pub(crate) no_delete: bool,
    pub(crate) deep_bind: bool,
    pub(crate) search_dirs: Vec<PathBuf>,
    pub(crate) allow_writable_executable: bool,
    pub(crate) allow_executable_stack: bool,
}

/// An open library, and the objects its symbols are looked for in.
pub(crate) struct Opened {
    pub(crate) object: Object,
    /// It and all it needs, breadth first.
    pub(crate) scope: Vec<Object>,
    /// Keeps an object of the host loaded that was opened itself.
    pub(crate) pin: Option<Arc<Pin>>,
    /// How long each stage took, by name.
    pub(crate) stages: Vec<(&'static str, Duration)>,
}

/// Opens `name`: finds it and what it needs, and loads what is not there yet.
pub(crate) fn open(name: &OsStr, wishes: &Wishes) -> Result<Opened, Error> {
    let mut help = HostHelp::default();
    for _ in 0..ATTEMPTS_MAX {
        let mut clock = Clock::start();
        let (look, graph) = hooks::undisturbed(|| {
            let look = Look::now();
            let graph = stages::discover(name, wishes, &look);
            (look, graph)
        });
        let graph = graph?;
        clock.stage("find");
        if !graph.for_host.is_empty() {
            help.bring(&graph.for_host)?;
            continue;
        }
        let group = match stages::admit(graph, wishes)? {
            Admitted::Known(object) => match stages::reopen(object, name, wishes, &look)? {
                Some(opened) => return Ok(opened),
                None => continue,
            },
            Admitted::Group(group) => group,
        };
        clock.stage("plan");

        // From here on no file is opened and no object joins the group. The process changes; whatever fails drops the
        // group, and with it every mapping it has made.

        let group = stages::map(group)?;
        clock.stage("map");
        let scope = stages::scope(&group, &look, wishes)?;
        let bound = match hooks::undisturbed(|| stages::relocate(group, scope, &look, &help)) {
            Err(error) if help.finds(&error) => continue,
            bound => bound?,
        };
        clock.stage("relocate");

        // From here on foreign code runs: resolvers first. No lock of ours is held while it does.

        let sealed = stages::seal(bound)?;
        clock.stage("seal");
        let Some(published) = stages::publish(sealed, wishes) else { continue };
        clock.stage("publish");

        // From here on nothing fails. Everybody sees the new modules; their constructors may do as they like.

        registry::wait_until_initialised(&published.rests_on);
        published.modules.iter().for_each(|module| hooks::initialise(module));
        clock.stage("constructors");
        let (object, scope) = (Object::Module(published.root), published.scope);
        return Ok(Opened { object, scope, pin: None, stages: clock.stages });
    }
    let found = ATTEMPTS_MAX + 1;
    Err(Error::new(name, ErrorKind::Limit { what: "attempts to load", limit: ATTEMPTS_MAX, found }))
}

/// Measures stages as they follow one another.
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
        self.stages.push((name, now - self.last));
        self.last = now;
    }
}
