//! The breadth-first walk: which object each needed name means, as `ld.so` decides it when a program starts.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::facts::Facts;
use super::loader::Loader;
use super::{Closure, Need, Object, Resolver, Role, Via, versions};
use crate::error::{Error, ErrorKind};
use crate::find::others::is_musl_itself;
use crate::find::{Asker, Found, Libc, Probe, Root};

/// Objects of one closure: the widest real one has some three hundred.
const OBJECTS_MAX: usize = 4096;

/// Bytes of `/etc/ld.so.preload` that are read.
const PRELOAD_MAX: u64 = 1 << 16;

pub(super) fn resolve(resolver: &Resolver, path: &Path) -> Result<Closure, ErrorKind> {
    let path = &*resolver.root.inside(path);
    let root = resolver.asked(path)?;
    let loader = resolver.loader(&root);
    if !matches!(root.kind(), 2 | 3) {
        let found = match root.kind() {
            1 => "a relocatable object (.o)",
            4 => "a core file",
            _ => "something else",
        };
        let expected = "a program or shared object".into();
        return Err(ErrorKind::Foreign { what: "type", expected, found: found.into() });
    }
    if root.kind() == 3 && !root.dynamic {
        let found = "an object without dynamic section".into();
        return Err(ErrorKind::Foreign { what: "type", expected: "a program or shared object".into(), found });
    }
    let is_program = root.brief.interpreter.is_some();
    // The kernel tells a program its own place with every link followed; of a library the loader knows the path only.
    let place = if is_program && resolver.wants_origin(&root) { resolver.root.real(path) } else { None };
    let mut growth = Growth {
        resolver,
        objects: Vec::new(),
        by_name: HashMap::new(),
        by_identity: HashMap::new(),
        loader: None,
        rules: &loader,
        root: Arc::clone(&root),
    };
    let interpreter = growth.interpreter();
    growth.join(Object {
        name: path.as_os_str().as_bytes().to_vec(),
        path: Some(path.to_owned()),
        role: Role::Root,
        rule: None,
        lost: Vec::new(),
        fatal: None,
        loaded_by: None,
        needs: Vec::new(),
        origin: directory(place.as_deref().unwrap_or(path)),
        pathless: false,
        facts: Some(root),
    });
    let preload_problems = growth.preload();
    let mut next = 0;
    // What an object needs joins at the end of the list that is being gone through.
    while next < growth.objects.len() {
        growth.needs_of(next)?;
        next += 1;
    }
    let version_problems = match loader.libc {
        Libc::Glibc => {
            loader_before_missing(&mut growth.objects);
            versions::check(&growth.objects)
        }
        // The others find out symbol by symbol, if at all.
        Libc::Musl | Libc::Bionic => Vec::new(),
    };
    let set_user_id = is_program && growth.root.set_user_id;
    let libc = loader.libc;
    let root = resolver.root.clone();
    Ok(Closure { root, objects: growth.objects, libc, interpreter, version_problems, preload_problems, set_user_id })
}

/// A closure that is growing.
struct Growth<'r> {
    resolver: &'r Resolver,
    objects: Vec<Object>,
    by_name: HashMap<Box<[u8]>, usize>,
    by_identity: HashMap<crate::sys::Identity, usize>,
    /// The loader, until something needs it: it is in the process from the start, but has no place in the order.
    loader: Option<(PathBuf, Arc<Facts>)>,
    /// How the loader goes about it.
    rules: &'r Loader,
    root: Arc<Facts>,
}

