//! Gathering: functions of the host that a group only calls are called through stubs, so that their addresses stand in one
//! table and not on a page of each library.
//!
//! The C library is elsewhere in each process, and each word with an address of it costs each process a copy of the page
//! that it is on. A word that serves for nothing but calls may lead to a stub instead: its address is the same in all
//! processes of a session, and only the table that it jumps by is not. The words of a procedure linkage table are such
//! ones (psABI, "Procedure Linkage Table"): who takes the address of a function reads it elsewhere, and gets that of the
//! function itself, here as everywhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::bind::Stubs;
use super::map::Mapped;
use crate::addr::{Addr, Vaddr};
use crate::arch::{Kind, Machine, stubs};
use crate::error::ErrorKind;
use crate::file::relocations::{Relocation, What};
use crate::file::symbols::Symbol;
use crate::load::map::Mapping;
use crate::load::relocate::{Outcome, Pending};
use crate::snapshot::{FUNCTIONS_MAX, Function, Member, Wanted, stubs_id};
use crate::sys;

/// Functions that nobody but compilers refers to, to call them: of these, every word serves for calls alone. The first is
/// called, through the word with its address, by the code that compilers put into each library to run its destructors (Itanium
/// C++ ABI 3.3.6.3), the second by each function that finds its stack overwritten.
const ONLY_CALLED: [&[u8]; 2] = [b"__cxa_finalize", b"__stack_chk_fail"];

/// A word that serves for nothing but calls, and what it is bound to.
pub(super) struct Call {
    pub(super) place: u64,
    pub(super) function: Function,
}

/// The words of one member that lead to stubs, each with the number of its stub.
pub(super) type Gathered = Vec<(u64, usize)>;

/// A function that a stub leads to.
#[derive(Clone, Copy)]
pub(super) struct Callee {
    /// Where it is, or the resolver that will say so.
    pub(super) addr: Addr,
    /// Who has the resolver, by its number among the providers.
    pub(super) resolved_by: Option<usize>,
}

/// The room that stubs get in a session: where it is follows from the libraries of the group.
pub(super) fn room(members: &[Wanted]) -> Wanted {
    let len = pages(FUNCTIONS_MAX) * sys::page_size().bytes();
    Wanted { id: stubs_id(members.iter().map(|member| &member.id)), len, align: sys::page_size().bytes() }
}

/// Where the table is, behind the stubs.
fn table_at(count: usize) -> u64 {
    (count as u64 * stubs::LEN).next_multiple_of(sys::page_size().bytes())
}

/// Pages that so many stubs and their table take.
fn pages(count: usize) -> u64 {
    let page = sys::page_size().bytes();
    (table_at(count) + 8 * count as u64).div_ceil(page)
}

/// The address of stub number `number`, the first one being at `start`.
pub(super) fn address(start: Addr, number: usize) -> u64 {
    (start.0 as u64).wrapping_add(number as u64 * stubs::LEN)
}

/// The places of a library's words that serve for nothing but calls, as its own relocations say.
pub(super) fn called(mapped: &Mapped) -> HashSet<u64> {
    let Some(machine) = Machine::native() else { return HashSet::new() };
    let only_called = |relocation: &Relocation| {
        let name = || mapped.symbols.string(mapped.symbols.get(relocation.symbol)?.name);
        match relocation.what {
            What::Type(number) if number == machine.jump_slot => true,
            What::Type(_) => is_slot(relocation) && name().is_some_and(|name| ONLY_CALLED.contains(&name)),
            What::Relr => false,
        }
    };
    // One that lies across the end of a page is a rarity.
    let whole = |relocation: &Relocation| relocation.place.0.is_multiple_of(8);
    let all = mapped.relocations.iter().filter(|relocation| whole(relocation) && only_called(relocation));
    all.map(|relocation| relocation.place.0).collect()
}

/// Whether it writes the address of its symbol and nothing else.
fn is_slot(relocation: &Relocation) -> bool {
    super::adopt::kind(relocation.what) == Some(Kind::Slot)
}

/// Whether a symbol is that of a function, or of a resolver of one, that its object has.
pub(super) fn is_function(symbol: &Symbol) -> bool {
    const FUNCTION: u8 = 2;
    symbol.is_defined() && (symbol.kind() == FUNCTION || symbol.is_ifunc()) && !symbol.is_absolute()
}

