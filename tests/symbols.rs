//! Which definition a reference or a lookup gets: binding, visibility, scope, hash tables.

mod common;

use common::elf::Elf;
use common::maps::is_mapped;
use common::*;
use object::LittleEndian as LE;
use object::elf::*;

/// Part of this executable's dynamic symbols: the build script asks the linker to export it.
#[allow(unsafe_code)] // no other crate of this program has the name
#[unsafe(no_mangle)]
extern "C" fn soload_test_executable_first() -> i32 {
    7
}

#[test]
fn the_executables_definition_comes_first() {
    on_both_loaders(|loader| {
        std::hint::black_box(soload_test_executable_first as extern "C" fn() -> i32);
        assert_eq!(loader.open("executable_first").call("call_executable_first"), 7);
    });
}

#[test]
fn the_c_librarys_definition_comes_before_the_librarys_own() {
    on_both_loaders(|loader| {
        assert_eq!(loader.open("executable_first").call("call_toupper"), i32::from(b'A'));
    });
}

#[test]
fn a_lookup_finds_the_librarys_own_definition_even_if_the_executable_has_one() {
    on_both_loaders(|loader| {
        assert_eq!(loader.open("executable_first").call("soload_test_executable_first"), 1);
    });
}

#[test]
fn the_first_definition_in_breadth_first_order_wins() {
    on_both_loaders(|loader| {
        let root = loader.open("breadth_root");
        assert_eq!(root.call("call_answer"), 2, "a reference");
        assert_eq!(root.call("breadth_answer"), 2, "a lookup through the handle");
    });
}

#[test]
fn a_lookup_does_not_see_what_the_library_does_not_need() {
    on_both_loaders(|loader| {
        let _root = loader.open("breadth_root");
        loader.open("breadth_deep").try_address("call_answer").expect_err("defined by another library");
    });
}

#[test]
fn a_weak_definition_that_comes_first_wins() {
    on_both_loaders(|loader| assert_eq!(loader.open("weak_definition_user").call("call_answer"), 1));
}

#[test]
fn a_weak_undefined_reference_is_zero() {
    on_both_loaders(|loader| assert_eq!(loader.open("weak_undefined").call("is_zero"), 1));
}

#[test]
fn a_strong_undefined_reference_is_an_error_that_names_it() {
    on_both_loaders(|loader| {
        for (name, symbol) in
            [("undefined_function", "soload_undefined_function"), ("undefined_variable", "soload_undefined_variable")]
        {
            let error = loader.try_open(name).expect_err("an error");
            assert!(error.contains(symbol), "{error}");
        }
    });
}

#[test]
fn the_error_about_an_undefined_symbol_says_where_it_was_looked_for() {
    on_ours(|_| {
        let error = ours("undefined_function").expect_err("an error");
        let soload::ErrorKind::UndefinedSymbols { symbols, searched } = error.kind() else { panic!("{error}") };
        assert_eq!(
            symbols.iter().map(|symbol| symbol.name.as_str()).collect::<Vec<_>>(),
            ["soload_undefined_function"]
        );
        let names: Vec<_> =
            searched.iter().map(|path| path.file_name().unwrap_or_default().to_str().unwrap()).collect();
        assert!(names.contains(&"libc.so.6") && names.contains(&"libundefined_function.so"), "{names:?}");
    });
}

/// A copy of the inner library of `own_definition.c`, changed, under the outer one; calls the inner one's reference.
fn inner_answer(loader: Loader, change: impl FnOnce(&mut Elf)) -> i32 {
    answer_of(loader, "own_inner", change)
}

fn answer_of(loader: Loader, inner: &str, change: impl FnOnce(&mut Elf)) -> i32 {
    let mut inner = Elf::of(inner);
    change(&mut inner);
    inner.save("libown_inner.so");
    loader.open(link("own_outer", "libown_outer.so")).call("outer_answer")
}

#[test]
fn a_reference_to_an_own_symbol_goes_to_the_outer_librarys_definition() {
    on_both_loaders(|loader| assert_eq!(inner_answer(loader, |_| ()), 1));
}

#[test]
fn dt_symbolic_makes_a_library_look_in_itself_first() {
    on_both_loaders(|loader| {
        let answer = inner_answer(loader, |elf| elf.dynamic(DT_RELACOUNT).d_tag.set(LE, DT_SYMBOLIC));
        assert_eq!(answer, 2);
    });
}

