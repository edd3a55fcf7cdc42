//! Sharing: whether a group's pages come from a snapshot, where the group lies then, and what becomes of it otherwise.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::adopt;
use super::bind::{self, Bound, Noted, Scope, Source};
use super::enter::Planned;
use super::gather;
use super::help::HostHelp;
use super::keep;
use super::map::{Mapped, map};
use super::trail::{Way, stamp};
use crate::addr::Addr;
use crate::error::{Error, ErrorKind, shown};
use crate::file::image::Image;
use crate::file::plan::Plan;
use crate::file::{BuildId, Home};
use crate::find::again::Before;
use crate::load::group::{Group, Slot};
use crate::load::map::{Kept, Place};
use crate::loader::Wishes;
use crate::process::hooks;
use crate::process::host::HostObject;
use crate::process::module::Object;
use crate::process::world::Look;
use crate::snapshot::{
    FileStamp, Fits, Folder, Member, Opened, Pages, Provider, Refusal, Seed, Snapshot, SnapshotUse, Wanted,
};
use crate::snapshot::{content_hash, content_id, file_name, key, library_id, object_id, slots_for};
use crate::sys::{self, RegularFile};

/// Where snapshots are to be taken from.
#[derive(Clone, Default)]
pub(crate) enum Wish {
    /// From the directory that `SOLOAD_SNAPSHOTS` named when the process started.
    #[default]
    Environment,
    /// From nowhere.
    Private,
    Folder(PathBuf),
    Memory(Snapshot),
}

/// What snapshots did for an open.
pub(crate) type Shared = SnapshotUse;

/// What one open shares with other processes, as far as it has got.
pub(crate) struct Sharing {
    source: From,
    outcome: SnapshotUse,
    /// The key of the last one that was made for it.
    made: Option<[u8; 32]>,
    way: Way,
}

enum From {
    Nowhere,
    Folder(Box<Folder>),
    /// And where its libraries have to be.
    Memory(Arc<Opened>, BTreeMap<[u8; 32], Addr>),
    /// One is to be made, for others, at addresses that follow from a seed.
    New(Seed),
}

/// Where the members of a group shall lie, and which of their pages are there already: anywhere, if nothing is shared.
#[derive(Default)]
pub(crate) struct Placed(Option<Deal>);

/// What sharing a group goes by.
pub(super) struct Deal {
    /// What the group's words follow from, as snapshots have it.
    pub(super) fits: Vec<u8>,
    /// Where stubs are, if there are any.
    pub(super) stubs: Addr,
    /// For each provider of `fits` its number in the scope.
    pub(super) numbers: Vec<usize>,
    pub(super) members: Vec<Shareable>,
    /// The snapshot; without one, it is to be made.
    pub(super) opened: Option<Arc<Opened>>,
    /// Which pages it has of all members: the number of the mapping, and where in it they are.
    kept: Vec<(u32, u64)>,
}

/// A new member that can be shared.
pub(super) struct Shareable {
    /// Its number in the group.
    index: usize,
    pub(super) wanted: Wanted,
    /// Where it lies, once that is known: mostly when it is opened.
    home: Option<Addr>,
    pub(super) stamp: FileStamp,
    /// Which of the pages of all members are its own.
    kept: Range<usize>,
}

impl Placed {
    pub(super) fn of(&self, member: usize) -> Place<'_> {
        let Some(deal) = &self.0 else { return Place::default() };
        let Ok(order) = deal.members.binary_search_by_key(&member, |own| own.index) else { return Place::default() };
        let own = &deal.members[order];
        let at = &deal.kept[own.kept.clone()];
        Place { start: own.home, kept: deal.opened.as_ref().map(|opened| Kept { pages: &opened.file, at }) }
    }
}

