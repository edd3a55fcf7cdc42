//! Adopting: a group whose pages come from a snapshot becomes bound by writing the few words that are left.
//!
//! Symbol tables are not searched. Everything that the snapshot names is looked up by its number, and bounds and kinds are
//! checked: a snapshot that does not make sense is refused. Unique symbols are the exception: each is compared when somebody
//! looks for its name, and passed over if it is another one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::bind::{Bound, Scope, Source};
use super::gather::{self, Callee};
use super::map::Mapped;
use super::sharing::Deal;
use crate::addr::{Addr, Bias, Vaddr};
use crate::arch::{Kind, Machine};
use crate::file::relocations::What;
use crate::file::symbols::Wanted;
use crate::load::call::Arrays;
use crate::load::group::{Group, Slot};
use crate::load::numbers::Numbers;
use crate::load::relocate::{Outcome, Pending, ThreadLocal};
use crate::load::scope::Provider;
use crate::load::unique::Unique;
use crate::process::module::{Object, Shared};
use crate::process::world::Look;
use crate::snapshot::{
    AS_IT_IS, Function, IDLE, IN_PLACE, LOADER, List, Member, Opened, Refusal, ResolvedWord, kind_of,
};

/// Writes what `opened` leaves to be written.
pub(super) fn adopt(
    mut group: Group<Object, Box<Mapped>>,
    scope: Scope,
    look: &Look,
    deal: &Deal,
    opened: &Opened,
) -> Result<Bound, Refusal> {
    let manifest = opened.manifest()?;
    let names = manifest.names.iter().map(|name| (scope.imports)(&name));
    let names = names.collect::<Option<Vec<Addr>>>().ok_or_else(|| senseless("a function of the loader"))?;
    let adopting = Adopting { group: &group, scope: &scope, deal, names };
    let functions = adopting.callees(&manifest.functions)?;
    let mut outcomes: Vec<Outcome> = deal.members.iter().map(|_| Outcome::default()).collect();
    let mut shared = Vec::with_capacity(deal.members.len());
    let members = deal.members.iter().zip(group.new_members()).zip(&mut outcomes);
    for (((own, (_, mapped)), outcome), member) in members.zip(manifest.members.iter()) {
        adopting.member(&member, mapped, outcome)?;
        shared.push(Shared { library: own.wanted.id, content: member.content });
    }
    let (mut stubs, start) = (None, deal.stubs);
    if !functions.is_empty() {
        stubs = gather::make(start, &functions).ok();
        if stubs.is_none() {
            for (outcome, (_, mapped)) in outcomes.iter_mut().zip(group.new_members()) {
                let called = gather::call_directly(mapped, start, &functions, outcome);
                called.map_err(|_| senseless("the place of a word"))?;
            }
        }
    }
    let mut unique = Vec::with_capacity(manifest.unique.len());
    for symbol in manifest.unique.iter() {
        let none = || senseless("a unique symbol");
        let number = adopting.number(symbol.provider)?;
        let wanted = Wanted::by_name(&symbol.name, None).ok_or_else(none)?;
        let Some((settled, _)) = look.state.unique(look.namespace, &wanted) else {
            // Whoever looks for that name compares it with what the library has under this number: its table need not be read.
            unique.push(Unique { hash: wanted.gnu_hash(), owner: number as u32, index: symbol.symbol });
            continue;
        };
        let provider = adopting.provider(number)?;
        let own = provider.symbols.get(symbol.symbol).filter(|own| own.is_unique() && own.is_defined());
        let own = own.filter(|own| provider.symbols.is_named(own, &symbol.name)).ok_or_else(none)?;
        if settled != provider.address(&own) {
            let name = crate::Escaped(&symbol.name);
            return Err(Refusal::Snapshot(format!("unique symbol {name} is another one in this process")));
        }
    }
    for ((mapped, outcome), shared) in group.new_members_mut().zip(outcomes).zip(shared) {
        mapped.outcome = outcome;
        mapped.shared = Some(Box::new(shared));
        mapped.stubs = stubs.as_ref().map(|stubs| Arc::clone(&stubs.mapping));
    }
    let unique = unique.into_iter().collect();
    Ok(Bound { group, scope, unique, settled: BTreeMap::new(), stubs })
}

fn senseless(what: &str) -> Refusal {
    Refusal::snapshot(format_args!("damaged: {what} that it names is not there"))
}

struct Adopting<'a> {
    group: &'a Group<Object, Box<Mapped>>,
    scope: &'a Scope,
    deal: &'a Deal,
    /// Where the functions are that it gets from the loader.
    names: Vec<Addr>,
}

