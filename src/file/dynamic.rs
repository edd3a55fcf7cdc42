//! The dynamic section: every tag that loading goes by, once, by name.

use std::cell::Cell;

use smallvec::SmallVec;

use super::Strings;
use super::elf::tag;
use crate::addr::Vaddr;
use crate::error::{At, ErrorKind};

/// Needed libraries of one object.
const NEEDED_MAX: usize = 4096;

/// Bytes of all names of one object together: entries may point to the same long one, and no path is longer than 4,096.
const NAMES_MAX: u64 = 1 << 20;

/// Bytes that most names have room in, with their length before them.
const ROOM: usize = 24;

// Tags younger than the reader's constants (gABI: DT_RELR*).
const DT_RELRSZ: u64 = 35;
const DT_RELR: u64 = 36;
const DT_RELRENT: u64 = 37;

// Tags of Sun's and GNU's (<elf.h>), each a string.
const DT_DEPAUDIT: u64 = 0x6fff_fefb;
const DT_AUDIT: u64 = 0x6fff_fefc;
const DT_AUXILIARY: u64 = 0x7fff_fffd;
const DT_FILTER: u64 = 0x7fff_ffff;

/// The number that an entry states, if there is such an entry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stated {
    /// One more, 0 for none: so both have the room of one.
    after: u64,
}

impl Stated {
    fn of(value: u64) -> Result<Self, ErrorKind> {
        let none =
            || ErrorKind::malformed("PT_DYNAMIC", At::Object, "entries below 2^64-1", format_args!("{value:#x}"));
        Ok(Self { after: value.checked_add(1).ok_or_else(none)? })
    }

    pub(crate) fn get(self) -> Option<u64> {
        self.after.checked_sub(1)
    }
}

/// The entries that symbols are read by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SymbolEntries {
    pub(crate) strtab: Stated,
    pub(crate) strsz: Stated,
    pub(crate) symtab: Stated,
    pub(crate) syment: Stated,
    pub(crate) hash: Stated,
    pub(crate) gnu_hash: Stated,
    pub(crate) versym: Stated,
    pub(crate) verneed: Stated,
    pub(crate) verneednum: Stated,
    pub(crate) verdef: Stated,
    pub(crate) verdefnum: Stated,
}

/// The dynamic section's entries, still as the file has them: addresses and sizes are claims.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dynamic {
    pub(crate) symbols: SymbolEntries,
    pub(crate) rela: Stated,
    pub(crate) relasz: Stated,
    pub(crate) relaent: Stated,
    pub(crate) relacount: Stated,
    pub(crate) rel: Stated,
    pub(crate) relsz: Stated,
    pub(crate) relent: Stated,
    pub(crate) relr: Stated,
    pub(crate) relrsz: Stated,
    pub(crate) relrent: Stated,
    pub(crate) jmprel: Stated,
    pub(crate) pltrelsz: Stated,
    pub(crate) pltrel: Stated,
    pub(crate) pltgot: Stated,
    pub(crate) init: Stated,
    pub(crate) fini: Stated,
    pub(crate) init_array: Stated,
    pub(crate) init_arraysz: Stated,
    pub(crate) fini_array: Stated,
    pub(crate) fini_arraysz: Stated,
    pub(crate) soname: Stated,
    pub(crate) rpath: Stated,
    pub(crate) runpath: Stated,
    pub(crate) needed: SmallVec<[u64; 8]>,
    /// `DT_FILTER` and (true) `DT_AUXILIARY`.
    pub(crate) filters: Vec<(bool, u64)>,
    pub(crate) audit: Stated,
    pub(crate) depaudit: Stated,
    pub(crate) flags: u64,
    pub(crate) flags_1: u64,
    pub(crate) textrel: bool,
    pub(crate) symbolic: bool,
    pub(crate) bind_now: bool,
}

