//! Help from the host: what only the C library's own loader can bring or see.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::addr::Addr;
use crate::error::{Error, ErrorKind};
use crate::file::symbols::Wanted;
use crate::process::host::{self, Pin};

/// A symbol's name, and the version that is asked for.
type Versioned = (Box<[u8]>, Option<Box<[u8]>>);

/// What the host's own loader has to do for a load: bring parts of the C library, and look symbols up that only it
/// sees. Both are asked for between two attempts, when nothing of ours is half done.
#[derive(Default)]
pub(crate) struct HostHelp {
    parts: Vec<(PathBuf, Pin)>,
    definitions: HashMap<Versioned, Addr>,
}

impl HostHelp {
    /// Has the host open `parts`; they stay at least until this is dropped.
    pub(crate) fn bring(&mut self, parts: &[PathBuf]) -> Result<(), Error> {
        for path in parts {
            if self.parts.iter().any(|(known, _)| known == path) {
                let message = "it was loaded under another name".to_owned();
                return Err(Error::new(path.clone(), ErrorKind::Host { message }));
            }
            let pin = host::open_part(path).map_err(|kind| Error::new(path.clone(), kind))?;
            self.parts.push((path.clone(), pin));
        }
        Ok(())
    }

    /// Whether the host's own lookup finds a definition that `error` says is missing, which is worth another attempt.
    pub(crate) fn finds(&mut self, error: &Error) -> bool {
        let ErrorKind::UndefinedSymbols { symbols, .. } = error.kind() else { return false };
        let mut all = true;
        for symbol in symbols {
            let (name, version) = (symbol.name.as_bytes(), symbol.version.as_ref().map(String::as_bytes));
            let key = (name.into(), version.map(Into::into));
            let found = if self.definitions.contains_key(&key) { None } else { host::global_symbol(name, version) };
            all &= found.is_some();
            self.definitions.extend(found.map(|addr| (key, addr)));
        }
        all
    }

    pub(super) fn definition(&self, wanted: &Wanted<'_>) -> Option<Addr> {
        if self.definitions.is_empty() {
            return None;
        }
        self.definitions.get(&(wanted.name.into(), wanted.version.map(|version| version.name.into()))).copied()
    }
}
