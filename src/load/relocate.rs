//! Relocation: every plain word of a group is computed and written; what needs foreign code to run is put off.

use super::ahead::{First, Known};
use super::map::Mapping;
use super::numbers::Numbers;
pub(crate) use super::outcome::{Foreign, Outcome, Pending, ThreadLocal};
use super::scope::{Definition, Own, Providers};
use crate::addr::{Addr, Vaddr};
use crate::arch::{Kind, Machine, RelocationType};
use crate::error::{ErrorKind, Escaped, Undefined};
use crate::file::dynamic::is_rebased;
use crate::file::elf::ProgramHeader;
use crate::file::hash;
use crate::file::relocations::{AHEAD, Apply, Entry, Relocation, Relocations, What};
use crate::file::symbols::{Symbol, Symbols, Wanted, WantedVersion};
use crate::file::wanted::Name;

/// Version indices of which it is remembered what they ask for.
const VERSIONS: usize = 8;

/// Undefined symbols listed in one error.
const UNDEFINED_MAX: usize = 256;

/// One object to be relocated.
pub(crate) struct Unit<'a> {
    /// Its number among the providers.
    pub(crate) provider: usize,
    pub(crate) mapping: &'a Mapping,
    pub(crate) symbols: &'a Symbols,
    pub(crate) relocations: &'a Relocations,
    /// Whether its own definitions come before the scope's (`DT_SYMBOLIC`).
    pub(crate) symbolic: bool,
    /// Whether functions are bound when they are first called.
    pub(crate) lazy: bool,
    /// For each provider whether it is elsewhere in each process, if words that refer to such are to be noted.
    pub(crate) elsewhere: Option<&'a [bool]>,
}

/// Writes all words of `unit` that can be computed without running anything; `outcome` is what that leaves to do.
pub(crate) fn relocate(unit: &Unit<'_>, providers: &mut Providers<'_>, outcome: &mut Outcome) -> Result<(), ErrorKind> {
    let Some(machine) = Machine::native() else {
        return Err(ErrorKind::Foreign {
            what: "machine of this process",
            expected: "one that soload can load for".into(),
            found: "another".into(),
        });
    };
    outcome.bound_to = Numbers::none(providers.count());
    let mut work = Work {
        machine,
        unit,
        outcome,
        versions: [(u16::MAX, None); VERSIONS],
        own: providers.own(unit.provider, unit.symbolic),
        bound_to_itself: false,
        providers,
        plain: None,
        last: None,
        alike: (u64::from(machine.relative), unit.mapping.bias().get() as u64),
        undefined: Vec::new(),
    };
    unit.relocations.apply(&mut work)?;
    work.finish()
}

/// Adds the bias to addresses in the dynamic section, as glibc does: the runtime of D finds there what a library needs, and
/// tools that hook functions of their own process its symbols.
pub(crate) fn rebase_dynamic(mapping: &Mapping, section: &ProgramHeader) -> Result<(), ErrorKind> {
    if !section.flags.write {
        return Ok(());
    }
    for entry in 0..section.file_size / 16 {
        let at = section.vaddr.0.saturating_add(16 * entry);
        let (tag, value) = (mapping.read(Vaddr(at), 8)?, Vaddr(at.saturating_add(8)));
        if tag == 0 {
            break;
        }
        if is_rebased(tag) {
            mapping.write(value, 8, mapping.read(value, 8)?.wrapping_add(mapping.bias().get() as u64))?;
        }
    }
    Ok(())
}

fn is_thread_local(kind: Kind) -> bool {
    use Kind::{NegatedThreadOffset, ThreadOffset, TlsDescriptor, TlsModule, TlsOffset};
    matches!(kind, TlsModule | TlsOffset | ThreadOffset | NegatedThreadOffset | TlsDescriptor)
}