#[test]
fn dt_symbolic_goes_for_a_function_that_a_resolver_chooses_before_a_plain_one_outside() {
    on_both_loaders(|loader| {
        let answer = answer_of(loader, "own_chosen_inner", |elf| elf.dynamic(DT_RELACOUNT).d_tag.set(LE, DT_SYMBOLIC));
        assert_eq!(answer, 2);
    });
}

#[test]
fn a_symbolic_library_looks_in_itself_first_for_what_has_no_version_beside_what_has_one() {
    on_both_loaders(|loader| {
        let answer = |change: fn(&mut Elf)| answer_of(loader, "own_versioned_inner", change);
        assert_eq!(answer(|elf| elf.dynamic(DT_RELACOUNT).d_tag.set(LE, DT_SYMBOLIC)), 2);
    });
}

#[test]
fn df_symbolic_is_the_same() {
    on_both_loaders(|loader| {
        let answer = inner_answer(loader, |elf| {
            let flags = &mut elf.dynamic(DT_FLAGS).d_val;
            flags.set(LE, flags.get(LE) | DF_SYMBOLIC.0);
        });
        assert_eq!(answer, 2);
    });
}

#[test]
fn a_protected_symbol_is_its_own_librarys() {
    on_both_loaders(|loader| {
        let answer = inner_answer(loader, |elf| elf.symbol("own_answer").st_other.0 = STV_PROTECTED.0);
        assert_eq!(answer, 2);
    });
}

#[test]
fn so_is_a_hidden_one() {
    on_both_loaders(|loader| {
        let answer = inner_answer(loader, |elf| elf.symbol("own_answer").st_other.0 = STV_HIDDEN.0);
        assert_eq!(answer, 2);
    });
}

#[test]
fn a_hidden_symbol_is_not_found_by_others() {
    on_both_loaders(|loader| {
        let mut elf = Elf::of("breadth_right");
        elf.symbol("breadth_answer").st_other.0 = STV_HIDDEN.0;
        elf.save("libbreadth_right.so");
        link("breadth_left", "libbreadth_left.so");
        link("breadth_deep", "libbreadth_deep.so");
        let root = loader.open(link("breadth_root", "libbreadth_root.so"));
        assert_eq!(root.call("call_answer"), 1, "the next definition");
        loader.open(scratch().join("libbreadth_right.so")).try_address("breadth_answer").expect_err("hidden");
    });
}

#[test]
fn a_symbol_of_the_value_zero_is_no_definition_nor_is_one_of_a_kind_that_is_not_bound_to() {
    on_both_loaders(|loader| {
        let mut elf = Elf::of("breadth_right");
        elf.symbol("breadth_answer").st_value.set(LE, 0);
        loader.open(elf.save("zero.so")).try_address("breadth_answer").expect_err("value zero");
        let mut elf = Elf::of("breadth_right");
        elf.symbol("breadth_answer").set_st_info(STB_GLOBAL, STT_SECTION);
        loader.open(elf.save("section.so")).try_address("breadth_answer").expect_err("a section");
        let thread_local = loader.open("later_provider");
        assert_eq!(Elf::of("later_provider").vaddr("later_variable"), 0);
        assert_eq!(thread_local.read::<i32>("later_variable"), 40, "the first of a thread-local block has a place");
    });
}

#[test]
fn an_absolute_symbol_has_its_value_without_a_base() {
    on_both_loaders(|loader| {
        let library = loader.open("absolute");
        assert_eq!(library.address("absolute_value"), 0x1234_5678_9abc);
        assert_eq!(library.address("absolute_zero"), 0, "zero is a value like any other");
        let user = loader.open("absolute_user");
        assert_eq!(user.read::<usize>("pointer_to_value"), 0x1234_5678_9abc);
        assert_eq!(user.read::<usize>("pointer_to_zero"), 0);
        assert_eq!(user.read::<usize>("pointer_to_small"), 0x1234_5678);
    });
}

#[test]
fn a_unique_symbol_is_one_in_the_process() {
    on_both_loaders(|loader| {
        let (a, b) = (loader.open("unique_a"), loader.open("unique_b"));
        assert_eq!((a.call("unique_count"), b.call("unique_count"), a.call("unique_count")), (7, 8, 9));
    });
}