impl Sharing {
    pub(crate) fn wished(wishes: &Wishes) -> Self {
        let wish = &wishes.sharing;
        let path = match wish {
            Wish::Folder(path) => Some(&**path),
            Wish::Environment => hooks::snapshots().map(|path| Path::new(OsStr::from_bytes(path))),
            Wish::Private | Wish::Memory(_) => None,
        };
        let source = match (wish, path.map(Folder::open)) {
            (Wish::Memory(Snapshot(opened)), _) => {
                let places = opened.fits().map_or_else(BTreeMap::new, |fits| fits.places());
                Ok(From::Memory(Arc::clone(opened), places))
            }
            (_, Some(folder)) => folder.map(|folder| From::Folder(Box::new(folder))),
            (_, None) => Ok(From::Nowhere),
        };
        let isolated = || Refusal::Unsuitable("it is loaded in a name space of its own".into());
        let (source, outcome) = match source {
            Ok(From::Folder(_) | From::Memory(..)) if !wishes.namespace.is_base() => {
                (From::Nowhere, SnapshotUse::Refused(isolated()))
            }
            Ok(source) => (source, SnapshotUse::Unasked),
            Err(refusal) => (From::Nowhere, SnapshotUse::Refused(refusal)),
        };
        Self { source, outcome, made: None, way: Way::Begins }
    }

    /// What another process has found that opened `name`, for the first attempt to go by.
    pub(crate) fn trail(&mut self, name: &OsStr, wishes: &Wishes, look: &Look) -> Option<Before<Object>> {
        let (From::Folder(folder), Way::Begins) = (&self.source, &self.way) else { return None };
        let (before, way) = Way::begun(folder, name, wishes, look);
        self.way = way;
        before
    }

    /// Where a file will be, if it gets the place that it has in all processes of the session.
    pub(crate) fn home(&self, file: &RegularFile, build_id: BuildId<'_>, len: u64) -> Option<Home> {
        let library = match self.source {
            From::Folder(_) | From::Memory(..) => library_id(build_id(), &stamp(file)),
            From::Nowhere | From::New(_) => return None,
        };
        let start = match &self.source {
            From::Folder(folder) => folder.slot(&Wanted { id: library, len, align: 1 }),
            From::Memory(_, places) => places.get(&library).copied(),
            From::Nowhere | From::New(_) => None,
        };
        start.map(|start| Home { start, library })
    }

    /// Decides where `group` shall lie, and whether its pages come from a snapshot.
    pub(crate) fn place(&mut self, group: &Planned, scope: &Scope, look: &Look, help: &HostHelp) -> Placed {
        if matches!(self.source, From::Nowhere) {
            return Placed::default();
        }
        match self.try_place(group, scope, look, help) {
            Ok(deal) => Placed(deal),
            Err(refusal) => {
                self.refuse(refusal);
                Placed::default()
            }
        }
    }

