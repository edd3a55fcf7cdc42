//! Help from the host: what only the C library's own loader can bring or see.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use smallvec::SmallVec;

use super::bind::Bound;
use super::enter::path_of_part;
use crate::error::{Error, ErrorKind};
use crate::file::hash;
use crate::file::symbols::{Symbol, Wanted, WantedVersion};
use crate::process::hooks;
use crate::process::host::{self, Host, HostObject, Pin};
use crate::process::storage::thread_local_address;
use crate::process::world::Look;

/// A symbol's name, and the version that is asked for.
pub(super) type Versioned<'a> = (&'a [u8], Option<&'a [u8]>);

/// The same, kept.
type Asked = (Box<[u8]>, Option<Box<[u8]>>);

/// Objects that are asked here whether they define a name at all, before the C library's look-up is: if that finds nothing, it
/// makes a message of it, which takes longer than asking so few objects.
const FEW: usize = 4;

/// The definition that an object of the host has, which is pinned.
fn defines(object: &HostObject, (name, version): Versioned<'_>) -> Option<Symbol> {
    let version = version.map(|name| WantedVersion { name, hash: hash::sysv(name), exact: true });
    let wanted = Wanted::by_name(name, version)?;
    hooks::undisturbed(|| object.symbols()?.find(&wanted)).map(|(_, symbol)| symbol)
}

/// What the host's own loader has to do for a load: bring parts of the C library, and find what only it sees, the
/// definitions of objects that it opened `RTLD_GLOBAL` after the start. Both are asked for between two attempts, when
/// nothing of ours is half done.
#[derive(Default)]
pub(crate) struct HostHelp {
    parts: Vec<(PathBuf, Pin)>,
    asked: BTreeSet<Asked>,
    providers: Vec<(Arc<HostObject>, Option<Arc<Pin>>)>,
}

impl HostHelp {
    /// Has the host open `parts`; they stay at least until this is dropped.
    pub(crate) fn bring(&mut self, parts: &[PathBuf], look: &Look) -> Result<(), Error> {
        for path in parts {
            if self.parts.iter().any(|(known, _)| known == path) {
                let message = "it was loaded under another name".to_owned();
                return Err(Error::new(path.clone(), ErrorKind::Host { message }));
            }
            let at = hooks::undisturbed(|| path_of_part(path.as_os_str().as_bytes(), look));
            let pin = at.and_then(|at| host::open_part(&at).ok()).map_or_else(|| host::open_part(path), Ok);
            let pin = pin.map_err(|kind| Error::new(path.clone(), kind))?;
            self.parts.push((path.clone(), pin));
        }
        Ok(())
    }

    /// Whether the host has definitions of what nobody of the scope defines, which is worth another attempt: of a strong
    /// reference, which is an error, or of a weak one.
    pub(crate) fn finds(&mut self, bound: &Result<Option<Bound>, Error>) -> bool {
        let any = match bound {
            Ok(bound) => bound.as_ref().is_some_and(Bound::misses_any),
            Err(error) => matches!(error.kind(), ErrorKind::UndefinedSymbols { .. }),
        };
        if !any {
            return false;
        }
        // Every library has a few weak references that nobody ever defines: they cost no more than this look.
        let host = hooks::undisturbed(Host::look);
        if host.later().next().is_none() {
            return false;
        }
        // One that cannot be pinned has gone.
        let pinned = |object: &Arc<HostObject>| object.pin().ok().map(|pin| (Arc::clone(object), pin));
        let pinned = || host.later().filter_map(pinned).collect::<SmallVec<[_; FEW]>>();
        let few = host.later().nth(FEW).is_none().then(pinned);
        let mut found = false;
        let mut ask = |(name, version): Versioned<'_>| {
            let mut any = few.iter().flatten().map(|(object, _)| defines(object, (name, version)));
            if (few.is_none() || any.any(|found| found.is_some()))
                && self.asked.insert((name.into(), version.map(Into::into)))
            {
                found |= self.find((name, version), &host);
            }
        };
        match bound.as_ref().map_err(Error::kind) {
            Ok(bound) => bound.iter().flat_map(Bound::missing).for_each(ask),
            Err(ErrorKind::UndefinedSymbols { symbols, .. }) => {
                symbols.iter().for_each(|s| ask((s.name.as_bytes(), s.version.as_ref().map(String::as_bytes))));
            }
            Err(_) => {}
        }
        found
    }

    /// Adds the object that has the host's definition of `symbol`; `false` if there is none.
    fn find(&mut self, symbol: Versioned<'_>, host: &Host) -> bool {
        let Some(addr) = host::global_symbol(symbol.0, symbol.1) else { return false };
        // Which object that is, glibc does not say for thread-local variables: the address is in nobody's segments.
        for object in host.later() {
            let Ok(pin) = object.pin() else { continue };
            let Some(symbol) = defines(object, symbol) else { continue };
            let here = match symbol.is_tls() {
                true => thread_local_address(object.tls_module, symbol.value) == addr,
                false => host.by_address(addr).is_some_and(|at| Arc::ptr_eq(at, object)),
            };
            if here {
                self.providers.push((Arc::clone(object), pin));
                return true;
            }
        }
        false
    }

    /// Objects that define what nobody else does.
    pub(super) fn providers(&self) -> impl Iterator<Item = &Arc<HostObject>> {
        self.providers.iter().map(|(object, _)| object)
    }
}
