//! The objects that one open brings together: the one asked for and all it needs, breadth first, each once.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::again::Before;
use super::needs::Needs;
use super::table::{Called, Table};
use super::{Asker, Found, Probe, Rule, Search};
use crate::error::{Candidate, Error, ErrorKind};
use crate::file::Homes;
use crate::file::image::Image;
use crate::guard::{self, Guard};
use crate::sys::{Identity, RegularFile};

/// Objects of one group: the widest real closure has some three hundred.
const MEMBERS_MAX: usize = 4096;

/// What is in the process already, as far as discovering a group goes by it.
pub(crate) trait World {
    /// An object that is there, held.
    type Object: Clone;

    /// The same, only named: most that are needed have joined already, and need not be held once more.
    type Named<'a>: Copy
    where
        Self: 'a;

    /// The object that `name` means: one called or found by it before, or with that soname.
    fn by_name(&self, name: &[u8]) -> Option<Self::Object>;

    /// The object of ours that was loaded from that file.
    fn by_identity(&self, identity: Identity) -> Option<Self::Object>;

    /// The object that the host has loaded from that file, which is `image` if that could be read.
    fn of_host(&self, identity: Identity, image: Option<&Image>) -> Option<Self::Object>;

    /// An object that was there when somebody looked before, as it is now.
    fn still(&self, object: &Self::Object) -> Option<Self::Object>;

    /// What names an object.
    fn named<'a>(&'a self, object: &'a Self::Object) -> Self::Named<'a>;

