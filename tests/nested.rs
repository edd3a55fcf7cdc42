//! What loaded code gets when it calls the loader itself: `dlopen` and its companions answer for whoever calls.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types stated here

mod common;
#[path = "common/drop_in.rs"]
mod drop_in;

use std::backtrace::Backtrace;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use common::maps::is_mapped;
use common::*;
use drop_in::drop_in;

/// A library that calls the functions of `<dlfcn.h>`.
struct Plugin(Lib, Error);

/// `dlerror` as the plugin calls it; found beforehand, as looking for it would clear the error.
type Error = extern "C" fn() -> *const c_char;

/// What `dlopen` gave to a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handle(usize);

impl Plugin {
    fn open(loader: Loader, name: &str) -> Self {
        Self::open_with(loader, name, With::default())
    }

    fn open_with(loader: Loader, name: &str, with: With) -> Self {
        let library = loader.open_with(name, with);
        let error = unsafe { std::mem::transmute::<usize, Error>(library.address("plugin_error")) };
        Self(library, error)
    }

    fn function<F: Copy>(&self, name: &str) -> F {
        let address = self.0.address(name);
        unsafe { std::mem::transmute_copy(&address) }
    }

    /// `dlopen`, called by the plugin.
    fn opens(&self, name: impl AsRef<Path>) -> Option<Handle> {
        self.opens_with(name, libc::RTLD_NOW)
    }

    fn opens_with(&self, name: impl AsRef<Path>, mode: c_int) -> Option<Handle> {
        let open: extern "C" fn(*const c_char, c_int) -> usize = self.function("plugin_open");
        let name = CString::new(name.as_ref().as_os_str().as_encoded_bytes()).unwrap();
        Some(open(name.as_ptr(), mode)).filter(|handle| *handle != 0).map(Handle)
    }

    fn symbol(&self, handle: Handle, name: &CStr) -> usize {
        let symbol: extern "C" fn(usize, *const c_char) -> usize = self.function("plugin_symbol");
        symbol(handle.0, name.as_ptr())
    }

    fn version(&self, handle: Handle, name: &CStr, version: &CStr) -> usize {
        let symbol: extern "C" fn(usize, *const c_char, *const c_char) -> usize = self.function("plugin_version");
        symbol(handle.0, name.as_ptr(), version.as_ptr())
    }

    fn close(&self, handle: Handle) {
        let close: extern "C" fn(usize) -> c_int = self.function("plugin_close");
        assert_eq!(close(handle.0), 0);
    }

    /// `dlerror`, called by the plugin.
    fn error(&self) -> Option<String> {
        let error = self.1();
        (!error.is_null()).then(|| unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned())
    }

    /// A text that it has about a handle.
    fn text_about(&self, function: &str, handle: Handle) -> String {
        let function: extern "C" fn(usize) -> *const c_char = self.function(function);
        let text = function(handle.0);
        assert!(!text.is_null(), "{:?}", self.error());
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    fn number_about(&self, function: &str, handle: Handle) -> c_int {
        let function: extern "C" fn(usize) -> c_int = self.function(function);
        function(handle.0)
    }
}

/// `RTLD_DEFAULT` and `RTLD_NEXT`.
const DEFAULT: Handle = Handle(0);
const NEXT: Handle = Handle(usize::MAX);

/// `dlsym`, called by the program.
fn symbol_for_the_program(loader: Loader, handle: Handle, name: &CStr) -> usize {
    let (handle, name) = (handle.0 as *mut c_void, name.as_ptr());
    let found = match loader {
        Loader::Ours => unsafe { soload::dl::dlsym(handle, name) },
        Loader::Host => unsafe { libc::dlsym(handle, name) },
    };
    found as usize
}

/// `dl_iterate_phdr`, called by the program.
fn go_through_objects<T>(
    loader: Loader,
    each: unsafe extern "C" fn(*mut libc::dl_phdr_info, usize, *mut c_void) -> c_int,
    data: &mut T,
) -> c_int {
    let data = ptr::from_mut(data).cast();
    match loader {
        Loader::Ours => unsafe { soload::dl::dl_iterate_phdr(Some(each), data) },
        Loader::Host => unsafe { libc::dl_iterate_phdr(Some(each), data) },
    }
}

fn call(address: usize) -> c_int {
    assert_ne!(address, 0, "a function at address 0");
    let function: extern "C" fn() -> c_int = unsafe { std::mem::transmute(address) };
    function()
}

/// Something of this program's own for others to find.
#[unsafe(no_mangle)]
pub extern "C" fn soload_test_of_the_program() -> c_int {
    11
}

#[test]
fn a_library_opens_what_only_its_own_search_path_leads_to() {
    on_both_loaders(|loader| {
        for name in ["nested/plugin.so", "nested/plugin_rpath.so"] {
            let plugin = Plugin::open(loader, name);
            let inner = plugin.opens("libnested_inner.so").unwrap_or_else(|| panic!("{name}: {:?}", plugin.error()));
            assert_eq!(call(plugin.symbol(inner, c"inner_answer")), 1, "{name}");
            plugin.close(inner);
            assert!(!is_mapped("libnested_inner.so"), "{name}: it was the only handle");
        }
        let nowhere = Plugin::open(loader, "nested/plugin_nowhere.so");
        assert_eq!(nowhere.opens("libnested_inner.so"), None, "what others find is not found by this one");
        assert!(nowhere.error().unwrap().contains("libnested_inner.so"));
        loader.try_open_bare("libnested_inner.so", With::default()).expect_err("nor by the program");
    });
}

#[test]
fn a_library_opens_by_its_soname_what_is_loaded_already_and_gets_the_same() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin_nowhere.so");
        assert_eq!(plugin.opens("libnested_inner.so.1"), None);
        let inner = loader.open("nested/inner/libnested_inner.so");
        let handle = plugin.opens("libnested_inner.so.1").expect("by soname");
        assert_eq!(plugin.symbol(handle, c"inner_answer"), inner.address("inner_answer"));
        let by_path = plugin.opens(fixture("nested/inner/libnested_inner.so")).expect("by path");
        assert_eq!(by_path, handle, "one library has one handle");
        inner.close();
        assert!(is_mapped("libnested_inner.so"), "the handles of the plugin keep it");
        plugin.close(handle);
        plugin.close(by_path);
        assert!(!is_mapped("libnested_inner.so"));
    });
}

