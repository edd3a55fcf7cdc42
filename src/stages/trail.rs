//! Trails: what an open has found is left for others, and who opens the same goes by it instead of searching.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::enter::{Planned, cache_alone, cached_for_all};
use super::sharing::Shareable;
use crate::file::dynamic::Names;
use crate::file::image::Image;
use crate::file::piece::{Known, pieces};
use crate::file::{BuildId, Home};
use crate::find::Rule;
use crate::find::again::Before;
use crate::find::graph::{Graph, New, World, lacking};
use crate::find::needs::Needs;
use crate::load::group::Slot;
use crate::loader::Wishes;
use crate::process::module::Object;
use crate::process::world::Look;
use crate::snapshot::{Around, END, FileStamp, Folder, Found, OpenTrail, Trail, Wanted, trail_key};
use crate::sys::{Directory, RegularFile, Stamp};

/// Whether an open goes by a trail.
pub(super) enum Way {
    /// That is to be seen.
    Begins,
    /// It does, or leaves none.
    Settled,
    /// It does not, and leaves one: under that key, where there may be one already that leads nowhere any more.
    Leaves { key: [u8; 32], stale: bool },
}

impl Way {
    /// What another process has found that opened `name`, and how this one goes on.
    pub(super) fn begun(folder: &Folder, name: &OsStr, wishes: &Wishes, look: &Look) -> (Option<Before<Object>>, Self) {
        let cache = cache_alone(name, wishes, look).filter(|_| look.by_name(name.as_bytes()).is_none());
        let Some(cache) = cache.map(file_stamp) else { return (None, Self::Settled) };
        // What the program has loaded at its start is asked for its names first.
        let start = look.start().skip(1).map(|object| object.path().as_os_str().as_bytes());
        let key = trail_key(name.as_bytes(), &cache, start);
        let left = folder.trail(&key);
        match left.as_ref().and_then(OpenTrail::trail) {
            // It was left where others had been opened before: they will come again.
            Some(trail) if !fits(&trail, look) => (None, Self::Settled),
            trail => match trail.and_then(|trail| follow(&trail, folder, look)) {
                Some(before) => (Some(before), Self::Settled),
                None => (None, Self::Leaves { key, stale: left.is_some() }),
            },
        }
    }

    /// Leaves a trail, if there is none and others could go by it: once.
    pub(super) fn leave(&mut self, folder: &Folder, group: &Planned, members: &[Shareable], look: &Look) {
        let Self::Leaves { key, stale } = std::mem::replace(self, Self::Settled) else { return };
        match of(group, members, look) {
            // If not by us, one is left by the next.
            Some(trail) => drop(folder.leave(&key, &trail)),
            None if stale => folder.forget_trail(&key),
            None => {}
        }
    }
}

/// Whether everything is there, or can be brought, that was there when `trail` was left, and nothing that was found then.
fn fits(trail: &Trail<'_>, look: &Look) -> bool {
    let is_there = |name: &[u8]| look.by_name(name).is_some();
    let is_found = |found: Found<'_>| {
        !found.soname.is_empty() && is_there(&found.soname) || found.names.iter().any(|name| is_there(&name))
    };
    let is_brought = |name: &[u8]| look.belongs_to_host(name) && look.in_place_of(name).is_none();
    trail.there.iter().all(|name| is_there(name) || is_brought(name)) && !trail.found.iter().any(is_found)
}