    /// The object, if it is still there.
    fn object(&self, named: Self::Named<'_>) -> Option<Self::Object>;

    /// Whether an object is the one that is named.
    fn is(&self, object: &Self::Object, named: Self::Named<'_>) -> bool;

    /// A number that is the same for the same object, and mostly another for others.
    fn hash(&self, named: Self::Named<'_>) -> u32;

    /// What an object that is there needs, in order.
    fn needed<'a>(&'a self, object: &'a Self::Object) -> impl Iterator<Item = Self::Named<'a>>;

    /// Whether only the host's own loader can load an object of that name: a part of the C library.
    fn belongs_to_host(&self, name: &[u8]) -> bool;

    /// The object that has all that a part of the C library of that name is needed for, if there is one.
    fn in_place_of(&self, name: &[u8]) -> Option<Self::Object>;
}

/// One member of a group: in the process already, or on its way in, at stage `T`.
pub(crate) enum Slot<K, T = Box<New>> {
    Known(K),
    New(T),
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
    pub(crate) members: Vec<Slot<O>>,
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
    /// Whether only what is there will do.
    pub(crate) no_load: bool,
}

/// What stands for a member's number as long as the host has to bring part number `part` of those that are lacking; and the
/// other way round.
pub(crate) fn lacking(part: usize) -> usize {
    usize::MAX - part
}

/// Finds `request` and everything it needs. Opens files, unless an attempt `before` has; changes nothing.
pub(crate) fn discover<W: World>(
    request: &Request<'_>,
    search: &Search,
    world: &W,
    before: Option<Before<W::Object>>,
) -> Result<Graph<W::Object>, Error> {
    let mut discovery = Discovery {
        graph: Graph { members: Vec::new(), needs: Needs::default(), for_host: Vec::new() },
        called: Called::default(),
        joined: Table::default(),
        request,
        search,
        world,
    };
    let before = match before {
        // It is gone through once the host has brought what is lacking.
        Some(Before::Elsewhere(graph)) if !graph.for_host.is_empty() => return Ok(graph),
        before => before.and_then(|before| before.now(world)),
    };
    if let Some(before) = before {
        discovery.again(before)?;
        return Ok(discovery.graph);
    }
    search.refresh();
    discovery.name(request.name.as_bytes(), None).map_err(|(object, kind)| Error::new(object, kind))?;
    if request.no_load && !matches!(discovery.graph.members.first(), Some(Slot::Known(_))) {
        return Err(Error::new(request.name, ErrorKind::NotLoaded));
    }
    let mut next = 0;
    // Breadth first: what a member needs joins at the end of the list that is being gone through.
    while next < discovery.graph.members.len() {
        discovery.needs_of(next)?;
        next += 1;
    }
    Ok(discovery.graph)
}

pub(super) struct Discovery<'a, W: World> {
    pub(super) graph: Graph<W::Object>,
    /// What names and sonames mean: members, and parts that are lacking.
    called: Called,
    /// The members, by their files or by which objects they are.
    joined: Table,
    request: &'a Request<'a>,
    search: &'a Search,
    world: &'a W,
}

/// What a candidate turned out to be.
enum Opened<O> {
    Known(O),
    Member(usize),
    New(Box<Image>),
}

impl<W: World> Discovery<'_, W> {
    pub(super) fn needs_of(&mut self, index: usize) -> Result<(), Error> {
        match &mut self.graph.members[index] {
            Slot::Known(object) => {
                let (object, world) = (object.clone(), self.world);
                for named in world.needed(&object) {
                    let number = self.joined(named).or_else(|| Some(self.join_known(world.object(named)?)));
                    number.into_iter().for_each(|number| self.graph.needs.push(number));
                }
            }
            Slot::New(new) => {
                let names = new.image.take_needed();
                let mut instead = None;
                for name in names.iter() {
                    match self.world.in_place_of(name).filter(|_| self.world.by_name(name).is_none()) {
                        Some(object) => instead = Some(object),
                        None => self.needs(name, index)?,
                    }
                }
                // The part would be asked in its place, in vain, and what it needs itself behind all the others.
                if let Some(object) = instead {
                    let number = self.known(object);
                    self.graph.needs.push(number);
                }
                if let Slot::New(new) = &mut self.graph.members[index] {
                    new.image.give_needed_back(names);
                }
            }
        }
        // They are asked in order.
        self.graph.needs.end();
        Ok(())
    }

    /// Notes that member `index` needs what `name` means to it.
    pub(super) fn needs(&mut self, name: &[u8], index: usize) -> Result<(), Error> {
        let number = self.name(name, Some(index)).map_err(|(object, kind)| {
            let error = Error::new(object, kind);
            match &self.graph.members[index] {
                Slot::New(new) => error.with_needed_by(new.image.path().to_owned()),
                Slot::Known(_) => error,
            }
        })?;
        self.graph.needs.push(number);
        Ok(())
    }

    /// The member that `name` means to member `asker` (or to the caller), or what is [`lacking`].
    fn name(&mut self, name: &[u8], asker: Option<usize>) -> Result<usize, (PathBuf, ErrorKind)> {
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
        if let Some(number) = self.called.get(name) {
            return Ok(number);
        }
        if let Some(object) = self.world.by_name(name) {
            let number = self.known(object);
            self.called.add(name, number);
            return Ok(number);
        }
        if self.world.belongs_to_host(name) {
            return Ok(self.leave_to_host(name, OsStr::from_bytes(name).into()));
        }
        let Found { file, rule, lost } = self.find(name, asker)?;
        let image = match file {
            Opened::Known(object) => return Ok(self.known(object)),
            Opened::Member(index) => {
                self.called.add(name, index);
                if let Slot::New(new) = &mut self.graph.members[index] {
                    new.names.push(name.into());
                }
                return Ok(index);
            }
            Opened::New(image) => image,
        };
        if let Some(soname) = image.soname().filter(|soname| *soname != name && self.world.belongs_to_host(soname)) {
            // Its own copy of the C library, by path: the process's is the one to be used.
            if let Some(object) = self.world.by_name(soname) {
                return Ok(self.known(object));
            }
            return Ok(self.leave_to_host(name, image.path().to_owned()));
        }
        let index = self.graph.members.len();
        if index == MEMBERS_MAX {
            let found = MEMBERS_MAX as u64 + 1;
            let kind = ErrorKind::Limit { what: "objects of one open", limit: MEMBERS_MAX as u64, found };
            return Err((image.path().to_owned(), kind));
        }
        self.called.add(name, index);
        let names = match image.soname() {
            Some(soname) if soname == name => Vec::new(),
            soname => {
                if let Some(soname) = soname.filter(|soname| self.called.get(soname).is_none()) {
                    self.called.add(soname, index);
                }
                vec![name.into()]
            }
        };
        let path = image.path();
        let origin = if path.is_absolute() { None } else { directory(&absolute(path)).map(Into::into) };
        Ok(self.join(Slot::New(Box::new(New { image, rule, lost, names, origin, loaded_by: None })), asker))
    }

    /// The number of a member that joins, brought in by `asker`.
    pub(super) fn join(&mut self, member: Slot<W::Object>, asker: Option<usize>) -> usize {
        let mut new = match member {
            Slot::Known(object) => return self.known(object),
            Slot::New(new) => new,
        };
        let number = self.graph.members.len();
        new.loaded_by = asker;
        self.joined.add(hash_of(new.image.identity()), number);
        self.graph.members.push(Slot::New(new));
        number
    }

    /// What stands for a part that the host has to bring, which `name` means.
    fn leave_to_host(&mut self, name: &[u8], part: PathBuf) -> usize {
        let parts = &mut self.graph.for_host;
        let number = lacking(parts.iter().position(|known| *known == part).unwrap_or_else(|| {
            parts.push(part);
            parts.len() - 1
        }));
        self.called.add(name, number);
        number
    }

    /// The member for an object that is there, made if need be.
    fn known(&mut self, object: W::Object) -> usize {
        self.joined(self.world.named(&object)).unwrap_or_else(|| self.join_known(object))
    }

    /// The member for an object that is there, if it has joined.
    fn joined(&self, named: W::Named<'_>) -> Option<usize> {
        let is = |number: usize| match &self.graph.members[number] {
            Slot::Known(known) => self.world.is(known, named),
            Slot::New(_) => false,
        };
        self.joined.find(self.world.hash(named), is)
    }

    /// The number of an object that is there, and joins.
    fn join_known(&mut self, object: W::Object) -> usize {
        let number = self.graph.members.len();
        self.joined.add(self.world.hash(self.world.named(&object)), number);
        self.graph.members.push(Slot::Known(object));
        number
    }

    fn find(&self, name: &[u8], asker: Option<usize>) -> Result<Found<Opened<W::Object>>, (PathBuf, ErrorKind)> {
        let mut fatal = None;
        let is_path = name.contains(&b'/');
        let mut probe = |path: &Path| {
            let kind = match self.probe(path) {
                Ok(opened) => return Probe::Found(opened),
                Err(kind) => kind,
            };
            match kind {
                // Of a path there are no other candidates: what is wrong with it is the whole answer.
                _ if is_path => {}
                ErrorKind::Open { errno: libc::ENOENT } => return Probe::Absent("no such file".into()),
                ErrorKind::Open { errno: libc::EACCES } => return Probe::Absent(kind.to_string()),
                ErrorKind::Open { .. } => return Probe::Unreachable(kind.to_string()),
                // A library for another machine or class may stand beside ours; any other oddity ends the search.
                ErrorKind::Foreign { what: "class" | "machine", .. } => return Probe::Unsuitable(kind.to_string()),
                _ => {}
            }
            fatal = Some(path.to_owned());
            Probe::Fatal(kind)
        };
        let directories = self.request.search_dirs;
        let found = self.with_asker(asker, &mut |asker| self.search.find(name, asker, directories, &mut probe));
        // An error is about the file that was opened, if it got so far.
        found.map_err(|kind| (fatal.unwrap_or_else(|| OsStr::from_bytes(name).into()), kind))
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
            Some(Slot::New(new)) => self.with_chain(new.loaded_by, &mut |loader| then(&new.asker(loader))),
            _ => then(self.request.program),
        }
    }

