//! What to do about each error: the line after the one that says what is wrong.

use std::path::Path;

use crate::error::{ErrorKind, shown};

/// What whoever reads the error of `object` can do, if there is something better than reading it again.
pub(crate) fn of(kind: &ErrorKind, object: &Path) -> Option<String> {
    let path = shown(object);
    Some(match kind {
        ErrorKind::NotFound { .. } => {
            "install the package that has it, or name its directory in LD_LIBRARY_PATH, RUNPATH \
                                       or OpenOptions::search_dir"
                .into()
        }
        ErrorKind::Open { errno: libc::ENOENT } => "check the spelling of the path".into(),
        ErrorKind::Open { errno: libc::EACCES } => "check the permissions of the file and of its directories".into(),
        ErrorKind::Open { errno: libc::EMFILE } => {
            "close files that are not needed, or raise the limit (`ulimit -n`)".into()
        }
        ErrorKind::Open { .. } => return None,
        ErrorKind::NotMappable { found: "a directory" } => {
            "name the library inside it, or give the directory to OpenOptions::search_dir".into()
        }
        ErrorKind::NotMappable { .. } => "only a regular file has pages; copy the content to one and open that".into(),
        ErrorKind::LinkerScript { names } => match names {
            Some(library) => format!("this is a GNU ld script for the static linker; open {library} instead"),
            None => {
                format!("this is a GNU ld script for the static linker; open a library that it names (`cat {path}`)")
            }
        },
        ErrorKind::NotElf { .. } => format!("`file {path}` tells what it is"),
        ErrorKind::Foreign { what: "type", found, .. } if found.ends_with("executable") => {
            "a program is run, not opened; build its code as a library (cc -fPIC -shared)".into()
        }
        ErrorKind::Foreign { what: "type", found, .. } if found.contains("relocatable") => {
            format!("link it first: `cc -shared -o LIBRARY.so {path}`")
        }
        ErrorKind::Foreign { what: "type", .. } => format!("`readelf -hd {path}` tells what it was made for"),
        ErrorKind::Foreign { what, .. } if what.contains("system") => {
            "it was built for another operating system, or for a newer C library; get the build for this one".into()
        }
        ErrorKind::Foreign { expected, .. } => {
            format!("it was built for another kind of machine; get the build for this one ({expected})")
        }
        ErrorKind::Malformed { what, .. } if what.starts_with("p_offset + p_filesz") => {
            "the file is shorter than it says: an unfinished copy or download; get it anew".into()
        }
        ErrorKind::Malformed { what, .. } => {
            format!("the file is damaged or was edited; compare with `readelf {} {path}`", readelf_option(what))
        }
        ErrorKind::Limit { what, .. } => match *what {
            "attempts to load" => "other threads open and close libraries all the time; keep them open".into(),
            what if is_of_file(what) => {
                format!("the file is damaged or was edited; compare with `readelf {} {path}`", readelf_option(what))
            }
            _ => return None,
        },
        ErrorKind::UndefinedSymbols { symbols, .. } => {
            let mangled = symbols.iter().any(|symbol| symbol.name.starts_with("_Z"));
            let names = if mangled { "; `c++filt` shows C++ names as they were written" } else { "" };
            format!("link the library against what defines it, or open that first with OpenOptions::global{names}")
        }
        ErrorKind::MissingVersion { version, .. } if version.starts_with("GLIBC_") => {
            "it was built on a system with a newer C library; build it on this one, or on the oldest it shall run on"
                .into()
        }
        ErrorKind::MissingVersion { provider, .. } => {
            format!("{} is older than the one this was linked against; update it or rebuild", shown(provider))
        }
        // The program itself has no path to look into.
        ErrorKind::NoSuchSymbol { .. } if object.is_relative() => {
            "C++ and Rust change the names of functions unless they are declared extern \"C\"".into()
        }
        ErrorKind::NoSuchSymbol { .. } => format!(
            "`nm -D {path}` lists what it has; C++ and Rust change the names of functions unless they are declared \
             extern \"C\""
        ),
        ErrorKind::UnsupportedRelocation { relocation, .. } if relocation.ends_with("_COPY") => {
            "copy relocations are for executables; compile with -fPIC and link with -shared".into()
        }
        ErrorKind::UnsupportedRelocation { .. } | ErrorKind::RelocationOverflow { .. } => {
            "compile all of its sources with -fPIC".into()
        }
        ErrorKind::WritableExecutable { .. } => {
            "relink without the option that merges segments (-N, --omagic), or allow \
                                                 it with OpenOptions::allow_writable_executable"
                .into()
        }
        ErrorKind::ExecutableStack => {
            "relink with -z noexecstack, or allow it with OpenOptions::allow_executable_stack".into()
        }
        ErrorKind::NoRoom { .. } => {
            "the process is out of memory, addresses (`ulimit -v`) or mappings (/proc/sys/vm/max_map_count)".into()
        }
        ErrorKind::System { call: "mmap of a segment", errno: libc::EPERM } => {
            format!("its file system is mounted noexec (`findmnt -T {path}`); move the file to another")
        }
        ErrorKind::System { errno: libc::EACCES | libc::EPERM, .. } => {
            "a security policy forbids it (SELinux, AppArmor, seccomp); look at its log".into()
        }
        ErrorKind::Snapshot { what } if what.starts_with("directory refused") => {
            "use a directory of your own that nobody else can write: `mkdir -m 700 DIR`".into()
        }
        ErrorKind::Snapshot { .. } | ErrorKind::Server { .. } => return None,
        ErrorKind::NotLoaded => "open it without OpenOptions::no_load".into(),
        ErrorKind::WrongSize { .. } => "ask for a function pointer, or for a pointer to the variable".into(),
        ErrorKind::ThreadLocal { what } if what.contains("static TLS") => {
            "compile it without -ftls-model=initial-exec, or give the process more room from the start \
             (GLIBC_TUNABLES=glibc.rtld.optional_static_tls=BYTES)"
                .into()
        }
        ErrorKind::ThreadLocal { .. } | ErrorKind::System { .. } | ErrorKind::Host { .. } | ErrorKind::NulInName => {
            return None;
        }
    })
}

/// What `readelf` shows the table by that a field stands in.
fn readelf_option(what: &str) -> &'static str {
    let tables: [(&str, &[&str]); 5] = [
        ("-hW", &["ELF header", "EI_", "e_", "program header"]),
        ("-VW", &["version", "DT_VER"]),
        ("-rW", &["r_", "relocat"]),
        ("--dyn-syms -W", &["st_", "DT_SYMTAB", "DT_STRTAB"]),
        ("-dW", &["DT_", "bytes of PT_DYNAMIC", "PT_DYNAMIC"]),
    ];
    let stands = |starts: &[&str]| starts.iter().any(|start| what.starts_with(start));
    tables.iter().find(|(_, starts)| stands(starts)).map_or("-lW", |(option, _)| option)
}

/// Whether a file chose the number that is past its limit.
fn is_of_file(what: &str) -> bool {
    ["program headers", "bytes of PT_", "DT_NEEDED", "bytes of address space"].iter().any(|of| what.starts_with(of))
}