    fn try_place(
        &mut self,
        group: &Planned,
        scope: &Scope,
        look: &Look,
        help: &HostHelp,
    ) -> Result<Option<Deal>, Refusal> {
        if sys::is_privileged() {
            return Err(Refusal::Privileged);
        }
        // What nobody of the scope defines, an object that the host has made global since the start may.
        let known = |object: &HostObject| {
            object.is_part_of_libc()
                || scope.sources.iter().any(
                    |source| matches!(source, Source::Object(Object::Host(known)) if std::ptr::eq(&**known, object)),
                )
        };
        if help.providers().next().is_some() || look.host.later().any(|object| !known(object)) {
            let what = "the C library's loader has opened objects that may define what nobody else does";
            return Err(Refusal::Unsuitable(what.into()));
        }
        let mut members = Vec::with_capacity(group.members.len());
        for (index, (new, plan)) in group.new_members() {
            members.push(Shareable::of(index, &new.image, plan)?);
        }
        // Behind the libraries, their stubs.
        let mut wanted: Vec<Wanted> = members.iter().map(|member| member.wanted).collect();
        wanted.push(gather::room(&wanted));
        let (mut fits, numbers) = fits(scope, look, group, &members)?;
        let mut settle = |places: &[Addr]| {
            for (number, place) in fits.members.iter().zip(places) {
                fits.providers[usize::from(*number)].start = place.0 as u64;
            }
            fits.stubs = places.get(fits.members.len()).map_or(0, |place| place.0 as u64);
            fits.encode()
        };
        let (places, settled, opened) = match &mut self.source {
            From::Nowhere => return Ok(None),
            From::New(seed) => {
                let places = slots_for(&wanted, seed)?;
                let settled = settle(&places);
                (places, settled, None)
            }
            From::Folder(folder) => {
                let homes = members.iter().map(|member| member.home).chain([None]);
                let known = wanted.iter().zip(homes).map(|(wanted, home)| home.or_else(|| folder.slot(wanted)));
                let places = known.collect::<Option<Vec<Addr>>>().map_or_else(|| folder.place(&wanted), Ok)?;
                let settled = settle(&places);
                let key = key(&settled);
                let found = folder.find(&key, |fits| *fits == *settled).and_then(|opened| {
                    let Some(opened) = opened else { return Ok(None) };
                    let (kept, changed) = check_files(&opened, &mut members, group)?;
                    // What has been touched but not changed is noted as it is now; if not by us, by the next one.
                    if changed {
                        let _ = folder.refresh(&key, &opened, members.iter().map(|member| member.stamp));
                    }
                    Ok(Some((Arc::new(opened), kept)))
                });
                let found = found.inspect_err(|_| folder.forget(&key))?;
                (places, settled, found)
            }
            From::Memory(opened, homes) => {
                let made = opened.fits().ok_or(Refusal::Snapshot("damaged: its scope does not make sense".into()))?;
                let place = |member: &Shareable| {
                    let path = || image(group, member.index).map_or(Path::new(""), Image::path);
                    let missing = || Refusal::snapshot(format_args!("it has no pages of {}", shown(path())));
                    member.home.or_else(|| homes.get(&member.wanted.id).copied()).ok_or_else(missing)
                };
                let mut places = members.iter().map(place).collect::<Result<Vec<_>, _>>()?;
                places.push(Addr(made.stubs as usize));
                let settled = settle(&places);
                if settled != *opened.manifest()?.scope {
                    return Err(Refusal::Snapshot(made.difference(&fits)));
                }
                let (kept, _) = check_files(opened, &mut members, group)?;
                (places, settled, Some((Arc::clone(opened), kept)))
            }
        };
        let (opened, kept) = opened.unzip();
        for (member, start) in members.iter_mut().zip(&places) {
            member.home = Some(*start);
        }
        if let (From::Folder(folder), Some(_)) = (&self.source, &opened) {
            self.way.leave(folder, group, &members, look);
        }
        let (stubs, kept) = (Addr(fits.stubs as usize), kept.unwrap_or_default());
        Ok(Some(Deal { fits: settled, stubs, numbers, members, opened, kept }))
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.source = From::Nowhere;
        self.outcome = SnapshotUse::Refused(refusal);
    }

    /// Whether mapping may succeed without sharing where it failed with it.
    pub(crate) fn gives_up(&mut self, error: &Error) -> bool {
        let shared = matches!(self.source, From::Folder(_) | From::Memory(..));
        if shared {
            self.refuse(Refusal::Place(error.to_string()));
        }
        shared
    }

    /// Whether sealing may succeed without the snapshot that it failed with: some of what that says is only seen there.
    pub(crate) fn distrusts(&mut self, error: &Error) -> bool {
        let used = matches!(self.outcome, SnapshotUse::Used { .. });
        if used {
            self.refuse(Refusal::snapshot(error));
        }
        used
    }