impl Dynamic {
    /// Collects the entries. Of a tag that stands twice the last counts, as in glibc.
    pub(crate) fn collect(entries: impl IntoIterator<Item = (u64, u64)>) -> Result<Self, ErrorKind> {
        let mut all = Self::default();
        for (key, value) in entries {
            let slot = match key {
                tag::DT_NEEDED => {
                    if all.needed.len() == NEEDED_MAX {
                        let found = NEEDED_MAX as u64 + 1;
                        return Err(ErrorKind::Limit { what: "DT_NEEDED entries", limit: NEEDED_MAX as u64, found });
                    }
                    all.needed.push(value);
                    continue;
                }
                DT_FILTER | DT_AUXILIARY => {
                    if all.filters.len() == NEEDED_MAX {
                        let found = NEEDED_MAX as u64 + 1;
                        return Err(ErrorKind::Limit { what: "DT_FILTER entries", limit: NEEDED_MAX as u64, found });
                    }
                    all.filters.push((key == DT_AUXILIARY, value));
                    continue;
                }
                tag::DT_TEXTREL => {
                    all.textrel = true;
                    continue;
                }
                tag::DT_SYMBOLIC => {
                    all.symbolic = true;
                    continue;
                }
                tag::DT_BIND_NOW => {
                    all.bind_now = true;
                    continue;
                }
                tag::DT_FLAGS => {
                    all.flags = value;
                    continue;
                }
                tag::DT_FLAGS_1 => {
                    all.flags_1 = value;
                    continue;
                }
                tag::DT_STRTAB => &mut all.symbols.strtab,
                tag::DT_STRSZ => &mut all.symbols.strsz,
                tag::DT_SYMTAB => &mut all.symbols.symtab,
                tag::DT_SYMENT => &mut all.symbols.syment,
                tag::DT_HASH => &mut all.symbols.hash,
                tag::DT_GNU_HASH => &mut all.symbols.gnu_hash,
                tag::DT_VERSYM => &mut all.symbols.versym,
                tag::DT_VERNEED => &mut all.symbols.verneed,
                tag::DT_VERNEEDNUM => &mut all.symbols.verneednum,
                tag::DT_VERDEF => &mut all.symbols.verdef,
                tag::DT_VERDEFNUM => &mut all.symbols.verdefnum,
                tag::DT_RELA => &mut all.rela,
                tag::DT_RELASZ => &mut all.relasz,
                tag::DT_RELAENT => &mut all.relaent,
                tag::DT_RELACOUNT => &mut all.relacount,
                tag::DT_REL => &mut all.rel,
                tag::DT_RELSZ => &mut all.relsz,
                tag::DT_RELENT => &mut all.relent,
                DT_RELR => &mut all.relr,
                DT_RELRSZ => &mut all.relrsz,
                DT_RELRENT => &mut all.relrent,
                tag::DT_JMPREL => &mut all.jmprel,
                tag::DT_PLTRELSZ => &mut all.pltrelsz,
                tag::DT_PLTREL => &mut all.pltrel,
                tag::DT_PLTGOT => &mut all.pltgot,
                tag::DT_INIT => &mut all.init,
                tag::DT_FINI => &mut all.fini,
                tag::DT_INIT_ARRAY => &mut all.init_array,
                tag::DT_INIT_ARRAYSZ => &mut all.init_arraysz,
                tag::DT_FINI_ARRAY => &mut all.fini_array,
                tag::DT_FINI_ARRAYSZ => &mut all.fini_arraysz,
                tag::DT_SONAME => &mut all.soname,
                tag::DT_RPATH => &mut all.rpath,
                tag::DT_RUNPATH => &mut all.runpath,
                DT_AUDIT => &mut all.audit,
                DT_DEPAUDIT => &mut all.depaudit,
                _ => continue,
            };
            *slot = Stated::of(value)?;
        }
        // The flags of DT_FLAGS say the same as the older tags (gABI chapter 5).
        all.textrel |= all.flags & tag::DF_TEXTREL != 0;
        all.symbolic |= all.flags & tag::DF_SYMBOLIC != 0;
        all.bind_now |= all.flags & tag::DF_BIND_NOW != 0 || all.flags_1 & tag::DF_1_NOW != 0;
        Ok(all)
    }