#[test]
fn a_library_whose_unique_symbol_was_bound_stays() {
    on_both_loaders(|loader| {
        let a = loader.open("unique_a");
        assert_eq!(a.call("unique_count"), 7);
        a.close();
        assert!(is_mapped("libunique_a.so"));
        assert_eq!(loader.open("unique_b").call("unique_count"), 8, "the first definition is still the one");
    });
}

#[test]
fn a_library_of_the_host_whose_unique_symbol_was_bound_stays() {
    on_ours(|loader| {
        let theirs = Loader::Host.open("unique_unused");
        let user = loader.open("unique_user");
        assert_eq!(user.call("count_from_outside"), 7);
        user.close();
        theirs.close();
        assert!(is_mapped("libunique_unused.so"));
        assert_eq!(loader.open("unique_b").call("unique_count"), 8, "the first definition is still the one");
    });
}

#[test]
fn closing_a_library_with_a_unique_symbol_says_why_it_stays() {
    on_ours(|_| {
        let closed = ours("unique_a").unwrap().close().unwrap();
        let soload::Closed::StillMapped { reasons } = closed else { panic!("unloaded") };
        assert!(!reasons.is_empty());
    });
}

#[test]
fn every_exported_symbol_is_found_by_each_kind_of_hash_table_and_no_other() {
    on_both_loaders(|loader| {
        for name in ["hash_gnu", "hash_sysv", "hash_both"] {
            let library = loader.open(name);
            // So often that there is a table of all names in the end.
            for number in (0..8).flat_map(|_| 0..0x200) {
                assert_eq!(library.call(&format!("f_{number:03x}")), number, "{name}");
                library.try_address(&format!("g_{number:03x}")).expect_err(name);
            }
        }
    });
}

#[test]
fn a_library_that_exports_nothing_has_no_symbols() {
    on_both_loaders(|loader| {
        loader.open("hash_empty").try_address("anything").expect_err("no symbols at all");
    });
}

#[test]
fn exports_lists_each_defined_symbol_once() {
    on_ours(|_| {
        for name in ["hash_gnu", "hash_sysv"] {
            let library = ours(name).unwrap();
            let mut names: Vec<_> = library.exports().map(|export| export.name().to_vec()).collect();
            names.retain(|name| name.starts_with(b"f_"));
            names.sort();
            let expected: Vec<_> = (0..0x200).map(|number| format!("f_{number:03x}").into_bytes()).collect();
            assert_eq!(names, expected, "{name}");
        }
    });
}

#[test]
fn a_missing_symbol_is_an_error_that_names_it() {
    on_both_loaders(|loader| {
        let error = loader.open("bss").try_address("soload_no_such_symbol").unwrap_err();
        assert!(error.contains("soload_no_such_symbol"), "{error}");
    });
}

#[test]
fn a_local_library_stays_local_and_a_global_one_serves_later_libraries() {
    on_both_loaders(|loader| {
        let local = loader.open("scope_provider");
        let error = loader.try_open("scope_user").expect_err("the provider is local");
        assert!(error.contains("provided"), "{error}");
        drop(local);
        let _global = loader.open_with("scope_provider", GLOBAL);
        assert_eq!(loader.open("scope_user").call("call_provided"), 5);
    });
}

#[test]
fn what_the_host_opened_globally_after_the_start_serves_references_that_nobody_else_does() {
    on_both_loaders(|loader| {
        assert_eq!(loader.open("later_weak").call("call_later"), -1, "there is nothing yet");
        loader.try_open("later_strong").expect_err("there is nothing yet");
        let local = Loader::Host.open("later_provider");
        assert_eq!(loader.open("later_weak").call("call_later"), -1, "opened locally");
        let provider = Loader::Host.open_with("later_provider", GLOBAL);
        for name in ["later_weak", "later_strong"] {
            let user = loader.open(name);
            assert_eq!(user.call("call_later"), 5, "{name}");
            let before = provider.read::<i32>("later_variable");
            assert_eq!(user.call("add_to_later"), before + 1, "{name}");
            assert_eq!(provider.read::<i32>("later_variable"), before + 1, "it is the same variable");
        }
        let user = loader.open("later_weak");
        drop((local, provider));
        assert_eq!(user.call("call_later"), 5, "who refers to it keeps it");
        user.close();
        assert!(!is_mapped("liblater_provider.so"));
    });
}