/// Decides which calls go through stubs: all those on pages where that leaves nothing for each process to write, if these
/// are more pages than the stubs need themselves. `calls` are those of each member.
///
/// Answers the functions, in the order of their stubs, and the words of each member. Those are struck off its lists.
pub(super) fn gather(members: &mut [Member<'_>], calls: &[Vec<Call>], page: u64) -> (Vec<Function>, Vec<Gathered>) {
    let mut functions: Vec<Function> = Vec::new();
    let mut numbers: HashMap<Function, usize> = HashMap::new();
    let (mut all, mut saved) = (Vec::with_capacity(members.len()), 0);
    for (member, calls) in members.iter().zip(calls) {
        let mut written: BTreeMap<u64, usize> = BTreeMap::new();
        for (_, place, bytes) in member.words() {
            (place / page..=place.saturating_add(bytes - 1) / page)
                .for_each(|page| *written.entry(page).or_default() += 1);
        }
        let mut by_page: BTreeMap<u64, Vec<&Call>> = BTreeMap::new();
        calls.iter().for_each(|call| by_page.entry(call.place / page).or_default().push(call));
        let mut gathered = Gathered::new();
        for (page, calls) in by_page {
            if written.get(&page) != Some(&calls.len()) || functions.len() + calls.len() > FUNCTIONS_MAX {
                continue;
            }
            saved += 1;
            for call in calls {
                let number = *numbers.entry(call.function).or_insert_with(|| {
                    functions.push(call.function);
                    functions.len() - 1
                });
                gathered.push((call.place, number));
            }
        }
        all.push(gathered);
    }
    if saved <= pages(functions.len()) {
        return (Vec::new(), members.iter().map(|_| Gathered::new()).collect());
    }
    for (member, gathered) in members.iter_mut().zip(&all) {
        let gathered: HashSet<u64> = gathered.iter().map(|(place, _)| *place).collect();
        member.host.to_mut().retain(|word| !gathered.contains(&word.place.into()));
        member.imports.to_mut().retain(|word| !gathered.contains(&word.place));
        member.resolved.to_mut().retain(|word| !gathered.contains(&word.place));
    }
    (functions, all)
}

/// Makes the stubs of `functions` at `start`.
pub(super) fn make(start: Addr, functions: &[Callee]) -> Result<Stubs, ErrorKind> {
    let table = table_at(functions.len());
    let mapping = Mapping::of_code(start, &stubs::code(functions.len(), table), 8 * functions.len() as u64)?;
    let mut pending = Vec::new();
    for (word, function) in (0..).zip(functions) {
        let place = Vaddr(table + 8 * word);
        match function.resolved_by {
            None => mapping.write(place, 8, function.addr.0 as u64)?,
            Some(provider) => pending.push(Pending { place, bytes: 8, resolver: function.addr, provider, plus: 0 }),
        }
    }
    Ok(Stubs { mapping: Arc::new(mapping), pending })
}

/// Does without stubs, where there is no room for them or memory that was written may not be executed: the words that lead to
/// one get the address of the function. Which words these are the library's own relocations say.
pub(super) fn call_directly(
    mapped: &Mapped,
    start: Addr,
    functions: &[Callee],
    outcome: &mut Outcome,
) -> Result<(), ErrorKind> {
    for place in mapped.relocations.iter().filter(is_slot).map(|relocation| relocation.place) {
        let distance = mapped.mapping.read(place, 8)?.wrapping_sub(start.0 as u64);
        let number = (distance / stubs::LEN) as usize;
        let function = functions.get(number).filter(|_| distance.is_multiple_of(stubs::LEN));
        match function {
            None => {}
            Some(Callee { addr, resolved_by: None }) => mapped.mapping.write(place, 8, addr.0 as u64)?,
            Some(Callee { addr, resolved_by: Some(provider) }) => {
                outcome.pending.push(Pending { place, bytes: 8, resolver: *addr, provider: *provider, plus: 0 });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{FileStamp, HostWord, List};

    const PAGE: u64 = 4096;

    /// A library with words that refer to the host, at these places.
    fn member(places: &[u64]) -> Member<'static> {
        let file =
            FileStamp { device: 0, inode: 0, size: 0, modified: 0, modified_nanos: 0, changed: 0, changed_nanos: 0 };
        let host = places.iter().map(|place| HostWord { place: *place as u32, value: *place as u32, provider: 0 });
        Member {
            path: b"".into(),
            file,
            content: [0; 32],
            start: 0,
            pages: List::default(),
            bound_to: List::default(),
            host: host.collect::<Vec<_>>().into(),
            imports: List::default(),
            resolved: List::default(),
            thread_local: List::default(),
            idle: 0,
            init: List::default(),
            fini: List::default(),
        }
    }

    fn call(place: u64, number: u32) -> Call {
        Call { place, function: Function { provider: 0, number } }
    }

    #[test]
    fn only_pages_with_calls_alone_are_gathered_and_each_function_has_one_stub() {
        // The last word of the first page is an address; the second and third page have calls alone, and so has the fourth
        // but for a word that begins on the one before.
        let places = [0, 8, PAGE - 8, PAGE, 2 * PAGE, 2 * PAGE + 8, 3 * PAGE - 4, 3 * PAGE];
        let calls = || vec![call(0, 1), call(8, 2), call(PAGE, 3), call(3 * PAGE, 1)];
        let mut members = [member(&places), member(&[0, PAGE]), member(&[PAGE])];
        let all = [calls(), vec![call(0, 3), call(PAGE, 4)], vec![call(PAGE, 3)]];
        let (functions, gathered) = gather(&mut members, &all, PAGE);
        assert_eq!(functions.iter().map(|function| function.number).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(gathered, [vec![(PAGE, 0)], vec![(0, 0), (PAGE, 1)], vec![(PAGE, 0)]]);
        assert_eq!(members[0].host.len(), places.len() - 1);
        assert!(members[1].host.len() + members[2].host.len() == 0);
    }

    #[test]
    fn what_takes_as_many_pages_as_it_saves_is_left() {
        let mut members = [member(&[0, PAGE])];
        let (functions, gathered) = gather(&mut members, &[vec![call(0, 1), call(PAGE, 1)]], PAGE);
        assert_eq!((functions.len(), gathered, members[0].host.len()), (0, vec![vec![]], 2));
    }
}
