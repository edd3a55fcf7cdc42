//! What can go wrong: each error says object, what, where, expected, found, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::addr::{FileOffset, Vaddr};
use crate::help;

/// Why an object could not be opened, loaded, or asked for a symbol.
///
/// Displays as one line, `object: what at where: expected X, found Y`; [`Error::help`] and [`Error::needed_by`]
/// give the rest. Handle cases by [`Error::kind`].
///
/// ```
/// // SAFETY: nothing is loaded, so no foreign code runs.
/// let error = unsafe { soload::Library::new("libno-such.so") }.unwrap_err();
/// assert!(error.to_string().starts_with("libno-such.so: "));
/// assert!(matches!(error.kind(), soload::ErrorKind::NotFound { .. }));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    object: PathBuf,
    needed_by: Option<PathBuf>,
    kind: ErrorKind,
}

impl Error {
    pub(crate) fn new(object: impl Into<PathBuf>, kind: ErrorKind) -> Self {
        Self(Box::new(Inner { object: object.into(), needed_by: None, kind }))
    }

    pub(crate) fn with_needed_by(mut self, object: impl Into<PathBuf>) -> Self {
        self.0.needed_by = Some(object.into());
        self
    }

    /// The file or library the error is about, as far as it was known: a path, or the name that was asked for.
    #[must_use]
    pub fn object(&self) -> &Path {
        &self.0.object
    }

    /// The object whose dependency could not be loaded, if it was not the one asked for.
    #[must_use]
    pub fn needed_by(&self) -> Option<&Path> {
        self.0.needed_by.as_deref()
    }

    /// The error itself, as a value.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// What to do about it, if there is something better than reading the line again.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        self.beside_the_caller().or_else(|| help::of(&self.0.kind, &self.0.object))
    }
}

impl Error {
    /// What was asked for by its name alone, while a file of that name is in the current directory.
    fn beside_the_caller(&self) -> Option<String> {
        let Inner { object, needed_by: None, kind: ErrorKind::NotFound { .. } } = &*self.0 else { return None };
        let here = Path::new(".").join(object);
        let is_name = !object.as_os_str().is_empty() && !object.as_os_str().as_encoded_bytes().contains(&b'/');
        (is_name && here.is_file()).then(|| {
            format!("a name without a slash is searched for; the file in the current directory is {}", shown(&here))
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Escaped(self.0.object.as_os_str().as_encoded_bytes()), self.0.kind)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("object", &self.0.object)
            .field("needed_by", &self.0.needed_by)
            .field("kind", &self.0.kind)
            .finish()
    }
}

impl std::error::Error for Error {}

/// Where in an object something stands.
///
/// ```
/// use soload::{At, FileOffset};
/// assert_eq!(At::File(FileOffset(0x40)).to_string(), " at file offset 0x40");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The object as a whole.
    Object,
    /// An offset in the file.
    File(FileOffset),
    /// An address as the file states it.
    Vaddr(Vaddr),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object => Ok(()),
            Self::File(offset) => write!(f, " at file offset {offset}"),
            Self::Vaddr(vaddr) => write!(f, " at address {vaddr}"),
        }
    }
}

/// One place where a library was looked for, and why it was not taken from there.
///
/// ```
/// // SAFETY: nothing is loaded, so no foreign code runs.
/// let error = unsafe { soload::Library::new("libno-such.so") }.unwrap_err();
/// if let soload::ErrorKind::NotFound { tried } = error.kind() {
///     assert!(tried.iter().any(|candidate| candidate.reason == "no such file"));
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The file or directory that was tried.
    pub path: PathBuf,
    /// The rule that led there, such as `RUNPATH of libplug.so`.
    pub rule: String,
    /// Why it lost.
    pub reason: String,
}

/// A reference that found no definition.
///
/// ```
/// let symbol = soload::Undefined { name: "crypt".into(), version: Some("XCRYPT_2.0".into()) };
/// assert_eq!(symbol.to_string(), "crypt@XCRYPT_2.0");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undefined {
    /// The symbol's name.
    pub name: String,
    /// The version the reference asks for.
    pub version: Option<String>,
}

impl fmt::Display for Undefined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(self.name.as_bytes()))?;
        self.version.as_ref().map_or(Ok(()), |version| write!(f, "@{}", Escaped(version.as_bytes())))
    }
}