#[test]
fn of_what_the_host_opened_only_what_is_global_serves() {
    on_both_loaders(|loader| {
        let _local = Loader::Host.open("lazy_first");
        loader.try_open("lazy_asker").expect_err("nothing is global");
        let _global = Loader::Host.open_with("lazy_second", GLOBAL);
        assert_eq!(loader.open("lazy_asker").call("call_chosen"), 2);
    });
}

#[test]
fn opening_again_into_the_global_scope_promotes() {
    on_both_loaders(|loader| {
        let _local = loader.open("scope_provider");
        let _global = loader.open_with("scope_provider", GLOBAL);
        assert_eq!(loader.open("scope_user").call("call_provided"), 5);
        assert_eq!(loader.this().call("provided"), 5);
    });
}

#[test]
fn a_library_leaves_the_global_scope_when_it_is_unloaded() {
    on_both_loaders(|loader| {
        loader.open_with("scope_provider", GLOBAL).close();
        loader.try_open("scope_user").expect_err("nothing provides it now");
        loader.this().try_address("provided").unwrap_err();
    });
}

#[test]
fn what_a_global_library_needs_is_global_too() {
    on_both_loaders(|loader| {
        let _bridge = loader.open_with("scope_bridge", GLOBAL);
        assert_eq!(loader.open("scope_user").call("call_provided"), 5);
    });
}

#[test]
fn deep_binding_puts_the_librarys_own_scope_first() {
    on_both_loaders(|loader| {
        let _global = ["scope_provider", "lazy_second"].map(|name| loader.open_with(name, GLOBAL));
        let both = || {
            assert_eq!(loader.open("scope_deep_bind").call("call_own"), 5, "closed at once");
            assert_eq!(loader.open_with("scope_deep_bind", DEEP_BIND).call("call_own"), 6);
            assert_eq!(loader.open("lazy_asker_of_needed").call("call_chosen"), 2);
            assert_eq!(loader.open_with("lazy_asker_of_needed", DEEP_BIND).call("call_chosen"), 1);
        };
        both();
        // So much is bound that it pays to know which names the program started with.
        (0..300).for_each(|_| loader.open("life_root").close());
        both();
    });
}

#[test]
fn the_program_itself_has_the_global_scope() {
    on_both_loaders(|loader| {
        let this = loader.this();
        assert_eq!(this.address("getpid"), libc::getpid as *const () as usize);
        let clock = libc::clock_gettime as *const () as usize;
        assert_eq!(this.address("clock_gettime"), clock, "the kernel's own object has one, too");
        assert_eq!(this.address("soload_test_executable_first"), soload_test_executable_first as *const () as usize);
        let _local = loader.open("scope_provider");
        this.try_address("provided").expect_err("opened into a local scope");
    });
}

#[test]
fn a_symbols_name_may_end_in_nul_but_not_contain_it() {
    on_ours(|_| {
        let library = ours("bss").unwrap();
        #[allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // only addresses are compared
        let address = |name: &[u8]| unsafe { library.get::<*const u32>(name) }.map(|symbol| *symbol);
        assert_eq!(address(b"initialised\0").unwrap(), address(b"initialised").unwrap());
        let error = address(b"initial\0ised").unwrap_err();
        assert!(matches!(error.kind(), soload::ErrorKind::NulInName), "{error}");
    });
}

#[test]
fn a_symbol_is_the_size_of_a_pointer() {
    on_ours(|_| {
        let library = ours("bss").unwrap();
        #[allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // refused before anything is read
        let error = unsafe { library.get::<u8>("initialised") }.expect_err("an error");
        assert!(matches!(error.kind(), soload::ErrorKind::WrongSize { found: 1 }), "{error}");
    });
}

#[test]
fn what_the_host_opened_into_the_global_scope_serves_our_libraries() {
    on_ours(|_| {
        let _global = Loader::Host.open_with("scope_provider", GLOBAL);
        assert_eq!(Loader::Ours.open("scope_user").call("call_provided"), 5);
    });
}

#[test]
fn what_was_preloaded_comes_before_the_c_library() {
    Child::default().env("LD_PRELOAD", "$LIBS/libpreloaded.so").on_both_loaders(|loader| {
        assert_eq!(loader.open("preloaded_user").call("ask"), 4711);
    });
}
