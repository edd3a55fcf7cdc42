//! What `$ORIGIN`, `$LIB` and `$PLATFORM` stand for in names and search paths, and what a set-user-ID program may do with them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::Settings;
use crate::error::ErrorKind;

/// No path longer than this can be opened (`PATH_MAX` counts the terminating NUL).
pub(super) const PATH_LIMIT: usize = libc::PATH_MAX as usize - 1;

/// More directories than this in one list are a damaged file, not a search path.
const ITEMS_LIMIT: usize = 1024;

/// The items of a search path, without repetitions: a directory that lost once loses again.
///
/// An empty item is kept: it means the working directory.
pub(super) fn items<'a>(list: &'a [u8], separators: &[u8], what: &'static str) -> Result<Vec<&'a [u8]>, ErrorKind> {
    let mut items = Vec::new();
    for item in list.split(|byte| separators.contains(byte)) {
        if !items.contains(&item) {
            if items.len() == ITEMS_LIMIT {
                let found = list.split(|byte| separators.contains(byte)).count() as u64;
                return Err(ErrorKind::Limit { what, limit: ITEMS_LIMIT as u64, found });
            }
            items.push(item);
        }
    }
    Ok(items)
}

/// The object in whose name tokens are expanded.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    /// The directory that holds it.
    pub(super) origin: Option<&'a Path>,
    /// Whether it is the program itself, not a library.
    pub(super) program: bool,
}

/// Appends `text` to `out` with every token replaced; `Err` says why this text cannot be used at all.
///
/// `$X` and `${X}` are tokens only if `X` is a whole identifier (gABI chapter 5, "substitution sequences"): every
/// other dollar sign stays as it is. With a token that has no value the whole text is void.
pub(super) fn expand(
    text: &[u8],
    owner: Owner<'_>,
    settings: &Settings,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    let start = out.len();
    let mut origin_used = false;
    let mut rest = text;
    while let Some(dollar) = rest.iter().position(|&byte| byte == b'$') {
        out.extend_from_slice(&rest[..dollar]);
        rest = &rest[dollar..];
        let (value, length) = match token(rest) {
            Some((Token::Origin, length)) => {
                // Whoever can make a hard link to a set-user-ID program chooses its $ORIGIN; so it must at least
                // stand alone in front, where the check for a trusted directory below sees what it leads to.
                let alone = rest.len() == text.len() && matches!(rest.get(length), None | Some(b'/'));
                if settings.secure && !alone {
                    return Err("$ORIGIN not in front, in a set-user-ID program");
                }
                origin_used = true;
                (owner.origin.ok_or("$ORIGIN is not known")?.as_os_str().as_bytes(), length)
            }
            Some((Token::Lib, length)) => (settings.lib.as_slice(), length),
            Some((Token::Platform, length)) => {
                (settings.hwcaps.platform.as_deref().ok_or("$PLATFORM is not known")?, length)
            }
            None => (&rest[..1], 1),
        };
        out.extend_from_slice(value);
        rest = &rest[length..];
        if out.len() - start > PATH_LIMIT {
            return Err("longer than a path can be");
        }
    }
    out.extend_from_slice(rest);
    if out.len() - start > PATH_LIMIT {
        return Err("longer than a path can be");
    }
    if settings.secure && owner.program && origin_used && !trusted(&out[start..], &settings.default_dirs) {
        return Err("$ORIGIN leads out of the trusted directories, in a set-user-ID program");
    }
    Ok(())
}

/// Whether `text` has a token in it.
pub(super) fn has_token(text: &[u8]) -> bool {
    (0..text.len()).any(|at| text[at] == b'$' && token(&text[at..]).is_some())
}

enum Token {
    Origin,
    Lib,
    Platform,
}

/// The token that `text` begins with (its first byte being the dollar sign), and how long it is.
fn token(text: &[u8]) -> Option<(Token, usize)> {
    let text = &text[1..];
    let (word, length) = if let Some(inner) = text.strip_prefix(b"{") {
        let end = inner.iter().position(|&byte| byte == b'}')?;
        (&inner[..end], end + 3)
    } else {
        let end = text.iter().position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_')).unwrap_or(text.len());
        (&text[..end], end + 1)
    };
    let token = match word {
        b"ORIGIN" => Token::Origin,
        b"LIB" => Token::Lib,
        b"PLATFORM" => Token::Platform,
        _ => return None,
    };
    Some((token, length))
}

/// Whether `path`, taken as text, lies in one of `dirs`. Links are not followed, as in glibc.
fn trusted(path: &[u8], dirs: &[PathBuf]) -> bool {
    let mut plain = PathBuf::new();
    for component in Path::new(std::ffi::OsStr::from_bytes(path)).components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    dirs.iter().any(|dir| plain.starts_with(dir))
}
