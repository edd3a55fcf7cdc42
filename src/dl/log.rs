//! What `SOLOAD_LOG` asks for: a line for each `dlopen`, on standard error or, if it is a path, at the end of that file.
//!
//! ```text
//! soload[4711]: libssl.so.3 is /usr/lib/libssl.so.3: loaded libssl.so.3, libcrypto.so.3; bound to libcrypto.so.3, libc.so.6; 1.204 ms
//! soload[4711]: ./libplug.so in name space 16: loaded libplug.so; bound to libc.so.6; 0.203 ms
//! ```

use std::ffi::{CStr, OsStr};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use crate::error::{Error, Escaped, shown};
use crate::loader::Opened;
use crate::process::module::{Dependency, Object};
use crate::process::{addresses, hooks, registry};

/// An open that is being watched.
pub(super) struct Watched {
    begun: Instant,
    /// How many modules had been loaded before.
    loaded: u64,
}

/// Begins to watch an open, if that is wanted: `SOLOAD_LOG` was set when the process started.
pub(super) fn watch() -> Option<Watched> {
    hooks::log().map(|_| Watched { begun: Instant::now(), loaded: addresses::counts().0 })
}

impl Watched {
    /// Says what became of it.
    pub(super) fn say(self, name: &CStr, outcome: &Result<Opened, Error>) {
        let mut line = format!("soload[{}]: {}", std::process::id(), Escaped(name.to_bytes()));
        let said = match outcome {
            Ok(opened) => self.describe(name, opened, &mut line),
            Err(error) => match error.needed_by() {
                Some(path) => write!(line, ": not opened: {error} (needed by {})", shown(path)),
                None => write!(line, ": not opened: {error}"),
            },
        };
        let time = self.begun.elapsed().as_secs_f64() * 1000.0;
        // Text in memory takes whatever is written; and nobody could be told where a line has not arrived.
        let _ = said.and_then(|()| writeln!(line, "; {time:.3} ms"));
        let _ = write(line.as_bytes());
    }

    fn describe(&self, name: &CStr, opened: &Opened, line: &mut String) -> std::fmt::Result {
        if opened.object.path().as_os_str().as_bytes() != name.to_bytes() {
            write!(line, " is {}", shown(opened.object.path()))?;
        }
        let namespace = opened.object.namespace();
        if !namespace.is_base() {
            write!(line, " in name space {}", namespace.number())?;
        }
        line.push_str(": ");
        let Object::Module(module) = &opened.object else { return line.write_str("the C library's loader has it") };
        let is_new = |object: &&Object| object.id().is_some_and(|id| id.0 >= self.loaded);
        let new: Vec<_> = opened.scope.iter().filter(is_new).map(|object| file_name(object.path())).collect();
        if new.is_empty() {
            return line.write_str("there already");
        }
        write!(line, "loaded {}", new.join(", "))?;
        let state = registry::state();
        let modules = module.bound_to.iter().filter_map(|id| state.module(*id)).map(|module| file_name(module.path()));
        let hosts = module.needed.iter().filter_map(|needed| match needed {
            Dependency::Host(host) => Some(file_name(host.path())),
            Dependency::Module(_) => None,
        });
        let providers: Vec<_> = modules.chain(hosts).collect();
        if !providers.is_empty() {
            write!(line, "; bound to {}", providers.join(", "))?;
        }
        #[cfg(feature = "snapshots")]
        if opened.sharing != crate::loader::Shared::Unasked {
            write!(line, "; {}", opened.sharing)?;
        }
        Ok(())
    }
}

fn file_name(path: &Path) -> String {
    shown(Path::new(path.file_name().unwrap_or(path.as_os_str()))).to_string()
}

/// Writes a line at once, so that those of several threads and processes do not mix.
fn write(line: &[u8]) -> std::io::Result<()> {
    match hooks::log().filter(|to| to.contains(&b'/')) {
        // Opened anew each time: programs close what they do not know.
        Some(path) => OpenOptions::new().create(true).append(true).open(OsStr::from_bytes(path))?.write_all(line),
        None => std::io::stderr().write_all(line),
    }
}