struct Work<'a, 'b, 'p> {
    machine: &'static Machine,
    unit: &'a Unit<'b>,
    providers: &'a mut Providers<'p>,
    outcome: &'a mut Outcome,
    /// What version indices ask for, as far as references have them: few are met again and again.
    versions: [(u16, Option<WantedVersion<'a>>); VERSIONS],
    own: Own<'p>,
    bound_to_itself: bool,
    /// The symbols resolved last, which linkers sort relocations by, so that the next one often wants it again: the last
    /// with its value, of which that was all there is to say, and the last of which more is known.
    plain: Option<(Reference, u64)>,
    last: Option<(Reference, Option<Definition>)>,
    /// The type and symbol (`r_info`) of the last plain word that has an addend, and the symbol's value: those that follow
    /// are often the same, such as pointers to one type.
    alike: (u64, u64),
    undefined: Vec<Undefined>,
}

/// A symbol by its number, and whether it is wanted for a call.
type Reference = (u32, bool);

impl Apply for Work<'_, '_, '_> {
    type Error = ErrorKind;

    fn expect(&mut self, entries: &[Entry]) {
        // So few are looked up sooner than that takes.
        if self.unit.relocations.references(self.unit.lazy) <= AHEAD {
            return;
        }
        let entries = &entries[..entries.len().min(AHEAD)];
        let symbols = entries.iter().map(|[_, info, _]| (u64::from_le_bytes(*info) >> 32) as u32);
        self.providers.expect(&self.own, symbols);
    }

    #[inline(always)]
    fn run(&mut self, entries: &[Entry], plt: bool) -> usize {
        let Some([_, info, _]) = entries.first() else { return 0 };
        let (info, mapping) = (u64::from_le_bytes(*info), self.unit.mapping);
        if plt && self.unit.lazy {
            return self.leave(entries);
        }
        let value = match info {
            _ if info == u64::from(self.machine.relative) => mapping.bias().get() as u64,
            _ if info == self.alike.0 => self.alike.1,
            _ => return 0,
        };
        mapping.write_alike(entries, info, value)
    }

    /// Words that refer to plain definitions: with the relative ones nearly all there are.
    #[inline(always)]
    fn quickly(&mut self, place: Vaddr, number: u32, symbol: u32, addend: i64) -> bool {
        let addend = addend as u64;
        let mapping = self.unit.mapping;
        let value = match self.machine.relocation(number).map(|of_type| of_type.kind) {
            Some(Kind::Absolute { bytes: 8 }) => self.plain(symbol, false).map(|value| {
                self.alike = (u64::from(symbol) << 32 | u64::from(number), value);
                value.wrapping_add(addend)
            }),
            Some(Kind::Slot) => self.plain(symbol, number == self.machine.jump_slot),
            _ => None,
        };
        value.is_some_and(|value| mapping.write_data(place, value))
    }

    fn any(&mut self, relocation: &Relocation) -> Result<(), ErrorKind> {
        let What::Type(number) = relocation.what else { return self.relative(relocation) };
        let Some(of_type) = self.machine.relocation(number) else {
            return Err(self.unsupported(relocation, format!("type {number}")));
        };
        self.apply(relocation, of_type)
    }
}

impl<'a> Work<'a, '_, '_> {
    /// The value of a symbol, if that is all there is to say: it is the one bound last, the object's own, or one that is
    /// found and is nothing special.
    #[inline(always)]
    fn plain(&mut self, symbol: u32, for_call: bool) -> Option<u64> {
        if let Some((reference, value)) = self.plain
            && reference == (symbol, for_call)
        {
            return Some(value);
        }
        let reference = (symbol, for_call);
        let value = match self.providers.prepared(symbol) {
            Some(known) => self.plain_if(reference, known),
            None => self.plain_at_once(reference),
        }?;
        self.plain = Some((reference, value));
        Some(value)
    }

    /// The same for a symbol that has not been prepared.
    #[inline(never)]
    fn plain_at_once(&mut self, reference: Reference) -> Option<u64> {
        let known = self.providers.learn(&self.own, reference.0);
        self.plain_if(reference, known)
    }

    /// The same by what is known of the symbol.
    #[inline(always)]
    fn plain_if(&mut self, reference: Reference, known: Known<'_>) -> Option<u64> {
        match known {
            Known::Own { address, .. } => {
                self.bound_to_itself = true;
                Some(address)
            }
            Known::Name { name, first } => self.plain_elsewhere(reference, name, first),
            Known::Nothing => None,
        }
    }

