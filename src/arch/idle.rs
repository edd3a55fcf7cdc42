//! Functions that do nothing: those that compilers put into every library to be run when it is loaded.
//!
//! To run one costs a fault for the page of its code, and another one for the word that it looks at.

/// `_init` of `crti.o`: calls `__gmon_start__` if there is such a function.
const INIT: &str = "48 83 ec 08 488b05 ........ 48 85 c0 74 02 ff d0 48 83 c4 08 c3";
/// Where `INIT` has the displacement of the word with that function, and where it counts from.
const FUNCTION: (usize, u64) = (7, 11);

/// `register_tm_clones` of `crtbegin.o`: does something if the list from `__TMC_LIST__` to `__TMC_END__` has anything in it.
/// By the order of two steps there are two of them.
const REGISTER: [&str; 2] = [
    "488d3d ........ 488d35 ........ 48 29 fe 48 89 f0 48 c1 ee 3f 48 c1 f8 03 48 01 c6 48 d1 fe 74 14 \
     488b05 ........ 48 85 c0 74 08 ff e0 66 0f 1f 44 00 00 c3",
    "488d3d ........ 488d35 ........ 48 29 fe 48 c1 fe 03 48 89 f0 48 c1 e8 3f 48 01 c6 48 d1 fe 74 14 \
     488b05 ........ 48 85 c0 74 08 ff e0 66 0f 1f 44 00 00 c3",
];
/// Where `REGISTER` has the displacements of both ends, and where they count from.
const LIST: [(usize, u64); 2] = [(3, 7), (10, 14)];

/// `frame_dummy` of `crtbegin.o`: goes on to `register_tm_clones`.
const FRAME_DUMMY: &str = "e9 ........";

/// `endbr64`, with which any of them may begin.
const LANDING: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// Whether the function at `at` is known to do nothing, on x86-64.
///
/// `code` reads so many bytes of it; `is_zero` says whether the word at an address is zero when the function is called.
pub(crate) fn does_nothing(
    at: u64,
    code: &dyn Fn(u64, usize) -> Option<Vec<u8>>,
    is_zero: &dyn Fn(u64) -> bool,
) -> bool {
    let lands = code(at, LANDING.len()).is_some_and(|begin| begin == LANDING);
    let at = if lands { at.wrapping_add(LANDING.len() as u64) } else { at };
    let like = |at: u64, pattern: &str| code(at, len(pattern)).filter(|code| is_like(code, pattern));
    if let Some(code) = like(at, INIT) {
        return is_zero(target(at, &code, FUNCTION));
    }
    let Some(code) = like(at, FRAME_DUMMY) else { return false };
    let at = target(at, &code, (1, 5));
    let register = REGISTER.iter().find_map(|pattern| like(at, pattern));
    register.is_some_and(|code| target(at, &code, LIST[0]) == target(at, &code, LIST[1]))
}

/// The address that an instruction names by its distance.
fn target(at: u64, code: &[u8], (displacement, end): (usize, u64)) -> u64 {
    let by = code[displacement..].first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
    at.wrapping_add(end).wrapping_add_signed(by.into())
}

/// The digits of a pattern, two for each byte; dots stand for any.
fn digits(pattern: &str) -> impl Iterator<Item = u8> {
    pattern.bytes().filter(|digit| *digit != b' ')
}

fn len(pattern: &str) -> usize {
    digits(pattern).count() / 2
}

fn is_like(code: &[u8], pattern: &str) -> bool {
    let of_code = code.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let same = |(digit, own): (u8, u8)| digit == b'.' || (digit as char).to_digit(16) == Some(own.into());
    digits(pattern).zip(of_code).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is at 0x1000, where nothing else is.
    fn read(code: &[u8]) -> impl Fn(u64, usize) -> Option<Vec<u8>> {
        let code = code.to_vec();
        move |at, len| code.get(usize::try_from(at.checked_sub(0x1000)?).ok()?..)?.get(..len).map(<[u8]>::to_vec)
    }

    /// The bytes of a pattern, `by` for each displacement in turn.
    fn bytes(pattern: &str, by: &[i32]) -> Vec<u8> {
        let mut text: String = pattern.split_whitespace().collect();
        for by in by {
            let by: String = by.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            text = text.replacen("........", &by, 1);
        }
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn an_init_does_nothing_if_there_is_no_function_to_call() {
        let plain = bytes(INIT, &[0x100]);
        let landing = [&LANDING[..], &plain].concat();
        for (code, word) in [(&plain, 0x110b), (&landing, 0x110f)] {
            assert!(does_nothing(0x1000, &read(code), &|at| at == word));
            assert!(!does_nothing(0x1000, &read(code), &|_| false), "there is one");
            for at in 0..code.len() {
                let mut other = code.clone();
                other[at] ^= 1;
                assert!(!does_nothing(0x1000, &read(&other), &|at| at == word), "byte {at}");
                assert!(!does_nothing(0x1000, &read(&code[..at]), &|_| true), "{at} bytes");
            }
        }
    }

    #[test]
    fn frames_are_not_registered_if_the_list_is_empty() {
        for pattern in REGISTER {
            let code = |list: i32, end: i32| [bytes(FRAME_DUMMY, &[0]), bytes(pattern, &[end, list, 0])].concat();
            let same = code(0x200, 0x207);
            assert!(does_nothing(0x1000, &read(&same), &|_| false));
            assert!(!does_nothing(0x1000, &read(&code(0x200, 0x20f)), &|_| true), "one is in it");
            for at in 0..same.len() {
                let mut other = same.clone();
                other[at] ^= 1;
                // The word behind is not looked at where the list is empty.
                let looked_at = !(44..48).contains(&at);
                assert_eq!(does_nothing(0x1000, &read(&other), &|_| true), !looked_at, "byte {at}");
            }
        }
    }
}