#[test]
fn a_handle_says_what_was_opened_only_to_look_and_when_it_became_global() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        assert_eq!(plugin.opens_with("libnested_inner.so", libc::RTLD_NOW | libc::RTLD_NOLOAD), None);
        assert_eq!(plugin.error(), None, "that is an answer");
        let inner = plugin.opens("libnested_inner.so").unwrap();
        assert_eq!(plugin.symbol(DEFAULT, c"inner_answer"), 0, "opened for the plugin's handle only");
        let again = plugin.opens_with("libnested_inner.so", libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_GLOBAL);
        assert_eq!(again, Some(inner));
        assert_eq!(plugin.symbol(DEFAULT, c"inner_answer"), plugin.symbol(inner, c"inner_answer"), "promoted");
    });
}

#[test]
fn a_library_is_not_opened_with_flags_that_nobody_knows() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        for mode in [0, libc::RTLD_GLOBAL, libc::RTLD_NOW | 0x400_0000, libc::RTLD_NOW | 0x10] {
            assert_eq!(plugin.opens_with("libnested_inner.so", mode), None, "{mode:#x}");
            assert!(plugin.error().unwrap().contains("mode"), "{mode:#x}");
        }
        let both = plugin.opens_with("libnested_inner.so", libc::RTLD_NOW | libc::RTLD_LAZY).unwrap();
        plugin.close(both);
    });
}

#[test]
fn a_handle_keeps_a_library_for_good_once_that_was_asked_for() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        let inner = plugin.opens("libnested_inner.so").unwrap();
        let mode = libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        assert_eq!(plugin.opens_with("libnested_inner.so", mode), Some(inner), "there already, and stays from now on");
        plugin.close(inner);
        plugin.close(inner);
        assert!(is_mapped("libnested_inner.so"));
        assert_eq!(plugin.opens("libnested_inner.so"), Some(inner));
        let leaf = plugin.opens_with(fixture("life_leaf"), libc::RTLD_NOW | libc::RTLD_NODELETE).unwrap();
        plugin.close(leaf);
        assert!(is_mapped("liblife_leaf.so"));
    });
}

#[test]
fn a_library_is_bound_to_itself_first_if_that_was_asked_for() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        plugin.opens_with(fixture("scope_provider"), libc::RTLD_NOW | libc::RTLD_GLOBAL).unwrap();
        for (mode, expected) in [(0, 5), (libc::RTLD_DEEPBIND, 6)] {
            let library = plugin.opens_with(fixture("scope_deep_bind"), libc::RTLD_NOW | mode).unwrap();
            assert_eq!(call(plugin.symbol(library, c"call_own")), expected);
            plugin.close(library);
        }
    });
}

#[test]
fn what_was_closed_as_often_as_opened_has_gone() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        let handles: Vec<_> = (0..3).map(|_| plugin.opens("libnested_inner.so").unwrap()).collect();
        assert_eq!(handles, [handles[0]; 3]);
        for handle in handles {
            assert!(is_mapped("libnested_inner.so"));
            plugin.close(handle);
        }
        assert!(!is_mapped("libnested_inner.so"));
    });
}

#[test]
fn the_default_scope_of_a_library_is_the_programs_and_then_its_own() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        let own = plugin.symbol(DEFAULT, c"plugin_own");
        assert_eq!(own, plugin.0.address("plugin_own"));
        assert_eq!(call(plugin.symbol(DEFAULT, c"soload_test_of_the_program")), 11);
        assert_eq!(plugin.symbol(DEFAULT, c"getpid"), loader.this().address("getpid"));
        assert_eq!(plugin.symbol(DEFAULT, c"inner_answer"), 0, "not loaded");
        assert!(plugin.error().unwrap().contains("inner_answer"));
        loader.this().try_address("plugin_own").expect_err("local to the plugin");
    });
}

