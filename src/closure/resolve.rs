//! The breadth-first walk: which object each needed name means, as `ld.so` decides it when a program starts.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::facts::Facts;
use super::loader::{Known, Loader};
use super::{Closure, Need, Object, Resolver, Role, Tag, Via, versions};
use crate::error::ErrorKind;
use crate::find::others::is_musl_itself;
use crate::find::{Asker, Found, Libc, Probe};

/// Objects of one closure: the widest real one has some three hundred.
const OBJECTS_MAX: usize = 4096;

/// What comes into the process with the file at `path`: if it is started, or, with a `program`, if that one opens it.
pub(super) fn resolve(resolver: &Resolver, path: &Path, program: Option<&Path>) -> Result<Closure, ErrorKind> {
    let path = &*resolver.root.inside(path);
    let asked = resolver.asked(path)?;
    check_kind(&asked)?;
    let first = match program {
        Some(program) => resolver.root.inside(program),
        None => path.to_owned(),
    };
    let root = match program {
        Some(_) => resolver.asked(&first)?,
        None => Arc::clone(&asked),
    };
    check_kind(&root)?;
    let loader = resolver.loader(&root);
    let is_program = root.brief.interpreter.is_some();
    // The kernel tells a program its own place with every link followed; of a library the loader knows the path only.
    let place = if is_program && resolver.wants_origin(&root) { resolver.root.real(&first) } else { None };
    let mut growth = Growth {
        resolver,
        objects: Vec::new(),
        order: Vec::new(),
        by_name: HashMap::new(),
        by_identity: HashMap::new(),
        loader: None,
        rules: &loader,
        root: Arc::clone(&root),
    };
    let interpreter = growth.interpreter();
    let origin = directory(place.as_deref().unwrap_or(&first));
    growth.join(Object::found(first.as_os_str().as_bytes(), &first, Role::Root, None, origin, root));
    let preload_problems = growth.preload();
    growth.grow(0)?;
    let auditors = growth.auditors();
    if program.is_some() {
        growth.open(path, asked)?;
    }
    put_in_order(&mut growth.objects, &growth.order);
    let version_problems = match loader.libc {
        Libc::Glibc => {
            loader_before_missing(&mut growth.objects);
            versions::check(&growth.objects)
        }
        // The others find out symbol by symbol, if at all.
        Libc::Musl | Libc::Bionic => Vec::new(),
    };
    Ok(Closure {
        set_user_id: is_program && growth.root.set_user_id,
        root: resolver.root.clone(),
        libc: loader.libc,
        objects: growth.objects,
        loader,
        interpreter,
        version_problems,
        preload_problems,
        auditors,
    })
}

/// Whether a loader has anything to do with such a file.
fn check_kind(facts: &Facts) -> Result<(), ErrorKind> {
    let found = match facts.kind() {
        3 if !facts.dynamic => "an object without dynamic section",
        2 | 3 => return Ok(()),
        1 => "a relocatable object (.o)",
        4 => "a core file",
        _ => "something else",
    };
    let expected = "a program or shared object".into();
    Err(ErrorKind::Foreign { what: "type", expected, found: found.into() })
}

impl Object {
    /// One that is there.
    fn found(
        name: &[u8],
        path: &Path,
        role: Role,
        loaded_by: Option<usize>,
        origin: Option<PathBuf>,
        facts: Arc<Facts>,
    ) -> Self {
        let (path, facts) = (Some(path.to_owned()), Some(facts));
        Self { path, role, loaded_by, origin, facts, ..Self::missing(name, role) }
    }

    /// One that is not there, or not known to be.
    fn missing(name: &[u8], role: Role) -> Self {
        Self {
            name: name.to_vec(),
            path: None,
            role,
            rule: None,
            lost: Vec::new(),
            fatal: None,
            loaded_by: None,
            needs: Vec::new(),
            origin: None,
            pathless: false, // `join` finds out
            facts: None,
        }
    }
}