/// What an open comes to that finds what `trail` says; `None` if a file is not the one that it was then, or has no place in
/// this session any more. Whether somebody has loaded one of the files is asked by whoever goes by that.
fn follow(trail: &Trail<'_>, folder: &Folder, look: &Look) -> Option<Before<Object>> {
    let around: Vec<Option<Directory>> = trail.around.iter().map(unchanged).collect();
    // All are opened before one is read: one call many times in a row finds what the kernel needs for it in the caches.
    let files: Vec<RegularFile> = trail.found.iter().map(|found| open(&found, &around)).collect::<Option<_>>()?;
    let count = files.len();
    if count == 0 {
        return None;
    }
    let mut members = Vec::with_capacity(count + trail.there.len());
    for (file, found) in files.into_iter().zip(trail.found.iter()) {
        members.push(Slot::New(Box::new(read(&found, file, folder)?)));
    }
    let (mut there, mut for_host) = (Vec::with_capacity(trail.there.len()), Vec::new());
    for name in &trail.there {
        if let Some(object) = look.by_name(name) {
            there.push(members.len());
            members.push(Slot::Known(object));
        } else {
            // What is the host's to bring is brought once.
            let name = OsStr::from_bytes(name);
            let part = for_host.iter().position(|part| part == name);
            there.push(lacking(part.unwrap_or_else(|| {
                for_host.push(PathBuf::from(name));
                for_host.len() - 1
            })));
        }
    }
    let mut needs = Needs::default();
    for number in trail.needs.iter() {
        match usize::from(number) {
            _ if number == END => needs.end(),
            number if number < count => needs.push(number),
            number => needs.push(*there.get(number - count)?),
        }
    }
    (needs.len() == count).then(|| Before::Elsewhere(Graph { members, needs, for_host }))
}

/// The directory, if it is as it was.
fn unchanged(around: &Around<'_>) -> Option<Directory> {
    let directory = Directory::open(Path::new(OsStr::from_bytes(&around.path)))?;
    (file_stamp(directory.stamp()?) == around.stamp).then_some(directory)
}

/// The file that was found, if it is still the same: where links led to, or led by them anew.
fn open(found: &Found<'_>, around: &[Option<Directory>]) -> Option<RegularFile> {
    let same = |file: &RegularFile| stamp(file) == found.file;
    let directory = around.get(usize::from(found.around)).and_then(Option::as_ref);
    let at_once = directory.and_then(|directory| directory.file(OsStr::from_bytes(&found.name)));
    at_once.filter(same).or_else(|| RegularFile::open(path(found)).ok().filter(same))
}

fn path<'a>(found: &'a Found<'_>) -> &'a Path {
    Path::new(OsStr::from_bytes(&found.path))
}

fn read(found: &Found<'_>, file: RegularFile, folder: &Folder) -> Option<New> {
    let start = folder.slot(&Wanted { id: found.library, len: found.room, align: 1 })?;
    let home = Home { start, library: found.library };
    let home = |_: &_, _: BuildId<'_>, len| (len == found.room).then_some(home);
    // What it needs is known by now, and what has search paths of its own is on no trail.
    let soname = Some(&*found.soname).filter(|name| !name.is_empty()).map(Into::into);
    let known = Known {
        names: Names { soname, ..Names::default() },
        head: &found.head,
        dynamic: &found.dynamic,
        arrays: (found.arrays_at, &found.arrays),
    };
    let image = Image::read_in_place(path(found).to_owned(), file, Some(known), &home).ok()?;
    image.check_loadable().ok()?;
    let rule = if found.cached == 1 { Rule::Cache { level: None } } else { Rule::AsGiven };
    let names = found.names.iter().map(Into::into).collect();
    Some(New { image, rule, lost: Vec::new(), names, origin: None, loaded_by: None })
}