#[test]
fn what_a_library_was_given_without_naming_its_library_stays_as_long_as_it_does() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        let inner = plugin.opens_with("libnested_inner.so", libc::RTLD_NOW | libc::RTLD_GLOBAL).unwrap();
        let answer = plugin.symbol(DEFAULT, c"inner_answer");
        plugin.close(inner);
        assert!(is_mapped("libnested_inner.so"));
        assert_eq!(call(answer), 1);
        drop(plugin);
        assert!(!is_mapped("libnested_inner.so") && !is_mapped("plugin.so"));
    });
}

#[test]
fn what_a_library_was_given_in_that_way_goes_after_it_in_the_order_in_which_it_asked() {
    on_both_loaders(|loader| {
        for names in [[c"is_constructed", c"provided"], [c"provided", c"is_constructed"]] {
            let journal = loader.open("journal");
            let providers = ["life_hook", "scope_provider"].map(|name| loader.open_with(name, GLOBAL));
            let plugin = Plugin::open(loader, "nested/plugin.so");
            names.iter().for_each(|name| assert_ne!(plugin.symbol(DEFAULT, name), 0));
            drop(providers);
            assert_eq!(said(&journal), "hook+ provider+");
            drop(plugin);
            // Since 2.39 glibc does not go by that.
            let goes_by_it = loader == Loader::Ours || !host_is_since(2, 39);
            let in_turn = names[0] == c"provided" && goes_by_it;
            let expected = if in_turn { "provider- hook-" } else { "hook- provider-" };
            assert_eq!(said(&journal), format!("hook+ provider+ {expected}"));
            journal.close();
        }
    });
}

#[test]
fn a_library_that_asks_for_its_own_symbol_does_not_stay_for_that() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        assert_ne!(plugin.symbol(DEFAULT, c"plugin_own"), 0);
        drop(plugin);
        assert!(!is_mapped("plugin.so"));
    });
}

#[test]
fn the_default_scope_of_a_library_that_is_bound_to_itself_first_begins_there() {
    on_both_loaders(|loader| {
        let answer = |plugin: &Plugin| call(plugin.symbol(DEFAULT, c"soload_test_of_the_program"));
        assert_eq!(answer(&Plugin::open(loader, "nested/plugin_own.so")), 11);
        assert_eq!(answer(&Plugin::open(loader, "nested/plugin_symbolic.so")), 12);
        assert_eq!(answer(&Plugin::open_with(loader, "nested/plugin_own.so", DEEP_BIND)), 12);
    });
}

#[test]
fn objects_are_gone_through_in_the_order_in_which_they_were_found() {
    unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: usize, names: *mut c_void) -> c_int {
        let name = unsafe { CStr::from_ptr((*info).dlpi_name) }.to_string_lossy();
        let file = name.rsplit('/').next().filter(|file| file.starts_with("liblife"));
        unsafe { &mut *names.cast::<Vec<String>>() }.extend(file.map(String::from));
        0
    }
    on_both_loaders(|loader| {
        let (_root, mut names) = (loader.open("life_root"), Vec::<String>::new());
        go_through_objects(loader, note, &mut names);
        assert_eq!(names, ["liblife_root.so", "liblife_left.so", "liblife_right.so", "liblife_leaf.so"]);
    });
}

#[test]
fn whoever_goes_through_the_objects_may_stop_at_the_first() {
    unsafe extern "C" fn stop(_: *mut libc::dl_phdr_info, _: usize, times: *mut c_void) -> c_int {
        unsafe { *times.cast::<c_int>() += 1 };
        7
    }
    on_both_loaders(|loader| {
        let (_library, mut times) = (loader.open("bss"), 0);
        assert_eq!((go_through_objects(loader, stop, &mut times), times), (7, 1));
    });
}

#[test]
fn whoever_goes_through_the_objects_learns_how_many_came_and_went_so_far() {
    unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: usize, counts: *mut c_void) -> c_int {
        unsafe { (*counts.cast::<Vec<_>>()).push(((*info).dlpi_adds, (*info).dlpi_subs)) };
        0
    }
    on_both_loaders(|loader| {
        let counts = || {
            let mut counts = Vec::<(u64, u64)>::new();
            go_through_objects(loader, note, &mut counts);
            assert!(counts.iter().all(|these| *these == counts[0]), "each object says the same: {counts:?}");
            assert_eq!(counts[0].0 - counts[0].1, counts.len() as u64);
            counts[0]
        };
        loader.open("bss").close();
        let _leaf = loader.open("life_leaf");
        let (added, removed) = counts();
        let root = loader.open("life_root");
        assert_eq!(counts(), (added + 3, removed));
        root.close();
        assert_eq!(counts(), (added + 3, removed + 3));
    });
}

#[test]
fn of_two_names_at_one_address_everybody_is_told_the_same() {
    let outputs = on_both_loaders(|loader| {
        println!("[{}]", loader.open("nested/plugin.so").call_text("name_of_two"));
    });
    let name = |output: &str| output.lines().find_map(|line| Some(line.split_once('[')?.1.to_owned()));
    let names: Vec<_> = outputs.iter().map(|(_, output)| name(output)).collect();
    assert!(names[0].is_some() && names[0] == names[1], "{names:?}");
}

