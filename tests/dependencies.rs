//! What a needed name leads to: search order, identity, names, cycles.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the C library's own loader is asked

mod common;

use std::ffi::{CStr, c_int, c_void};
use std::fs;

use common::elf::Elf;
use common::maps::{address_space, assert_same_address_space, is_mapped};
use common::*;
use object::LittleEndian as LE;
use object::elf::*;
use soload::ErrorKind;

#[test]
fn runpath_is_relative_to_the_librarys_own_folder() {
    on_both_loaders(|loader| {
        assert_eq!(loader.open("search/by_runpath.so").call("call_searched"), 1, "$ORIGIN");
    });
}

#[test]
fn origin_may_stand_in_braces() {
    on_both_loaders(|loader| assert_eq!(loader.open("search/by_braces.so").call("call_searched"), 1));
}

#[test]
fn lib_and_platform_are_expanded() {
    on_both_loaders(|loader| {
        // What $LIB stands for is the distribution's choice, and what $PLATFORM does depends on the processor.
        for lib in ["lib/x86_64-linux-gnu", "lib64", "lib"] {
            for platform in ["x86_64", "haswell", "xeon_phi"] {
                link("search/first/libsearched.so", &format!("{platform}/{lib}/libsearched.so"));
            }
        }
        assert_eq!(loader.open(link("search/by_tokens.so", "by_tokens.so")).call("call_searched"), 1);
    });
}

#[test]
fn origin_in_a_needed_name_is_expanded() {
    on_both_loaders(|loader| assert_eq!(loader.open("origin/outer.so").call("call_origin"), 1));
}

#[test]
fn origin_is_the_folder_of_the_link_by_which_the_library_was_opened() {
    on_both_loaders(|loader| {
        // Beside the link lies another library of that name than beside the file.
        link("search/second/libsearched.so", "first/libsearched.so");
        assert_eq!(loader.open(link("search/by_runpath.so", "linked.so")).call("call_searched"), 2);
    });
}

#[test]
fn rpath_is_inherited_by_what_is_needed() {
    on_both_loaders(|loader| assert_eq!(loader.open("rpath/with_rpath.so").call("root_answer"), 1));
}

#[test]
fn runpath_is_not_inherited() {
    on_both_loaders(|loader| {
        let error = loader.try_open("rpath/with_runpath.so").expect_err("the leaf is not found");
        assert!(error.contains("librpath_leaf.so"), "{error}");
    });
}

#[test]
fn rpath_is_not_inherited_by_a_library_with_a_runpath() {
    on_both_loaders(|loader| {
        let error = loader.try_open("rpath/over_runpath.so").expect_err("the leaf is not found");
        assert!(error.contains("librpath_leaf.so"), "{error}");
    });
}

#[test]
fn rpath_comes_before_ld_library_path() {
    Child::default().env("LD_LIBRARY_PATH", "$LIBS/search/second").on_both_loaders(|loader| {
        assert_eq!(loader.open("search/by_rpath.so").call("call_searched"), 1);
    });
}

#[test]
fn ld_library_path_comes_before_runpath() {
    Child::default().env("LD_LIBRARY_PATH", "$LIBS/search/second").on_both_loaders(|loader| {
        assert_eq!(loader.open("search/by_runpath.so").call("call_searched"), 2);
    });
}

#[test]
fn a_runpath_switches_off_the_rpath_beside_it() {
    Child::default().env("LD_LIBRARY_PATH", "$LIBS/search/second").on_both_loaders(|loader| {
        let mut elf = Elf::of("search/by_rpath.so");
        // The same folder by both rules: if the RPATH counted, it would come before the environment.
        let (string, spare) = (elf.value(DT_RPATH), elf.dynamic(DT_RELACOUNT));
        spare.d_tag.set(LE, DT_RUNPATH);
        spare.d_val.set(LE, string);
        link("search/first/libsearched.so", "first/libsearched.so");
        assert_eq!(loader.open(elf.save("both.so")).call("call_searched"), 2);
    });
}