    /// Writes the words of `group`: those that a snapshot leaves, or all. `None`: to be begun anew, because a snapshot was
    /// refused, or has just been made.
    pub(crate) fn relocate(
        &mut self,
        group: Group<Object, Box<Mapped>>,
        scope: Scope,
        placed: Placed,
        look: &Look,
    ) -> Result<Option<Bound>, Error> {
        let Placed(Some(deal)) = placed else {
            return bind::relocate(group, scope, look, Noted::Nothing).map(Some);
        };
        if let Some(opened) = &deal.opened {
            return Ok(match adopt::adopt(group, scope, look, &deal, opened) {
                Ok(bound) => {
                    self.outcome = SnapshotUse::Used { made: self.made.is_some() };
                    Some(bound)
                }
                Err(refusal) => {
                    if let From::Folder(folder) = &self.source {
                        folder.forget(&key(&deal.fits));
                    }
                    self.refuse(refusal);
                    None
                }
            });
        }
        let lazy = scope.lazy;
        let bound = match bind::relocate(group, scope, look, Noted::Foreign) {
            // It may lack what it never calls.
            Err(error) if lazy && matches!(error.kind(), ErrorKind::UndefinedSymbols { .. }) => {
                self.refuse(Refusal::Unsuitable(error.to_string()));
                return Ok(None);
            }
            bound => bound?,
        };
        let From::Folder(folder) = &self.source else { return Ok(Some(bound)) };
        let kept = keep::snapshot(&bound, &deal, &folder.seed.secret())
            .and_then(|(key, bytes)| folder.keep(&key, &bytes).map(|()| key));
        match kept {
            // Whoever removed it at once would remove it again.
            Ok(key) if self.made == Some(key) => {
                self.refuse(Refusal::Folder("somebody removes each snapshot as soon as it has been made".into()));
                Ok(Some(bound))
            }
            Ok(key) => {
                self.made = Some(key);
                Ok(None)
            }
            Err(refusal) => {
                self.refuse(refusal);
                Ok(Some(bound))
            }
        }
    }

    pub(crate) fn outcome(self) -> SnapshotUse {
        self.outcome
    }
}

/// Makes a snapshot in memory of what `group` would be loaded as. No code of it runs, and nothing of it stays.
pub(crate) fn create(
    group: Planned,
    scope: Scope,
    look: &Look,
    help: &HostHelp,
    wishes: &Wishes,
) -> Result<Snapshot, Error> {
    let path = group.new_members().next().map_or(PathBuf::new(), |(_, (new, _))| new.image.path().to_owned());
    let refused = |refusal: Refusal| Error::new(path.clone(), refusal.kind());
    let no_seed = |errno| ErrorKind::System { call: "getrandom", errno };
    let seed = sys::random().map_err(|errno| Error::new(path.clone(), no_seed(errno as i32)))?;
    let mut sharing =
        Sharing { source: From::New(Seed(seed)), outcome: SnapshotUse::Unasked, made: None, way: Way::Settled };
    let placed = Placed(hooks::undisturbed(|| sharing.try_place(&group, &scope, look, help)).map_err(refused)?);
    let group = map(group, &placed, wishes)?;
    let Placed(Some(deal)) = placed else { return Err(refused(Refusal::Place("nothing has to be loaded".into()))) };
    let snapshot = hooks::undisturbed(|| {
        let bound = bind::relocate(group, scope, look, Noted::Foreign)?;
        keep::snapshot(&bound, &deal, &Snapshot::secret()).map_err(refused)
    })?;
    Snapshot::seal(&snapshot.1).map_err(|kind| Error::new(path.clone(), kind))
}

impl Shareable {
    pub(super) fn of(index: usize, image: &Image, plan: &Plan) -> Result<Self, Refusal> {
        if image.has_text_relocations() {
            return Err(Refusal::unsuitable(image.path(), "it has text relocations"));
        }
        if plan.maps().iter().any(|map| map.protection.write && map.protection.execute) {
            return Err(Refusal::unsuitable(image.path(), "it has a segment that is writable and executable"));
        }
        let stamp = stamp(image.file());
        let home = image.home();
        let id = home.map_or_else(|| library_id(image.build_id().as_deref(), &stamp), |home| home.library);
        let wanted = Wanted { id, len: plan.span.end.0 - plan.span.start.0, align: plan.align.bytes() };
        Ok(Self { index, wanted, home: home.map(|home| home.start), stamp, kept: 0..0 })
    }
}