/// The trail of an open that has found `group`; `None` if others may find something else: what each name means must follow
/// from `ld.so.cache` alone, or the name be a path; and from what is on the trail, so that who follows sees it if it means
/// something else by then. One file is found as fast without.
fn of<'a>(group: &'a Planned, members: &[Shareable], look: &Look) -> Option<Trail<'a>> {
    if members.len() < 2 {
        return None;
    }
    let (mut found, mut called) = (Vec::with_capacity(members.len()), BTreeSet::new());
    let around = Surroundings::of(group.new_members().map(|(_, (new, _))| new.image.path()));
    for ((_, (new, _)), member) in group.new_members().zip(members) {
        found.push(step(new, member, &around)?);
        called.extend(new.names.iter().map(|name| &**name).chain(new.image.soname()));
    }
    // By which name each of the others was needed.
    let others = group.members.iter().enumerate().filter_map(|(index, member)| match member {
        Slot::Known(object) => Some((index, object)),
        Slot::New(_) => None,
    });
    let others: Vec<(usize, &Object)> = others.collect();
    let mut needed_as: Vec<Option<&[u8]>> = vec![None; group.members.len()];
    for name in group.new_members().flat_map(|(_, (new, _))| new.image.needed()).filter(|name| !called.contains(name)) {
        let Some(object) = look.by_name(name) else {
            // Another object stands for it, or it leads to one by its file.
            look.in_place_of(name)?;
            continue;
        };
        let (index, _) = others.iter().find(|(_, other)| **other == object)?;
        if *needed_as[*index].get_or_insert(name) != name {
            return None;
        }
    }
    // The numbers of all members as the trail has them.
    let (mut numbers, mut there, mut needs) = (vec![None; group.members.len()], Vec::new(), Vec::new());
    for (number, (index, _)) in group.new_members().enumerate() {
        numbers[index] = Some(number);
    }
    for (index, _) in group.new_members() {
        for need in group.needs.of(index) {
            let number = match (numbers[*need], &group.members[*need]) {
                (Some(number), _) => number,
                (None, Slot::Known(object)) => {
                    let own = || object.soname().filter(|name| look.by_name(name).as_ref() == Some(object));
                    there.push(needed_as[*need].or_else(own)?.into());
                    found.len() + there.len() - 1
                }
                (None, Slot::New(_)) => return None,
            };
            numbers[*need] = Some(number);
            needs.push(u16::try_from(number).ok().filter(|number| *number != END)?);
        }
        needs.push(END);
    }
    Some(Trail { there, around: around.known, found: found.into(), needs: needs.into() })
}

/// The directories that many of the files are in: to look one up costs as much as the links of some files.
#[derive(Default)]
struct Surroundings<'a> {
    known: Vec<Around<'a>>,
    /// By path, with their numbers among these.
    directories: BTreeMap<&'a Path, (u16, Directory)>,
}

impl<'a> Surroundings<'a> {
    const MANY: usize = 4;

    fn of(files: impl Iterator<Item = &'a Path>) -> Self {
        let mut counts: BTreeMap<&Path, usize> = BTreeMap::new();
        files.filter_map(Path::parent).for_each(|path| *counts.entry(path).or_default() += 1);
        let mut all = Self::default();
        for (path, _) in counts.into_iter().filter(|(_, count)| *count >= Self::MANY) {
            let directory = Directory::open(path).filter(Directory::keeps_time);
            let Some((directory, stamp)) = directory.and_then(|own| own.stamp().map(|stamp| (own, stamp))) else {
                continue;
            };
            let (number, stamp) = (all.known.len() as u16, file_stamp(stamp));
            if rests(&stamp) && number < END {
                all.known.push(Around { path: path.as_os_str().as_bytes().into(), stamp });
                all.directories.insert(path, (number, directory));
            }
        }
        all
    }

    /// The number of the directory that `path` leads to, and the name of `file` there.
    fn find(&self, path: &Path, file: &FileStamp) -> Option<(u16, Vec<u8>)> {
        let (number, directory) = self.directories.get(path.parent()?)?;
        // If that leads on by another link, it is none that can be opened.
        let target = directory.target(path.file_name()?)?;
        let same = directory.file(&target).is_some_and(|found| stamp(&found) == *file);
        same.then(|| (*number, target.into_vec()))
    }
}

/// Whether the next change will be seen: what changes twice within one tick of the clock that file systems go by, some
/// milliseconds, has one time. Two seconds are far from that.
fn rests(stamp: &FileStamp) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
    stamp.modified.max(stamp.changed) < now - 2
}