    /// The addresses of the tables that loading reads.
    pub(crate) fn tables(&self) -> impl Iterator<Item = u64> {
        let relocations = [self.rela, self.rel, self.relr, self.jmprel];
        self.symbols.tables().chain(relocations.into_iter().filter_map(Stated::get))
    }

    /// Where its names begin in the string table.
    pub(crate) fn names(&self) -> impl Iterator<Item = u64> {
        let single = [self.soname, self.rpath, self.runpath, self.audit, self.depaudit];
        let filters = self.filters.iter().map(|(_, name)| *name);
        self.needed.iter().copied().chain(filters).chain(single.into_iter().filter_map(Stated::get))
    }

    pub(crate) fn nodelete(&self) -> bool {
        self.flags_1 & tag::DF_1_NODELETE != 0
    }

    pub(crate) fn initfirst(&self) -> bool {
        self.flags_1 & tag::DF_1_INITFIRST != 0
    }

    pub(crate) fn nodeflib(&self) -> bool {
        self.flags_1 & tag::DF_1_NODEFLIB != 0
    }

    pub(crate) fn position_independent_executable(&self) -> bool {
        self.flags_1 & tag::DF_1_PIE != 0
    }

    pub(crate) fn no_open(&self) -> bool {
        self.flags_1 & tag::DF_1_NOOPEN != 0
    }

    pub(crate) fn static_tls(&self) -> bool {
        self.flags & tag::DF_STATIC_TLS != 0
    }
}

impl SymbolEntries {
    /// The addresses of the tables.
    pub(crate) fn tables(&self) -> impl Iterator<Item = u64> {
        let Self { strtab, symtab, hash, gnu_hash, versym, verneed, verdef, .. } = *self;
        [strtab, symtab, hash, gnu_hash, versym, verneed, verdef].into_iter().filter_map(Stated::get)
    }
}

/// Whether a dynamic tag's value is an address (gABI chapter 5, `d_ptr`).
pub(crate) fn is_address(tag: u64) -> bool {
    is_rebased(tag)
        || matches!(
            tag,
            tag::DT_VERDEF | tag::DT_VERNEED | tag::DT_INIT | tag::DT_FINI | tag::DT_INIT_ARRAY | tag::DT_FINI_ARRAY
        )
}

/// Whether glibc adds the load bias to a dynamic tag's value where it stands in memory, if that is writable
/// (`elf/get-dynamic-info.h`): what reads the section there expects it.
pub(crate) fn is_rebased(tag: u64) -> bool {
    matches!(
        tag,
        tag::DT_PLTGOT
            | tag::DT_HASH
            | tag::DT_STRTAB
            | tag::DT_SYMTAB
            | tag::DT_RELA
            | tag::DT_REL
            | tag::DT_JMPREL
            | tag::DT_GNU_HASH
            | tag::DT_VERSYM
    )
}

/// The names of what an object needs, one behind the other, each with its length before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needed(Vec<u8>);

impl Needed {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (len, names) = rest.split_first_chunk()?;
            let name;
            (name, rest) = names.split_at_checked(u32::from_ne_bytes(*len) as usize)?;
            Some(name)
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `name` is at most as long as all names of an object may be.
    fn push(&mut self, name: &[u8]) {
        self.0.extend((name.len() as u32).to_ne_bytes());
        self.0.extend_from_slice(name);
    }
}

/// The strings that the dynamic section names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) soname: Option<Box<[u8]>>,
    pub(crate) needed: Needed,
    pub(crate) rpath: Option<Box<[u8]>>,
    pub(crate) runpath: Option<Box<[u8]>>,
    /// What stands in for its definitions (`DT_FILTER`), or may (true: `DT_AUXILIARY`).
    pub(crate) filters: Vec<(bool, Box<[u8]>)>,
    /// Libraries that look over the loader's shoulder (`DT_AUDIT`, `DT_DEPAUDIT`), with colons between them.
    pub(crate) audit: Option<Box<[u8]>>,
    pub(crate) depaudit: Option<Box<[u8]>>,
}

