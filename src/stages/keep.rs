//! Keeping: the pages of a group that has just been bound, and what other processes must know to use them.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use super::adopt;
use super::bind::{Bound, Source};
use super::gather::{self, Call, Gathered};
use super::map::Mapped;
use super::sharing::{Deal, Shareable};
use crate::addr::{Addr, Vaddr};
use crate::arch::{Kind, idle};
use crate::file::plan::{Plan, PlannedMap};
use crate::file::symbols::Symbol;
use crate::load::group::Slot;
use crate::load::relocate::{Foreign, Pending};
use crate::load::scope::{Definition, Provider};
use crate::process::module::Object;
use crate::snapshot::{
    AS_IT_IS, Function, HostWord, IDLE, IN_PLACE, ImportWord, LOADER, List, Manifest, Member, Pages, Refusal,
    ResolvedWord, ThreadLocalWord, Unique, content_hash, encode, key, kind_number,
};
use crate::sys;

/// The key and the bytes of the snapshot of `bound`, none of whose code has run yet.
pub(super) fn snapshot(bound: &Bound, deal: &Deal, secret: &[u8; 32]) -> Result<([u8; 32], Vec<u8>), Refusal> {
    let mut keeping =
        Keeping { bound, deal, names: Vec::new(), functions: HashMap::new(), calls: Vec::new(), pages: Vec::new() };
    let unique = keeping.unique()?;
    let mut members = Vec::with_capacity(deal.members.len());
    let mut plans = Vec::with_capacity(deal.members.len());
    for (own, (_, mapped)) in deal.members.iter().zip(bound.group.new_members()) {
        let image = &mapped.new.image;
        let plan = Plan::of_segments(image.segments(), image.relro(), sys::page_size());
        let plan = plan.map_err(|kind| Refusal::unsuitable(image.path(), kind))?;
        members.push(keeping.member(own, mapped, &plan)?);
        plans.push(plan);
    }
    let (functions, gathered) = gather::gather(&mut members, &keeping.calls, sys::page_size().bytes());
    let of_members = plans.iter().zip(bound.group.new_members()).zip(&mut members).zip(&gathered);
    for (((plan, (_, mapped)), member), gathered) in of_members {
        keeping.pages(plan, mapped, member, gathered);
    }
    let Keeping { names, pages, .. } = keeping;
    let (scope, functions) = (Cow::Borrowed(&*deal.fits), functions.into());
    let (members, names, unique) = (members.into(), names.into(), unique.into());
    let manifest = Manifest { scope, members, names, unique, functions };
    Ok((key(&deal.fits), encode(manifest, sys::page_size().bytes() as u32, &pages, secret)))
}

/// Bytes of zeros that a snapshot has pages for: it costs less to map them with what they are behind than by themselves.
const ZEROS_MAX: u64 = 4 * 4096;

/// The mappings of a plan that relocation writes to, and few zeros behind them: their numbers and addresses.
pub(super) fn writable(plan: &Plan) -> impl Iterator<Item = (u32, &Range<Vaddr>)> {
    let maps = plan.maps();
    let few = |number: usize, zeros: &PlannedMap| {
        let behind = number.checked_sub(1).and_then(|before| maps.get(before));
        behind.is_some_and(|before| before.header == zeros.header)
            && zeros.range.end.0 - zeros.range.start.0 <= ZEROS_MAX
    };
    let kept =
        move |(number, map): &(usize, &PlannedMap)| map.protection.write && (map.file.is_some() || few(*number, map));
    maps.iter().enumerate().filter(kept).map(|(number, map)| (number as u32, &map.range))
}

/// What an object defines, with the numbers of the symbols.
fn symbols<'a>(object: &Provider<'a>) -> impl Iterator<Item = (u32, Symbol)> + 'a {
    let symbols = object.symbols;
    let all = (0..symbols.count()).filter_map(|index| Some((index, symbols.get(index)?)));
    all.filter(|(_, symbol)| symbol.is_defined())
}

struct Keeping<'a> {
    bound: &'a Bound,
    deal: &'a Deal,
    /// Functions that libraries get from the loader.
    names: Vec<Cow<'static, [u8]>>,
    /// Symbols of functions by what they say, and whether that is a resolver, for each provider that was asked for.
    functions: HashMap<usize, HashMap<(Addr, bool), u32>>,
    /// Words that serve for nothing but calls of the host or the loader, of each member so far.
    calls: Vec<Vec<Call>>,
    pages: Vec<u8>,
}

