//! Sealing: resolvers decide, thread-local storage is got, functions are checked, and pages become read-only.

use std::borrow::Cow;
use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::bind::{Bound, Scope, Source, Stubs};
use super::map::Mapped;
use crate::addr::{Addr, Vaddr};
use crate::arch::{Kind, native};
use crate::error::{At, Error, ErrorKind};
use crate::file::dynamic::{Dynamic, Stated};
use crate::file::elf::ProgramHeader;
use crate::file::plan::Plan;
use crate::guard::{Lease, Part};
use crate::load::call::{Arrays, Code, Functions};
use crate::load::group::{Group, Slot};
use crate::load::map::MappedImage;
use crate::load::relocate::ThreadLocal;
use crate::load::seal as sealing;
use crate::load::unique::UniqueSymbols;
use crate::process::hooks;
use crate::process::module::Object;
use crate::process::storage::{Place, Storage, Template, thread_local_address};
use crate::process::unwind::{self, Frames};
use crate::sys;

/// A group of which nothing is left to do but to be seen.
pub(crate) struct SealedGroup {
    pub(super) group: Relocated,
    pub(super) scope: Scope,
    /// By their numbers as providers.
    pub(super) unique: UniqueSymbols,
}

/// Lets IFUNC resolvers decide, gets thread-local storage, checks the functions that will be called, and makes read-only
/// what may be.
pub(crate) fn seal(bound: Bound) -> Result<SealedGroup, Error> {
    let Bound { mut group, scope, unique, stubs, .. } = bound;
    resolve(&group, &scope, stubs)?;
    store(&mut group, &scope)?;
    let mut functions = Vec::with_capacity(group.members.len());
    for (_, mapped) in group.new_members() {
        let anywhere = |addr| (0..scope.sources.len()).any(|provider| is_code(&group, &scope, provider, addr));
        let checked = mapped.functions(|addr| mapped.mapping.is_code(addr) || anywhere(addr));
        functions.push(checked.map_err(|kind| Error::new(mapped.new.image.path(), kind))?);
    }
    for (mapped, functions) in group.new_members_mut().zip(functions) {
        mapped.functions = functions;
        // SAFETY: they are mapped as sealing has left them, and as long: the lease is dropped before the mapping, as the
        // frames are. No code of the object runs yet.
        let hold = || unsafe { Lease::hold(mapped.new.image.file(), || mapped.parts_of_file()) };
        let lease = mapped.mapping.seal().and_then(|()| hold());
        mapped.lease = lease.map_err(|kind| Error::new(mapped.new.image.path(), kind))?;
    }
    tell_the_unwinder(&mut group);
    Ok(SealedGroup { group, scope, unique })
}

/// Has the unwinder know the frames of all members, unless it asks us. Nothing fails any more that would unmap them first.
fn tell_the_unwinder(group: &mut Relocated) {
    if unwind::asks_us() {
        return;
    }
    let begin = |mapped: &Mapped| {
        let Mapped { new, mapping, .. } = mapped;
        let start = new.image.frames(&MappedImage { mapping, image: &new.image })?;
        Some(mapping.bias().at(start))
    };
    let all: Vec<_> = group.new_members().map(|(_, mapped)| begin(mapped)).collect();
    // SAFETY: they are whole, and mapped there; `Mapped`, and then `Module`, drop the frames before the mapping.
    let registered = unsafe { Frames::register(&all) };
    for (mapped, frames) in group.new_members_mut().zip(registered) {
        mapped.frames = frames;
    }
}

type Relocated = Group<Object, Box<Mapped>>;

/// Whether `addr` is code of provider number `provider`.
fn is_code(group: &Relocated, scope: &Scope, provider: usize, addr: Addr) -> bool {
    match scope.sources.get(provider) {
        Some(Source::Object(object)) => object.is_code(addr),
        Some(Source::Member(index)) => {
            matches!(&group.members[*index], Slot::New(mapped) if mapped.mapping.is_code(addr))
        }
        None => false,
    }
}

/// Writes the words that IFUNC resolvers decide, an object's after those of all it needs. First those of stubs, whose
/// resolvers are the host's and need nothing of ours.
fn resolve(group: &Relocated, scope: &Scope, stubs: Option<Stubs>) -> Result<(), Error> {
    let mut answers = sealing::Answers::new();
    if let Some(Stubs { mapping, pending }) = stubs {
        let is_code = |provider, addr| is_code(group, scope, provider, addr);
        sealing::resolve(&mapping, false, &pending, &mut answers, is_code, hooks::resolve)
            .and_then(|()| mapping.seal())
            .map_err(|kind| Error::new("stubs", kind))?;
    }
    for &index in &group.order {
        let Slot::New(mapped) = &group.members[index] else { continue };
        let image = &mapped.new.image;
        let is_code = |provider, addr| is_code(group, scope, provider, addr);
        let text = image.has_text_relocations();
        sealing::resolve(&mapped.mapping, text, &mapped.outcome.pending, &mut answers, is_code, hooks::resolve)
            .map_err(|kind| Error::new(image.path(), kind))?;
    }
    Ok(())
}