impl Adopting<'_> {
    /// The number in the scope of a provider of the snapshot.
    fn number(&self, provider: u16) -> Result<usize, Refusal> {
        self.deal.numbers.get(usize::from(provider)).copied().ok_or_else(|| senseless("an object of the scope"))
    }

    fn provider(&self, number: usize) -> Result<Provider<'_>, Refusal> {
        let provider = match &self.scope.sources[number] {
            Source::Object(object) => object.provider(),
            Source::Member(index) => match &self.group.members[*index] {
                Slot::New(mapped) => Some(mapped.provider()),
                Slot::Known(_) => None,
            },
        };
        provider.ok_or_else(|| senseless("an object of the scope"))
    }

    fn member(&self, member: &Member<'_>, mapped: &Mapped, outcome: &mut Outcome) -> Result<(), Refusal> {
        let write = |place: u64, value: u64| {
            mapped.mapping.write(Vaddr(place), 8, value).map_err(|_| senseless("the place of a word"))
        };
        outcome.bound_to = Numbers::none(self.scope.sources.len());
        outcome.pending.reserve_exact(member.resolved.len());
        outcome.thread_local.reserve_exact(member.thread_local.len());
        for provider in member.bound_to.iter() {
            outcome.bound_to.insert(self.number(provider)?);
        }
        // Words that refer to one object follow one another, mostly.
        let mut last = (u16::MAX, Bias::default());
        for word in member.host.iter() {
            if last.0 != word.provider {
                last = (word.provider, self.host(word.provider)?);
            }
            write(word.place.into(), (last.1.get() as u64).wrapping_add(word.value.into()))?;
        }
        for word in member.imports.iter() {
            let function = self.names.get(word.name as usize).ok_or_else(|| senseless("a function of the loader"))?;
            write(word.place, (function.0 as u64).wrapping_add(word.plus))?;
        }
        for word in member.resolved.iter() {
            outcome.pending.push(self.resolved(&word, mapped)?);
        }
        for word in member.thread_local.iter() {
            let kind = kind_of(word.kind).ok_or_else(|| senseless("a kind of word"))?;
            let provider = self.number(word.provider)?;
            let bytes = if kind == Kind::TlsDescriptor { 16 } else { 8 };
            let last = Vaddr(word.place.wrapping_add(bytes - 8));
            mapped.mapping.read(last, 8).map_err(|_| senseless("the place of a word"))?;
            outcome.thread_local.push(ThreadLocal { place: Vaddr(word.place), kind, provider, offset: word.offset });
        }
        outcome.arrays = Some(self.arrays(member, mapped)?);
        Ok(())
    }

    /// The functions that stubs are to lead to: the host's, as its own symbols say, and the loader's.
    fn callees(&self, functions: &List<'_, Function>) -> Result<Vec<Callee>, Refusal> {
        let none = || senseless("a function that is called");
        let mut callees = Vec::with_capacity(functions.len());
        let mut last = None;
        for function in functions.iter() {
            if function.provider == LOADER {
                let addr = *self.names.get(function.number as usize).ok_or_else(none)?;
                callees.push(Callee { addr, resolved_by: None });
                continue;
            }
            let (number, object, provider) = match last {
                Some((same, known)) if same == function.provider => known,
                _ => {
                    let number = self.number(function.provider)?;
                    let Source::Object(object @ Object::Host(_)) = &self.scope.sources[number] else {
                        return Err(none());
                    };
                    (number, object, object.provider().ok_or_else(none)?)
                }
            };
            last = Some((function.provider, (number, object, provider)));
            let symbol = provider.symbols.get(function.number).filter(gather::is_function).ok_or_else(none)?;
            let addr = provider.address(&symbol);
            if !object.is_code(addr) {
                return Err(none());
            }
            callees.push(Callee { addr, resolved_by: symbol.is_ifunc().then_some(number) });
        }
        Ok(callees)
    }

    /// Where an object of the host is.
    fn host(&self, provider: u16) -> Result<Bias, Refusal> {
        match &self.scope.sources[self.number(provider)?] {
            Source::Object(Object::Host(host)) => Ok(host.bias),
            _ => Err(senseless("an object of the host")),
        }
    }

    /// The resolver, as the library that has it says.
    fn resolved(&self, word: &ResolvedWord, mapped: &Mapped) -> Result<Pending, Refusal> {
        let none = || senseless("a resolver");
        let number = self.number(word.provider)?;
        let resolver = if word.symbol == 1 {
            let provider = self.provider(number)?;
            let symbol = provider.symbols.get(word.number).filter(|symbol| symbol.is_ifunc() && symbol.is_defined());
            provider.address(&symbol.ok_or_else(none)?)
        } else {
            let relocation = mapped.relocations.get(word.number.into()).filter(|own| own.place.0 == word.place);
            let relocation = relocation.ok_or_else(none)?;
            let (Some(Kind::Irelative), Some(addend)) = (kind(relocation.what), relocation.addend) else {
                return Err(none());
            };
            mapped.mapping.bias().at(Vaddr(addend as u64))
        };
        if !matches!(word.bytes, 4 | 8) || mapped.mapping.read(Vaddr(word.place), word.bytes).is_err() {
            return Err(senseless("the place of a word"));
        }
        Ok(Pending { place: Vaddr(word.place), bytes: word.bytes, resolver, provider: number, plus: word.plus })
    }

    /// The functions to run, as the library's own relocations say.
    fn arrays(&self, member: &Member<'_>, mapped: &Mapped) -> Result<Arrays, Refusal> {
        let Some(dynamic) = mapped.new.image.dynamic() else { return Ok(Arrays::default()) };
        let array = |at: Option<u64>, size: Option<u64>, numbers: &List<'_, u32>| {
            let count = if at.is_some() { size.unwrap_or(0) / 8 } else { 0 };
            let known = numbers.len() as u64 == count;
            known.then_some((at.unwrap_or(0), numbers.len())).ok_or_else(|| senseless("an array of functions"))
        };
        let idle = member.idle == 1;
        let (init_at, inits) = array(dynamic.init_array.get(), dynamic.init_arraysz.get(), &member.init)?;
        let (fini_at, finis) = array(dynamic.fini_array.get(), dynamic.fini_arraysz.get(), &member.fini)?;
        let mut words = SmallVec::with_capacity(inits + finis);
        let mut add = |at: u64, numbers: &List<'_, u32>, in_file: &[[u8; 8]]| {
            for (index, number) in numbers.iter().enumerate() {
                let word = function(mapped, at.wrapping_add(8 * index as u64), number, in_file.get(index));
                words.push(word.ok_or_else(|| senseless("the relocation of a function"))?);
            }
            Ok(())
        };
        // One stands behind the other, mostly.
        if init_at.checked_add(8 * inits as u64) == Some(fini_at) {
            let all = words_in_file(mapped, init_at, inits + finis);
            let all = all.as_chunks().0;
            let (init, fini) = all.split_at(inits.min(all.len()));
            add(init_at, &member.init, init)?;
            add(fini_at, &member.fini, fini)?;
        } else {
            add(init_at, &member.init, words_in_file(mapped, init_at, inits).as_chunks().0)?;
            add(fini_at, &member.fini, words_in_file(mapped, fini_at, finis).as_chunks().0)?;
        }
        Ok(Arrays { idle, words, inits })
    }
}