#[test]
fn an_address_has_the_name_of_the_last_symbol_before_it_that_reaches_so_far() {
    on_both_loaders(|loader| {
        let library = loader.open("named_places");
        let place = |address: usize| -> (usize, Option<String>) {
            let (at, mut info) = (address as *const c_void, unsafe { std::mem::zeroed::<libc::Dl_info>() });
            let known = match loader {
                Loader::Ours => unsafe { soload::dl::dladdr(at, &mut info) },
                Loader::Host => unsafe { libc::dladdr(at, &mut info) },
            };
            assert_ne!(known, 0);
            let name = (!info.dli_sname.is_null()).then(|| unsafe { CStr::from_ptr(info.dli_sname) });
            (info.dli_fbase as usize, name.map(|name| name.to_string_lossy().into_owned()))
        };
        let sized = library.address("sized");
        let (base, _) = place(sized);
        let names: Vec<_> = (0..5).map(|byte| place(sized + byte).1).collect();
        assert_eq!(names.iter().flatten().collect::<Vec<_>>(), ["sized", "sized", "sizeless", "sized"]);
        assert_eq!(names[4], None);
        let number = |byte| place(base + byte).1;
        let mut at_start = common::elf::Elf::of("named_places");
        at_start.symbol("sized").st_value.set(object::LittleEndian, 0);
        let other = loader.try_open_bare(at_start.save("other.so"), With::default()).unwrap();
        let (base_of_other, _) = place(other.address("times_used"));
        assert_eq!(place(base_of_other + 3).1.unwrap(), "sized", "also at the very beginning");
        assert_eq!([number(4), number(8)], [None, None], "a thread-local and an absolute symbol are at no address");
    });
}

/// What a destructor asks that runs at exit.
static AT_EXIT: Mutex<Option<(Plugin, Handle)>> = Mutex::new(None);

#[test]
fn a_destructor_at_exit_gets_what_is_being_destroyed_as_it_is_and_hears_of_errors() {
    extern "C" fn ask() {
        let Some((plugin, before)) = AT_EXIT.lock().unwrap().take() else { return };
        let (hook, none) = (plugin.opens(fixture("life_hook")), plugin.opens("libno_such.so"));
        print!(
            "{} {} {} {} ",
            hook == Some(before),
            none.is_none(),
            plugin.error().is_some(),
            plugin.error().is_none()
        );
        let (none, hook) = (plugin.opens(fixture("libno_such.so")), plugin.opens(fixture("life_hook")));
        print!("{} {} {} ", none.is_none(), hook.is_some(), plugin.error().is_none());
        std::io::Write::flush(&mut std::io::stdout()).unwrap();
        std::mem::forget(plugin);
    }
    let outputs = on_both_loaders(|loader| {
        let journal = printing_journal(loader);
        let plugin = Plugin::open(loader, "nested/plugin.so");
        assert!(plugin.opens("libno_such.so").is_none() && plugin.error().is_some());
        let hook = plugin.opens(fixture("life_hook")).unwrap();
        *AT_EXIT.lock().unwrap() = Some((plugin, hook));
        journal.write("journal_last_hook", ask as extern "C" fn());
        journal.leak();
    });
    for (loader, output) in outputs {
        assert!(output.ends_with("hook- true true true true true true true "), "{loader:?}: {output}");
    }
}

#[test]
fn the_program_asks_through_the_null_handle_what_a_library_asks() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        let open: extern "C" fn(*const c_char, c_int) -> usize = plugin.function("plugin_open");
        let program = Handle(open(std::ptr::null(), libc::RTLD_NOW));
        assert_eq!(call(plugin.symbol(program, c"soload_test_of_the_program")), 11);
        assert_eq!(plugin.symbol(program, c"no_such_symbol"), 0);
        assert_eq!(plugin.symbol(program, c"plugin_own"), 0, "the library's own");
        plugin.close(program);
    });
}

#[test]
fn a_wrapper_calls_the_next_definition() {
    on_both_loaders(|loader| {
        let root = loader.open("next_root");
        assert_eq!(root.call("call_next"), 11);
        assert_eq!(root.call("finds_getpid"), 1);
        let wrapper = loader.open("next_wrapper");
        assert_eq!(wrapper.call("next_answer"), 11);
        root.close();
        assert!(!is_mapped("libnext_last.so"), "unlike with RTLD_DEFAULT it does not stay for that");
    });
}

#[test]
fn the_programs_handle_gives_a_library_the_functions_that_it_is_bound_to() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        let program = plugin.opens("").unwrap();
        for name in [c"dlopen", c"dlsym", c"dladdr", c"dl_iterate_phdr"] {
            assert_eq!(plugin.symbol(program, name), plugin.symbol(DEFAULT, name), "{name:?}");
        }
        let open = plugin.symbol(program, c"dlopen");
        let open: extern "C" fn(*const c_char, c_int) -> usize = unsafe { std::mem::transmute(open) };
        let name = CString::new(fixture("nested/plugin.so").as_os_str().as_encoded_bytes()).unwrap();
        assert_ne!(open(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD), 0, "it knows who is there");
    });
}

