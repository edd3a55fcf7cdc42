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
            Some((Token::Lib, length)) => (settings.built_in.lib.as_slice(), length),
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
    if settings.secure && owner.program && origin_used && !trusted(&out[start..], &settings.built_in.directories) {
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

#[cfg(test)]
mod tests {
    use super::*;

    use crate::file::view::ByteOrder;
    use crate::find::hwcaps::Hwcaps;

    fn settings(secure: bool, platform: Option<&[u8]>) -> Settings {
        Settings {
            library_path: Vec::new(),
            program_origin: None,
            cache: "/none".into(),
            cache_flags: 0x303,
            built_in: Settings::known(crate::find::BuiltIn {
                directories: vec!["/lib".into(), "/usr/lib".into()],
                lib: b"lib/x".to_vec(),
            }),
            hwcaps: Settings::known(Hwcaps::x86_64(1, false, platform)),
            secure,
            order: ByteOrder::Little,
            libc: crate::find::Libc::Glibc,
            root: crate::find::Root::default(),
            look: Box::new(|_| Ok(())),
        }
    }

    fn expanded(text: &str, owner: Owner<'_>, settings: &Settings) -> Result<String, &'static str> {
        let mut out = b"before ".to_vec();
        expand(text.as_bytes(), owner, settings, &mut out)?;
        Ok(String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned())
    }

    const OWNER: Owner<'_> = Owner { origin: None, program: false };

    fn at(origin: &str, program: bool) -> Owner<'_> {
        Owner { origin: Some(Path::new(origin)), program }
    }

    #[test]
    fn a_token_is_a_whole_identifier_with_or_without_braces() {
        let settings = settings(false, Some(b"p"));
        let expanded = |text| expanded(text, at("/o", false), &settings);
        assert_eq!(expanded("$ORIGIN/../$LIB/${PLATFORM}x").as_deref(), Ok("/o/../lib/x/px"));
        assert_eq!(expanded("a${ORIGIN}b$ORIGIN").as_deref(), Ok("a/ob/o"));
        assert_eq!(expanded("$ORIGIN-$LIB.so").as_deref(), Ok("/o-lib/x.so"));
        assert_eq!(expanded("no dollar").as_deref(), Ok("no dollar"));
    }

    #[test]
    fn every_other_dollar_sign_stays_as_text() {
        let settings = settings(false, None);
        for text in ["$ORIGINAL", "${ORIGIN", "${ORIGIN x}", "$LIB64", "$LIB_", "$origin", "$", "$$", "${}", "$HOME"] {
            assert_eq!(expanded(text, OWNER, &settings).as_deref(), Ok(text));
            assert!(!has_token(text.as_bytes()), "{text}");
        }
        assert_eq!(expanded("$$LIB", OWNER, &settings).as_deref(), Ok("$lib/x"));
        assert!(has_token(b"$$LIB"));
    }

    #[test]
    fn a_text_with_a_token_that_has_no_value_is_void() {
        let settings = settings(false, None);
        assert_eq!(expanded("/a/$ORIGIN", OWNER, &settings), Err("$ORIGIN is not known"));
        assert_eq!(expanded("/a/$PLATFORM", OWNER, &settings), Err("$PLATFORM is not known"));
    }

    #[test]
    fn expansion_ends_at_the_length_of_a_path() {
        let settings = settings(false, None);
        let long = "$LIB".repeat(100_000);
        assert_eq!(expanded(&long, OWNER, &settings), Err("longer than a path can be"));
        assert_eq!(expanded(&"x".repeat(PATH_LIMIT + 1), OWNER, &settings), Err("longer than a path can be"));
        assert!(expanded(&"x".repeat(PATH_LIMIT), OWNER, &settings).is_ok());
    }

    #[test]
    fn a_set_user_id_program_may_use_origin_only_in_front_and_only_into_trusted_directories() {
        let settings = settings(true, Some(b"p"));
        let expanded = |text, origin| expanded(text, at(origin, true), &settings);
        assert_eq!(expanded("$ORIGIN/../z", "/usr/lib/a").as_deref(), Ok("/usr/lib/a/../z"));
        assert_eq!(expanded("${ORIGIN}", "/usr/lib").as_deref(), Ok("/usr/lib"));
        let not_in_front = Err("$ORIGIN not in front, in a set-user-ID program");
        for text in ["/usr/lib/$ORIGIN", "$LIB/$ORIGIN", "$ORIGIN/$ORIGIN", "$ORIGIN.d", "${ORIGIN}d"] {
            assert_eq!(expanded(text, "/usr/lib/a"), not_in_front, "{text}");
        }
        let outside = Err("$ORIGIN leads out of the trusted directories, in a set-user-ID program");
        assert_eq!(expanded("$ORIGIN", "/home/me"), outside);
        assert_eq!(expanded("$ORIGIN", "/usr/lib64"), outside);
        assert_eq!(expanded("$ORIGIN/.././../tmp", "/usr/lib"), outside);
        assert_eq!(expanded("/anywhere/$LIB", "/home/me").as_deref(), Ok("/anywhere/lib/x"));
    }

    #[test]
    fn a_library_of_a_set_user_id_program_is_not_held_to_the_trusted_directories() {
        let settings = settings(true, None);
        assert_eq!(expanded("$ORIGIN/a", at("/opt", false), &settings).as_deref(), Ok("/opt/a"));
    }

    #[test]
    fn an_item_that_is_repeated_counts_once_and_an_empty_one_counts() {
        let split = |list: &'static [u8], separators: &[u8]| items(list, separators, "items").unwrap();
        assert_eq!(split(b"/a:/b:/a", b":"), [b"/a", b"/b"]);
        assert_eq!(split(b":/a::", b":"), [b"".as_slice(), b"/a"]);
        assert_eq!(split(b"/a;/b:/c", b":"), [b"/a;/b".as_slice(), b"/c"]);
        assert_eq!(split(b"/a;/b:/c", b":;"), [b"/a", b"/b", b"/c"]);
    }

    #[test]
    fn a_list_of_absurdly_many_directories_is_refused() {
        let list = (0..=ITEMS_LIMIT).map(|i| format!("/{i}")).collect::<Vec<_>>().join(":");
        let refused = items(list.as_bytes(), b":", "directories").unwrap_err();
        assert_eq!(refused.to_string(), "directories: expected at most 1024, found 1025");
    }
}