/// How a member was found, if others find it so, too.
fn step<'a>(new: &'a New, member: &Shareable, around: &Surroundings<'_>) -> Option<Found<'a>> {
    let (path, soname) = (new.image.path(), new.image.soname());
    let has_paths = new.image.rpath().or(new.image.runpath()).is_some();
    if !new.lost.is_empty() || !path.is_absolute() || has_paths || soname == Some(b"") {
        return None;
    }
    let file_name = path.file_name()?.as_bytes();
    let cached = match &new.rule {
        Rule::AsGiven => false,
        Rule::Cache { level: None } if cached_for_all(file_name) => true,
        _ => return None,
    };
    // Another name may lead here by another path, of which nothing would be known.
    let leads_here = |name: &[u8]| match name.contains(&b'/') {
        true => path.as_os_str().as_bytes() == name,
        false => cached && file_name == name,
    };
    if !new.names.iter().all(|name| leads_here(name)) {
        return None;
    }
    let (head, dynamic, (arrays_at, arrays)) = pieces(&new.image);
    let (around, name) = around.find(path, &member.stamp).unwrap_or((END, Vec::new()));
    Some(Found {
        path: path.as_os_str().as_bytes().into(),
        around,
        name: name.into(),
        file: member.stamp,
        soname: soname.unwrap_or_default().into(),
        names: new.names.iter().map(|name| Cow::from(&**name)).collect::<Vec<_>>().into(),
        cached: u8::from(cached),
        library: member.wanted.id,
        room: member.wanted.len,
        head: head.into(),
        dynamic: dynamic.into(),
        arrays: arrays.into(),
        arrays_at,
    })
}

/// What the system says of a file.
pub(super) fn stamp(file: &RegularFile) -> FileStamp {
    file_stamp((file.identity, file.size, file.changed))
}