/// What a snapshot has of a member with that plan: the pages of all mappings that are written to. Adds them to `kept`, and
/// answers where they stand there.
fn keep_pages(stated: &Member<'_>, plan: &Plan, kept: &mut Vec<(u32, u64)>) -> Result<Range<usize>, Refusal> {
    let senseless = || Refusal::Snapshot("damaged: it has not the pages of the library's writable segments".into());
    let (first, mut end) = (kept.len(), 0);
    for (number, range) in keep::writable(plan) {
        let same = |pages: &Pages| pages.map == number && pages.len == range.end.0 - range.start.0;
        let pages = stated.pages.iter().find(same).ok_or_else(senseless)?;
        let zeros = plan.maps().get(number as usize).is_some_and(|map| map.file.is_none());
        if zeros && pages.offset != end {
            return Err(senseless());
        }
        kept.push((number, pages.offset));
        end = pages.offset.wrapping_add(pages.len);
    }
    Ok(first..kept.len())
}

fn image(group: &Planned, index: usize) -> Option<&Image> {
    match group.members.get(index)? {
        Slot::New((new, _)) => Some(&new.image),
        Slot::Known(_) => None,
    }
}

/// Holds the files of a snapshot against those that were opened: by what the system says of them or, if that has changed,
/// by their content. Answers which pages it has of them, each member knowing its own, and whether any has changed so.
fn check_files(
    opened: &Opened,
    members: &mut [Shareable],
    group: &Planned,
) -> Result<(Vec<(u32, u64)>, bool), Refusal> {
    let others = || Refusal::Snapshot("damaged: it has not the libraries that it states".into());
    let manifest = opened.manifest()?;
    let mut stated = manifest.members.iter();
    // Mostly there is one mapping that is written to.
    let (mut kept, mut changed) = (Vec::with_capacity(members.len()), false);
    for (member, (_, (new, plan))) in members.iter_mut().zip(group.new_members()) {
        let (made, image) = (stated.next().ok_or_else(others)?, &new.image);
        member.kept = keep_pages(&made, plan, &mut kept)?;
        if made.file == member.stamp {
            continue;
        }
        changed = true;
        let content = content_hash(&image.file().fd)
            .map_err(|error| Refusal::unsuitable(image.path(), format_args!("it cannot be read: {error}")))?;
        if content != made.content {
            return Err(Refusal::snapshot(format_args!("{} has changed since it was made", shown(image.path()))));
        }
    }
    if stated.next().is_some() { Err(others()) } else { Ok((kept, changed)) }
}

/// What the words of a group follow from, the places of its members still to be filled in; and the number in `scope` of
/// each provider.
fn fits<'a>(
    scope: &'a Scope,
    look: &Look,
    group: &'a Planned,
    members: &[Shareable],
) -> Result<(Fits<'a>, Vec<usize>), Refusal> {
    let mut fits = Fits {
        version: env!("CARGO_PKG_VERSION").as_bytes().into(),
        page: sys::page_size().bytes() as u32,
        imports: u8::from((scope.imports)(b"dlopen").is_some()),
        providers: Vec::with_capacity(scope.sources.len()),
        order: Vec::with_capacity(scope.sources.len()),
        members: vec![0; members.len()],
        stubs: 0,
    };
    let mut numbers = Vec::with_capacity(scope.sources.len());
    let has_no_exports = |object: &Object| object.symbols().is_some_and(|symbols| !symbols.exports_any());
    for (number, source) in scope.sources.iter().enumerate() {
        let (path, id, start) = match source {
            Source::Object(object @ Object::Host(host)) => {
                // Most programs have no definitions for anybody: their libraries are bound alike.
                if look.host.program().is_some_and(|program| Arc::ptr_eq(program, host)) && has_no_exports(object) {
                    continue;
                }
                (host.path(), host_id(host)?, 0)
            }
            Source::Object(Object::Module(module)) => {
                let private = || Refusal::unsuitable(module.path(), "it was loaded before, and is not shared");
                let shared = module.shared.as_deref().ok_or_else(private)?;
                let start = module.mapping.range().start.0 as u64;
                (module.path(), content_id(&shared.library, &shared.content), start)
            }
            Source::Member(index) => {
                let Ok(order) = members.binary_search_by_key(index, |member| member.index) else { continue };
                fits.members[order] = numbers.len() as u16;
                (image(group, *index).map_or(Path::new(""), Image::path), members[order].wanted.id, 0)
            }
        };
        fits.providers.push(Provider { name: file_name(path), id, start });
        numbers.push(number);
    }
    if numbers.len() > usize::from(u16::MAX) {
        return Err(Refusal::Unsuitable("its scope has too many objects".into()));
    }
    let canonical = |number: &usize| numbers.binary_search(number).ok().map(|at| at as u16);
    fits.order.extend(scope.order.iter().filter_map(canonical));
    Ok((fits, numbers))
}