#[test]
fn the_next_definition_is_looked_for_in_what_was_loaded_along_with_the_library_alone() {
    on_both_loaders(|loader| {
        let _later = Loader::Host.open_with("later_provider", GLOBAL);
        let plugin = Plugin::open(loader, "nested/plugin_own.so");
        assert_eq!(plugin.symbol(NEXT, c"soload_test_of_the_program"), 0);
        assert_eq!(plugin.symbol(NEXT, c"later_answer"), 0);
        let real = libc::dlopen as *const () as usize;
        assert_eq!(plugin.symbol(NEXT, c"dlopen"), real, "the C library's own is the next one");
        // The program was loaded along with all that is global.
        assert_eq!(symbol_for_the_program(loader, DEFAULT, c"dlopen"), real);
        assert_eq!(symbol_for_the_program(loader, NEXT, c"provided"), 0);
        let provider = loader.open_with("scope_provider", GLOBAL);
        assert_eq!(symbol_for_the_program(loader, NEXT, c"provided"), provider.address("provided"));
    });
}

#[test]
fn what_brought_a_library_in_once_more_is_in_its_scope_but_not_next() {
    on_both_loaders(|loader| {
        let wrapper = loader.open("next_wrapper");
        assert_eq!((wrapper.call("beside"), wrapper.call("next_answer")), (-1, -1));
        let _root = loader.open("next_root");
        assert_eq!((wrapper.call("beside"), wrapper.call("next_answer")), (5, -1));
    });
}

#[test]
fn a_destructor_finds_what_its_library_found_before() {
    let outputs = on_both_loaders(|loader| {
        let journal = loader.open("journal");
        let provider = loader.open_with("scope_provider", GLOBAL);
        loader.open("next_root").close();
        assert_eq!(said(&journal), "provider+ found at last");
        assert!(!is_mapped("libnext_root.so") && !is_mapped("libnext_last.so"));
        drop(provider);
        journal.write("journal_prints", 1);
        loader.open("next_root").leak();
        journal.leak();
    });
    for (loader, output) in outputs {
        assert!(output.ends_with("found at last "), "{loader:?}, at exit: {output}");
    }
}

#[test]
fn what_was_loaded_beside_a_library_for_the_same_root_is_in_its_scope() {
    on_both_loaders(|loader| assert_eq!(loader.open("next_root").call("call_beside"), 5));
}

#[test]
fn a_library_asks_for_one_version_of_a_symbol() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        let versions = plugin.opens(fixture("versions_provider")).unwrap();
        assert_eq!(call(plugin.version(versions, c"foo", c"V1")), 1);
        assert_eq!(call(plugin.version(versions, c"foo", c"V2")), 2);
        assert_eq!(call(plugin.symbol(versions, c"foo")), 2, "the default");
        assert_eq!(plugin.version(versions, c"foo", c"V3"), 0);
        assert!(plugin.error().unwrap().contains("V3"));
        assert_ne!(plugin.version(DEFAULT, c"getpid", c"GLIBC_2.2.5"), 0);
    });
}

#[test]
fn each_thread_has_its_own_error_and_hears_it_once() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        assert_eq!(plugin.error(), None);
        assert_eq!(plugin.opens("libno-such-here.so"), None);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let before = plugin.error();
                plugin.opens("libno-such-there.so");
                (before, plugin.error())
            });
            let (before, after) = other.join().unwrap();
            assert_eq!(before, None);
            assert!(after.unwrap().contains("libno-such-there.so"));
        });
        assert!(plugin.error().unwrap().contains("libno-such-here.so"));
        assert_eq!(plugin.error(), None);
        let inner = plugin.opens("libnested_inner.so").unwrap();
        let after_an_error = |call: &dyn Fn()| {
            plugin.opens("libno-such-here.so");
            call();
            assert_eq!(plugin.error(), None, "what succeeds leaves no error behind");
        };
        after_an_error(&|| assert_eq!(plugin.opens("libnested_inner.so"), Some(inner)));
        let symbol: extern "C" fn(usize, *const c_char) -> usize = plugin.function("plugin_symbol");
        let about: extern "C" fn(usize) -> c_int = plugin.function("space_of");
        let close: extern "C" fn(usize) -> c_int = plugin.function("plugin_close");
        after_an_error(&|| assert_ne!(symbol(inner.0, c"inner_answer".as_ptr()), 0));
        after_an_error(&|| assert_eq!(about(inner.0), 0));
        after_an_error(&|| assert_eq!(close(inner.0), 0));
    });
}

#[test]
fn an_error_is_forgotten_when_the_next_call_succeeds_though_nothing_has_been_loaded() {
    on_ours(|_| unsafe {
        assert!(soload::dl::dlopen(c"libno-such.so".as_ptr(), libc::RTLD_NOW).is_null());
        assert!(!soload::dl::dlsym(libc::RTLD_DEFAULT, c"getpid".as_ptr()).is_null());
        assert!(soload::dl::dlerror().is_null());
    });
}

#[test]
fn a_library_learns_where_it_is_from_an_address() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        assert_eq!(Path::new(&plugin.0.call_text("file_of_plugin")), fixture("nested/plugin.so"));
        assert_eq!(plugin.0.call_text("name_of_function"), "plugin_own");
        assert_eq!(plugin.0.call("entry_is_right"), 1);
        assert_eq!(plugin.0.call("finds_itself"), 1);
    });
}

