//! The objects that one open brings together: the one asked for and all it needs, breadth first, each once.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::needs::Needs;
use super::{Asker, Found, Probe, Rule, Search};
use crate::error::{Candidate, Error, ErrorKind};
use crate::file::Homes;
use crate::file::hash;
use crate::file::image::Image;
use crate::guard::{self, Guard};
use crate::sys::{Identity, RegularFile};

/// Objects of one group: the widest real closure has some three hundred.
const MEMBERS_MAX: usize = 4096;

/// What is in the process already, as far as discovering a group goes by it.
pub(crate) trait World {
    /// An object that is there.
    type Object: Clone + Ord;

    /// The object that `name` means: one called or found by it before, or with that soname.
    fn by_name(&self, name: &[u8]) -> Option<Self::Object>;

    /// The object of ours that was loaded from that file.
    fn by_identity(&self, identity: Identity) -> Option<Self::Object>;

    /// The object that the host has loaded from that file, which is `image` if that could be read.
    fn of_host(&self, identity: Identity, image: Option<&Image>) -> Option<Self::Object>;

    /// What an object that is there needs, in order.
    fn needed(&self, object: &Self::Object) -> Vec<Self::Object>;

    /// Whether only the host's own loader can load an object of that name: a part of the C library.
    fn belongs_to_host(&self, name: &[u8]) -> bool;
}

/// An object of the group: whether it has to be loaded.
pub(crate) enum Object<O> {
    New(Box<New>),
    Known(O),
}

/// A file that has to be loaded.
pub(crate) struct New {
    pub(crate) image: Box<Image>,
    pub(crate) rule: Rule,
    /// The candidates that lost, in order.
    pub(crate) lost: Vec<Candidate>,
    /// The names it was asked for by, but for its soname.
    pub(crate) names: Vec<Box<[u8]>>,
    /// Its directory, where its path does not say that from the root on.
    pub(crate) origin: Option<Box<Path>>,
    /// The member that brought it in; none for the one that was asked for.
    pub(crate) loaded_by: Option<usize>,
}

impl New {
    /// Itself, as one that asks for libraries.
    fn asker<'a>(&'a self, loaded_by: &'a Asker<'a>) -> Asker<'a> {
        Asker {
            name: self.image.path(),
            origin: origin(self.image.path(), self.origin.as_deref()),
            rpath: self.image.rpath(),
            runpath: self.image.runpath(),
            nodeflib: self.image.dynamic().is_some_and(|dynamic| dynamic.nodeflib()),
            loaded_by: Some(loaded_by),
        }
    }
}

/// The group of one open; member 0 is the object that was asked for.
pub(crate) struct Graph<O> {
    pub(crate) members: Vec<Object<O>>,
    pub(crate) needs: Needs,
    /// Names of parts of the C library that are not there yet: the host's loader has to bring them first.
    pub(crate) for_host: Vec<PathBuf>,
}

/// What the one who opens wants.
pub(crate) struct Request<'a> {
    pub(crate) name: &'a OsStr,
    /// Directories to search before all others.
    pub(crate) search_dirs: &'a [PathBuf],
    /// Who opens: the program, or a library of its. Only the object that is asked for is looked for where the caller
    /// says.
    pub(crate) caller: &'a Asker<'a>,
    /// The program, whose DT_RPATH is everybody's.
    pub(crate) program: &'a Asker<'a>,
    /// What keeps the files as they are while they are mapped.
    pub(crate) guard: Guard,
    /// Whether what is read of them shall come in blocks of 2 MiB.
    pub(crate) huge_pages: bool,
    /// Where they are in all processes of the session, as far as that is known.
    pub(crate) homes: &'a Homes<'a>,
}

/// A file that an attempt before this one has found.
pub(crate) struct FoundBefore {
    new: Box<New>,
    /// The file of the one that asked for it; none if that was the caller.
    asker: Option<Identity>,
}