#[test]
fn ld_library_path_takes_colons_and_semicolons() {
    Child::default().env("LD_LIBRARY_PATH", "/soload-no-such-folder;$LIBS/search/second:/").on_both_loaders(|loader| {
        let library = loader.try_open_bare("libsearched.so", With::default()).unwrap();
        assert_eq!(library.call("searched_answer"), 2);
    });
}

#[test]
fn an_empty_element_of_ld_library_path_is_the_current_folder() {
    Child::default().env("LD_LIBRARY_PATH", "/soload-no-such-folder:").on_both_loaders(|loader| {
        std::env::set_current_dir(fixture("search/second/libsearched.so").parent().unwrap()).unwrap();
        let library = loader.try_open_bare("libsearched.so", With::default()).unwrap();
        assert_eq!(library.call("searched_answer"), 2);
    });
}

#[test]
fn a_name_with_a_slash_is_not_searched_for() {
    Child::default().env("LD_LIBRARY_PATH", "$LIBS/search/second").on_both_loaders(|loader| {
        loader.try_open_bare("./libsearched.so", With::default()).expect_err("not in the current folder");
    });
}

#[test]
fn an_extra_search_folder_is_used_for_the_name_and_for_what_it_needs() {
    on_ours(|_| {
        #[allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures have no constructors that matter
        let open = |dir: &str, name: &str| unsafe { soload::OpenOptions::new().search_dir(fixture(dir)).open(name) };
        let folder = fixture("search/second/x").parent().unwrap().to_owned();
        assert_eq!(Lib::Ours(open(folder.to_str().unwrap(), "libsearched.so").unwrap()).call("searched_answer"), 2);
        let without = fixture("search/by_path_only.so");
        let library = Lib::Ours(open(folder.to_str().unwrap(), without.to_str().unwrap()).unwrap());
        assert_eq!(library.call("call_searched"), 2);
    });
}

#[test]
fn a_file_of_another_machine_or_class_is_skipped_in_the_search() {
    on_both_loaders(|loader| {
        for (name, damage) in [
            ("machine", &(|header: &mut FileHeader64<LE>| header.e_machine.set(LE, EM_AARCH64)) as &dyn Fn(&mut _)),
            ("class", &|header: &mut FileHeader64<LE>| header.e_ident.class = ELFCLASS32),
        ] {
            let mut foreign = Elf::of("search/second/libsearched.so");
            damage(foreign.header());
            foreign.save(format!("{name}/foreign/libsearched.so"));
            link("search/first/libsearched.so", &format!("{name}/first/libsearched.so"));
            let path = Elf::of("search/skipping.so").save(format!("{name}/skipping.so"));
            assert_eq!(loader.open(path).call("call_searched"), 1, "{name}");
        }
    });
}

#[test]
fn garbage_in_the_search_is_fatal() {
    on_both_loaders(|loader| {
        fs::create_dir(scratch().join("foreign")).unwrap();
        fs::write(scratch().join("foreign/libsearched.so"), "not ELF at all, and long enough for a header ".repeat(9))
            .unwrap();
        link("search/first/libsearched.so", "first/libsearched.so");
        let error = loader.try_open(Elf::of("search/skipping.so").save("skipping.so")).expect_err("an error");
        assert!(error.contains("foreign/libsearched.so"), "{error}");
    });
}

#[test]
fn the_best_hardware_capability_folder_comes_first() {
    on_both_loaders(|loader| {
        assert_eq!(loader.open("hwcaps/user.so").call("call_level"), this_cpus_level());
    });
}

/// The x86-64 level that this CPU has, by the psABI's list of features.
#[cfg(target_arch = "x86_64")]
fn this_cpus_level() -> i32 {
    macro_rules! has { ($($feature:tt)+) => { $(std::arch::is_x86_feature_detected!($feature))&&+ } }
    if !has!("cmpxchg16b" "popcnt" "sse3" "sse4.1" "sse4.2" "ssse3") {
        1
    } else if !has!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe") {
        2
    } else if !has!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl") {
        3
    } else {
        4
    }
}

