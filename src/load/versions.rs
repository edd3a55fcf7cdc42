//! Whether the objects that a library was linked against still define the versions that it needs of them.

use std::path::PathBuf;

use super::scope::Provider;
use crate::error::ErrorKind;
use crate::file::symbols::Symbols;

/// Versions that no symbol has: by them a library that lets nobody load it who cannot do a certain thing is kept from older
/// releases of glibc. This loader can, whichever release it is beside: packed relative relocations, and words of the procedure
/// linkage table that have its own address for their addend.
const CAN_BE_DONE: [&[u8]; 2] = [b"GLIBC_ABI_DT_RELR", b"GLIBC_ABI_DT_X86_64_PLT"];

/// Checks that every version `symbols` was linked against is still defined by the object that had it (`DT_VERNEED`).
///
/// `provider_named` gives the object of the group or process that a name in `DT_VERNEED` means.
pub(crate) fn check<'p>(
    symbols: &Symbols,
    provider_named: impl Fn(&[u8]) -> Option<Provider<'p>>,
) -> Result<(), ErrorKind> {
    // Versions of one object stand together.
    let mut last: Option<(u32, Option<Provider<'p>>)> = None;
    for need in &symbols.versions.requirements {
        let (Some(file), Some(name)) = (symbols.string(need.file), symbols.string(need.version.name)) else { continue };
        let provider = match last {
            Some((same, provider)) if same == need.file => provider,
            _ => provider_named(file),
        };
        last = Some((need.file, provider));
        let satisfied = match &provider {
            // Old libraries have no versions at all; every definition of theirs serves.
            Some(provider) => {
                !provider.symbols.versions.defines_any
                    || provider.symbols.versions.defines(need.version.hash, name, provider.symbols.strings())
            }
            None => false,
        };
        if satisfied || need.weak || CAN_BE_DONE.contains(&name) {
            continue;
        }
        let user = (0..symbols.count())
            .find(|index| symbols.versions.index(*index).is_some_and(|own| own.number == need.index));
        let user = user.and_then(|index| symbols.get(index)).and_then(|symbol| symbols.string(symbol.name));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        return Err(ErrorKind::MissingVersion {
            version: text(name),
            provider: provider.map_or_else(|| PathBuf::from(text(file)), |provider| provider.file.path().to_owned()),
            symbol: user.map(text),
        });
    }
    Ok(())
}