/// What an attempt before this one has found, in that order: the next one finds them so, too.
pub(crate) type OpenedBefore = VecDeque<FoundBefore>;

impl<O> Graph<O> {
    /// The files it has opened, for another attempt.
    pub(crate) fn into_opened(self) -> OpenedBefore {
        let identity = |member: &Object<O>| match member {
            Object::New(new) => Some(new.image.identity()),
            Object::Known(_) => None,
        };
        let identities: Vec<_> = self.members.iter().map(identity).collect();
        let new = self.members.into_iter().filter_map(|member| match member {
            Object::New(new) => Some(FoundBefore { asker: new.loaded_by.and_then(|index| identities[index]), new }),
            Object::Known(_) => None,
        });
        new.collect()
    }
}

/// Finds `request` and everything it needs. Opens files, unless they are among `opened`; changes nothing.
pub(crate) fn discover<W: World>(
    request: &Request<'_>,
    search: &Search,
    world: &W,
    opened: OpenedBefore,
) -> Result<Graph<W::Object>, Error> {
    // Another attempt at the same open goes by what the first has seen.
    if opened.is_empty() {
        search.refresh();
    }
    let mut discovery = Discovery {
        graph: Graph { members: Vec::new(), needs: Needs::default(), for_host: Vec::new() },
        by_name: BTreeSet::new(),
        by_identity: BTreeMap::new(),
        known: BTreeMap::new(),
        opened: RefCell::new(opened),
        request,
        search,
        world,
    };
    discovery.name(request.name.as_bytes(), None).map_err(|(object, kind)| Error::new(object, kind))?;
    let mut next = 0;
    // Breadth first: what a member needs joins at the end of the list that is being gone through.
    while next < discovery.graph.members.len() {
        discovery.needs_of(next)?;
        next += 1;
    }
    Ok(discovery.graph)
}

struct Discovery<'a, W: World> {
    graph: Graph<W::Object>,
    /// New members by what their names and sonames add up to. The names themselves are the members' own.
    by_name: BTreeSet<(u32, usize)>,
    by_identity: BTreeMap<Identity, usize>,
    known: BTreeMap<W::Object, usize>,
    opened: RefCell<OpenedBefore>,
    request: &'a Request<'a>,
    search: &'a Search,
    world: &'a W,
}

/// What a candidate turned out to be.
enum Opened<O, N> {
    Known(O),
    Member(usize),
    New(N),
}