/// Gets thread-local storage for the members that have some, and writes the words that say where it is.
///
/// After the resolvers: glibc hands the initial image to all threads at once, so it has to be complete.
fn store(group: &mut Relocated, scope: &Scope) -> Result<(), Error> {
    let is_plain = |mapped: &Mapped| mapped.thread_local().is_none() && mapped.outcome.thread_local.is_empty();
    if group.new_members().all(|(_, mapped)| is_plain(mapped)) {
        return Ok(());
    }
    // By provider: whether one offset for all threads is counted on, and what descriptors are wanted.
    let mut wants: Vec<(bool, BTreeSet<u64>)> = scope.sources.iter().map(|_| Default::default()).collect();
    for (_, mapped) in group.new_members() {
        for word in &mapped.outcome.thread_local {
            match word.kind {
                Kind::ThreadOffset => wants[word.provider].0 = true,
                Kind::TlsDescriptor => drop(wants[word.provider].1.insert(word.offset)),
                _ => {}
            }
        }
    }
    let mut of_member = |index: usize| {
        let is_it = |source: &Source| matches!(source, Source::Member(member) if *member == index);
        scope.sources.iter().position(is_it).map(|provider| std::mem::take(&mut wants[provider])).unwrap_or_default()
    };
    let mut templates = Vec::new();
    for (index, mapped) in group.new_members() {
        if let Some(block) = mapped.thread_local() {
            let (needs_static, descriptors) = of_member(index);
            templates.push(Template {
                image: mapped.mapping.copy(block.vaddr, block.file_size),
                size: block.memory_size,
                align: block.align,
                skew: block.vaddr.0 % block.align.max(1),
                needs_static,
                descriptors: descriptors.into_iter().collect(),
            });
        }
    }
    let mut storages = Storage::for_all(&templates).into_iter();
    for mapped in group.new_members_mut().filter(|mapped| mapped.thread_local().is_some()) {
        let storage = storages.next().transpose();
        mapped.storage = storage.map_err(|kind| Error::new(mapped.new.image.path(), kind))?.map(Box::new);
    }
    // What was there before may have to be found anew.
    let places: Vec<Result<Place, String>> = scope
        .sources
        .iter()
        .zip(wants)
        .map(|(source, (needs_static, descriptors))| match source {
            Source::Object(Object::Module(module)) if needs_static || !descriptors.is_empty() => {
                let storage = module.storage.as_ref().ok_or_else(String::new)?;
                storage.place_for(needs_static, &Vec::from_iter(descriptors))
            }
            _ => Ok(Place::default()),
        })
        .collect();
    for (_, mapped) in group.new_members() {
        let outcome = &mapped.outcome;
        let offsets = outcome.thread_local.iter().filter(|word| word.kind == Kind::TlsOffset);
        let offsets: BTreeSet<Vaddr> = offsets.map(|word| word.place).collect();
        for word in &outcome.thread_local {
            let written = Block::of(group, scope, &places, word).and_then(|block| {
                block.write(mapped, word)?;
                // Of a pair for its own variables the linker has filled in the offset, counted from the object's block.
                let second = Vaddr(word.place.0.wrapping_add(8));
                if word.kind == Kind::TlsModule && block.shift != 0 && !offsets.contains(&second) {
                    let offset = mapped.mapping.read(second, 8)?;
                    mapped.mapping.write(second, 8, offset.wrapping_add(block.shift))?;
                }
                Ok(())
            });
            written.map_err(|kind| Error::new(mapped.new.image.path(), kind))?;
        }
    }
    Ok(())
}

/// Where the thread-local block of an object is.
struct Block<'a> {
    module: usize,
    /// Where it starts in that module's storage.
    shift: u64,
    /// What is known of its place, or why it is not.
    place: Result<Cow<'a, Place>, &'a str>,
}

impl<'a> Block<'a> {
    /// The block of the object that `word` refers to.
    fn of(
        group: &'a Relocated,
        scope: &'a Scope,
        places: &'a [Result<Place, String>],
        word: &ThreadLocal,
    ) -> Result<Self, ErrorKind> {
        let mut place = None;
        let storage = match &scope.sources[word.provider] {
            // What the program started with has its block at one offset in all threads.
            Source::Object(Object::Host(host)) if host.tls_module != 0 => {
                let from_here = || thread_local_address(host.tls_module, 0).0.wrapping_sub(native::thread_pointer());
                let offset = host.at_start.then(|| from_here() as u64);
                let place = Place { offset, ..Place::default() };
                return Ok(Self { module: host.tls_module, shift: 0, place: Ok(Cow::Owned(place)) });
            }
            Source::Object(Object::Host(_)) => None,
            Source::Object(Object::Module(module)) => {
                place = Some(places[word.provider].as_ref());
                module.storage.as_deref()
            }
            Source::Member(index) => match &group.members[*index] {
                Slot::New(mapped) => mapped.storage.as_deref(),
                Slot::Known(_) => None,
            },
        };
        let storage = storage.ok_or_else(|| {
            let expected = "a thread-local block (PT_TLS) in the object that has the symbol";
            ErrorKind::malformed("thread-local reference", At::Vaddr(word.place), expected, "none")
        })?;
        let place = place.unwrap_or(Ok(&storage.place)).map(Cow::Borrowed).map_err(String::as_str);
        Ok(Self { module: storage.module, shift: storage.shift, place })
    }

