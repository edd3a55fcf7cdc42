//! The symbols of a module: read when it is loaded or, where nothing had to be looked up for that, when they are first asked for.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use super::hooks;
use crate::addr::Vaddr;
use crate::file::Source;
use crate::file::dynamic::{Dynamic, SymbolEntries};
use crate::file::symbols::Symbols;
use crate::file::view::{ByteOrder, Class, View};
use crate::load::map::Mapping;

/// Symbols that may not have been read yet.
pub(crate) struct LateSymbols {
    read: OnceLock<Box<Symbols>>,
    unread: Option<Box<Unread>>,
}

/// What they are read by.
struct Unread {
    mapping: Arc<Mapping>,
    entries: SymbolEntries,
    class: Class,
    order: ByteOrder,
}

impl LateSymbols {
    /// To be read when they are asked for, out of the object's own memory; `None` if not all of that stays as it is in the
    /// file.
    #[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
    pub(crate) fn later(mapping: &Arc<Mapping>, dynamic: &Dynamic, class: Class, order: ByteOrder) -> Option<Self> {
        let constant = dynamic.tables().all(|table| mapping.constant(Vaddr(table), None).is_some());
        let unread = || Unread { mapping: Arc::clone(mapping), entries: dynamic.symbols, class, order };
        constant.then(|| Self { read: OnceLock::new(), unread: Some(Box::new(unread())) })
    }
}

impl From<Box<Symbols>> for LateSymbols {
    fn from(symbols: Box<Symbols>) -> Self {
        Self { read: symbols.into(), unread: None }
    }
}

impl Deref for LateSymbols {
    type Target = Symbols;

    #[inline]
    fn deref(&self) -> &Symbols {
        match self.read.get() {
            Some(symbols) => symbols,
            None => self.read_late(),
        }
    }
}

impl LateSymbols {
    /// Reads them, if nobody has asked for them yet.
    pub(crate) fn read_now(&self) {
        let _: &Symbols = self;
    }

    #[cold]
    fn read_late(&self) -> &Symbols {
        let read = |unread: &Unread| Symbols::read(&unread.entries, unread, unread.class).ok();
        // They have been read of this very file before, by whoever vouches for it. Should it be another one nevertheless,
        // it has no symbols.
        let read = || self.unread.as_deref().and_then(read).unwrap_or_else(|| Box::new(Symbols::none()));
        hooks::undisturbed(|| self.read.get_or_init(read))
    }
}

impl Source for Unread {
    fn table(&self, vaddr: Vaddr, len: Option<u64>) -> Option<View> {
        Some(View::new(self.mapping.constant(vaddr, len)?, self.class, self.order))
    }
}