impl Names {
    pub(crate) fn read(dynamic: &Dynamic, strings: &impl Strings) -> Result<Self, ErrorKind> {
        let at = dynamic.symbols.strtab.get().map_or(At::Object, |strtab| At::Vaddr(Vaddr(strtab)));
        let bytes = Cell::new(0);
        let find = |what: &str, offset: u64| {
            let name = strings.string(offset).ok_or_else(|| {
                let expected = format!("a string inside DT_STRTAB of {:#x} bytes", strings.size());
                ErrorKind::malformed(what, at, expected, format_args!("offset {offset:#x}"))
            })?;
            bytes.set(bytes.get() + name.len() as u64);
            match bytes.get() {
                found if found > NAMES_MAX => {
                    Err(ErrorKind::Limit { what: "bytes of names in PT_DYNAMIC", limit: NAMES_MAX, found })
                }
                _ => Ok(name),
            }
        };
        let read = |what: &str, offset: u64| Ok(Box::from(&*find(what, offset)?));
        let optional = |what: &'static str, at: Stated| at.get().map(|offset| read(what, offset)).transpose();
        let mut needed = Needed(Vec::with_capacity(ROOM * dynamic.needed.len()));
        for offset in &dynamic.needed {
            needed.push(&find("DT_NEEDED", *offset)?);
        }
        let mut filters = Vec::with_capacity(dynamic.filters.len());
        for (auxiliary, offset) in &dynamic.filters {
            filters.push((*auxiliary, read("DT_FILTER", *offset)?));
        }
        Ok(Self {
            soname: optional("DT_SONAME", dynamic.soname)?,
            needed,
            filters,
            audit: optional("DT_AUDIT", dynamic.audit)?,
            depaudit: optional("DT_DEPAUDIT", dynamic.depaudit)?,
            rpath: optional("DT_RPATH", dynamic.rpath)?,
            // DT_RPATH is ignored when DT_RUNPATH is present (gABI chapter 5); the search decides that.
            runpath: optional("DT_RUNPATH", dynamic.runpath)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[test]
    fn an_entry_states_any_number_but_the_largest() {
        let rela = |value| Dynamic::collect([(tag::DT_RELA, value)]).map(|dynamic| dynamic.rela.get());
        assert_eq!(Dynamic::default().rela.get(), None);
        assert_eq!(rela(0).unwrap(), Some(0));
        assert_eq!(rela(u64::MAX - 1).unwrap(), Some(u64::MAX - 1));
        let error = rela(u64::MAX).unwrap_err().to_string();
        assert_eq!(error, "PT_DYNAMIC: expected entries below 2^64-1, found 0xffffffffffffffff");
    }

    #[test]
    fn names_of_one_object_come_to_a_mebibyte_at_most() {
        struct Long;
        impl Strings for Long {
            fn string(&self, _: u64) -> Option<Cow<'_, [u8]>> {
                Some(vec![b'a'; 1 << 16].into())
            }

            fn size(&self) -> u64 {
                1 << 16
            }
        }
        let read = |count| {
            let entries = std::iter::repeat_n((tag::DT_NEEDED, 1), count);
            Names::read(&Dynamic::collect(entries).unwrap(), &Long).map(|names| names.needed.iter().count())
        };
        assert_eq!(read(16).unwrap(), 16);
        let error = read(4096).unwrap_err().to_string();
        assert_eq!(error, "bytes of names in PT_DYNAMIC: expected at most 1048576, found 1114112");
    }

    #[test]
    fn needed_names_are_told_apart_as_they_stand() {
        let mut needed = Needed::default();
        let names = [&b"liba.so"[..], b"", b"libb.so"];
        names.iter().for_each(|name| needed.push(name));
        assert_eq!(needed.iter().collect::<Vec<_>>(), names);
        assert!(!needed.is_empty() && Needed::default().is_empty() && Needed::default().iter().next().is_none());
    }
}
