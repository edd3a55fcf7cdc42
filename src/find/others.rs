//! The searches of the other C libraries' loaders: musl's, which has one path that everybody inherits, and Android's.

use std::ops::ControlFlow::Continue;

use super::Asker;
use super::rule::Place;
use super::tokens::Owner;
use super::walk::{Step, Walk};

/// Names that musl's loader takes for itself, whatever is there: behind `lib`, up to the first dot (`load_library`).
const RESERVED: [&[u8]; 7] = [b"c.", b"pthread.", b"rt.", b"m.", b"dl.", b"util.", b"xnet."];

/// Whether musl's loader is what `name` means.
pub(crate) fn is_musl_itself(name: &[u8]) -> bool {
    name.strip_prefix(b"lib").is_some_and(|rest| RESERVED.iter().any(|reserved| rest.starts_with(reserved)))
}

impl<T> Walk<'_, '_, T> {
    /// As musl 1.2 searches: the environment first, then the paths of the asker and of all above it, RUNPATH or RPATH
    /// alike, then the system's path.
    pub(super) fn places_of_musl(&mut self, asker: &Asker<'_>) -> Step<T> {
        let settings = &self.search.settings;
        let place = |item| Place::LibraryPath { item };
        let nobody = Owner { origin: None, program: true };
        self.list(Some(&settings.library_path), b":\n", "directories in LD_LIBRARY_PATH", nobody, place)?;
        for link in std::iter::successors(Some(asker), |link| link.loaded_by) {
            let (list, runs) = match link.runpath {
                Some(list) => (Some(list), true),
                None => (link.rpath, false),
            };
            let place = |item| match runs {
                true => Place::Runpath { of: link.name, item },
                false => Place::Rpath { of: link.name, item },
            };
            // It knows one token only, and drops a path with any other.
            if list.is_some_and(has_other_token) {
                continue;
            }
            self.list(list, b":\n", "directories in DT_RUNPATH", link.owner(), place)?;
        }
        self.fixed(&settings.built_in.directories, Place::Default)
    }

    /// As Android's linker searches in its default namespace: the environment, the RUNPATH of the asker alone, and the
    /// directories of the system. DT_RPATH means nothing to it.
    pub(super) fn places_of_bionic(&mut self, asker: &Asker<'_>) -> Step<T> {
        let settings = &self.search.settings;
        let place = |item| Place::LibraryPath { item };
        let program = Owner { origin: asker.program().origin, program: true };
        self.list(Some(&settings.library_path), b":", "directories in LD_LIBRARY_PATH", program, place)?;
        let place = |item| Place::Runpath { of: asker.name, item };
        self.list(asker.runpath, b":", "directories in DT_RUNPATH", asker.owner(), place)?;
        self.fixed(&settings.built_in.directories, Place::Default)
    }

    /// A name that is a path; `None` if it is to be searched for.
    pub(super) fn as_given(&mut self) -> Option<Step<T>> {
        let is_path = self.name.contains(&b'/');
        if self.name.is_empty() {
            return Some(Continue(()));
        }
        is_path.then(|| {
            self.candidate(self.name, Place::AsGiven)?;
            Continue(())
        })
    }
}

fn has_other_token(list: &[u8]) -> bool {
    let mut dollars = (0..list.len()).filter(|at| list[*at] == b'$');
    dollars.any(|at| !list[at..].starts_with(b"$ORIGIN") && !list[at..].starts_with(b"${ORIGIN}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn musl_is_meant_by_the_names_of_what_it_has_in_one_file() {
        for name in ["libc.so", "libc.musl-x86_64.so.1", "libm.so.6", "libpthread.so.0", "librt.so", "libdl.so.2"] {
            assert!(is_musl_itself(name.as_bytes()), "{name}");
        }
        for name in ["libcrypt.so", "libmagic.so.1", "c.so", "libdlopen.so", "libc++.so", "libutility.so"] {
            assert!(!is_musl_itself(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn musl_knows_one_token() {
        assert!(!has_other_token(b"$ORIGIN/a:${ORIGIN}/b"));
        assert!(has_other_token(b"/a:$LIB"));
        assert!(has_other_token(b"$"));
    }
}