impl Growth<'_> {
    /// The program that runs the root, or, for a library, that of the programs here.
    fn interpreter(&mut self) -> Option<(PathBuf, Option<ErrorKind>)> {
        let path = self.rules.path.clone()?;
        let facts =
            self.resolver.facts(&path).and_then(|facts| facts.suits(&self.root, self.rules.libc).map(|()| facts));
        let error = match facts {
            Ok(facts) => {
                self.loader = Some((path.clone(), facts));
                None
            }
            Err(kind) => Some(kind),
        };
        self.root.brief.interpreter.is_some().then_some((path, error))
    }

    /// Loads what is to be preloaded; what cannot be is ignored, as in glibc.
    fn preload(&mut self) -> Vec<Error> {
        let file = match self.rules.libc {
            Libc::Glibc => self.resolver.preload_file.get_or_init(|| read_preload_file(&self.resolver.root)),
            Libc::Musl | Libc::Bionic => &Vec::new(),
        };
        let variable = self.resolver.preload.as_bytes().to_vec();
        let variable = variable.split(|byte| b" :".contains(byte));
        let file = file.split(|byte| b" :\t\n".contains(byte));
        let names = variable.map(|name| (name, "LD_PRELOAD")).chain(file.map(|name| (name, "/etc/ld.so.preload")));
        let mut problems = Vec::new();
        for (name, by) in names.filter(|(name, _)| !name.is_empty()) {
            // Whoever starts a set-user-ID program may only choose among the libraries of the system.
            if self.resolver.secure && by == "LD_PRELOAD" && name.contains(&b'/') {
                continue;
            }
            let before = self.objects.len();
            let Ok((index, _)) = self.name(name, 0, Role::Preloaded { by }) else { continue };
            let object = &mut self.objects[index];
            if object.path.is_none() || object.fatal.is_some() {
                let kind =
                    object.fatal.take().unwrap_or(ErrorKind::NotFound { tried: std::mem::take(&mut object.lost) });
                self.objects.truncate(before);
                problems.push(Error::new(OsStr::from_bytes(name), kind).with_needed_by(by));
            }
        }
        problems
    }

    fn needs_of(&mut self, index: usize) -> Result<(), ErrorKind> {
        let Some(facts) = self.objects[index].facts.clone() else { return Ok(()) };
        let mut needs = Vec::with_capacity(facts.names().needed.len());
        for name in &facts.names().needed {
            let (object, via) = self.name(name, index, Role::Needed)?;
            needs.push(Need { name: name.to_vec(), object, via });
        }
        self.objects[index].needs = needs;
        Ok(())
    }

    /// The object that `written` means to object `asker`: one that is there, or one that joins, perhaps as missing.
    fn name(&mut self, written: &[u8], asker: usize, role: Role) -> Result<(usize, Via), ErrorKind> {
        let plain = match written.contains(&b'$') {
            true => self.with_asker(asker, |asker| {
                self.rules.search.plain_name(written, asker).map(std::borrow::Cow::into_owned)
            }),
            false => Ok(written.to_vec()),
        };
        let name = match plain {
            Ok(name) => name,
            Err(kind) => return self.lost(written, asker, role, kind).map(|index| (index, Via::Search)),
        };
        if let Some(index) = self.by_name.get(&*name) {
            return Ok((*index, Via::Name));
        }
        if let Some((path, facts)) = &self.loader
            && (path.as_os_str().as_bytes() == name || self.is_loader(&name, facts))
        {
            return Ok((self.join_loader(asker, &name), Via::Name));
        }
        let Found { file: facts, path, rule, lost } = match self.find(&name, asker) {
            Ok(found) => found,
            Err(kind) => return self.lost(&name, asker, role, kind).map(|index| (index, Via::Search)),
        };
        if let Some(index) = self.by_identity.get(&facts.identity) {
            self.by_name.insert(name.into(), *index);
            return Ok((*index, Via::File));
        }
        if self.loader.as_ref().is_some_and(|(_, loader)| loader.identity == facts.identity) {
            let index = self.join_loader(asker, &name);
            self.by_name.insert(name.into(), index);
            return Ok((index, Via::File));
        }
        self.room()?;
        let origin = directory(&path);
        let (path, rule, facts, needs) = (Some(path), Some(rule), Some(facts), Vec::new());
        let loaded_by = Some(asker);
        let pathless = false; // `join` finds out
        let object = Object { name, path, role, rule, lost, fatal: None, loaded_by, needs, origin, pathless, facts };
        Ok((self.join(object), Via::Search))
    }

    /// Searches for `name`, unless somebody has found it before who searches as `asker` does.
    fn find(&self, name: &[u8], asker: usize) -> Result<Found<Arc<Facts>>, ErrorKind> {
        // LD_LIBRARY_PATH may mean other directories for every program.
        let by_program = self.resolver.library_path.as_bytes().contains(&b'$');
        let usual = self.objects[asker].pathless && !by_program && !name.contains(&b'/');
        let known = || self.rules.found.lock().unwrap_or_else(PoisonError::into_inner);
        if usual && let Some((path, rule, facts)) = known().get(name) {
            return Ok(Found { file: Arc::clone(facts), path: path.clone(), rule: rule.clone(), lost: Vec::new() });
        }
        let found = self
            .with_asker(asker, |asker| self.rules.search.find(name, asker, &[], &mut |path| self.probe(path, name)))?;
        if usual && found.lost.is_empty() && found.path.is_absolute() {
            let entry = (found.path.clone(), found.rule.clone(), Arc::clone(&found.file));
            known().insert(name.into(), entry);
        }
        Ok(found)
    }

    fn room(&self) -> Result<(), ErrorKind> {
        if self.objects.len() < OBJECTS_MAX {
            return Ok(());
        }
        let found = OBJECTS_MAX as u64 + 1;
        Err(ErrorKind::Limit { what: "objects of one program", limit: OBJECTS_MAX as u64, found })
    }

    /// An object that is not there. It satisfies nobody else: whoever asks by that name searches for itself.
    fn lost(&mut self, name: &[u8], asker: usize, role: Role, kind: ErrorKind) -> Result<usize, ErrorKind> {
        self.room()?;
        let (lost, fatal) = match kind {
            ErrorKind::NotFound { tried } => (tried, None),
            kind => (Vec::new(), Some(kind)),
        };
        self.objects.push(Object {
            name: name.to_vec(),
            path: None,
            role,
            rule: None,
            lost,
            fatal,
            loaded_by: Some(asker),
            needs: Vec::new(),
            origin: None,
            pathless: false,
            facts: None,
        });
        Ok(self.objects.len() - 1)
    }

    /// Adds an object that is there.
    fn join(&mut self, mut object: Object) -> usize {
        let index = self.objects.len();
        let own = object.facts.as_ref().is_some_and(|facts| {
            let names = facts.names();
            names.rpath.is_none() && names.runpath.is_none() && !facts.nodeflib()
        });
        object.pathless = own && object.loaded_by.is_none_or(|above| self.objects[above].pathless);
        if index > 0 {
            self.by_name.insert(object.name.as_slice().into(), index);
        }
        if let Some(facts) = &object.facts {
            if let Some(soname) = facts.names().soname.as_ref().filter(|_| self.rules.libc != Libc::Musl) {
                self.by_name.entry(soname.clone()).or_insert(index);
            }
            self.by_identity.insert(facts.identity, index);
        }
        self.objects.push(object);
        index
    }

    /// Whether a name means the loader: by its own name, or, to musl's, by those of all that it is besides.
    fn is_loader(&self, name: &[u8], loader: &Facts) -> bool {
        match self.rules.libc {
            Libc::Musl => is_musl_itself(name),
            Libc::Glibc | Libc::Bionic => loader.names().soname.as_deref() == Some(name),
        }
    }

    fn join_loader(&mut self, asker: usize, name: &[u8]) -> usize {
        let (path, facts) = match self.loader.take() {
            Some((path, facts)) => (path, facts),
            None => return 0,
        };
        let name = match self.rules.libc {
            Libc::Musl => name,
            Libc::Glibc | Libc::Bionic => path.as_os_str().as_bytes(),
        };
        self.join(Object {
            name: name.to_vec(),
            path: Some(path),
            role: Role::Loader,
            rule: None,
            lost: Vec::new(),
            fatal: None,
            loaded_by: Some(asker),
            needs: Vec::new(),
            origin: None,
            pathless: false,
            facts: Some(facts),
        })
    }

    fn probe(&self, path: &Path, name: &[u8]) -> Probe<Arc<Facts>> {
        match self.resolver.facts(path) {
            Ok(facts) => match facts.suits(&self.root, self.rules.libc) {
                Ok(()) => Probe::Found(facts),
                // What is there already is not looked at again.
                Err(_) if self.by_identity.contains_key(&facts.identity) => Probe::Found(facts),
                Err(kind @ ErrorKind::Foreign { what: "class" | "machine", .. })
                    if !name.contains(&b'/') && self.rules.libc == Libc::Glibc =>
                {
                    Probe::Unsuitable(kind.to_string())
                }
                Err(kind) => Probe::Fatal(kind),
            },
            Err(ErrorKind::Open { errno: libc::ENOENT }) => Probe::Absent("no such file".into()),
            Err(kind @ ErrorKind::Open { errno: libc::EACCES }) => Probe::Absent(kind.to_string()),
            Err(kind @ ErrorKind::Open { errno: libc::ENOTDIR | libc::ENAMETOOLONG })
                if self.rules.libc == Libc::Musl =>
            {
                Probe::Absent(kind.to_string())
            }
            // What musl cannot tell from an absence ends its search.
            Err(kind @ ErrorKind::Open { .. }) if self.rules.libc == Libc::Musl => Probe::Fatal(kind),
            Err(kind @ ErrorKind::Open { .. }) => Probe::Unreachable(kind.to_string()),
            Err(kind) => Probe::Fatal(kind),
        }
    }

    /// Calls `then` with object `index` as the asker, those that brought it in behind it up to the root.
    fn with_asker<T>(&self, index: usize, then: impl FnOnce(&Asker<'_>) -> T) -> T {
        let mut chain = vec![index];
        chain.extend(std::iter::successors(self.objects[index].loaded_by, |link| self.objects[*link].loaded_by));
        let links: Vec<OnceCell<Asker<'_>>> = chain.iter().map(|_| OnceCell::new()).collect();
        let mut loaded_by = None;
        for (link, index) in links.iter().zip(chain.into_iter().rev()) {
            let object = &self.objects[index];
            let facts = object.facts.as_deref();
            loaded_by = Some(link.get_or_init(|| Asker {
                name: object.path.as_deref().unwrap_or(Path::new("")),
                origin: object.origin.as_deref(),
                rpath: facts.and_then(|facts| facts.names().rpath.as_deref()),
                runpath: facts.and_then(|facts| facts.names().runpath.as_deref()),
                nodeflib: facts.is_some_and(|facts| facts.nodeflib()),
                loaded_by,
            }));
        }
        let nobody =
            Asker { name: Path::new(""), origin: None, rpath: None, runpath: None, nodeflib: false, loaded_by: None };
        then(loaded_by.unwrap_or(&nobody))
    }
}