/// Opens a library that lies in one such folder, for each of them in turn, and says by which it was found.
fn look_into_folders_for_hardware_capabilities(loader: Loader) {
    println!(); // the test runner's own line has no end yet
    for folder in [
        ".",
        "glibc-hwcaps/x86-64-v2",
        "glibc-hwcaps/x86-64-v3",
        "glibc-hwcaps/x86-64-v4",
        "glibc-hwcaps/x86-64-v5",
        "tls",
        "x86_64",
        "haswell",
        "xeon_phi",
        "avx512_1",
        "tls/x86_64",
        "x86_64/tls",
        "tls/haswell",
        "haswell/x86_64",
        "haswell/avx512_1",
        "avx512_1/haswell",
        "tls/haswell/avx512_1/x86_64",
        "haswell/tls",
    ] {
        // A folder of its own for each: what is known of one must not answer for the next.
        let name = folder.replace('/', "+");
        link("hwcaps/libhwcaps.so", &format!("{name}/{folder}/libhwcaps.so"));
        let found = loader.try_open(Elf::of("hwcaps/user.so").save(format!("{name}/user.so"))).is_ok();
        println!("in {folder}: {found}");
    }
}

/// What both loaders said of these folders: the same.
fn folders_found(outputs: &[(Loader, String)]) -> Vec<String> {
    let lines =
        |output: &str| output.lines().filter(|line| line.starts_with("in ")).map(String::from).collect::<Vec<_>>();
    let mut answers: Vec<_> = outputs.iter().map(|(_, output)| lines(output)).collect();
    let own = answers.pop().unwrap_or_default();
    assert!(own.contains(&"in .: true".into()) && answers.iter().all(|answer| *answer == own), "{own:#?} {answers:#?}");
    own
}

#[test]
#[allow(clippy::redundant_closure)] // a test is known by its closures
fn the_folders_for_hardware_capabilities_are_those_of_the_host() {
    let outputs = on_both_loaders(|loader| look_into_folders_for_hardware_capabilities(loader));
    folders_found(&outputs);
}

#[test]
#[allow(clippy::redundant_closure)] // as above
fn what_the_c_library_is_told_not_to_use_of_the_processor_has_no_folders() {
    let child = Child::default().env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-SSE4_2");
    let found = folders_found(&child.on_both_loaders(|loader| look_into_folders_for_hardware_capabilities(loader)));
    assert!(found.iter().all(|line| !line.contains("x86-64-v") || line.ends_with(": false")), "{found:#?}");
}

#[test]
fn a_library_linked_with_nodefaultlib_is_not_given_the_systems() {
    on_both_loaders(|loader| {
        if loader.try_open("nodefault/with.so").is_err() {
            eprintln!("DID NOT RUN: needs package zlib1g");
            assert!(std::env::var_os("CI").is_none());
            return;
        }
        // In a fresh state: what is loaded already would satisfy the name.
        assert!(!is_mapped("libz.so.1"), "unloaded with its user");
        let error = loader.try_open("nodefault/without.so").expect_err("an error");
        assert!(error.contains("libz.so.1"), "{error}");
    });
}

#[test]
fn a_missing_library_is_named_with_the_one_that_needs_it() {
    on_both_loaders(|loader| {
        for name in ["missing_dependency", "missing_deeper"] {
            let error = loader.try_open(name).expect_err("an error");
            assert!(error.contains("libsoload_absent.so"), "{error}");
        }
        if loader == Loader::Ours {
            let error = ours("missing_deeper").expect_err("an error");
            let ErrorKind::NotFound { tried } = error.kind() else { panic!("{error}") };
            assert!(tried.iter().any(|candidate| candidate.rule.contains("RUNPATH")), "{tried:?}");
            assert!(error.needed_by().unwrap().ends_with("libmissing_dependency.so"));
        }
    });
}