impl<'a> Keeping<'a> {
    fn member(&mut self, own: &Shareable, mapped: &Mapped, plan: &Plan) -> Result<Member<'static>, Refusal> {
        let Mapped { new, outcome, .. } = mapped;
        let image = &new.image;
        let unread = |error| Refusal::unsuitable(image.path(), format_args!("it cannot be read: {error}"));
        let mut member = Member {
            path: Cow::Owned(image.path().as_os_str().as_bytes().to_vec()),
            file: own.stamp,
            content: content_hash(&image.file().fd).map_err(unread)?,
            start: mapped.mapping.range().start.0 as u64,
            pages: List::default(),
            bound_to: List::default(),
            host: List::default(),
            imports: List::default(),
            resolved: List::default(),
            thread_local: List::default(),
            idle: 0,
            init: List::default(),
            fini: List::default(),
        };
        for number in outcome.bound_to.iter() {
            member.bound_to.to_mut().push(self.canonical(number)?);
        }
        // What is not on pages of a file is not in the snapshot.
        let mut called = gather::called(mapped);
        called.retain(|place| writable(plan).any(|(_, range)| range.contains(&Vaddr(*place))));
        let mut calls = Vec::new();
        for word in &outcome.foreign {
            let function = self.foreign(word, mapped, &mut member)?.filter(|_| called.contains(&word.place.0));
            calls.extend(function.map(|function| Call { place: word.place.0, function }));
        }
        member.host.to_mut().sort_by_key(|word| (word.provider, word.place));
        let numbers = Numbers::of(mapped);
        for word in &outcome.pending {
            let resolved = self.resolved(word, &numbers)?;
            let of_host = matches!(self.bound.scope.sources[word.provider], Source::Object(Object::Host(_)));
            if of_host && resolved.symbol == 1 && word.plus == 0 && called.contains(&word.place.0) {
                let function = Function { provider: resolved.provider, number: resolved.number };
                calls.push(Call { place: word.place.0, function });
            }
            member.resolved.to_mut().push(resolved);
        }
        self.calls.push(calls);
        for word in &outcome.thread_local {
            let kind = kind_number(word.kind)
                .ok_or_else(|| Refusal::unsuitable(image.path(), "a thread-local reference of a rare kind"))?;
            let provider = self.canonical(word.provider)?;
            member.thread_local.to_mut().push(ThreadLocalWord {
                place: word.place.0,
                offset: word.offset,
                provider,
                kind,
            });
        }
        if let Some(dynamic) = image.dynamic() {
            let others = |place: u64| member.words().any(|(_, at, bytes)| at < place + 8 && place < at + bytes);
            let is_zero =
                |place: u64| mapped.mapping.read(Vaddr(place), 8).is_ok_and(|word| word == 0) && !others(place);
            let code = |at: u64, len: usize| image.bytes_at(Vaddr(at), len).map(Cow::into_owned);
            let idle = |at: Vaddr| idle::does_nothing(at.0, &code, &is_zero);
            let own = dynamic.init.get().is_some_and(|at| idle(Vaddr(at)));
            let init = numbers.functions(mapped, dynamic.init_array.get(), dynamic.init_arraysz.get(), &idle)?;
            member.fini =
                numbers.functions(mapped, dynamic.fini_array.get(), dynamic.fini_arraysz.get(), &|_| false)?;
            (member.idle, member.init) = (own.into(), init);
        }
        Ok(member)
    }

    /// Copies the pages that relocation has written to, without the words that other processes write themselves, and with
    /// the addresses of stubs in the words that lead to such.
    fn pages(&mut self, plan: &Plan, mapped: &Mapped, member: &mut Member<'_>, gathered: &Gathered) {
        for (number, range) in writable(plan) {
            let (at, len) = (self.pages.len(), range.end.0 - range.start.0);
            self.pages.extend(mapped.mapping.copy(range.start, len));
            let imports = member.imports.iter().map(|word| word.place);
            for place in member.host.iter().map(|word| word.place.into()).chain(imports) {
                // A word may lie across the end of a mapping: the bytes that are here.
                for byte in place..place.saturating_add(8) {
                    if range.contains(&Vaddr(byte)) {
                        self.pages[at + (byte - range.start.0) as usize] = 0;
                    }
                }
            }
            for (place, stub) in gathered.iter().filter(|(place, _)| range.contains(&Vaddr(*place))) {
                let at = at + (place - range.start.0) as usize;
                self.pages[at..at + 8].copy_from_slice(&gather::address(self.deal.stubs, *stub).to_le_bytes());
            }
            member.pages.to_mut().push(Pages { map: number, offset: at as u64, len });
        }
    }

    fn object(&self, number: usize) -> Option<Provider<'a>> {
        match self.bound.scope.sources.get(number)? {
            Source::Object(object) => object.provider(),
            Source::Member(index) => match &self.bound.group.members[*index] {
                Slot::New(mapped) => Some(mapped.provider()),
                Slot::Known(_) => None,
            },
        }
    }

    /// A provider's number in the snapshot.
    fn canonical(&self, number: usize) -> Result<u16, Refusal> {
        let known = self.deal.numbers.binary_search(&number).ok().map(|at| at as u16);
        known.ok_or_else(|| Refusal::Unsuitable("it is bound to an object that has no definitions".into()))
    }

    /// Notes a word that would be another one in another process. Answers the function that it is the address of, if it is.
    fn foreign(
        &mut self,
        word: &Foreign,
        mapped: &Mapped,
        member: &mut Member<'_>,
    ) -> Result<Option<Function>, Refusal> {
        let unsuitable = |why: &str| Err(Refusal::unsuitable(mapped.new.image.path(), why));
        let Definition { provider: number, symbol, value } = word.definition;
        let now = (value.0 as u64).wrapping_add(word.plus);
        if word.bytes != 8 || mapped.mapping.read(word.place, 8).ok() != Some(now) {
            return unsuitable("a word that refers to the host is smaller than an address, or is written twice");
        }
        let place = word.place.0;
        if let Some(Source::Object(Object::Host(host))) = self.bound.scope.sources.get(number) {
            let provider = self.canonical(number)?;
            let below = |what: &str, found: u64| {
                let why = || format!("{what}: expected less than 4 GiB from where the object begins, found {found:#x}");
                u32::try_from(found).map_err(|_| Refusal::unsuitable(mapped.new.image.path(), why()))
            };
            let place = below("place of a word that refers to the host", place)?;
            let value = below("what a word refers to in the host", now.wrapping_sub(host.bias.get() as u64))?;
            member.host.to_mut().push(HostWord { place, value, provider });
            let function = self.function(number, (Addr(now as usize), false));
            return Ok(function.map(|number| Function { provider, number }));
        }
        let name = mapped.symbols.name(&symbol).map(|name| name.text).unwrap_or_default();
        if (self.bound.scope.imports)(name) != Some(value) {
            return unsuitable("it refers to a definition that only the C library's loader sees");
        }
        let known = self.names.iter().position(|known| **known == *name);
        let name = known.unwrap_or_else(|| {
            self.names.push(Cow::Owned(name.to_vec()));
            self.names.len() - 1
        });
        member.imports.to_mut().push(ImportWord { place, plus: word.plus, name: name as u32 });
        Ok((word.plus == 0).then_some(Function { provider: LOADER, number: name as u32 }))
    }

    /// The number of the symbol by which a provider has a function, or the resolver of one, at that address.
    fn function(&mut self, provider: usize, wanted: (Addr, bool)) -> Option<u32> {
        let object = self.object(provider);
        let of_provider = self.functions.entry(provider).or_insert_with(|| {
            // Of several names the first, so that the snapshot is the same each time.
            let mut found = HashMap::new();
            for (object, (index, symbol)) in
                object.iter().flat_map(|object| symbols(object).map(move |of| (object, of)))
            {
                if gather::is_function(&symbol) {
                    found.entry((object.address(&symbol), symbol.is_ifunc())).or_insert(index);
                }
            }
            found
        });
        of_provider.get(&wanted).copied()
    }

    fn resolved(&mut self, word: &Pending, numbers: &Numbers) -> Result<ResolvedWord, Refusal> {
        let provider = self.canonical(word.provider)?;
        let (place, plus, bytes) = (word.place.0, word.plus, word.bytes);
        if let Some((number, Kind::Irelative)) = numbers.0.get(&place) {
            return Ok(ResolvedWord { place, plus, bytes, provider, number: *number, symbol: 0 });
        }
        match self.function(word.provider, (word.resolver, true)) {
            Some(number) => Ok(ResolvedWord { place, plus, bytes, provider, number, symbol: 1 }),
            None => Err(Refusal::Unsuitable("a resolver that has no symbol".into())),
        }
    }

    /// All unique symbols that the group uses, in order of their names.
    fn unique(&self) -> Result<Vec<Unique<'static>>, Refusal> {
        let settled = self.bound.settled.iter().map(|(own, another)| (*own, *another));
        let mut unique = Vec::new();
        for (own, another) in self.bound.unique.iter().map(|own| (own, false)).chain(settled) {
            let object = self.object(own.owner as usize);
            let name = object.and_then(|object| Some(own.name(object.symbols)?.to_vec()));
            let name = name.ok_or_else(|| Refusal::Unsuitable("a unique symbol that cannot be read".into()))?;
            if another {
                let name = crate::Escaped(&name);
                let why = format!("unique symbol {name} is that of a library that was loaded before");
                return Err(Refusal::Unsuitable(why));
            }
            let provider = self.canonical(own.owner as usize)?;
            unique.push(Unique { name: Cow::Owned(name), provider, symbol: own.index });
        }
        unique.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(unique)
    }
}