fn file_stamp((identity, size, changed): Stamp) -> FileStamp {
    let ((modified, modified_nanos), (changed, changed_nanos)) = (changed.content, changed.anything);
    let (device, inode) = (identity.device, identity.inode);
    FileStamp { device, inode, size, modified, modified_nanos, changed, changed_nanos }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::plan::Plan;
    use crate::loader;
    use crate::maps;
    use crate::process::module::Module;
    use crate::process::namespace::Namespace;
    use crate::process::registry;
    use crate::stages::Wish;
    use crate::sys::fault;

    fn library(name: &str) -> std::path::PathBuf {
        Path::new(env!("SOLOAD_TEST_LIBS")).join(name)
    }

    /// Opens, and answers the paths of all that this brings together, or the error; closes.
    fn objects(path: &Path, wishes: &Wishes) -> Result<Vec<String>, String> {
        let opened = loader::open(path.as_os_str(), wishes).map_err(|error| error.to_string())?;
        let paths = opened.scope.iter().map(|object| object.path().display().to_string()).collect();
        if let Object::Module(module) = opened.object {
            registry::release(module);
        }
        Ok(paths)
    }

    /// What is said of a file on a trail.
    fn found(path: &Path, folder: &mut Folder) -> Found<'static> {
        let image = Image::open(path).unwrap();
        let plan = Plan::of_segments(image.segments(), image.relro(), crate::sys::page_size()).unwrap();
        let Shareable { wanted, stamp, .. } = Shareable::of(0, &image, &plan).unwrap();
        folder.place(&[wanted]).unwrap();
        let (head, dynamic, (arrays_at, arrays)) = pieces(&image);
        assert!(head.len() > 64 && dynamic.len() > 64 && arrays.len() >= 16);
        Found {
            path: path.as_os_str().as_bytes().to_vec().into(),
            around: 0,
            name: path.file_name().unwrap().as_bytes().to_vec().into(),
            file: stamp,
            soname: image.soname().unwrap_or_default().to_vec().into(),
            names: vec![path.as_os_str().as_bytes().to_vec().into()].into(),
            cached: 0,
            library: wanted.id,
            room: wanted.len,
            head: head.into(),
            dynamic: dynamic.into(),
            arrays: arrays.into(),
            arrays_at,
        }
    }

    fn names(names: &[&'static [u8]]) -> Vec<Cow<'static, [u8]>> {
        names.iter().map(|name| Cow::from(*name)).collect()
    }

    /// Has the file of that number need these.
    fn needs(trail: &mut Trail<'_>, of: usize, numbers: Vec<u16>) {
        let all = std::mem::take(trail.needs.to_mut());
        let mut all: Vec<Vec<u16>> = all.split_inclusive(|number| *number == END).map(<[u16]>::to_vec).collect();
        all.resize(all.len().max(of + 1), vec![END]);
        all[of] = [numbers, vec![END]].concat();
        trail.needs = all.concat().into();
    }

    /// A trail that is wrong in one way.
    type Wrong = (&'static str, fn(&mut Trail<'_>));

    /// Of a trail of two steps, the first of which needs the second, and both something that is there.
    const WRONG: &[Wrong] = &[
        ("nothing at all", |trail| {
            *trail = Trail { found: Vec::new().into(), there: Vec::new(), around: Vec::new(), needs: Vec::new().into() }
        }),
        ("no files, and something that is there", |trail| trail.found = Vec::new().into()),
        ("what is there is something unknown", |trail| trail.there = names(&[b"libno-such.so"])),
        ("what is there has odd names", |trail| trail.there = names(&[b"", b"\0", b"\xff/\xff", b"$ORIGIN"])),
        ("what is there is there five thousand times", |trail| trail.there = vec![Cow::from(&b"libc.so.6"[..]); 5000]),
        ("what the host has to bring does not exist", |trail| trail.there = names(&[b"libnss_hesiod.so.2"])),
        ("what the host has to bring exists", |trail| trail.there = names(&[b"libm.so.6"])),
        ("the host has to bring much", |trail| trail.there = names(&[b"libm.so.6", b"libresolv.so.2", b"libm.so.6"])),
        ("a number one too high", |trail| needs(trail, 0, vec![1, 3])),
        ("the highest number", |trail| needs(trail, 1, vec![END - 1])),
        ("steps that need themselves", |trail| {
            needs(trail, 0, vec![0, 0, 1]);
            needs(trail, 1, vec![1, 1]);
        }),
        ("steps that need each other", |trail| needs(trail, 1, vec![0, 1, 2, 0])),
        ("a step that nobody needs", |trail| needs(trail, 0, vec![2])),
        ("a step that needs nothing", |trail| needs(trail, 1, Vec::new())),
        ("a need sixty thousand times", |trail| needs(trail, 0, vec![1; 60_000])),
        ("the first file twice", |trail| {
            let first = trail.found.to_mut()[0].clone();
            trail.found.to_mut()[1] = first;
        }),
        ("the second file twice", |trail| {
            let second = trail.found.to_mut()[1].clone();
            trail.found.to_mut().push(second);
            needs(trail, 0, vec![1, 2, 3]);
            needs(trail, 1, Vec::new());
            needs(trail, 2, Vec::new());
        }),
        ("one file five thousand times", |trail| {
            let second = trail.found.to_mut()[1].clone();
            trail.found.to_mut().extend(std::iter::repeat_n(second, 4998));
            needs(trail, 4999, Vec::new());
            needs(trail, 0, (1..5000).collect());
        }),
        ("no path", |trail| trail.found.to_mut()[1].path = (&b""[..]).into()),
        ("a path with a zero", |trail| trail.found.to_mut()[1].path.to_mut().insert(3, 0)),
        ("an odd path", |trail| trail.found.to_mut()[1].path = (&b"\xff\xfe"[..]).into()),
        ("a path that is too long", |trail| trail.found.to_mut()[1].path = vec![b'/'; 70_000].into()),
        ("a directory", |trail| trail.found.to_mut()[1].path = (&b"/"[..]).into()),
        ("a device", |trail| trail.found.to_mut()[1].path = (&b"/dev/zero"[..]).into()),
        ("this program", |trail| other(trail, "/proc/self/exe")),
        ("a file that is not ELF", |trail| other(trail, concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))),
        ("an empty file", |trail| other(trail, "/proc/self/environ")),
        ("the C library", |trail| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let libc = maps.lines().find(|line| line.ends_with("/libc.so.6")).unwrap();
            other(trail, &libc[libc.find('/').unwrap()..]);
        }),
        ("a stamp of zeros", |trail| trail.found.to_mut()[0].file = FileStamp { size: 0, ..first_stamp(trail) }),
        ("the name of the C library", |trail| trail.found.to_mut()[1].soname = (&b"libc.so.6"[..]).into()),
        ("odd names", |trail| {
            trail.found.to_mut()[1].soname = vec![0, 255, b'/', b'$'].into();
            trail.found.to_mut()[1].names = names(&[b"", b"\0", b"\xff", b"/", b"$ORIGIN/x"]).into();
        }),
        ("ten thousand names", |trail| {
            trail.found.to_mut()[1].names =
                (0..10_000).map(|n| n.to_string().into_bytes().into()).collect::<Vec<_>>().into();
        }),
        ("names that both have", |trail| {
            trail.found.to_mut().iter_mut().for_each(|step| step.soname = (&b"libsame.so"[..]).into());
        }),
        ("an odd rule", |trail| {
            trail.found.to_mut()[1].cached = 255;
            trail.found.to_mut()[0].cached = 1;
        }),
        ("another library", |trail| trail.found.to_mut()[0].library = [7; 32]),
        ("the other's library", |trail| {
            let library = trail.found.to_mut()[1].library;
            trail.found.to_mut()[0].library = library;
        }),
        ("no piece of a file", |trail| {
            let first = &mut trail.found.to_mut()[0];
            (first.head, first.dynamic, first.arrays) = Default::default();
        }),
        ("no arrays of functions", |trail| trail.found.to_mut()[0].arrays = Cow::default()),
        ("half a header", |trail| trail.found.to_mut()[0].head.to_mut().truncate(32)),
        ("half a table of program headers", |trail| trail.found.to_mut()[0].head.to_mut().truncate(64 + 3 * 56 + 20)),
        ("a start of zeros", |trail| trail.found.to_mut()[0].head.to_mut().fill(0)),
        ("program headers of ones", |trail| trail.found.to_mut()[0].head.to_mut()[64..].fill(0xff)),
        ("the other's start", |trail| {
            let head = trail.found.to_mut()[1].head.clone();
            trail.found.to_mut()[0].head = head;
        }),
        ("half a dynamic section", |trail| {
            let half = trail.found.to_mut()[0].dynamic.len() / 2;
            trail.found.to_mut()[0].dynamic.to_mut().truncate(half);
        }),
        ("a dynamic section of zeros", |trail| trail.found.to_mut()[0].dynamic.to_mut().fill(0)),
        ("a dynamic section of ones", |trail| trail.found.to_mut()[0].dynamic.to_mut().fill(0xff)),
        ("functions that are none", |trail| trail.found.to_mut()[0].arrays.to_mut().fill(0x11)),
        ("functions elsewhere", |trail| trail.found.to_mut()[0].arrays_at = u64::MAX - 3),
        ("no directory", |trail| trail.around = Vec::new()),
        ("a directory of a number that there is not", |trail| trail.found.to_mut()[1].around = 1),
        ("no name in the directory", |trail| trail.found.to_mut()[1].name = Cow::default()),
        ("the other's name in the directory", |trail| {
            let name = trail.found.to_mut()[1].name.clone();
            trail.found.to_mut()[0].name = name;
        }),
        ("odd names in the directory", |trail| {
            trail.found.to_mut()[0].name = (&b".."[..]).into();
            trail.found.to_mut()[1].name = (&b"\xff\0/"[..]).into();
        }),
        ("a path in the directory", |trail| trail.found.to_mut()[1].name = trail.found.to_mut()[1].path.clone()),
        ("a directory that is a file", |trail| trail.around[0].path = trail.found.to_mut()[0].path.clone()),
        ("a directory with a zero in it", |trail| trail.around[0].path.to_mut().insert(3, 0)),
        ("a directory as it was once", |trail| trail.around[0].stamp.changed -= 1),
        ("another directory", |trail| trail.around[0].path = (&b"/"[..]).into()),
        ("one directory ten thousand times", |trail| trail.around = vec![trail.around[0].clone(); 10_000]),
        ("less room than it takes", |trail| trail.found.to_mut()[0].room -= 4096),
    ];

    fn first_stamp(trail: &Trail<'_>) -> FileStamp {
        trail.found.iter().next().unwrap().file
    }

    /// Has the second step lead to another file, which has that stamp.
    fn other(trail: &mut Trail<'_>, path: &str) {
        let step = &mut trail.found.to_mut()[1];
        step.path = path.as_bytes().to_vec().into();
        step.file = stamp(&RegularFile::open(Path::new(path)).unwrap());
        step.soname = (&b""[..]).into();
    }

    #[test]
    fn a_trail_that_is_sealed_and_makes_no_sense_is_not_gone_by_or_does_no_harm() {
        if !fault::alone(
            "stages::trail::tests::a_trail_that_is_sealed_and_makes_no_sense_is_not_gone_by_or_does_no_harm",
        ) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let wishes = Wishes { sharing: Wish::Folder(directory.path().to_owned()), ..Wishes::default() };
        let (first, second) = (library("librelr.so"), library("libbss.so"));
        let plainly = objects(&first, &wishes).unwrap();
        let mut folder = Folder::open(directory.path()).unwrap();
        let look = Look::now(Namespace::BASE);
        let name = first.as_os_str();
        let start = look.start().skip(1).map(|object| object.path().as_os_str().as_bytes());
        let cache = cache_alone(name, &wishes, &look).map(file_stamp).unwrap();
        let key = trail_key(name.as_bytes(), &cache, start);
        let beside = first.parent().unwrap();
        let around = Around {
            path: beside.as_os_str().as_bytes().to_vec().into(),
            stamp: Directory::open(beside).and_then(|beside| beside.stamp()).map(file_stamp).unwrap(),
        };
        let made = Trail {
            there: names(&[b"libc.so.6"]),
            around: vec![around],
            found: vec![found(&first, &mut folder), found(&second, &mut folder)].into(),
            needs: vec![1, 2, END, 2, END].into(),
        };
        let taught = [&plainly[..1], &[second.display().to_string()], &plainly[1..]].concat();
        folder.leave(&key, &made).unwrap();
        // It is gone by, though no file says that the one needs the other; not by who has just made a snapshot.
        assert_eq!(objects(&first, &wishes).unwrap(), plainly);
        folder.leave(&key, &made).unwrap();
        assert_eq!(objects(&first, &wishes).unwrap(), taught);

        // Whichever system call fails on the way, nothing stays.
        let before = maps::address_space();
        let mut calls = 0;
        loop {
            folder.leave(&key, &made).unwrap();
            fault::SUCCEED.set(Some(calls));
            let found = objects(&first, &wishes);
            fault::SUCCEED.set(None);
            maps::assert_same_address_space(&before, &format!("call {calls} failing"));
            calls += 1;
            if found.as_ref() == Ok(&taught) {
                break;
            }
            assert!(found.as_ref().is_ok_and(|found| *found == plainly) || found.is_err(), "{found:?}");
        }
        assert!(calls > 10, "{calls} calls were walked");

        for (what, wrong) in WRONG {
            let mut trail = made.clone();
            wrong(&mut trail);
            for _ in 0..2 {
                folder.leave(&key, &trail).unwrap();
                let found = objects(&first, &wishes);
                assert_eq!(found.as_ref().map(|found| &found[0]), Ok(&plainly[0]), "{what}");
                assert_eq!(registry::state().modules().map(Module::path).count(), 0, "{what}");
            }
            // Whatever came of it, one that is right is gone by, though a snapshot may have to be made anew; and without one it
            // is found.
            folder.leave(&key, &made).unwrap();
            let found = objects(&first, &wishes).unwrap();
            assert!(found == taught || found == plainly, "after {what}: {found:?}");
            folder.leave(&key, &made).unwrap();
            assert_eq!(objects(&first, &wishes).unwrap(), taught, "after {what}");
            std::fs::remove_file(directory.path().join(format!("{}.trail", blake3::Hash::from_bytes(key).to_hex())))
                .unwrap();
            assert_eq!(objects(&first, &wishes).unwrap(), plainly, "after {what}");
        }
    }
}