#[test]
fn one_file_under_several_names_is_one_library() {
    on_both_loaders(|loader| {
        let file = Elf::of("same/a/libsame.so").save("file.so");
        std::os::unix::fs::symlink(&file, scratch().join("symbolic.so")).unwrap();
        fs::hard_link(&file, scratch().join("hard.so")).unwrap();
        let names = ["file.so", "symbolic.so", "hard.so", "../scratch/file.so"];
        let libraries: Vec<_> = names.iter().map(|name| loader.open(scratch().join(name))).collect();
        let counts: Vec<_> = libraries.iter().map(|library| library.call("same_count")).collect();
        assert_eq!(counts, [1, 2, 3, 4]);
    });
}

#[test]
fn two_files_of_one_name_are_two_libraries() {
    on_both_loaders(|loader| {
        let (a, b) = (loader.open("same/a/libsame.so"), loader.open("same/b/libsame.so"));
        assert_eq!((a.call("same_answer"), b.call("same_answer")), (1, 2));
    });
}

#[test]
fn a_needed_name_is_not_satisfied_by_a_library_opened_by_the_path_of_another_folder() {
    on_both_loaders(|loader| {
        let _a = loader.open("same/a/libsame.so");
        assert_eq!(loader.open("same/needs_b.so").call("call_same"), 2);
    });
}

#[test]
fn a_library_that_was_opened_by_a_second_name_is_known_by_that_when_its_file_is_gone() {
    on_both_loaders(|loader| {
        let first = loader.open("bss");
        let second = link("bss", "second.so");
        let by_second = loader.open(&second);
        fs::remove_file(&second).unwrap();
        let again = loader.open(&second);
        let addresses = [&first, &by_second, &again].map(|library| library.address("pages"));
        assert_eq!(addresses, [addresses[0]; 3]);
    });
}

#[test]
fn a_needed_name_is_satisfied_by_a_library_that_was_needed_by_that_name() {
    on_both_loaders(|loader| {
        let _a = loader.open("same/needs_a.so");
        assert_eq!(loader.open("same/needs_b.so").call("call_same"), 1);
    });
}

#[test]
fn a_soname_satisfies_a_needed_name() {
    on_both_loaders(|loader| {
        loader.try_open("soname/user.so").expect_err("no file of that name");
        let _alias = loader.open("soname/other_file_name.so");
        assert_eq!(loader.open("soname/user.so").call("call_soname"), 1);
    });
}

#[test]
fn a_soname_satisfies_a_bare_name() {
    on_both_loaders(|loader| {
        let _alias = loader.open("soname/other_file_name.so");
        assert_eq!(loader.try_open_bare("libsoname_alias.so.1", With::default()).unwrap().call("soname_answer"), 1);
    });
}

#[test]
fn libraries_that_need_each_other_are_loaded_once_and_unloaded_together() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        let a = loader.open("cycle/libcycle_a.so");
        assert_eq!((a.call("a_asks"), a.call("b_asks")), (2, 2));
        a.close();
        // The cycle is broken where it was entered: b is initialised first, and destroyed first.
        let reversed = !loader.diverges(&DIVERGENCE_CYCLE) && host_is_since(2, 39);
        let end = if reversed { "cycle_a- cycle_b-" } else { "cycle_b- cycle_a-" };
        let start = match !loader.diverges(&DIVERGENCE_CYCLE) && !host_is_since(2, 36) {
            true => "cycle_a+ cycle_b+",
            false => "cycle_b+ cycle_a+",
        };
        assert_eq!(journal.call_text("journal_text"), format!("{start} {end}"));
        assert!(!is_mapped("libcycle_a.so") && !is_mapped("libcycle_b.so"));
    });
}