/// The relocations that write words of which more must be known than their value, by place.
struct Numbers(HashMap<u64, (u32, Kind)>);

impl Numbers {
    fn of(mapped: &Mapped) -> Self {
        let dynamic = mapped.new.image.dynamic();
        let array = |at: Option<u64>, size: Option<u64>| at.map_or(0..0, |at| at..at.saturating_add(size.unwrap_or(0)));
        let arrays = dynamic.map(|own| {
            [array(own.init_array.get(), own.init_arraysz.get()), array(own.fini_array.get(), own.fini_arraysz.get())]
        });
        let pending: HashSet<u64> = mapped.outcome.pending.iter().map(|word| word.place.0).collect();
        let wanted = |place: u64| pending.contains(&place) || arrays.iter().flatten().any(|own| own.contains(&place));
        let all = mapped.relocations.numbered().filter(|(_, relocation)| wanted(relocation.place.0));
        let known =
            all.filter_map(|(number, own)| Some((own.place.0, (u32::try_from(number).ok()?, adopt::kind(own.what)?))));
        Self(known.collect())
    }

    /// For each word of an array of functions where it comes from.
    fn functions(
        &self,
        mapped: &Mapped,
        at: Option<u64>,
        size: Option<u64>,
        idle: &dyn Fn(Vaddr) -> bool,
    ) -> Result<List<'static, u32>, Refusal> {
        let Some(at) = at else { return Ok(List::default()) };
        let words: Vec<usize> = mapped.mapping.words(at, size.unwrap_or(0)).collect();
        let in_file = adopt::words_in_file(mapped, at, words.len());
        let in_file = in_file.as_chunks().0;
        let number = |(index, word): (u64, &usize)| {
            let place = at.wrapping_add(8 * index);
            let relocation = self.0.get(&place).map(|(number, _)| *number);
            // Whoever uses the snapshot works it out anew, and must come to the same: best by words that stand together.
            let candidates = [IN_PLACE, AS_IT_IS].into_iter().chain(relocation);
            let same =
                |number: &u32| adopt::function(mapped, place, *number, in_file.get(index as usize)) == Some(*word);
            let nothing = Some(IDLE).filter(|_| idle(mapped.mapping.bias().vaddr(Addr(*word))));
            let found = nothing.or_else(|| candidates.into_iter().find(same));
            let why = "the address of a function comes from elsewhere than its own relocations";
            found.ok_or_else(|| Refusal::unsuitable(mapped.new.image.path(), why))
        };
        let numbers: Result<Vec<u32>, Refusal> = (0..).zip(&words).map(number).collect();
        numbers.map(List::from)
    }
}