/// The `count` words from `at` on, as they are in the library's file; none if it has not that many there.
pub(super) fn words_in_file(mapped: &Mapped, at: u64, count: usize) -> Cow<'_, [u8]> {
    mapped.new.image.bytes_at(Vaddr(at), 8 * count).unwrap_or_default()
}

/// What the library makes of the word at `place` of an array of functions, where its file has `in_file`, if relocation
/// `number` writes that.
pub(super) fn function(mapped: &Mapped, place: u64, number: u32, in_file: Option<&[u8; 8]>) -> Option<usize> {
    let (bias, in_file) = (mapped.mapping.bias(), in_file.map(|word| u64::from_le_bytes(*word)));
    match number {
        IN_PLACE => Some(bias.at(Vaddr(in_file?)).0),
        // As old linkers have it in lists, for none.
        IDLE => Some(0),
        AS_IT_IS => in_file.map(|word| word as usize).filter(|word| matches!(*word, 0 | usize::MAX)),
        number => {
            let relocation = mapped.relocations.get(number.into()).filter(|own| own.place.0 == place)?;
            let addend = relocation.addend? as u64;
            match kind(relocation.what)? {
                Kind::Relative => Some(bias.at(Vaddr(addend)).0),
                Kind::Absolute { bytes: 8 } => {
                    let symbol = mapped.symbols.get(relocation.symbol).filter(|symbol| symbol.is_defined())?;
                    Some(mapped.provider().address(&symbol).0.wrapping_add(addend as usize))
                }
                _ => None,
            }
        }
    }
}

pub(super) fn kind(what: What) -> Option<Kind> {
    match what {
        What::Type(number) => Some(Machine::native()?.relocation(number)?.kind),
        What::Relr => None,
    }
}