#[test]
fn no_load_answers_only_for_what_is_loaded() {
    on_both_loaders(|loader| {
        loader.try_open_with("bss", NO_LOAD).expect_err("not loaded");
        assert!(!is_mapped("libbss.so"));
        let first = loader.open("bss");
        let second = loader.open_with("bss", NO_LOAD);
        first.close();
        assert_eq!(second.read::<u32>("initialised"), 0x600d, "it counts as an open");
    });
}

#[test]
fn no_load_does_not_look_for_what_a_library_needs_that_is_not_there_itself() {
    on_both_loaders(|loader| {
        let error = loader.try_open_with("missing_dependency", NO_LOAD).expect_err("not loaded");
        assert!(!error.contains("absent"), "{error}");
    });
}

#[test]
fn nor_is_a_part_of_the_c_library_loaded_by_who_asks_whether_it_is() {
    on_both_loaders(|loader| {
        for part in ["libresolv.so.2", "libpthread.so.0"] {
            loader.try_open_bare(part, NO_LOAD).expect_err("not loaded");
            let first = loader.try_open_bare(part, With::default()).unwrap();
            loader.try_open_bare(part, NO_LOAD).unwrap().close();
            first.close();
        }
        loader.try_open_with("part_of_libc", NO_LOAD).expect_err("not loaded");
    });
}

#[test]
fn what_the_c_library_consists_of_is_never_loaded_a_second_time() {
    on_both_loaders(|loader| {
        let libc = loader.try_open_bare("libc.so.6", With::default()).unwrap();
        assert_eq!(libc.address("getpid"), libc::getpid as *const () as usize);
        let _libm = loader.try_open_bare("libm.so.6", With::default()).unwrap();
        for name in ["libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"] {
            let text =
                common::maps::maps().iter().filter(|map| map.path.ends_with(name) && map.perms == "r-xp").count();
            assert!(text <= 1, "{name} is mapped {text} times");
        }
    });
}

#[test]
fn nor_is_a_copy_of_it_that_is_asked_for_by_its_path() {
    on_ours(|loader| {
        let loaded = common::maps::maps().into_iter().find(|map| map.path.ends_with("/libc.so.6")).unwrap();
        let copy = scratch().join("copy.so");
        fs::copy(loaded.path, &copy).unwrap();
        let libc = loader.try_open_bare(&copy, With::default()).unwrap();
        assert_eq!(libc.address("getpid"), libc::getpid as *const () as usize);
        assert!(!is_mapped("copy.so"));
    });
}

#[test]
fn a_directory_that_cannot_be_reached_ends_its_list() {
    Child::default().env("LD_LIBRARY_PATH", "$SCRATCH:$LIBS").on_both_loaders(|loader| {
        let in_circles = scratch().join("libbss.so");
        std::os::unix::fs::symlink(&in_circles, &in_circles).unwrap();
        loader.try_open_bare("libbss.so", With::default()).expect_err("the rest of the list is not looked into");
        loader.try_open_bare("libdemo.so", With::default()).expect("for other names it is");
    });
}

/// The path by which the C library's loader has `libresolv.so.2`.
fn path_of_resolv() -> Option<String> {
    unsafe extern "C" fn find(info: *mut libc::dl_phdr_info, _: usize, found: *mut c_void) -> c_int {
        let name = unsafe { CStr::from_ptr((*info).dlpi_name) }.to_str().unwrap();
        let found = unsafe { &mut *found.cast::<Option<String>>() };
        *found = Some(name.to_owned()).filter(|name| name.ends_with("/libresolv.so.2"));
        c_int::from(found.is_some())
    }
    let mut found = None;
    unsafe { libc::dl_iterate_phdr(Some(find), (&raw mut found).cast()) };
    found
}