    /// The same for a symbol that has to be looked for. An IFUNC, whose value is not known yet, is remembered.
    #[inline(never)]
    fn plain_elsewhere(&mut self, reference: Reference, name: Name<'_>, first: First) -> Option<u64> {
        if self.unit.elsewhere.is_some() {
            return None;
        }
        let (symbol, _) = reference;
        let own = self.own.rows.get(symbol)?;
        // A symbolic object asks itself first.
        let has_none = || self.own.table.as_ref().is_some_and(|own| !own.has_either(name.gnu_hash()));
        if self.unit.symbolic && !has_none() {
            return None;
        }
        let version = self.version(symbol);
        let found = self.providers.simple(&own, name, version.as_ref(), first)?;
        self.outcome.bound_to.insert(found.provider);
        if found.symbol.is_ifunc() {
            self.last = Some((reference, Some(found)));
            return None;
        }
        Some(found.value.0 as u64)
    }

    /// The version that a reference by symbol number `symbol` asks for.
    #[inline(always)]
    fn version(&mut self, symbol: u32) -> Option<WantedVersion<'a>> {
        let number = self.own.rows.version(symbol)?.number;
        let (known, wanted) = &mut self.versions[usize::from(number) % VERSIONS];
        if *known != number {
            let symbols = self.unit.symbols;
            *wanted = symbols.versions.at(number).and_then(|version| symbols.wanted(version));
            *known = number;
        }
        *wanted
    }

    /// Leaves functions to be bound at their first calls, as long as there is nothing special about them: until then their
    /// words lead back into the procedure linkage table, as the file has it but for the bias. Answers how many that was.
    fn leave(&mut self, entries: &[Entry]) -> usize {
        // What contradicts itself is an error now, and not when it is called.
        let symbols = self.unit.symbols;
        let names = symbols.strings().bytes();
        let named = |symbol: u32| symbols.get(symbol).is_some_and(|symbol| (symbol.name as usize) < names.len());
        let left = entries.iter().take_while(|entry| {
            let [place, info, _] = entry.map(u64::from_le_bytes);
            let waits = info as u32 == self.machine.jump_slot && named((info >> 32) as u32);
            waits && self.unit.mapping.rebase(Vaddr(place))
        });
        let left = if names.last() == Some(&0) { left.count() } else { 0 };
        self.outcome.lazy |= left > 0;
        left
    }

    #[inline(always)] // most relocations of most libraries
    fn relative(&self, relocation: &Relocation) -> Result<(), ErrorKind> {
        let mapping = self.unit.mapping;
        let addend = self.addend(relocation, 8)?;
        mapping.write(relocation.place, 8, (mapping.bias().get() as u64).wrapping_add(addend))
    }

    /// The addend: stated, or the word at the place.
    #[inline(always)]
    fn addend(&self, relocation: &Relocation, bytes: u8) -> Result<u64, ErrorKind> {
        match relocation.addend {
            Some(addend) => Ok(addend as u64),
            None => self.unit.mapping.read(relocation.place, bytes),
        }
    }

    /// S, A, B, P and Z are the psABI's: symbol, addend, base, place and size.
    #[inline]
    fn apply(&mut self, relocation: &Relocation, of_type: &RelocationType) -> Result<(), ErrorKind> {
        let base = self.unit.mapping.bias().get() as u64;
        match of_type.kind {
            Kind::None => Ok(()),
            Kind::Relative => self.relative(relocation),
            Kind::Absolute { bytes } => {
                let addend = self.addend(relocation, bytes)?;
                self.symbolic(relocation, of_type, bytes, addend)
            }
            Kind::Slot => self.symbolic(relocation, of_type, 8, 0),
            Kind::PcRelative { bytes } => {
                let place = base.wrapping_add(relocation.place.0);
                let addend = self.addend(relocation, bytes)?.wrapping_sub(place);
                self.symbolic(relocation, of_type, bytes, addend)
            }
            Kind::Size { bytes } => {
                let addend = self.addend(relocation, bytes)?;
                let size = self.definition(relocation, of_type)?.map_or(0, |found| found.symbol.size);
                self.store(relocation, of_type, bytes, size.wrapping_add(addend))
            }
            Kind::Irelative => {
                let resolver = Addr(base.wrapping_add(self.addend(relocation, 8)?) as usize);
                self.put_off(relocation, 8, resolver, self.unit.provider, 0)
            }
            kind if is_thread_local(kind) => self.thread_local(relocation, of_type),
            Kind::Copy | Kind::Unsupported | _ => Err(self.unsupported(relocation, of_type.name.to_owned())),
        }
    }

    /// S + `plus`.
    #[inline]
    fn symbolic(
        &mut self,
        relocation: &Relocation,
        of_type: &RelocationType,
        bytes: u8,
        plus: u64,
    ) -> Result<(), ErrorKind> {
        match self.definition(relocation, of_type)? {
            Some(found) if found.symbol.is_ifunc() && found.symbol.is_defined() => {
                self.put_off(relocation, bytes, found.value, found.provider, plus)
            }
            // An undefined weak symbol is 0.
            found => {
                if let Some(definition) = found.filter(|found| self.is_foreign(found)) {
                    self.outcome.foreign.push(Foreign { place: relocation.place, bytes, definition, plus });
                }
                let symbol = found.map_or(0, |found| found.value.0 as u64);
                self.store(relocation, of_type, bytes, symbol.wrapping_add(plus))
            }
        }
    }

    /// Whether it has to be noted which words refer to `found`: it is another value in another process.
    fn is_foreign(&self, found: &Definition) -> bool {
        // Functions of the loader, and what only the host's own look-up finds, stand for a symbol that is not defined.
        let elsewhere = |elsewhere: &[bool]| elsewhere.get(found.provider) == Some(&true) || !found.symbol.is_defined();
        self.unit.elsewhere.is_some_and(elsewhere) && !found.symbol.is_absolute()
    }

    #[inline]
    fn store(&self, relocation: &Relocation, of_type: &RelocationType, bytes: u8, value: u64) -> Result<(), ErrorKind> {
        // A difference is signed, everything else is not.
        let fits = match (bytes, of_type.kind) {
            (4, Kind::PcRelative { .. }) => i32::try_from(value as i64).is_ok(),
            (4, _) => u32::try_from(value).is_ok(),
            _ => true,
        };
        if !fits {
            let relocation_name = of_type.name.to_owned();
            return Err(ErrorKind::RelocationOverflow { relocation: relocation_name, at: relocation.place, value });
        }
        self.unit.mapping.write(relocation.place, bytes, value)
    }

    fn put_off(
        &mut self,
        relocation: &Relocation,
        bytes: u8,
        resolver: Addr,
        provider: usize,
        plus: u64,
    ) -> Result<(), ErrorKind> {
        // Fails now, while that is still easy, rather than when the resolver has run.
        self.unit.mapping.read(relocation.place, bytes)?;
        self.outcome.pending.push(Pending { place: relocation.place, bytes, resolver, provider, plus });
        Ok(())
    }

    fn thread_local(&mut self, relocation: &Relocation, of_type: &RelocationType) -> Result<(), ErrorKind> {
        // An undefined weak one stays what it is: nobody may use it.
        let Some(found) = self.definition(relocation, of_type)? else { return Ok(()) };
        // Symbol 0 is the object's own block as a whole.
        if relocation.symbol != 0 && !found.symbol.is_tls() {
            return Err(ErrorKind::malformed(
                format!("symbol of relocation {}", of_type.name),
                crate::At::Vaddr(relocation.place),
                "a thread-local one (STT_TLS)",
                format_args!("type {}", found.symbol.kind()),
            ));
        }
        self.unit.mapping.read(relocation.place, 8)?;
        let addend = self.addend(relocation, 8)?;
        let offset = found.symbol.value.wrapping_add(addend);
        let (place, kind, provider) = (relocation.place, of_type.kind, found.provider);
        self.outcome.thread_local.push(ThreadLocal { place, kind, provider, offset });
        Ok(())
    }

    /// What the relocation's symbol binds to; `None` if it may be undefined, or has been noted as undefined.
    #[inline]
    fn definition(
        &mut self,
        relocation: &Relocation,
        of_type: &RelocationType,
    ) -> Result<Option<Definition>, ErrorKind> {
        let for_call = of_type.number == self.machine.jump_slot || is_thread_local(of_type.kind);
        match self.last {
            Some((reference, found)) if reference == (relocation.symbol, for_call) => Ok(found),
            _ => self.look_up(relocation, of_type, for_call),
        }
    }

    #[inline(never)]
    fn look_up(
        &mut self,
        relocation: &Relocation,
        of_type: &RelocationType,
        for_call: bool,
    ) -> Result<Option<Definition>, ErrorKind> {
        let symbols = self.unit.symbols;
        let own = symbols.get(relocation.symbol).ok_or_else(|| {
            let found = format!("symbol {}", relocation.symbol);
            ErrorKind::malformed(
                format!("r_info of relocation {}", of_type.name),
                crate::At::Vaddr(relocation.place),
                "a symbol inside DT_SYMTAB",
                found,
            )
        })?;
        let prepared = self.providers.prepared(relocation.symbol);
        let known = match prepared.unwrap_or_else(|| self.providers.learn(&self.own, relocation.symbol)) {
            Known::Name { name, first } => Some((name, first)),
            _ => symbols.name(&own).map(|name| (name, self.providers.first(name.gnu_hash()))),
        };
        let (name, first) = known.ok_or_else(|| {
            let found = format!("offset {:#x}", own.name);
            ErrorKind::malformed(
                format!("st_name of symbol {}", relocation.symbol),
                crate::At::Object,
                "a string inside DT_STRTAB",
                found,
            )
        })?;
        let wanted = Wanted::reference(name, self.version(relocation.symbol), for_call);
        let found = self.providers.bind_from(self.unit.provider, &own, &wanted, self.unit.symbolic, first);
        if wanted.given_up.get() {
            let found = u64::from(hash::CHAIN_MAX) + 1;
            return Err(ErrorKind::Limit { what: "symbols in one hash chain", limit: found - 1, found });
        }
        match found {
            Some(_) => {}
            None if own.is_weak() => self.outcome.missing.push(relocation.symbol),
            None => self.note_undefined(&own, &wanted)?,
        }
        Ok(self.remember(relocation.symbol, for_call, found))
    }

    /// Remembers what a symbol was bound to, for its next reference and for good.
    #[inline]
    fn remember(&mut self, symbol: u32, for_call: bool, found: Option<Definition>) -> Option<Definition> {
        if let Some(found) = found {
            self.outcome.bound_to.insert(found.provider);
        }
        let plain = found.filter(|found| !(found.symbol.is_ifunc() && found.symbol.is_defined()));
        let plain = plain.filter(|found| !self.is_foreign(found));
        let reference = (symbol, for_call);
        self.plain = plain.map(|found| (reference, found.value.0 as u64)).or(self.plain);
        self.last = Some((reference, found));
        found
    }

    /// Collects undefined symbols, so that one error names them all.
    fn note_undefined(&mut self, own: &Symbol, wanted: &Wanted<'_>) -> Result<(), ErrorKind> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let symbol = Undefined { name: text(wanted.name), version: wanted.version.map(|version| text(version.name)) };
        debug_assert!(!own.is_weak());
        if !self.undefined.contains(&symbol) {
            self.undefined.push(symbol);
        }
        if self.undefined.len() == UNDEFINED_MAX { Err(self.undefined_error()) } else { Ok(()) }
    }

    fn undefined_error(&mut self) -> ErrorKind {
        let searched = self.providers.searched().map(Into::into).collect();
        ErrorKind::UndefinedSymbols { symbols: std::mem::take(&mut self.undefined), searched }
    }

    fn unsupported(&self, relocation: &Relocation, name: String) -> ErrorKind {
        let symbols = self.unit.symbols;
        let symbol = symbols
            .get(relocation.symbol)
            .filter(|_| relocation.symbol != 0)
            .and_then(|own| symbols.string(own.name))
            .map(|name| Escaped(name).to_string());
        ErrorKind::UnsupportedRelocation { relocation: name, at: relocation.place, symbol }
    }

    fn finish(mut self) -> Result<(), ErrorKind> {
        // Those of all members wait together.
        self.outcome.pending.shrink_to_fit();
        if self.bound_to_itself {
            self.outcome.bound_to.insert(self.unit.provider);
        }
        if self.undefined.is_empty() { Ok(()) } else { Err(self.undefined_error()) }
    }
}
