//! What is looked for in symbol tables: a name with its hashes, and a version.

use std::cell::Cell;

use super::hash;

/// A symbol that is looked for.
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a [u8],
    pub(super) gnu_hash: u32,
    sysv_hash: Cell<Option<u32>>,
    /// Some table had so long a chain that the search was given up.
    pub(crate) given_up: Cell<bool>,
    pub(crate) version: Option<WantedVersion<'a>>,
    /// A PLT slot or TLS reference: an undefined symbol with a value does not count.
    pub(crate) for_call: bool,
    /// `dlsym` takes the default version where a relocation without version takes the oldest.
    pub(super) default_version: bool,
}

/// A symbol's name and its hash.
#[derive(Clone, Copy)]
pub(crate) struct Name<'a> {
    pub(crate) text: &'a [u8],
    pub(super) gnu_hash: u32,
}

impl<'a> Name<'a> {
    /// The one at `offset` of a string table; `None` if it does not end inside.
    #[inline]
    pub(super) fn at(strings: &'a [u8], offset: u32) -> Option<Self> {
        let (text, gnu_hash) = hash::string_with_gnu(strings.get(offset as usize..)?)?;
        Some(Self { text, gnu_hash })
    }

    #[inline(always)]
    pub(crate) fn gnu_hash(&self) -> u32 {
        self.gnu_hash
    }
}

/// The version a reference asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WantedVersion<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) hash: u32,
    /// No other version, not even an unversioned definition, will do.
    pub(crate) exact: bool,
}

impl<'a> Wanted<'a> {
    /// What a relocation asks for.
    pub(crate) fn reference(name: Name<'a>, version: Option<WantedVersion<'a>>, for_call: bool) -> Self {
        Self { for_call, default_version: false, ..Self::new(name, version) }
    }

    /// The same for a call.
    pub(crate) fn called(&self) -> Self {
        let Self { name, gnu_hash, version, default_version, .. } = *self;
        let (sysv_hash, given_up) = (self.sysv_hash.clone(), Cell::new(false));
        Self { name, gnu_hash, sysv_hash, given_up, version, for_call: true, default_version }
    }

    /// What `dlsym` and `dlvsym` ask for; `None` if there is a NUL in the name, as in no symbol's.
    #[inline]
    pub(crate) fn by_name(name: &'a [u8], version: Option<WantedVersion<'a>>) -> Option<Self> {
        Some(Self::new(Name { text: name, gnu_hash: hash::gnu(name)? }, version))
    }

    #[inline]
    fn new(name: Name<'a>, version: Option<WantedVersion<'a>>) -> Self {
        Self {
            name: name.text,
            gnu_hash: name.gnu_hash,
            sysv_hash: Cell::new(None),
            given_up: Cell::new(false),
            version,
            for_call: false,
            default_version: true,
        }
    }

    /// The hash that `DT_GNU_HASH` goes by.
    pub(crate) fn gnu_hash(&self) -> u32 {
        self.gnu_hash
    }

    pub(super) fn sysv(&self) -> u32 {
        self.sysv_hash.get().unwrap_or_else(|| {
            let hash = hash::sysv(self.name);
            self.sysv_hash.set(Some(hash));
            hash
        })
    }
}