#[test]
fn a_library_sees_itself_once_among_all_objects_and_may_open_others_meanwhile() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        assert_eq!(plugin.0.call("times_gone_through"), 1);
        assert_eq!(plugin.0.call("open_while_going_through"), 1);
    });
}

#[test]
fn a_handle_tells_all_about_its_library() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        let own = plugin.opens(fixture("nested/plugin.so")).unwrap();
        let folder = fixture("nested/plugin.so").parent().unwrap().to_owned();
        assert_eq!(Path::new(&plugin.text_about("origin_of", own)), folder);
        assert_eq!(Path::new(&plugin.text_about("map_name_of", own)), fixture("nested/plugin.so"));
        assert_eq!(plugin.number_about("space_of", own), 0, "the base name space");
        assert!(plugin.number_about("headers_of", own) == 1 || loader == Loader::Host && !host_is_since(2, 36));
    });
}

#[test]
fn a_handle_tells_where_libraries_are_looked_for() {
    let told = Child::default().env("LD_LIBRARY_PATH", "$SCRATCH::/").on_both_loaders(|loader| {
        let needs_plugin = loader.open("nested/needs_plugin.so");
        for name in ["nested/plugin.so", "nested/plugin_rpath.so", "nested/plugin_bare.so", "nested/needs_plugin.so"] {
            let plugin = Plugin::open(loader, "nested/plugin.so");
            let handle = plugin.opens(fixture(name)).unwrap();
            let paths = plugin.text_about("search_paths_of", handle);
            let scratch = scratch().display().to_string();
            println!("[{name}] {}", paths.replace(&scratch, "SCRATCH"));
        }
        needs_plugin.close();
    });
    let lines = |output: &str| -> Vec<String> {
        let told = output.lines().filter_map(|line| Some(line[line.find("[nested/")?..].to_owned()));
        told.collect()
    };
    let (ours, host) = (lines(&told[0].1), lines(&told[1].1));
    assert_eq!(ours, host);
    assert_eq!(ours.len(), 4);
    let inner = fixture("nested/plugin.so").with_file_name("inner");
    assert!(ours[0].starts_with("[nested/plugin.so] SCRATCH:.:/:"), "{ours:?}");
    assert!(ours.iter().all(|line| line.contains(inner.to_str().unwrap())), "{ours:?}");
}

#[test]
fn where_libraries_are_looked_for_is_not_told_to_who_has_no_room_for_it() {
    /// `Dl_serinfo`, and room for what follows.
    #[repr(C)]
    struct Told {
        size: usize,
        count: u32,
        rest: [u64; 0x1000],
    }
    on_ours(|_| unsafe {
        let path = CString::new(fixture("bss").into_os_string().into_encoded_bytes()).unwrap();
        let handle = soload::dl::dlopen(path.as_ptr(), libc::RTLD_NOW);
        let mut told = Told { size: 0, count: 0, rest: [0; 0x1000] };
        let at = (&raw mut told).cast::<c_void>();
        assert_eq!(soload::dl::dlinfo(handle, libc::RTLD_DI_SERINFOSIZE, at), 0);
        let (size, count) = (told.size, told.count);
        for (smaller, fewer) in [(1, 0), (0, 1)] {
            (told.size, told.count) = (size - smaller, count - fewer);
            assert_eq!(soload::dl::dlinfo(handle, libc::RTLD_DI_SERINFO, at), -1);
            assert!(CStr::from_ptr(soload::dl::dlerror()).to_str().unwrap().contains("expected room"));
            assert!(told.rest.iter().all(|word| *word == 0), "nothing is written");
        }
        (told.size, told.count) = (size, count);
        assert_eq!(soload::dl::dlinfo(handle, libc::RTLD_DI_SERINFO, at), 0);
        assert!(told.rest.iter().any(|word| *word != 0));
    });
}

#[test]
fn what_a_library_brought_in_opens_is_looked_for_where_that_library_says() {
    on_both_loaders(|loader| {
        let needs_plugin = loader.open("nested/needs_plugin.so");
        let plugin = Plugin::open(loader, "nested/plugin_bare.so");
        let inner = plugin.opens("libnested_inner.so").unwrap_or_else(|| panic!("{:?}", plugin.error()));
        plugin.close(inner);
        needs_plugin.close();
        assert_eq!(plugin.opens("libnested_inner.so"), None, "whoever brought it in has gone");
    });
}

#[test]
fn a_library_closes_handles_from_within() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        assert_eq!(plugin.0.call("close_own_handle"), 1);
        assert_eq!(plugin.0.call("plugin_own"), 1);
    });
}

#[test]
fn a_constructor_opens_what_only_its_own_search_path_leads_to() {
    on_both_loaders(|loader| {
        let library = loader.open("nested/constructor.so");
        assert_eq!(library.read::<c_int>("opened_in_constructor"), 1);
        library.close();
        assert!(is_mapped("libnested_inner.so"), "its handle was never closed");
    });
}