/// The directory of an object, as the loader spells it: the path as it was found, behind the working directory if it is
/// relative, up to the last slash.
fn directory(path: &Path) -> Option<PathBuf> {
    let whole = match path.is_absolute() {
        true => path.to_owned(),
        false => std::env::current_dir().ok()?.join(path),
    };
    let bytes = whole.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte == b'/')?;
    Some(OsStr::from_bytes(&bytes[..end.max(1)]).into())
}

/// Puts the loader where glibc lists it: right behind the object that was found before it, so before what is missing.
fn loader_before_missing(objects: &mut [Object]) {
    let Some(from) = objects.iter().position(|object| object.role == Role::Loader) else { return };
    let found = objects[..from].iter().rposition(|object| object.path.is_some());
    let to = found.map_or(from, |found| found + 1);
    objects[to..=from].rotate_right(1);
    let moved = |index: usize| match index {
        index if index == from => to,
        index if (to..from).contains(&index) => index + 1,
        index => index,
    };
    for object in objects {
        object.loaded_by = object.loaded_by.map(moved);
        object.needs.iter_mut().for_each(|need| need.object = moved(need.object));
    }
}

/// What `/etc/ld.so.preload` says, its comments left out.
fn read_preload_file(root: &Root) -> Vec<u8> {
    let text = root.text(Path::new("/etc/ld.so.preload"), PRELOAD_MAX).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b'#').next());
    lines.flatten().collect::<Vec<_>>().join(&b'\n')
}
