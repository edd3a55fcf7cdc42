//! The symbols that a library defines for others, as a list to look through.

use std::fmt;

use crate::file::symbols::{Symbol as Entry, Symbols};

/// A symbol that a library defines for others.
///
/// ```
/// // SAFETY: libm's constructors are sound.
/// let library = unsafe { soload::Library::new("libm.so.6") }?;
/// assert!(library.exports().any(|export| export.kind() == soload::ExportKind::Function && export.size() > 0));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Export<'lib> {
    symbols: &'lib Symbols,
    index: u32,
    symbol: Entry,
    name: &'lib [u8],
}

/// What a symbol is.
///
/// ```
/// assert_ne!(soload::ExportKind::Function, soload::ExportKind::Variable);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExportKind {
    /// A function (`STT_FUNC`).
    Function,
    /// A function whose implementation is chosen when it is bound (`STT_GNU_IFUNC`).
    IndirectFunction,
    /// A variable (`STT_OBJECT`, `STT_COMMON`).
    Variable,
    /// A thread-local variable (`STT_TLS`).
    ThreadLocal,
    /// Not stated (`STT_NOTYPE`), or something else.
    Other,
}

impl<'lib> Export<'lib> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'lib [u8] {
        self.name
    }

    /// Its version, if the library gives its symbols versions.
    #[must_use]
    pub fn version(&self) -> Option<&'lib [u8]> {
        let version = self.symbols.version_of(self.index)?;
        self.symbols.string(version.name)
    }

    /// Whether it is the version that `get` finds, of several of one name.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.symbols.versions.index(self.index).is_none_or(|index| !index.hidden)
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> ExportKind {
        match self.symbol.kind() {
            1 | 5 => ExportKind::Variable,
            2 => ExportKind::Function,
            6 => ExportKind::ThreadLocal,
            10 => ExportKind::IndirectFunction,
            _ => ExportKind::Other,
        }
    }

    /// Its size in bytes; 0 if not stated.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.symbol.size
    }
}

impl fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_struct("Export")
            .field("name", &text(self.name()))
            .field("version", &self.version().map(text))
            .field("kind", &self.kind())
            .field("size", &self.size())
            .finish()
    }
}

/// All symbols of a table that others may bind to.
pub(crate) fn exports(symbols: &Symbols) -> impl Iterator<Item = Export<'_>> {
    (0..symbols.count()).filter_map(move |index| {
        let symbol = symbols.get(index).filter(Entry::is_exported)?;
        Some(Export { symbols, index, symbol, name: symbols.string(symbol.name)? })
    })
}