    /// Writes what `word` asks for.
    fn write(&self, mapped: &Mapped, word: &ThreadLocal) -> Result<(), ErrorKind> {
        let write = |at: u64, value: u64| mapped.mapping.write(Vaddr(word.place.0.wrapping_add(at)), 8, value);
        let refused = |why: &str| ErrorKind::ThreadLocal {
            what: format!(
                "the reference at address {}: expected a block at one offset in all threads, found one made on demand{why}",
                word.place
            ),
        };
        let place = || self.place.as_ref().map_err(|says| refused(&format!("; the C library says: {says}")));
        let offset = || place()?.offset.ok_or_else(|| refused(""));
        match word.kind {
            Kind::TlsModule => write(0, self.module as u64),
            Kind::TlsOffset => write(0, word.offset.wrapping_add(self.shift)),
            Kind::ThreadOffset => write(0, offset()?.wrapping_add(word.offset)),
            // glibc's own descriptor where it has made one; otherwise the one for blocks at a fixed offset.
            _ => {
                let made = place()?.descriptors.get(&word.offset).copied();
                let fixed = || Ok((native::static_descriptor() as u64, offset()?.wrapping_add(word.offset)));
                let (function, argument) = made.map_or_else(fixed, Ok)?;
                write(0, function)?;
                write(8, argument)
            }
        }
    }
}

impl Mapped {
    /// Its thread-local block, unless that is empty.
    fn thread_local(&self) -> Option<&ProgramHeader> {
        self.new.image.tls_header().filter(|header| header.memory_size > 0)
    }

    /// The pages that come from the file, as they are mapped now.
    fn parts_of_file(&self) -> impl Iterator<Item = Part> {
        let (image, bias) = (&self.new.image, self.mapping.bias());
        let plan = || Plan::of_segments(image.segments(), image.relro(), sys::page_size());
        let parts = std::iter::once_with(plan).flatten().flat_map(|plan| plan.file_parts());
        parts.map(move |(range, protection)| Part { range: bias.at(range.start)..bias.at(range.end), protection })
    }

    /// Constructors and destructors in the order in which they run (gABI chapter 5, "Initialization and Termination").
    ///
    /// The words of the arrays may be known without reading them.
    fn functions(&self, is_code: impl Fn(Addr) -> bool) -> Result<Functions, ErrorKind> {
        let Some(dynamic) = self.new.image.dynamic() else { return Ok(Default::default()) };
        let bias = self.mapping.bias();
        let read;
        let arrays = match &self.outcome.arrays {
            Some(known) => known,
            None => {
                read = self.arrays(dynamic);
                &read
            }
        };
        let add = |all: &mut SmallVec<_>, what: &str, addr: usize| {
            // 0 and -1 are what old linkers put around lists of functions.
            if !matches!(addr, 0 | usize::MAX) {
                let expected = "the address of a function in an executable segment";
                let not_code = || ErrorKind::malformed(what, At::Object, expected, bias.vaddr(Addr(addr)));
                all.push(Code::at(Addr(addr), &is_code).ok_or_else(not_code)?);
            }
            Ok(())
        };
        let single = |at: Stated| at.get().filter(|at| *at != 0).map_or(0, |at| bias.at(Vaddr(at)).0);
        let mut all = SmallVec::with_capacity(2 + arrays.words.len());
        if !arrays.idle {
            add(&mut all, "DT_INIT", single(dynamic.init))?;
        }
        for word in arrays.init() {
            add(&mut all, "DT_INIT_ARRAY", *word)?;
        }
        let constructors = all.len();
        for word in arrays.fini().iter().rev() {
            add(&mut all, "DT_FINI_ARRAY", *word)?;
        }
        add(&mut all, "DT_FINI", single(dynamic.fini))?;
        Ok(Functions::new(all, constructors))
    }

    /// The arrays of functions to run, as their words say.
    fn arrays(&self, dynamic: &Dynamic) -> Arrays {
        let array = |at: Stated, size: Stated| {
            let size = at.get().and(size.get()).unwrap_or(0);
            self.mapping.words(at.get().unwrap_or(0), size)
        };
        let (init, fini) =
            (array(dynamic.init_array, dynamic.init_arraysz), array(dynamic.fini_array, dynamic.fini_arraysz));
        // Collected, they would take room for as many as a power of two.
        let (inits, mut words) = (init.len(), SmallVec::with_capacity(init.len() + fini.len()));
        words.extend(init.chain(fini));
        Arrays { idle: false, inits, words }
    }
}