/// What went wrong.
///
/// ```
/// // SAFETY: the file is refused before anything of it is mapped.
/// let error = unsafe { soload::Library::new("/dev/null") }.unwrap_err();
/// assert!(matches!(error.kind(), soload::ErrorKind::NotMappable { .. }));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No file of that name in any place the search goes to.
    NotFound {
        /// Every place looked at, in order, with the reason it lost.
        tried: Vec<Candidate>,
    },
    /// The file could not be opened or examined.
    Open {
        /// The system's error number.
        errno: i32,
    },
    /// Not a regular file: it has no pages that could be mapped.
    NotMappable {
        /// What it is, such as `a FIFO`.
        found: &'static str,
    },
    /// A GNU ld script: input for the static linker, not an object.
    LinkerScript {
        /// The first shared library that it names.
        names: Option<String>,
    },
    /// Not an ELF file at all.
    NotElf {
        /// The first bytes, escaped.
        found: String,
    },
    /// A sound ELF file, but not one that this process can load.
    Foreign {
        /// The property, such as `machine`.
        what: &'static str,
        /// What this process needs.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A header, table or string that contradicts itself or the file.
    Malformed {
        /// The field, such as `p_filesz of program header 2`.
        what: String,
        /// Where it stands.
        at: At,
        /// What a sound file has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// More of something than is ever sensible.
    Limit {
        /// What was counted.
        what: &'static str,
        /// The most that is accepted.
        limit: u64,
        /// What the file asks for.
        found: u64,
    },
    /// References without a definition in any object of the scope.
    UndefinedSymbols {
        /// All of them, in table order.
        symbols: Vec<Undefined>,
        /// The objects that were asked, in order.
        searched: Vec<PathBuf>,
    },
    /// A needed object lacks a version that this one was linked against.
    MissingVersion {
        /// The version.
        version: String,
        /// The object expected to define it.
        provider: PathBuf,
        /// A symbol that wants it.
        symbol: Option<String>,
    },
    /// The library has no such symbol (or not in that version).
    NoSuchSymbol {
        /// What was asked for.
        symbol: Undefined,
    },
    /// A relocation of a type that no loader of this machine applies to a shared object.
    UnsupportedRelocation {
        /// Its name in the psABI, or its number.
        relocation: String,
        /// The place it would change.
        at: Vaddr,
        /// The symbol it refers to.
        symbol: Option<String>,
    },
    /// A relocation whose value does not fit its place.
    RelocationOverflow {
        /// Its name in the psABI.
        relocation: String,
        /// The place it would change.
        at: Vaddr,
        /// The value that does not fit.
        value: u64,
    },
    /// A segment that is writable and executable at once.
    WritableExecutable {
        /// The index of its program header.
        header: usize,
    },
    /// The object asks for an executable stack.
    ExecutableStack,
    /// Thread-local storage that cannot be provided: there is no room for it where code counts on it.
    ThreadLocal {
        /// What of it.
        what: String,
    },
    /// No room for the object in the address space, or no memory for its writable part.
    NoRoom {
        /// Bytes asked for.
        bytes: u64,
        /// The system's error number.
        errno: i32,
    },
    /// A system call failed.
    System {
        /// Which one, and on what.
        call: &'static str,
        /// The system's error number.
        errno: i32,
    },
    /// A part of the C library that only its own loader can load, and it refused.
    Host {
        /// What `dlerror` said.
        message: String,
    },
    /// A snapshot cannot be made or used, or its directory cannot. Loading goes on without: only who asks for the
    /// snapshot itself gets this.
    Snapshot {
        /// Why.
        what: String,
    },
    /// A server of forked workers cannot begin, or has no answer.
    Server {
        /// Why.
        what: String,
    },
    /// Asked not to load it, and it is not loaded.
    NotLoaded,
    /// The type asked of `get` is not the size of a pointer.
    WrongSize {
        /// The size of the type, in bytes.
        found: usize,
    },
    /// A name that holds a NUL byte, so that no file or symbol can have it.
    NulInName,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { tried } => not_found(f, tried),
            Self::Open { errno } => write!(f, "cannot open the file: {}", errno_text(*errno)),
            Self::NotMappable { found } => {
                write!(f, "file type: expected a regular file, found {found}, which cannot be mapped")
            }
            Self::LinkerScript { .. } => f.write_str("expected ELF magic, found a GNU ld script"),
            Self::NotElf { found } => write!(f, "expected ELF magic, found {found}"),
            Self::Foreign { what, expected, found } => write!(f, "{what}: expected {expected}, found {found}"),
            Self::Malformed { what, at, expected, found } => {
                write!(f, "{what}{at}: expected {expected}, found {found}")
            }
            Self::Limit { what, limit, found } => write!(f, "{what}: expected at most {limit}, found {found}"),
            Self::UndefinedSymbols { symbols, searched } => {
                let name = |path: &PathBuf| shown(Path::new(path.file_name().unwrap_or(path.as_os_str()))).to_string();
                let plural = if symbols.len() == 1 { "" } else { "s" };
                let symbols = listed(symbols.iter().map(ToString::to_string), 3, "and");
                let objects = listed(searched.iter().map(name), 6, "or");
                write!(f, "undefined symbol{plural} {symbols}: expected a definition in {objects}, found none")
            }
            Self::MissingVersion { version, provider, symbol } => {
                write!(f, "version {} of {}", Escaped(version.as_bytes()), shown(provider))?;
                if let Some(symbol) = symbol {
                    write!(f, " (wanted by symbol {})", Escaped(symbol.as_bytes()))?;
                }
                f.write_str(": expected its definition, found none")
            }
            Self::NoSuchSymbol { symbol } => write!(f, "symbol {symbol}: expected a definition, found none"),
            Self::UnsupportedRelocation { relocation, at, symbol } => {
                write!(f, "relocation {relocation} at address {at}")?;
                if let Some(symbol) = symbol {
                    write!(f, " (symbol {})", Escaped(symbol.as_bytes()))?;
                }
                f.write_str(": expected one that shared objects may have, found one that cannot be applied")
            }
            Self::RelocationOverflow { relocation, at, value } => {
                write!(
                    f,
                    "relocation {relocation} at address {at}: expected a value that fits 32 bits, found {value:#x}"
                )
            }
            Self::WritableExecutable { header } => write!(
                f,
                "p_flags of program header {header}: expected a segment not both writable and executable, found RWX"
            ),
            Self::ExecutableStack => f.write_str(
                "PT_GNU_STACK: expected a stack that is not executable, found a demand for an executable one",
            ),
            Self::ThreadLocal { what } => write!(f, "thread-local storage: {what}"),
            Self::NoRoom { bytes, errno } => {
                write!(f, "address space: expected room for {bytes:#x} bytes, found none: {}", errno_text(*errno))
            }
            Self::System { call: "open of maps", errno: libc::ENOENT } => f.write_str("no such process in /proc"),
            Self::System { call, errno } => write!(f, "{call}: {}", errno_text(*errno)),
            Self::Host { message } => write!(f, "the C library's own loader refused: {message}"),
            Self::Snapshot { what } | Self::Server { what } => f.write_str(what),
            Self::NotLoaded => f.write_str("expected it to be loaded already, found that it is not"),
            Self::WrongSize { found } => write!(
                f,
                "type of the symbol: expected the size of a pointer, {} bytes, found {found} bytes",
                size_of::<*const ()>()
            ),
            Self::NulInName => f.write_str("name: expected no NUL byte, found one"),
        }
    }
}