/// Which object of the host it is: by what is in memory, whatever its path leads to by now.
fn host_id(host: &HostObject) -> Result<[u8; 32], Refusal> {
    let id = host.build_id().ok_or_else(|| Refusal::unsuitable(host.path(), "it has no build id"))?;
    Ok(object_id(&id, host.layout()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::loader;
    use crate::process::registry;
    use crate::snapshot::{ThreadLocalWord, encode};

    #[test]
    fn what_only_sealing_finds_senseless_is_loaded_without_the_snapshot() {
        let directory = tempfile::tempdir().unwrap();
        let wishes = Wishes { sharing: Wish::Folder(directory.path().to_owned()), ..Wishes::default() };
        let path = Path::new(env!("SOLOAD_TEST_LIBS")).join("libfew_zeros.so");
        let outcome = || {
            let opened = loader::open(path.as_os_str(), &wishes).unwrap();
            let Object::Module(module) = opened.object else { panic!("a library of our own") };
            registry::release(module);
            opened.sharing
        };
        assert_eq!(outcome(), SnapshotUse::Used { made: true });
        assert_eq!(outcome(), SnapshotUse::Used { made: false });

        let image = Image::open(&path).unwrap();
        let plan = Plan::of_segments(image.segments(), image.relro(), sys::page_size()).unwrap();
        let place = keep::writable(&plan).next().unwrap().1.start.0;
        let refused = |tamper: &dyn Fn(&mut Member<'_>, u16)| {
            let folder = Folder::open(directory.path()).unwrap();
            let names = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let key = names.filter_map(|name| Some(name.to_str()?.strip_suffix(".snapshot")?.to_owned())).next();
            let key = *blake3::Hash::from_hex(key.unwrap()).unwrap().as_bytes();
            let opened = folder.find(&key, |_| true).unwrap().unwrap();
            let (mut manifest, own) = (opened.manifest().unwrap(), opened.fits().unwrap().members[0]);
            let first = opened.header.first_page();
            let mut pages = vec![0; (opened.header.len - first) as usize];
            opened.file.read_exact_at(&mut pages, first).unwrap();
            manifest.pages_from(0, first);
            tamper(&mut manifest.members.to_mut()[0], own);
            folder.keep(&key, &encode(manifest, opened.header.page, &pages, &folder.seed.secret())).unwrap();
            match outcome() {
                SnapshotUse::Refused(Refusal::Snapshot(why)) => why,
                other => panic!("{other}"),
            }
        };
        // Sealed as it must be, it has the zeros elsewhere than behind what they are behind.
        let why = refused(&|member, _| {
            let pages = member.pages.to_mut();
            assert_eq!(pages.len(), 2);
            pages[1].offset = pages[0].offset;
        });
        assert!(why.contains("the pages of the library's writable segments"), "{why}");
        assert_eq!(outcome(), SnapshotUse::Used { made: true });
        // It says of a library without thread-local storage where that is.
        let why = refused(&|member, provider| {
            member.thread_local = vec![ThreadLocalWord { place, offset: 0, provider, kind: 2 }].into();
        });
        assert!(why.contains("thread-local"), "{why}");
    }
}
