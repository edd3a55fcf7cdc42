//! Symbol versions: a reference gets the version it asks for, or an error.

mod common;

use common::elf::Elf;
use common::*;
use object::LittleEndian as LE;
use object::elf::{DT_VERSYM, VER_FLG_WEAK, hash};

#[test]
fn a_reference_gets_its_version() {
    on_both_loaders(|loader| {
        assert_eq!(loader.open("versions_old").call("call_foo"), 1);
        assert_eq!(loader.open("versions_default").call("call_foo"), 2);
    });
}

#[test]
fn references_to_many_versions_of_a_name_get_each_its_own() {
    on_both_loaders(|loader| assert_eq!(loader.open("versions_many_user").call("wrong"), 0));
}

#[test]
fn a_library_gets_its_own_versions_unless_one_without_comes_first() {
    on_both_loaders(|loader| {
        let sound = loader.open("versions_itself");
        assert_eq!((sound.call("call_1"), sound.call("call_2")), (1, 2));
        // The one that a search meets first becomes one of no version, which serves any.
        let mut elf = Elf::of("versions_itself");
        let first = elf.symbol_index("foo");
        let version = elf.offset(elf.value(DT_VERSYM)) + 2 * first;
        let answer = i32::from(elf.bytes[version] & 0x7f) - 1;
        elf.bytes[version..version + 2].copy_from_slice(&1u16.to_le_bytes());
        let changed = loader.open(elf.save("changed.so"));
        let found = (changed.call("call_1"), changed.call("call_2"));
        let own_only = !loader.diverges(&DIVERGENCE_BASE_VERSION) && host_is_since(2, 41);
        assert_eq!(found, if own_only { (1, 2) } else { (answer, answer) });
    });
}

#[test]
fn a_lookup_gets_the_default_version_or_the_one_it_names() {
    on_both_loaders(|loader| {
        let provider = loader.open("versions_provider");
        assert_eq!(provider.call("foo"), 2);
        assert_eq!(provider.call_version("foo", "V1"), 1);
        assert_eq!(provider.call_version("foo", "V2"), 2);
        provider.try_address_of_version("foo", "V3").expect_err("no such version");
    });
}

#[test]
fn a_lookup_without_a_version_does_not_see_a_name_without_default() {
    on_both_loaders(|loader| {
        let provider = loader.open("versions_provider");
        provider.try_address("old_only").expect_err("only old_only@V1");
        assert_eq!(provider.call_version("old_only", "V1"), 10);
    });
}

#[test]
fn a_missing_version_is_an_error_that_names_it() {
    on_both_loaders(|loader| {
        let error = loader.try_open("versions_missing").expect_err("an error");
        assert!(error.contains("V3"), "{error}");
    });
}

#[test]
fn the_error_about_a_missing_version_names_the_symbol_that_wants_it() {
    on_ours(|_| {
        let error = ours("versions_missing").expect_err("an error");
        let soload::ErrorKind::MissingVersion { version, provider, symbol } = error.kind() else { panic!("{error}") };
        assert_eq!((version.as_str(), symbol.as_deref()), ("V3", Some("fresh")));
        assert_eq!(provider.file_name().unwrap(), "libversions_provider.so");
    });
}

#[test]
fn a_missing_version_that_is_needed_weakly_is_none() {
    on_both_loaders(|loader| {
        let mut elf = Elf::of("versions_missing_weak");
        elf.needed_version("V3").vna_flags.set(LE, VER_FLG_WEAK);
        link("versions_provider", "libversions_provider.so");
        assert_eq!(loader.open(elf.save("weakly.so")).call("call_foo"), 100);
    });
}

#[test]
fn a_reference_without_version_gets_the_oldest() {
    on_both_loaders(|loader| assert_eq!(loader.open("versions_unversioned").call("call_foo"), 1));
}

#[test]
fn a_versioned_reference_is_content_with_a_library_without_versions() {
    Child::default().env("LD_LIBRARY_PATH", "$LIBS/unversioned").on_both_loaders(|loader| {
        assert_eq!(loader.open("versions_default").call("call_foo"), 9);
    });
}

#[test]
fn a_definition_without_versions_stands_in_for_any_version() {
    on_both_loaders(|loader| {
        let _interposer = loader.open_with("interposer_unversioned", GLOBAL);
        assert_eq!(loader.open("versions_default").call("call_foo"), 7);
    });
}

#[test]
fn a_definition_of_another_version_does_not_stand_in() {
    on_both_loaders(|loader| {
        let _interposer = loader.open_with("interposer_other", GLOBAL);
        assert_eq!(loader.open("versions_default").call("call_foo"), 2);
    });
}

#[test]
fn a_version_of_the_c_library_that_does_not_exist_is_an_error() {
    on_both_loaders(|loader| {
        let mut elf = Elf::of("bss");
        elf.needed_version("GLIBC_2.2.5").vna_hash.set(LE, hash(b"GLIBC_9.9.9"));
        elf.rename("GLIBC_2.2.5", "GLIBC_9.9.9");
        let error = loader.try_open(elf.save("future.so")).expect_err("an error");
        assert!(error.contains("GLIBC_9.9.9"), "{error}");
    });
}

#[test]
fn a_version_that_asks_for_something_of_the_loader_is_none_of_the_c_library_s() {
    on_both_loaders(|loader| {
        let asking_for = |what: &str| {
            let mut elf = Elf::of("versions_asking");
            let name = elf.dynamic_string(what);
            let needed = elf.needed_version("GLIBC_2.2.5");
            // The symbols that had the number are of no version now.
            needed.vna_other.set(LE, needed.vna_other.get(LE) + 1);
            needed.vna_hash.set(LE, hash(what.as_bytes()));
            needed.vna_name.set(LE, name);
            loader.try_open(elf.save(format!("{what}.so")))
        };
        for (what, since) in [("GLIBC_ABI_DT_RELR", (2, 36)), ("GLIBC_ABI_DT_X86_64_PLT", (2, 43))] {
            match asking_for(what) {
                Ok(library) => assert_eq!(library.call("answer"), 42),
                Err(error) => assert!(
                    !loader.diverges(&DIVERGENCE_ABILITIES) && !host_is_since(since.0, since.1),
                    "{loader:?}: {error}"
                ),
            }
        }
        let error = asking_for("GLIBC_ABI_DT_OTHER").expect_err("an error");
        assert!(error.contains("GLIBC_ABI_DT_OTHER"), "{error}");
    });
}

#[test]
fn exports_tell_the_version_of_each_name() {
    on_ours(|_| {
        let library = ours("versions_provider").unwrap();
        let mut found: Vec<_> =
            library.exports().map(|export| (export.name().to_vec(), export.version().is_some())).collect();
        found.retain(|(name, _)| name == b"foo" || name == b"old_only");
        assert_eq!(found.len(), 3, "foo@V1, foo@@V2, old_only@V1: {found:?}");
        assert!(found.iter().all(|(_, has_version)| *has_version));
    });
}

#[test]
fn a_version_is_found_in_a_library_that_was_opened_under_another_name() {
    on_both_loaders(|loader| {
        let _provider = loader.open(child::link("versions_by_file/libprovider.so", "libanother_name.so"));
        assert_eq!(loader.open("versions_by_file/libuser.so").call("call_by_file"), 1);
        // Though it needs before that what is not there any more.
        assert_eq!(loader.open("versions_by_file/libuser_of_part.so").call("call_by_file"), 1);
    });
}
