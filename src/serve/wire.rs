//! What client and server send each other.
//!
//! ```text
//! request   "soload?" and a NUL, length of the arguments (4 bytes), with the descriptors of standard input, output,
//!           error and the current directory; then the arguments, a NUL after each
//! answer    0, the wait status (4 bytes); or
//!           1, the length (4 bytes) and text of why no status is to be had
//! ```
//!
//! Numbers are in the byte order of the machine: both ends are on it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Bytes of arguments, and of a reason.
pub(super) const ARGUMENTS_MAX: usize = 1 << 20;
const REASON_MAX: usize = 1 << 12;

const MAGIC: &[u8; 8] = b"soload?\0";
const ENDED: u8 = 0;
const REFUSED: u8 = 1;

/// The head of a request.
pub(super) const HEAD: usize = MAGIC.len() + 4;
/// Standard input, output, error, and the directory.
pub(super) const DESCRIPTORS: usize = 4;
/// The head of an answer.
pub(super) const ANSWER: usize = 5;

/// A whole request; `None` if the arguments are too long, or one has a NUL.
pub(super) fn request<S: AsRef<OsStr>>(arguments: &[S]) -> Option<Vec<u8>> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([0; 4]);
    for argument in arguments.iter().map(|argument| argument.as_ref().as_bytes()) {
        if argument.contains(&0) || bytes.len() + argument.len() >= HEAD + ARGUMENTS_MAX {
            return None;
        }
        bytes.extend(argument);
        bytes.push(0);
    }
    let len = (bytes.len() - HEAD) as u32;
    bytes[MAGIC.len()..HEAD].copy_from_slice(&len.to_ne_bytes());
    Some(bytes)
}

/// The length of the arguments that follow.
pub(super) fn head(bytes: &[u8; HEAD]) -> Result<usize, String> {
    let (magic, len) = bytes.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err("expected a request, found other bytes".into());
    }
    let len = u32::from_ne_bytes(len.try_into().unwrap_or_default()) as usize;
    match len <= ARGUMENTS_MAX {
        true => Ok(len),
        false => Err(format!("length of the arguments: expected at most {ARGUMENTS_MAX} bytes, found {len}")),
    }
}

pub(super) fn arguments(bytes: &[u8]) -> Result<Vec<OsString>, String> {
    let Some((last, bytes)) = bytes.split_last() else { return Ok(Vec::new()) };
    match last {
        0 => Ok(bytes.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect()),
        _ => Err("expected a NUL after the last argument, found none".into()),
    }
}

pub(super) fn ended(status: i32) -> Vec<u8> {
    [&[ENDED][..], &status.to_ne_bytes()].concat()
}

pub(super) fn refused(reason: &str) -> Vec<u8> {
    let reason = &reason.as_bytes()[..reason.len().min(REASON_MAX)];
    [&[REFUSED][..], &(reason.len() as u32).to_ne_bytes(), reason].concat()
}

/// What an answer begins as.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Ended(i32),
    /// The length of the reason that follows.
    Refused(usize),
}

pub(super) fn answer(bytes: [u8; ANSWER]) -> Option<Answer> {
    let [kind, number @ ..] = bytes;
    match (kind, u32::from_ne_bytes(number) as usize) {
        (ENDED, _) => Some(Answer::Ended(i32::from_ne_bytes(number))),
        (REFUSED, len) if len <= REASON_MAX => Some(Answer::Refused(len)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_arrives() {
        for arguments in [&[][..], &[""], &["", ""], &["cos", "f64:1.0"], &["\u{fffd}"]] {
            let bytes = request(arguments).unwrap();
            let (head, rest) = bytes.split_first_chunk().unwrap();
            assert_eq!(super::head(head), Ok(rest.len()));
            assert_eq!(super::arguments(rest).unwrap(), arguments);
        }
        assert_eq!(answer(ended(0x100).try_into().unwrap()), Some(Answer::Ended(0x100)));
        let (head, reason) = refused("why").split_first_chunk().map(|(head, rest)| (*head, rest.to_vec())).unwrap();
        assert_eq!((answer(head), &reason[..]), (Some(Answer::Refused(3)), &b"why"[..]));
    }

    #[test]
    fn what_is_too_long_or_something_else_is_refused() {
        assert_eq!(request(&["a\0b"]), None);
        assert_eq!(request(&["a".repeat(ARGUMENTS_MAX)]), None);
        assert_eq!(request(&["a".repeat(ARGUMENTS_MAX - 1)]).unwrap().len(), HEAD + ARGUMENTS_MAX);
        let mut head = *request::<&str>(&[]).unwrap().first_chunk().unwrap();
        head[8..].copy_from_slice(&(ARGUMENTS_MAX as u32 + 1).to_ne_bytes());
        assert_eq!(
            super::head(&head).unwrap_err(),
            "length of the arguments: expected at most 1048576 bytes, found 1048577"
        );
        head[0] = b'S';
        assert!(super::head(&head).is_err());
        assert!(arguments(b"a").is_err());
        assert_eq!(refused(&"x".repeat(10_000)).len(), ANSWER + REASON_MAX);
        assert_eq!(answer([1, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(answer([2, 0, 0, 0, 0]), None);
    }
}