impl ErrorKind {
    /// A malformed field, with numbers shown as they are given.
    pub(crate) fn malformed(
        what: impl Into<String>,
        at: At,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::Malformed { what: what.into(), at, expected: expected.to_string(), found: found.to_string() }
    }
}

/// Says by which rules a library was looked for, and whether one was there that does not fit.
fn not_found(f: &mut fmt::Formatter<'_>, tried: &[Candidate]) -> fmt::Result {
    let mut rules: Vec<&str> = tried.iter().map(|candidate| candidate.rule.as_str()).collect();
    rules.dedup();
    f.write_str("library not found: ")?;
    match tried {
        [] => return f.write_str("expected a name, found an empty one"),
        // Nowhere to look: the name itself is the matter.
        [one] if one.rule == "path as given" => return write!(f, "{}", Escaped(one.reason.as_bytes())),
        _ => write!(f, "expected it in {}, ", Escaped(joined(&rules, "or").as_bytes()))?,
    }
    match tried.iter().find(|candidate| candidate.is_there()) {
        Some(there) => {
            write!(f, "found only {} ({})", shown(&there.path), Escaped(there.reason.as_bytes()))
        }
        None if tried.len() == 1 => f.write_str("found it not there"),
        None => write!(f, "found it in none of {} places", tried.len()),
    }
}

impl Candidate {
    /// Whether there is a file, though not one that can be taken.
    fn is_there(&self) -> bool {
        // These are the texts of `Foreign` and `Open`; every other reason tells of an absence or of a directory.
        self.reason.contains(": expected ") || self.reason.starts_with("cannot open the file")
    }
}

/// The first few of many, and how many more there are.
fn listed(all: impl ExactSizeIterator<Item = String>, few: usize, last: &str) -> String {
    let more = all.len().saturating_sub(few);
    let mut names: Vec<String> = all.take(few).collect();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    joined(&names.iter().map(String::as_str).collect::<Vec<_>>(), last)
}

/// `a, b or c`.
fn joined(names: &[&str], last: &str) -> String {
    match names {
        [] => "?".into(),
        [one] => (*one).into(),
        [first @ .., end] => format!("{} {last} {end}", first.join(", ")),
    }
}

/// The system's words for an error number.
pub(crate) fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// A path as one line without control characters.
pub(crate) fn shown(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_encoded_bytes())
}

/// Bytes from a file, shown so that they cannot change a terminal or a line: text stays, the rest becomes `\xNN`.
///
/// ```
/// assert_eq!(soload::Escaped(b"lib\x1b[31m\xff.so").to_string(), r"lib\u{1b}[31m\xff.so");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            // Nearly all names are plain, and a listing has thousands. The controls past ASCII begin with 0xc2.
            if chunk.valid().bytes().all(|byte| byte >= b' ' && !matches!(byte, 0x7f | 0xc2)) {
                f.write_str(chunk.valid())?;
            } else {
                escape(f, chunk.valid())?;
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

fn escape(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() {
            write!(f, "{}", c.escape_default())?;
        } else {
            fmt::Write::write_char(f, c)?;
        }
    }
    Ok(())
}