#[test]
fn a_part_of_the_c_library_has_the_path_and_the_names_that_its_loader_gives_it() {
    on_both_loaders(|loader| {
        assert_eq!(path_of_resolv(), None);
        let library = loader.open("part_of_libc");
        let path = path_of_resolv().unwrap();
        // Whoever needs it finds that one, its versions too.
        Loader::Host.open("part_of_libc").close();
        let by_name = || unsafe { libc::dlopen(c"libresolv.so.2".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
        let handle = by_name();
        assert!(!handle.is_null());
        assert_eq!(unsafe { libc::dlclose(handle) }, 0);
        library.close();
        assert_eq!(path_of_resolv(), None);
        assert!(by_name().is_null());
        assert!(!unsafe { libc::dlopen(c"libresolv.so.2".as_ptr(), libc::RTLD_NOW) }.is_null());
        assert_eq!(path_of_resolv(), Some(path));
    });
}

#[test]
fn what_the_c_library_loads_along_with_a_part_is_not_loaded_a_second_time() {
    on_both_loaders(|loader| {
        let library = loader.open("posing/root.so");
        assert_eq!(library.call("posing_root"), 12);
    });
}

#[test]
fn nor_is_another_file_of_a_name_that_came_with_the_part() {
    on_both_loaders(|loader| {
        let library = loader.open("posing/apart/root.so");
        assert_eq!(library.call("posing_root"), 12);
    });
}

#[test]
fn a_group_has_the_same_order_whether_parts_of_the_c_library_are_there_or_have_to_be_brought() {
    on_ours(|_| {
        let objects = || {
            let library = ours("parts_root").unwrap();
            // What is begun anew is added up.
            let stages: Vec<_> = library.stages().iter().map(|(stage, _)| *stage).collect();
            assert_eq!(stages, ["host", "find", "plan", "map", "relocate", "seal", "publish", "constructors"]);
            let objects: Vec<_> = library.objects().map(|(path, own)| (path.to_owned(), own)).collect();
            library.close().unwrap();
            objects
        };
        assert!(!is_mapped("libresolv.so.2") && !is_mapped("libBrokenLocale.so.1"));
        let brought = objects();
        let own = brought.iter().filter(|(_, own)| *own).count();
        assert!(own == 3 && brought.len() >= 6, "{brought:?}");
        assert!(!is_mapped("libresolv.so.2"));
        for part in [c"libBrokenLocale.so.1", c"libresolv.so.2"] {
            assert!(!unsafe { libc::dlopen(part.as_ptr(), libc::RTLD_NOW) }.is_null());
        }
        assert_eq!(objects(), brought);
    });
}

#[test]
fn a_part_of_the_c_library_that_is_empty_by_now_is_not_loaded_for_who_needs_it() {
    const EMPTY: [&str; 3] = ["libpthread.so.0", "libdl.so.2", "librt.so.1"];
    on_both_loaders(|loader| {
        let library = loader.open("empty_parts");
        assert_eq!(library.call("calls_once"), 1);
        assert!(EMPTY.iter().all(|part| is_mapped(part) != loader.diverges(&DIVERGENCE_EMPTY_PARTS)));
    });
}

#[test]
fn a_part_that_is_empty_by_now_is_there_for_who_asks_for_it() {
    on_both_loaders(|loader| {
        let library = loader.open("empty_parts");
        let part = loader.try_open_bare("libpthread.so.0", With::default()).unwrap();
        assert!(is_mapped("libpthread.so.0"));
        // Who needs it from now on finds it.
        library.close();
        let library = loader.open("empty_parts");
        assert_eq!(library.call("calls_once"), 1);
        library.close();
        part.close();
    });
}

#[test]
fn what_is_needed_after_a_part_that_is_empty_by_now_is_asked_before_the_c_library() {
    on_both_loaders(|loader| assert_eq!(loader.open("empty_parts_first").call("getdtablesize"), 42));
}

#[test]
fn a_part_that_is_empty_by_now_may_come_once_the_c_library_stands_for_it() {
    on_both_loaders(|loader| {
        // Another part that is needed opens it when it is brought.
        let library = loader.open("empty_parts/late.so");
        assert!(is_mapped("libpthread.so.0"));
        assert_eq!(library.call("calls_once"), 1);
    });
}

#[test]
fn a_version_that_such_a_part_never_had_is_missing_in_the_c_library() {
    on_both_loaders(|loader| {
        let error = loader.try_open("empty_parts_newer").expect_err("an error");
        assert!(error.contains("GLIBC_9.9"), "{error}");
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_cache_is_not_opened_for_each_part_of_the_c_library() {
    on_ours(|_| {
        drop(ours("part_of_libc").unwrap());
        let calls = common::trace::system_calls_of(|| drop(ours("part_of_libc").unwrap()));
        let opened = calls.iter().filter(|call| call.number == libc::SYS_openat && call.result >= 0).count();
        assert_eq!(opened, 2, "the library and the part");
    });
}

#[test]
fn a_part_of_the_c_library_comes_from_where_its_loader_looks_first() {
    Child::default().env("LD_LIBRARY_PATH", "$SCRATCH").on_both_loaders(|loader| assert_eq!(part(loader), copied()));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_part_of_the_c_library_comes_from_where_the_loader_was_told_that_started_the_program() {
    let starter = &["/lib64/ld-linux-x86-64.so.2", "--library-path", "$SCRATCH"];
    Child::default().started_by(starter).on_both_loaders(|loader| assert_eq!(part(loader), copied()));
}

/// Copies a part of the C library to the scratch folder and opens a library that needs it. Answers the path of the one it got.
fn part(loader: Loader) -> Option<String> {
    let handle = unsafe { libc::dlopen(c"libresolv.so.2".as_ptr(), libc::RTLD_NOW) };
    let usual = path_of_resolv().unwrap();
    assert_eq!(unsafe { libc::dlclose(handle) }, 0);
    fs::copy(usual, scratch().join("libresolv.so.2")).unwrap();
    let library = loader.open("part_of_libc");
    assert_eq!(library.call("calls_part"), 0x102);
    path_of_resolv()
}

fn copied() -> Option<String> {
    scratch().join("libresolv.so.2").to_str().map(Into::into)
}

#[test]
fn a_library_that_the_host_loaded_is_used_and_held_and_not_loaded_again() {
    on_ours(|_| {
        let theirs = Loader::Host.open("life_leaf");
        let address = theirs.address("present");
        let direct = Loader::Ours.open("life_leaf");
        assert_eq!(direct.address("present"), address);
        let as_needed = Loader::Ours.open("life_left");
        theirs.close();
        direct.close();
        assert_ne!(as_needed.address("present"), address, "its own symbol");
        assert!(is_mapped("liblife_leaf.so"), "still needed");
        as_needed.close();
        assert!(!is_mapped("liblife_leaf.so"), "given back to the host");
    });
}

#[test]
fn a_library_that_the_host_loaded_and_that_has_a_soname_is_not_called_as_its_file_is() {
    on_both_loaders(|loader| {
        let _theirs = Loader::Host.open("nested/inner/libnested_inner.so");
        let by = |name| loader.try_open_bare(name, With::default());
        by("libnested_inner.so.1").expect("by soname");
        by("libnested_inner.so").expect_err("nobody has searched for it");
    });
}

#[test]
fn a_failed_open_of_a_group_leaves_nothing_behind() {
    on_ours(|_| {
        ours("missing_deeper").expect_err("warm up");
        let before = address_space();
        for name in
            ["missing_dependency", "missing_deeper", "rpath/with_runpath.so", "undefined_function", "versions_missing"]
        {
            ours(name).expect_err("an error");
            assert_same_address_space(&before, name);
        }
    });
}

#[test]
fn a_part_that_comes_and_goes_while_others_open_what_needs_it_is_asked_only_where_it_is() {
    on_both_loaders(|loader| {
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    for _ in 0..30 {
                        let _other = loader.open("life_root");
                        assert_eq!(loader.open("part_of_libc").call("calls_part"), 0x102);
                    }
                });
            }
        });
    });
}