#[test]
fn an_exception_that_leaves_a_constructor_reaches_whoever_opened_and_the_process_goes_on() {
    // glibc's dlopen keeps its lock for ever after that.
    on_ours(|loader| {
        let opener = loader.open("opens_and_catches");
        let path = CString::new(fixture("throws_at_start").into_os_string().into_encoded_bytes()).unwrap();
        let open: extern "C" fn(*const c_char) -> c_int =
            unsafe { std::mem::transmute(opener.address("open_and_catch")) };
        assert_eq!(open(path.as_ptr()), 7);
        assert_eq!(loader.open("life_leaf").call("present"), 1);
        thread::spawn(move || assert_eq!(loader.open("life_left").call("present"), 1)).join().unwrap();
        assert_eq!(open(path.as_ptr()), 0, "what was published stays, and is not initialised again");
        assert_eq!(loader.open("throws_at_start").call("times_started"), 1);
    });
}

#[test]
fn whoever_opens_what_an_exception_has_left_without_its_constructors_has_them_run_and_waits_for_nobody() {
    extern "C" fn begin_to_wait() {
        let open = || Loader::Ours.open("throws_first").call("times_followed");
        *WAITS.lock().unwrap() = Some(thread::spawn(open));
        thread::sleep(Duration::from_millis(100));
    }
    static WAITS: Mutex<Option<thread::JoinHandle<c_int>>> = Mutex::new(None);
    // In glibc all other threads wait for ever.
    on_ours(|loader| {
        let journal = loader.open("journal");
        journal.write("journal_hook", begin_to_wait as extern "C" fn());
        let opener = loader.open("opens_and_catches");
        let path = CString::new(fixture("throws_below").into_os_string().into_encoded_bytes()).unwrap();
        let open: extern "C" fn(*const c_char) -> c_int =
            unsafe { std::mem::transmute(opener.address("open_and_catch")) };
        assert_eq!(open(path.as_ptr()), 7);
        thread::spawn(move || {
            assert_eq!(loader.open("throws_first").call("times_followed"), 1);
            assert_eq!(loader.open("throws_below").call("below"), 1);
            assert_eq!(loader.open("throws_at_start").call("times_started"), 1);
        })
        .join()
        .unwrap();
        assert_eq!(WAITS.lock().unwrap().take().unwrap().join().unwrap(), 1, "who waited already");
        assert_eq!(loader.open("throws_first").call("times_followed"), 1);
    });
}

#[test]
fn a_library_that_carries_its_own_unwinder_throws_and_catches() {
    on_both_loaders(|loader| {
        for _ in 0..2 {
            let library = loader.open("own_unwinder");
            assert_eq!(library.call("caught_by_own_unwinder"), 4, "a local object on each level is destroyed");
            library.close();
        }
    });
}

#[test]
fn many_threads_open_through_loaded_code_at_once() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let inner = plugin.opens("libnested_inner.so").unwrap();
                        assert_eq!(call(plugin.symbol(inner, c"inner_answer")), 1);
                        plugin.close(inner);
                    }
                });
            }
        });
        assert!(!is_mapped("libnested_inner.so"));
    });
}

#[test]
fn destructors_of_thread_local_objects_open_libraries() {
    on_both_loaders(|loader| {
        let library = loader.open("nested/thread_local.so");
        let address = library.address("use_thread_locals");
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(move || call(address))).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == 1));
        assert_eq!(library.call("answers_of_destructors"), 4);
        assert!(!is_mapped("libnested_inner.so"));
    });
}

#[test]
fn a_thread_that_outlives_the_handle_still_destroys_its_objects() {
    on_both_loaders(|loader| outlives_the_handle(loader, loader));
}

#[test]
fn so_it_does_where_the_c_librarys_loader_has_the_cpp_library() {
    on_ours(|loader| outlives_the_handle(loader, Loader::Host));
}

/// The C++ library stays for good, and what it would be bound to if that were loaded along with it.
fn outlives_the_handle(loader: Loader, loader_of_cpp: Loader) {
    loader_of_cpp.open("throws").leak();
    let library = loader.open("nested/thread_local.so");
    let address = library.address("use_thread_locals");
    let (closed, wait) = std::sync::mpsc::channel::<()>();
    let (used, ready) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        used.send(call(address)).unwrap();
        wait.recv().unwrap_err();
    });
    assert_eq!(ready.recv(), Ok(1));
    library.close();
    assert!(is_mapped("thread_local.so"));
    drop(closed);
    thread.join().unwrap();
    // glibc lets it go with the next close of anything.
    assert!(!is_mapped("thread_local.so") || loader == Loader::Host);
}

/// What a child that loaded code forked, and that ended by that function, said on its way, before the parent goes on.
fn end_of_child(library: &Lib, end: &str) -> c_int {
    let child: extern "C" fn(usize) -> c_int = unsafe { std::mem::transmute(library.address("child_that")) };
    child(library.address(end))
}

fn said(journal: &Lib) -> String {
    journal.call_text("journal_text")
}

/// Opens the journal so that what is said from now on is printed, too.
fn printing_journal(loader: Loader) -> Lib {
    let journal = loader.open("journal");
    journal.write("journal_prints", 1);
    journal
}