    /// Reads a file where it is going to be mapped, unless it is wanted in another way.
    fn read(&self, path: &Path, file: RegularFile) -> Result<Box<Image>, ErrorKind> {
        if self.request.guard == Guard::Nothing && !self.request.huge_pages {
            return Image::read_in_place(path.to_owned(), file, None, self.request.homes);
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

    /// What the file at `path` is. That it cannot be opened, and nothing else, is an [`ErrorKind::Open`].
    fn probe(&self, path: &Path) -> Result<Opened<W::Object>, ErrorKind> {
        let file = RegularFile::open(path)?;
        let identity = file.identity;
        let is =
            |number: usize| matches!(&self.graph.members[number], Slot::New(new) if new.image.identity() == identity);
        if let Some(index) = self.joined.find(hash_of(identity), is) {
            return Ok(Opened::Member(index));
        }
        if let Some(object) = self.world.by_identity(identity) {
            return Ok(Opened::Known(object));
        }
        let read = self.read(path, file);
        if let Some(object) = self.world.of_host(identity, read.as_deref().ok()) {
            return Ok(Opened::Known(object));
        }
        let image = read?;
        image.check_loadable()?;
        Ok(Opened::New(image))
    }
}

/// A number of a file: few have the same.
fn hash_of(file: Identity) -> u32 {
    (file.device ^ file.inode) as u32
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