impl<W: World> Discovery<'_, W> {
    fn needs_of(&mut self, index: usize) -> Result<(), Error> {
        match &mut self.graph.members[index] {
            Object::Known(object) => {
                for object in self.world.needed(object) {
                    let number = self.known(object);
                    self.graph.needs.push(number);
                }
            }
            Object::New(new) => {
                let names = new.image.take_needed();
                for name in names.iter() {
                    let number = self.name(name, Some(index)).map_err(|(object, kind)| {
                        let error = Error::new(object, kind);
                        match &self.graph.members[index] {
                            Object::New(new) => error.with_needed_by(new.image.path().to_owned()),
                            Object::Known(_) => error,
                        }
                    })?;
                    number.into_iter().for_each(|number| self.graph.needs.push(number));
                }
                if let Object::New(new) = &mut self.graph.members[index] {
                    new.image.give_needed_back(names);
                }
            }
        }
        // They are asked in order.
        self.graph.needs.end();
        Ok(())
    }

    /// The member that `name` means to member `asker` (or to the caller); `None` if the host has to bring it.
    fn name(&mut self, name: &[u8], asker: Option<usize>) -> Result<Option<usize>, (PathBuf, ErrorKind)> {
        // Tokens stand for something before the name stands for an object.
        let expanded;
        let name = match name.contains(&b'$') {
            true => {
                let plain =
                    self.with_asker(asker, &mut |asker| self.search.plain_name(name, asker).map(Cow::into_owned));
                expanded = plain.map_err(|kind| (OsStr::from_bytes(name).into(), kind))?;
                &*expanded
            }
            false => name,
        };
        // An object that is there already, or joins already, satisfies the name without any search.
        if let Some(index) = self.by_name(name) {
            return Ok(Some(index));
        }
        if let Some(object) = self.world.by_name(name) {
            return Ok(Some(self.known(object)));
        }
        if self.world.belongs_to_host(name) {
            self.leave_to_host(OsStr::from_bytes(name).into());
            return Ok(None);
        }
        let found = match self.found_before(name, asker) {
            Some(found) => found,
            None => self.find(name, asker)?,
        };
        let new = match found {
            Opened::Known(object) => return Ok(Some(self.known(object))),
            Opened::Member(index) => {
                self.is_called(name, index);
                if let Object::New(new) = &mut self.graph.members[index] {
                    new.names.push(name.into());
                }
                return Ok(Some(index));
            }
            Opened::New(new) => new,
        };
        if let Some(soname) = new.image.soname().filter(|soname| self.world.belongs_to_host(soname)) {
            // Its own copy of the C library, by path: the process's is the one to be used.
            if let Some(object) = self.world.by_name(soname) {
                return Ok(Some(self.known(object)));
            }
            self.leave_to_host(new.image.path().to_owned());
            return Ok(None);
        }
        let index = self.graph.members.len();
        if index == MEMBERS_MAX {
            let found = MEMBERS_MAX as u64 + 1;
            let kind = ErrorKind::Limit { what: "objects of one open", limit: MEMBERS_MAX as u64, found };
            return Err((new.image.path().to_owned(), kind));
        }
        self.is_called(name, index);
        if let Some(soname) = new.image.soname().filter(|soname| *soname != name) {
            self.is_called(soname, index);
        }
        self.by_identity.insert(new.image.identity(), index);
        self.graph.members.push(Object::New(new));
        Ok(Some(index))
    }

    /// The new member that `name` means; of several that have it as soname, the first.
    fn by_name(&self, name: &[u8]) -> Option<usize> {
        let hash = hash(name);
        let mut alike = self.by_name.range((hash, 0)..=(hash, usize::MAX)).map(|(_, index)| *index);
        alike.find(|index| match &self.graph.members[*index] {
            Object::New(new) => new.names.iter().any(|own| **own == *name) || new.image.soname() == Some(name),
            Object::Known(_) => false,
        })
    }

    /// Notes that new member `index` has that name or soname.
    fn is_called(&mut self, name: &[u8], index: usize) {
        self.by_name.insert((hash(name), index));
    }

    /// What the attempt before this one has found, if that was the next search in it: the same name for the same asker.
    fn found_before(&self, name: &[u8], asker: Option<usize>) -> Option<Opened<W::Object, Box<New>>> {
        let file = asker.and_then(|index| match &self.graph.members[index] {
            Object::New(new) => Some(new.image.identity()),
            Object::Known(_) => None,
        });
        let same = |before: &FoundBefore| {
            let first = before.new.names.first().map(|own| &**own);
            before.asker == file && first.or(before.new.image.soname()) == Some(name)
        };
        let mut opened = self.opened.borrow_mut();
        opened.front().filter(|before| same(before))?;
        let mut new = opened.pop_front()?.new;
        Some(self.is_there(&new.image).unwrap_or_else(|| {
            new.names = names(&new.image, name);
            new.loaded_by = asker;
            Opened::New(new)
        }))
    }

    fn leave_to_host(&mut self, part: PathBuf) {
        if !self.graph.for_host.contains(&part) {
            self.graph.for_host.push(part);
        }
    }

    /// The member for an object that is there, made if need be.
    fn known(&mut self, object: W::Object) -> usize {
        *self.known.entry(object).or_insert_with_key(|object| {
            self.graph.members.push(Object::Known(object.clone()));
            self.graph.members.len() - 1
        })
    }

    fn find(&self, name: &[u8], asker: Option<usize>) -> Result<Opened<W::Object, Box<New>>, (PathBuf, ErrorKind)> {
        let mut fatal = None;
        let is_path = name.contains(&b'/');
        let mut probe = |path: &Path| {
            let probe = match self.probe(path) {
                // Of a path there are no other candidates: what is wrong with it is the whole answer.
                Err(Refusal::Passing(kind)) if is_path => Probe::Fatal(kind),
                Err(Refusal::Passing(ErrorKind::Open { errno: libc::ENOENT })) => Probe::Absent("no such file".into()),
                Err(Refusal::Passing(kind @ ErrorKind::Open { errno: libc::EACCES })) => {
                    Probe::Absent(kind.to_string())
                }
                Err(Refusal::Passing(kind @ ErrorKind::Open { .. })) => Probe::Unreachable(kind.to_string()),
                Err(Refusal::Passing(kind)) => Probe::Unsuitable(kind.to_string()),
                Err(Refusal::Final(kind)) => Probe::Fatal(kind),
                Ok(opened) => Probe::Found(opened),
            };
            if let Probe::Fatal(_) = probe {
                fatal = Some(path.to_owned());
            }
            probe
        };
        let directories = self.request.search_dirs;
        let found = self.with_asker(asker, &mut |asker| self.search.find(name, asker, directories, &mut probe));
        // An error is about the file that was opened, if it got so far.
        let found = found.map_err(|kind| (fatal.unwrap_or_else(|| OsStr::from_bytes(name).into()), kind));
        let Found { file, path, rule, lost } = found?;
        Ok(match file {
            Opened::Known(object) => Opened::Known(object),
            Opened::Member(index) => Opened::Member(index),
            Opened::New(image) => {
                let origin = if path.is_absolute() { None } else { directory(&absolute(&path)).map(Into::into) };
                let names = names(&image, name);
                Opened::New(Box::new(New { image, rule, lost, names, origin, loaded_by: asker }))
            }
        })
    }

    /// Calls `then` with the one who asks: the caller, or member `index`.
    fn with_asker<T>(&self, index: Option<usize>, then: &mut dyn FnMut(&Asker<'_>) -> T) -> T {
        match index {
            None => then(self.request.caller),
            Some(_) => self.with_chain(index, then),
        }
    }

    /// Calls `then` with member `index` as the asker, its loaders behind it up to the program.
    fn with_chain<T>(&self, index: Option<usize>, then: &mut dyn FnMut(&Asker<'_>) -> T) -> T {
        match index.map(|index| &self.graph.members[index]) {
            Some(Object::New(new)) => self.with_chain(new.loaded_by, &mut |loader| then(&new.asker(loader))),
            _ => then(self.request.program),
        }
    }

    /// Reads a file where it is going to be mapped, unless it is wanted in another way.
    fn read(&self, path: &Path, file: RegularFile) -> Result<Box<Image>, ErrorKind> {
        if self.request.guard == Guard::Nothing && !self.request.huge_pages {
            return Image::read_in_place(path.to_owned(), file, self.request.homes);
        }
        self.read_guarded(path, file)
    }

    #[cold]
    fn read_guarded(&self, path: &Path, mut file: RegularFile) -> Result<Box<Image>, ErrorKind> {
        file.huge = self.request.huge_pages;
        let guard = self.request.guard.lease(&mut file);
        let image = Image::read(path.to_owned(), file)?;
        if guard == Guard::Nothing || guard == Guard::Lease && !image.reads_tables_from_file() {
            return Ok(image);
        }
        Image::read(path.to_owned(), guard::snapshot(image.file())?)
    }

    /// The file at `path`, if the attempt before this one has opened it.
    fn opened_before(&self, path: &Path) -> Option<Box<Image>> {
        let mut opened = self.opened.borrow_mut();
        let known = opened.iter().position(|before| before.new.image.path().as_os_str() == path.as_os_str())?;
        opened.remove(known).map(|before| before.new.image)
    }

    /// What the file of `image` is, if it joins or is there already, by whatever path.
    fn is_there<N>(&self, image: &Image) -> Option<Opened<W::Object, N>> {
        let identity = image.identity();
        if let Some(index) = self.by_identity.get(&identity) {
            return Some(Opened::Member(*index));
        }
        let known = self.world.by_identity(identity).or_else(|| self.world.of_host(identity, Some(image)));
        known.map(Opened::Known)
    }

    fn probe(&self, path: &Path) -> Result<Opened<W::Object, Box<Image>>, Refusal> {
        if let Some(image) = self.opened_before(path) {
            // What it is was found out; whether it is there by now was not.
            return Ok(self.is_there(&image).unwrap_or(Opened::New(image)));
        }
        let file = RegularFile::open(path).map_err(|kind| match kind {
            ErrorKind::Open { .. } => Refusal::Passing(kind),
            kind => Refusal::Final(kind),
        })?;
        if let Some(index) = self.by_identity.get(&file.identity) {
            return Ok(Opened::Member(*index));
        }
        let identity = file.identity;
        if let Some(object) = self.world.by_identity(identity) {
            return Ok(Opened::Known(object));
        }
        let read = self.read(path, file);
        if let Some(object) = self.world.of_host(identity, read.as_deref().ok()) {
            return Ok(Opened::Known(object));
        }
        let image = read.map_err(Refusal::Final)?;
        match image.check_loadable() {
            // A library for another machine or class may stand beside ours; any other oddity ends the search.
            Err(kind @ ErrorKind::Foreign { what: "class" | "machine", .. }) => Err(Refusal::Passing(kind)),
            Err(kind) => Err(Refusal::Final(kind)),
            Ok(_) => Ok(Opened::New(image)),
        }
    }
}

/// What tells most names apart.
fn hash(name: &[u8]) -> u32 {
    hash::gnu(name).unwrap_or_default()
}

/// What a file that was asked for by `name` is called besides its soname.
fn names(image: &Image, name: &[u8]) -> Vec<Box<[u8]>> {
    if image.soname() == Some(name) { Vec::new() } else { vec![name.into()] }
}

/// The directory of the file at `path`, for `$ORIGIN`: `stated`, or as the path says.
pub(crate) fn origin<'a>(path: &'a Path, stated: Option<&'a Path>) -> Option<&'a Path> {
    stated.or_else(|| directory(path))
}

/// `path` from the root on. One that begins there is left as it is written.
pub(crate) fn absolute(path: &Path) -> Cow<'_, Path> {
    match path.is_absolute() {
        true => Cow::Borrowed(path),
        false => std::path::absolute(path).map_or(Cow::Borrowed(path), Cow::Owned),
    }
}

/// The directory of a file, as its path is written.
fn directory(path: &Path) -> Option<&Path> {
    let path = path.as_os_str().as_bytes();
    let name = path.iter().rposition(|byte| *byte == b'/')?;
    // Of the root, and of slashes that follow one another, the first stays.
    let end = path[..name].iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
    Some(Path::new(OsStr::from_bytes(&path[..end])))
}

/// Why a candidate is not the one.
enum Refusal {
    /// The next one may be.
    Passing(ErrorKind),
    /// It ends the search.
    Final(ErrorKind),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_file_is_its_path_up_to_the_last_slash() {
        for (path, expected) in
            [("/a/b.so", "/a"), ("/a//b.so", "/a"), ("/b.so", "/"), ("//b.so", "/"), ("/a/./b.so", "/a/.")]
        {
            assert_eq!(directory(Path::new(path)), Some(Path::new(expected)), "{path}");
        }
        assert_eq!(directory(Path::new("b.so")), None);
    }
}