#[test]
fn a_child_that_loaded_code_forked_ends_with_destructors_only_if_it_exits() {
    let outputs = on_both_loaders(|loader| {
        let journal = printing_journal(loader);
        let library = loader.open("nested_exit");
        for end in ["leave", "leave_at_once", "leave_quickly", "leave_from_a_thread"] {
            println!("[{end}]");
            assert_eq!(end_of_child(&library, end), 0, "{end}");
        }
        println!("[done]");
        assert_eq!(said(&journal), "exit+", "nothing of it happened here");
        library.leak();
        journal.leak();
    });
    for (loader, output) in outputs {
        let said: Vec<_> = output.lines().skip_while(|line| !line.ends_with("[leave]")).take(5).collect();
        let expected = ["[leave]", "exit- [leave_at_once]", "[leave_quickly]", "[leave_from_a_thread]", "exit- [done]"];
        assert_eq!(said.len(), 5, "{loader:?}: {output}");
        assert!(said.iter().zip(expected).all(|(line, expected)| line.ends_with(expected)), "{loader:?}: {said:?}");
        assert!(output.ends_with("exit- "), "{loader:?}: at the end of the process itself: {output}");
    }
}

#[test]
fn a_constructor_that_exits_ends_the_process_and_all_is_destroyed_its_own_library_too() {
    let outputs = on_both_loaders(|loader| {
        let journal = printing_journal(loader);
        let leaf = loader.open("life_leaf");
        print!("[the body of the test is done]\n[exit] ");
        std::io::Write::flush(&mut std::io::stdout()).unwrap();
        loader.open("nested_exit_at_start").leak();
        drop((leaf, journal));
    });
    for (loader, output) in outputs {
        let (_, said) = output.split_once("[exit] ").unwrap();
        assert_eq!(said, "leaf- exit- ", "{loader:?}");
    }
}

#[test]
fn what_an_exit_handler_of_loaded_code_opens_is_destroyed_as_well() {
    let outputs = on_both_loaders(|loader| {
        let journal = printing_journal(loader);
        let library = loader.open("nested_exit");
        let leave: extern "C" fn(*const c_char) = unsafe { std::mem::transmute(library.address("leave_opening")) };
        let path = CString::new(fixture("life_leaf").into_os_string().into_encoded_bytes()).unwrap();
        print!("[the body of the test is done]\n[exit] ");
        std::io::Write::flush(&mut std::io::stdout()).unwrap();
        leave(path.as_ptr());
        drop(journal);
    });
    for (loader, output) in outputs {
        let (_, said) = output.split_once("[exit] ").unwrap();
        assert!(said == "leaf+ leaf- exit- " || said == "leaf+ exit- leaf- ", "{loader:?}: {said}");
    }
}

#[test]
fn what_a_library_registered_for_forks_goes_with_it() {
    on_both_loaders(|loader| {
        let journal = loader.open("journal");
        let library = loader.open("nested_exit");
        assert_eq!(library.call("watch_forks"), 1);
        assert_eq!(end_of_child(&library, "leave_at_once"), 0);
        assert_eq!(said(&journal), "exit+ fork");
        library.close();
        let other = loader.open("nested_exit_twin");
        assert_eq!(end_of_child(&other, "leave_at_once"), 0);
        assert_eq!(said(&journal), "exit+ fork exit- exit+", "its handler is gone");
    });
}

#[test]
fn what_the_host_loaded_along_with_something_global_may_go_again() {
    on_both_loaders(|loader| {
        for _ in 0..2 {
            let library = loader.open_with("part_of_libc", GLOBAL);
            assert_eq!(library.call("calls_part"), 0x102);
            library.close();
            assert!(!is_mapped("libresolv.so.2"));
        }
        assert_eq!(loader.open("life_leaf").call("present"), 1);
    });
}

#[test]
fn backtrace_names_functions_of_loaded_code() {
    on_both_loaders(|loader| {
        let plugin = Plugin::open(loader, "nested/plugin.so");
        let names = plugin.0.call_text("plugin_backtrace");
        let line = names.lines().find(|line| line.contains("plugin_backtrace")).unwrap_or_else(|| panic!("{names}"));
        assert!(line.contains("plugin.so(plugin_backtrace+0x"), "{line}");
    });
}

#[test]
fn the_standard_librarys_backtrace_names_functions_of_loaded_code_under_the_drop_in() {
    static SEEN: Mutex<String> = Mutex::new(String::new());
    extern "C" fn look() {
        *SEEN.lock().unwrap() = Backtrace::force_capture().to_string();
    }
    // In the child it is there already, and not to be built again.
    let preload = std::env::var("LD_PRELOAD").unwrap_or_else(|_| drop_in().display().to_string()).leak();
    Child::default().env("LD_PRELOAD", preload).on_both_loaders(|loader| {
        // Without the drop-in this program goes through the C library's objects only, by its own choice.
        if loader == Loader::Host {
            let library = loader.open("throws");
            let call: extern "C" fn(extern "C" fn()) =
                unsafe { std::mem::transmute(library.address("call_and_catch")) };
            call(look);
            assert!(SEEN.lock().unwrap().contains("call_and_catch"), "{}", SEEN.lock().unwrap());
        }
    });
}