/// A closure that is growing.
pub(super) struct Growth<'r> {
    pub(super) resolver: &'r Resolver,
    pub(super) objects: Vec<Object>,
    /// The objects in the order in which the loader has them: as they joined, but what stands in for one before that.
    pub(super) order: Vec<usize>,
    by_name: HashMap<Box<[u8]>, usize>,
    by_identity: HashMap<crate::sys::Identity, usize>,
    /// The loader, until something needs it: it is in the process from the start, but has no place in the order.
    loader: Option<(PathBuf, Arc<Facts>)>,
    /// How the loader goes about it.
    pub(super) rules: &'r Loader,
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

    /// Goes through the objects behind the `settled` first and brings in what each needs, until there is none that has
    /// not been gone through.
    fn grow(&mut self, settled: usize) -> Result<(), ErrorKind> {
        let mut done = vec![false; self.objects.len()];
        done[..settled].fill(true);
        let mut next = settled;
        // What an object needs joins at the end of the list; what stands in for it, before it, and is next.
        while let Some(index) = self.order.get(next).copied() {
            if !std::mem::replace(&mut done[index], true) {
                self.needs_of(index)?;
                let filtees = self.filtees_of(index)?;
                for filtee in filtees {
                    self.put_before(filtee, index);
                }
                done.resize(self.objects.len(), false);
            }
            next += usize::from(done[self.order[next]]);
        }
        Ok(())
    }

    /// Opens a file as the program does once it runs: what is there serves it too. It becomes the first object.
    fn open(&mut self, path: &Path, facts: Arc<Facts>) -> Result<(), ErrorKind> {
        facts.suits(&self.root, self.rules.libc)?;
        let settled = self.objects.len();
        for object in &mut self.objects {
            if object.role != Role::Loader {
                object.role = Role::Present;
            }
        }
        let index = match self.by_identity.get(&facts.identity) {
            Some(index) => *index,
            None => {
                let name = path.as_os_str().as_bytes();
                self.join(Object::found(name, path, Role::Root, Some(0), directory(path), facts))
            }
        };
        self.grow(settled)?;
        self.objects[index].role = Role::Root;
        self.objects[index].loaded_by = None;
        let place = self.order.iter().position(|other| *other == index).unwrap_or(0);
        self.order[..=place].rotate_right(1);
        Ok(())
    }

    fn needs_of(&mut self, index: usize) -> Result<(), ErrorKind> {
        let Some(facts) = self.objects[index].facts.clone() else { return Ok(()) };
        let mut needs = Vec::new();
        for name in facts.names().needed.iter() {
            let (object, via) = self.name(name, index, Role::Needed)?;
            needs.push(Need { name: name.to_vec(), object, via, tag: Tag::Needed });
        }
        self.objects[index].needs = needs;
        Ok(())
    }

    /// Brings in what stands in for the definitions of an object. Only glibc's loader knows such a thing.
    fn filtees_of(&mut self, index: usize) -> Result<Vec<usize>, ErrorKind> {
        let Some(facts) = self.objects[index].facts.clone().filter(|_| self.rules.libc == Libc::Glibc) else {
            return Ok(Vec::new());
        };
        let mut filtees = Vec::new();
        for (auxiliary, name) in &facts.names().filters {
            let (object, via) = self.name(name, index, Role::Filtee { auxiliary: *auxiliary })?;
            let tag = if *auxiliary { Tag::Auxiliary } else { Tag::Filter };
            self.objects[index].needs.push(Need { name: name.to_vec(), object, via, tag });
            filtees.push(object);
        }
        Ok(filtees)
    }

    /// Puts an object right before another one, unless it comes before it anyway (`_dl_map_object_deps`). The root stays
    /// the first: what stands in for it comes right behind.
    fn put_before(&mut self, object: usize, other: usize) {
        let place = |wanted| self.order.iter().position(|index| *index == wanted);
        if let (Some(from), Some(to)) = (place(object), place(other))
            && from > to
        {
            let to = to.max(1);
            self.order[to..=from].rotate_right(1);
        }
    }

    /// The object that `written` means to object `asker`: one that is there, or one that joins, perhaps as missing.
    pub(super) fn name(&mut self, written: &[u8], asker: usize, role: Role) -> Result<(usize, Via), ErrorKind> {
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
        let Found { file: (path, facts), rule, lost } = match self.find(&name, asker) {
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
        let object = Object::found(&name, &path, role, Some(asker), origin, facts);
        let object = Object { rule: Some(rule), lost, ..object };
        Ok((self.join(object), Via::Search))
    }

    /// Searches for `name`, unless somebody has found it before who searches as `asker` does.
    pub(super) fn find(&self, name: &[u8], asker: usize) -> Result<Known, ErrorKind> {
        // LD_LIBRARY_PATH may mean other directories for every program.
        let by_program = self.resolver.library_path.as_bytes().contains(&b'$');
        let usual = self.objects[asker].pathless && !by_program && !name.contains(&b'/');
        let known = || self.rules.found.lock().unwrap_or_else(PoisonError::into_inner);
        if usual && let Some(found) = known().get(name) {
            return Ok(found.clone());
        }
        let found = self
            .with_asker(asker, |asker| self.rules.search.find(name, asker, &[], &mut |path| self.probe(path, name)))?;
        if usual {
            known().insert(name.into(), found.clone());
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
        self.order.push(self.objects.len());
        self.objects.push(Object { lost, fatal, loaded_by: Some(asker), ..Object::missing(name, role) });
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
        self.order.push(index);
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
            Libc::Musl => name.to_vec(),
            Libc::Glibc | Libc::Bionic => path.as_os_str().as_bytes().to_vec(),
        };
        self.join(Object::found(&name, &path, Role::Loader, Some(asker), None, facts))
    }

    fn probe(&self, path: &Path, name: &[u8]) -> Probe<(PathBuf, Arc<Facts>)> {
        match self.resolver.facts(path) {
            Ok(facts) => match facts.suits(&self.root, self.rules.libc) {
                Ok(()) => Probe::Found((path.to_owned(), facts)),
                // What is there already is not looked at again.
                Err(_) if self.by_identity.contains_key(&facts.identity) => Probe::Found((path.to_owned(), facts)),
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
    let mut order: Vec<usize> = (0..objects.len()).collect();
    order[to..=from].rotate_right(1);
    put_in_order(objects, &order);
}

/// Sorts the objects, and what names them by number, into that order.
fn put_in_order(objects: &mut [Object], order: &[usize]) {
    if order.is_sorted() {
        return;
    }
    let mut place = vec![0; order.len()];
    for (new, old) in order.iter().enumerate() {
        place[*old] = new;
    }
    for object in &mut *objects {
        object.loaded_by = object.loaded_by.map(|index| place[index]);
        object.needs.iter_mut().for_each(|need| need.object = place[need.object]);
    }
    // Each swap puts one object where it belongs.
    for at in 0..objects.len() {
        while place[at] != at {
            let to = place[at];
            objects.swap(at, to);
            place.swap(at, to);
        }
    }
}
