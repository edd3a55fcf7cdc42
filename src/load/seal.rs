//! Sealing: IFUNC resolvers have their say, then what relocation wrote becomes read-only.

use std::collections::BTreeMap;

use super::call::Code;
use super::map::Mapping;
use super::relocate::Pending;
use crate::addr::Addr;
use crate::error::{At, ErrorKind};

/// What IFUNC resolvers have answered already, by resolver.
pub(crate) type Answers = BTreeMap<Addr, Addr>;

/// Writes the words that resolvers of IFUNCs decide.
///
/// `is_code` says whether an address is code of a provider.
pub(crate) fn resolve(
    mapping: &Mapping,
    text_relocations: bool,
    pending: &[Pending],
    answers: &mut Answers,
    is_code: impl Fn(usize, Addr) -> bool,
    run: impl Fn(Code) -> Addr,
) -> Result<(), ErrorKind> {
    // Ask first, write after: text is never writable while code of it runs.
    let mut values = Vec::new();
    for word in pending {
        let answer = match answers.get(&word.resolver) {
            Some(answer) => *answer,
            None => {
                let code = Code::at(word.resolver, |addr| is_code(word.provider, addr)).ok_or_else(|| {
                    let expected = "a resolver in an executable segment";
                    ErrorKind::malformed("IFUNC", At::Vaddr(word.place), expected, word.resolver)
                })?;
                let answer = run(code);
                answers.insert(word.resolver, answer);
                answer
            }
        };
        let value = (answer.0 as u64).wrapping_add(word.plus);
        match text_relocations {
            true => values.push(value),
            false => mapping.write(word.place, word.bytes, value)?,
        }
    }
    if text_relocations && !pending.is_empty() {
        mapping.open_text()?;
        for (word, value) in pending.iter().zip(&values) {
            mapping.write(word.place, word.bytes, *value)?;
        }
        mapping.close_text()?;
    }
    Ok(())
}
