//! Trails: what an open has found is gone by in later processes, and never leads anywhere else than a search would.

#![cfg(all(feature = "cli", target_arch = "x86_64", target_env = "gnu"))]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the libraries' symbols have the types that the tests state

mod common;

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::command::{command, document, out};
use common::snapshots::{MADE, USED, directory};
use common::trace::{Call, system_calls_of};
use common::*;
use soload::{Error, ErrorKind, Guard, Library, Namespace, OpenOptions, SnapshotUse, Snapshots};

/// Makes a library that needs others by their paths, or puts another one in its place. What it answers it adds up when
/// it begins, of its own number and of what those answer that must have begun before.
#[track_caller]
fn make(name: &str, number: i32, needs: &[&Path]) -> PathBuf {
    make_with(name, number, needs, &[])
}

#[track_caller]
fn make_with(name: &str, number: i32, needs: &[&Path], flags: &[&str]) -> PathBuf {
    let mut terms = String::new();
    let mut source = String::new();
    for need in needs {
        let need = fs::canonicalize(need).unwrap().file_stem().unwrap().to_str().unwrap().to_owned();
        source += &format!("extern int {need}_answer(void);\n");
        terms += &format!(" + {need}_answer()");
    }
    source += &format!(
        "static int sum; static int *volatile at = &sum;\n\
         __attribute__((constructor)) static void begin(void) {{ *at = {number}{terms}; }}\n\
         int {name}_answer(void) {{ return *at; }}\n"
    );
    let made = scratch().join("made");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-Wl,--no-as-needed,--build-id", "-x", "c", "-", "-x", "none"]);
    let mut compiler = compiler.args(needs).args(flags).arg("-o").arg(&made).stdin(Stdio::piped()).spawn().unwrap();
    compiler.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success(), "cc makes {name}");
    let path = scratch().join(name).with_extension("so");
    fs::rename(made, &path).unwrap();
    path
}

/// `root`, which needs `left` and `right`, which both need `leaf`; and a part of the C library.
fn closure() -> PathBuf {
    let leaf = make("leaf", 1, &[]);
    let (left, right) = (make("left", 10, &[&leaf]), make_with("right", 100, &[&leaf], &["-lm"]));
    make("root", 1000, &[&left, &right])
}

/// What `root` answers if everything has begun in order.
const ANSWER: i32 = 1112;

fn beside(name: &str) -> PathBuf {
    scratch().join(name).with_extension("so")
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.snapshots(directory());
    options
}

fn try_open(path: &Path) -> Result<Library, Error> {
    unsafe { options().open(path) }
}

#[track_caller]
fn open(path: &Path) -> Library {
    try_open(path).unwrap()
}

fn answer(library: &Library) -> i32 {
    let name = format!("{}_answer", library.path().file_stem().unwrap().display());
    unsafe { library.get::<extern "C" fn() -> i32>(&*name) }.unwrap()()
}

/// Opens, asks, and closes.
#[track_caller]
fn answer_of(path: &Path) -> i32 {
    answer(&open(path))
}

/// What can be told of a library that is open: from which files it and all it needs are, and by which rule.
fn told(library: &Library) -> String {
    let objects: Vec<_> = library.objects().collect();
    let searches: Vec<_> = library.searches().map(|(path, rule, lost)| (path, rule.to_string(), lost.len())).collect();
    format!("{} {objects:#?} {searches:#?}", library.path().display())
}

fn told_of(path: &Path) -> String {
    told(&open(path))
}

/// The same of an open without snapshots, and so without trails.
fn told_plainly(path: &Path) -> String {
    told(&unsafe { OpenOptions::new().private(true).open(path) }.unwrap())
}

fn trails() -> Vec<PathBuf> {
    let entries = fs::read_dir(directory()).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut trails: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ending| ending == "trail")).collect();
    trails.sort();
    trails
}

/// The one trail there is.
#[track_caller]
fn trail() -> PathBuf {
    let [trail] = <[PathBuf; 1]>::try_from(trails()).expect("one trail");
    trail
}

/// Opens until there is a trail that it goes by; answers it.
#[track_caller]
fn settled(path: &Path) -> PathBuf {
    for _ in 0..2 {
        open(path);
    }
    assert!(keeps_trails(|| drop(open(path))), "it goes by the trail");
    trail()
}

/// Whether all trails are the very files that they were: who cannot go by one leaves another, or none at all.
#[track_caller]
fn keeps_trails(code: impl FnOnce()) -> bool {
    let kept = scratch().join("kept");
    let _ = fs::remove_dir_all(&kept);
    fs::create_dir(&kept).unwrap();
    let before = trails();
    assert!(!before.is_empty(), "there is a trail");
    // So that their numbers mean nothing else meanwhile.
    before.iter().for_each(|trail| fs::hard_link(trail, kept.join(trail.file_name().unwrap())).unwrap());
    code();
    let same = |trail: &PathBuf| {
        let number = |path: &Path| fs::metadata(path).unwrap().ino();
        number(trail) == number(&kept.join(trail.file_name().unwrap()))
    };
    before == trails() && before.iter().all(same)
}

/// Puts other bytes in place of a file, with the permissions that ours have.
fn replace(file: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(file);
    fs::write(file, bytes).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o400)).unwrap();
}

/// How many calls of that kind an open makes in a process of its own.
fn calls(number: i64, path: &Path) -> usize {
    system_calls_of(|| drop(open(path))).iter().filter(|call| call.number == number).count()
}

#[test]
fn what_is_opened_by_a_trail_is_what_is_found_by_searching() {
    on_ours(|_| {
        let root = closure();
        let plainly = told_plainly(&root);
        let library = open(&root);
        assert_eq!((library.snapshot(), told(&library), answer(&library)), (MADE, plainly.clone(), ANSWER));
        let at = library.bias();
        drop(library);
        for _ in 0..3 {
            let library = open(&root);
            assert_eq!((library.snapshot(), told(&library), answer(&library)), (USED, plainly.clone(), ANSWER));
            assert_eq!(library.bias(), at);
        }
        assert!(keeps_trails(|| assert_eq!(answer_of(&root), ANSWER)));
        // Also where there is no snapshot any more.
        let snapshots = Snapshots::open(&directory()).unwrap();
        for file in snapshots.files() {
            fs::remove_file(directory().join(file.name)).unwrap();
        }
        let library = open(&root);
        assert_eq!((library.snapshot(), told(&library), answer(&library)), (MADE, plainly, ANSWER));
    });
}

#[test]
fn another_process_that_goes_by_a_trail_reads_less_of_the_files() {
    on_ours(|_| {
        let root = closure();
        let reads = || calls(libc::SYS_pread64, &root);
        // Who makes the snapshot leaves the trail, too.
        reads();
        let (trail, with) = (trail(), reads());
        fs::remove_file(&trail).unwrap();
        let without = reads();
        assert!(trail.exists(), "left again");
        // One of the trail, and of four libraries less: their headers, dynamic sections and names.
        assert!(with + 3 * 4 <= without + 1, "{with} reads, {without} without a trail");
        assert_eq!(reads(), with);
    });
}

/// Whether the library is one of this system. Without the package the test does nothing, and says so.
fn is_there(name: &str, package: &str) -> bool {
    match unsafe { OpenOptions::new().private(true).open(name) } {
        Ok(_) => true,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound { .. }) => {
            eprintln!("DID NOT RUN: needs package {package}");
            assert!(std::env::var_os("CI").is_none(), "{error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_the_cache_names_is_opened_by_a_trail_without_looking_into_the_cache() {
    on_ours(|_| {
        let cache = fs::metadata("/etc/ld.so.cache").unwrap().len();
        let name = "libssl.so.3";
        // Asked in another process: in this one nobody has looked into the cache.
        let found = system_calls_of(|| {
            if is_there(name, "libssl3") {
                fs::write(scratch().join(name), told_plainly(name.as_ref())).unwrap();
            }
        });
        assert!(!found.is_empty());
        let Ok(plainly) = fs::read_to_string(scratch().join(name)) else { return };
        let looks = || {
            let calls = system_calls_of(|| assert_eq!(told_of(name.as_ref()), plainly));
            calls.iter().any(|call| call.number == libc::SYS_mmap && call.arguments[1] == cache)
        };
        assert_eq!([looks(), looks(), looks()], [true, false, false]);
    });
}

/// Makes a library as packages have them: under a name of its own, to which a link leads.
#[track_caller]
fn make_linked(name: &str, number: i32, needs: &[&Path]) -> PathBuf {
    let libraries = scratch().join("libraries");
    let _ = fs::create_dir(&libraries);
    let own_name = format!("{name}.{number}");
    fs::rename(make(name, number, needs), libraries.join(&own_name)).unwrap();
    let link = libraries.join(name).with_extension("so");
    symlink(own_name, scratch().join("link")).unwrap();
    fs::rename(scratch().join("link"), &link).unwrap();
    link
}

#[test]
fn links_are_not_followed_anew_as_long_as_their_directory_is_as_it_was() {
    on_ours(|_| {
        use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC};
        let of = nix::sys::statfs::statfs(&scratch()).unwrap().filesystem_type();
        if ![BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC].contains(&of) {
            return eprintln!("DID NOT RUN: on this file system links are always followed anew");
        }
        let leaf = make_linked("leaf", 1, &[]);
        let (left, right) = (make_linked("left", 10, &[&leaf]), make_linked("right", 100, &[&leaf]));
        let root = make_linked("root", 1000, &[&left, &right]);
        let (libraries, others) = (scratch().join("libraries"), scratch().join("others"));
        let in_directories = || {
            let calls = system_calls_of(|| assert_eq!(open(&root).snapshot(), USED));
            let by_directory = |call: &&Call| call.number == libc::SYS_openat && call.arguments[0] as i32 >= 0;
            calls.iter().filter(by_directory).count()
        };
        let change = || fs::write(libraries.join("other"), "").and_then(|()| fs::remove_file(libraries.join("other")));
        let library = open(&root);
        assert_eq!((library.snapshot(), answer(&library)), (MADE, ANSWER));
        drop(library);
        change().unwrap();
        let plainly = in_directories();
        // Until its next change could be missed, the directory is not relied on.
        fs::remove_file(trail()).unwrap();
        change().unwrap();
        let began = Instant::now();
        open(&root);
        assert!(trail().exists());
        let (young, time) = (in_directories(), began.elapsed());
        assert!(young == plainly || time > Duration::from_secs(1), "{young} {plainly} {time:?}");

        fs::remove_file(trail()).unwrap();
        std::thread::sleep(Duration::from_secs(4));
        let trail = settled(&root);
        assert_eq!(told_of(&root), told_plainly(&root));
        assert_eq!(in_directories(), plainly + 4);

        // Written over in place, which is no change of the directory; by one with other segments.
        let other = make_with("leaf", 3, &[], &["-Wl,-z,noseparate-code"]);
        fs::write(libraries.join("leaf.1"), fs::read(other).unwrap()).unwrap();
        let library = open(&root);
        assert_eq!((library.snapshot(), answer(&library)), (MADE, ANSWER + 4));
        drop(library);
        settled(&root);
        assert_eq!(in_directories(), plainly + 4);

        // What a link led to is still there, and is what it was.
        make_linked("leaf", 2, &[]);
        assert!(libraries.join("leaf.1").exists());
        assert_eq!(answer_of(&root), ANSWER + 2);
        change().unwrap();
        assert_eq!((answer_of(&root), in_directories()), (ANSWER + 2, plainly));

        // The same in another directory of that name, which has been there as long.
        fs::create_dir(&others).unwrap();
        for entry in fs::read_dir(&libraries).unwrap().map(|entry| entry.unwrap()) {
            match fs::read_link(entry.path()) {
                Ok(target) => symlink(target, others.join(entry.file_name())).unwrap(),
                Err(_) => fs::hard_link(entry.path(), others.join(entry.file_name())).unwrap(),
            }
        }
        fs::remove_file(others.join("leaf.so")).unwrap();
        symlink("leaf.1", others.join("leaf.so")).unwrap();
        std::thread::sleep(Duration::from_secs(4));
        fs::remove_file(&trail).unwrap();
        settled(&root);
        assert_eq!((answer_of(&root), in_directories()), (ANSWER + 2, plainly + 4));
        fs::rename(&libraries, scratch().join("away")).unwrap();
        fs::rename(&others, &libraries).unwrap();
        assert_eq!(answer_of(&root), ANSWER + 4);
    });
}

#[test]
fn a_library_that_has_been_replaced_is_loaded_as_it_is_now() {
    on_ours(|_| {
        let root = closure();
        let trail = settled(&root);
        for (name, number, expected) in
            [("leaf", 2, 1114), ("left", 20, 1124), ("right", 200, 1224), ("root", 2000, 2224)]
        {
            let needs: &[&Path] = match name {
                "leaf" => &[],
                "root" => &[&beside("left"), &beside("right")],
                _ => &[&beside("leaf")],
            };
            make(name, number, needs);
            assert!(!keeps_trails(|| {
                assert_eq!(answer_of(&root), expected, "{name}");
                assert_eq!(answer_of(&root), expected, "{name}");
            }));
            assert!(keeps_trails(|| assert_eq!(answer_of(&root), expected, "{name}")));
            assert!(trail.exists());
        }
        // What it needs now that it did not need then.
        let more = make("more", 10_000, &[]);
        make("leaf", 3, &[&more]);
        for _ in 0..3 {
            assert_eq!(answer_of(&root), 22_226);
            assert!(told_of(&root).contains("more.so"));
        }
        assert_eq!(told_of(&root), told_plainly(&root));
    });
}

#[test]
fn a_library_that_has_been_written_over_in_place_is_loaded_as_it_is_now() {
    on_ours(|_| {
        let root = closure();
        settled(&root);
        let mut bytes = fs::read(beside("leaf")).unwrap();
        bytes.extend([0; 64]);
        fs::write(beside("leaf"), &bytes).unwrap();
        // The first makes a snapshot anew, without a trail.
        assert!(!keeps_trails(|| (0..3).for_each(|_| assert_eq!(answer_of(&root), ANSWER))));
        assert!(keeps_trails(|| assert_eq!(answer_of(&root), ANSWER)));
        // A file that is none any more.
        fs::write(beside("leaf"), "gone").unwrap();
        let error = try_open(&root).unwrap_err().to_string();
        let plainly = unsafe { OpenOptions::new().private(true).open(&root) }.unwrap_err().to_string();
        assert_eq!(error, plainly);
    });
}

#[test]
fn a_library_that_was_only_touched_is_the_same_and_the_trail_is_left_anew() {
    on_ours(|_| {
        let root = closure();
        settled(&root);
        fs::hard_link(beside("leaf"), scratch().join("another name")).unwrap();
        assert!(!keeps_trails(|| assert_eq!(answer_of(&root), ANSWER)));
        assert!(keeps_trails(|| assert_eq!(answer_of(&root), ANSWER)));
    });
}

#[test]
fn a_link_that_leads_to_another_library_now_is_followed_there() {
    on_ours(|_| {
        let leaf = make("leaf", 0, &[]);
        let (one, two) = (make("one", 1, &[&leaf]), make("two", 2, &[&leaf]));
        let link = beside("link");
        let lead = |to: &Path| {
            let new = scratch().join("new link");
            symlink(to, &new).unwrap();
            fs::rename(new, &link).unwrap();
        };
        lead(&one);
        let root = make("root", 10, &[&link]);
        settled(&root);
        // It has not what `root` refers to.
        lead(&two);
        let error = try_open(&root).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::UndefinedSymbols { .. }), "{error}");
        lead(&one);
        assert_eq!(answer_of(&root), 11);

        // The one that is opened itself.
        fs::remove_dir_all(directory()).unwrap();
        settled(&link);
        lead(&two);
        let library = open(&link);
        assert!(unsafe { library.get::<extern "C" fn() -> i32>("two_answer") }.is_ok());
    });
}

#[test]
fn a_second_name_that_leads_elsewhere_now_is_followed_there() {
    on_ours(|_| {
        let (one, two) = (make("one", 1, &[]), make("two", 2, &[]));
        let (first, second) = (beside("first"), beside("second"));
        let lead = |link: &Path, to: &Path| {
            let _ = fs::remove_file(link);
            symlink(to, link).unwrap();
        };
        // Both lead to one file, which is one library.
        lead(&first, &one);
        lead(&second, &one);
        let root = make("root", 10, &[&first, &second]);
        for _ in 0..3 {
            assert_eq!(told_of(&root), told_plainly(&root));
        }
        lead(&second, &two);
        let told = told_of(&root);
        assert!(told.contains("second.so"), "{told}");
        assert_eq!(told, told_plainly(&root));
    });
}

#[test]
fn a_name_that_led_to_what_was_there_and_leads_elsewhere_now_is_followed_there() {
    on_ours(|_| {
        let (one, two) = (make("one", 1, &[]), make("two", 2, &[]));
        let link = beside("link");
        symlink(&one, &link).unwrap();
        let more = make("more", 0, &[]);
        let root = make("root", 10, &[&link, &more]);
        // Linked by the path of the link, which another name of its own would have kept from being so.
        make_with("one", 1, &[], &["-Wl,-soname,libone.so"]);
        let there = open(&one);
        for _ in 0..3 {
            assert_eq!(answer_of(&root), 11);
        }
        fs::remove_file(&link).unwrap();
        symlink(&two, &link).unwrap();
        let error = try_open(&root).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::UndefinedSymbols { .. }), "{error}");
        drop(there);
    });
}

#[test]
fn a_name_by_which_something_was_opened_and_that_leads_elsewhere_now_is_followed_there() {
    on_ours(|_| {
        let called = |name: &str, number: i32| {
            let flags = [format!("-Wl,--defsym=link_answer={name}_answer"), format!("-Wl,-soname,{name}.so")];
            make_with(name, number, &[], &flags.each_ref().map(|flag| &**flag))
        };
        let (one, two) = (called("one", 1), called("two", 2));
        // It needs `link` by its path.
        let (link, leaf) = (make("link", 0, &[]), make("leaf", 0, &[]));
        let root = make("root", 10, &[&link, &leaf]);
        let lead = |to: &Path| {
            fs::remove_file(&link).unwrap();
            symlink(to, &link).unwrap();
        };
        lead(&one);
        // By that name it is there when the trail is left.
        let there = open(&link);
        for _ in 0..3 {
            assert_eq!(answer_of(&root), 11);
        }
        drop(there);
        lead(&two);
        // Who makes a snapshot does not go by the trail.
        for _ in 0..2 {
            let _there = open(&one);
            assert_eq!(answer_of(&root), 12);
        }
    });
}

/// What `finds_own` answers of a library that opens `name`: whether that has `own_answer`, or -1 if there is none.
fn asks(library: &Path, name: &str, flags: &[&str]) -> String {
    let text = format!(
        "#include <dlfcn.h>\nint finds_own(void) {{ void *it = dlopen(\"{name}\", RTLD_NOW); \
         return it ? dlsym(it, \"own_answer\") != 0 : -1; }}\n"
    );
    let source = scratch().join("asks.c");
    fs::write(&source, text).unwrap();
    let mut compiler = Command::new("cc");
    assert!(compiler.args(["-shared", "-fPIC", "-o"]).arg(library).arg(source).args(flags).status().unwrap().success());
    let mut command = command();
    let output =
        command.arg("call").arg(library).arg("finds_own").env("SOLOAD_SNAPSHOTS", directory()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_library_that_has_search_paths_goes_by_no_trail_of_those_who_have_none() {
    on_ours(|_| {
        let folder = scratch().join("folder");
        fs::create_dir(&folder).unwrap();
        fs::rename(make("own", 3, &[]), folder.join("libssl.so.3")).unwrap();
        let asks = |flags: &[&str]| asks(&scratch().join("asks.so"), "libssl.so.3", flags);
        let plainly = asks(&[]);
        if plainly == "-1" {
            eprintln!("DID NOT RUN: needs package libssl3");
            assert!(std::env::var_os("CI").is_none());
            return;
        }
        assert_eq!([plainly, asks(&[])], ["0", "0"]);
        assert!(!trails().is_empty(), "there is a trail of that name");
        for tag in ["--enable-new-dtags", "--disable-new-dtags"] {
            assert_eq!(asks(&[&format!("-Wl,{tag},-rpath,{}", folder.display())]), "1", "{tag}");
        }
        // Nor where the system has them.
        assert_eq!(asks(&["-Wl,-z,nodefaultlib"]), "-1");
        assert_eq!(asks(&[]), "0");
    });
}

#[test]
fn what_a_name_with_tokens_leads_to_is_each_ones_own() {
    on_ours(|_| {
        let leaf = make("leaf", 0, &[]);
        let [own, other] = ["own", "other"].map(|name| {
            let folder = scratch().join(format!("{name} folder"));
            fs::create_dir(&folder).unwrap();
            fs::rename(make(name, 3, &[&leaf]), folder.join("target.so")).unwrap();
            folder.join("asks.so")
        });
        for _ in 0..2 {
            assert_eq!([&own, &other].map(|library| asks(library, "$ORIGIN/target.so", &[])), ["1", "0"]);
        }
    });
}

#[test]
fn a_trail_that_leads_nowhere_any_more_goes_if_none_can_be_left() {
    on_ours(|_| {
        let root = closure();
        let trail = settled(&root);
        make_with("leaf", 1, &[], &["-Wl,-rpath,/nowhere"]);
        assert_eq!([answer_of(&root), answer_of(&root)], [ANSWER; 2]);
        assert!(!trail.exists());
    });
}

#[test]
fn who_cannot_go_by_a_trail_opens_no_file_for_it() {
    on_ours(|_| {
        let root = closure();
        let trail = settled(&root);
        // In a process where part of it is there already.
        let opens = || {
            let calls = system_calls_of(|| {
                let _there = open(&beside("leaf"));
                assert_eq!(answer_of(&root), ANSWER);
            });
            calls.iter().filter(|call| call.number == libc::SYS_openat).count()
        };
        // The first makes the snapshots for that.
        opens();
        let with = opens();
        fs::remove_file(&trail).unwrap();
        let without = opens();
        assert!(with <= without, "{with} files, {without} without a trail");
    });
}

#[test]
fn an_open_that_fails_where_a_trail_is_fails_as_it_does_without() {
    on_ours(|_| {
        let fails_alike = |root: &Path, what: &str| {
            let plainly = unsafe { OpenOptions::new().private(true).open(root) }.unwrap_err().to_string();
            for _ in 0..2 {
                assert_eq!(try_open(root).unwrap_err().to_string(), plainly, "{what}");
            }
        };
        let root = closure();
        settled(&root);
        for name in ["leaf", "right", "root"] {
            let (path, aside) = (beside(name), scratch().join("aside"));
            fs::rename(&path, &aside).unwrap();
            fails_alike(&root, &format!("{name} is gone"));
            fs::write(&path, "no library").unwrap();
            fails_alike(&root, &format!("{name} is something else"));
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            fails_alike(&root, &format!("{name} is a directory"));
            fs::remove_dir(&path).unwrap();
            fs::rename(&aside, &path).unwrap();
            assert_eq!(answer_of(&root), ANSWER);
        }
        // What others need of it is not there any more.
        let other = make("other", 7, &[]);
        fs::rename(other, beside("leaf")).unwrap();
        fails_alike(&root, "leaf defines other symbols");
    });
}

#[test]
fn what_is_in_the_process_already_is_not_loaded_again() {
    on_ours(|_| {
        let root = closure();
        settled(&root);
        let address = |library: &Library| *unsafe { library.get::<extern "C" fn() -> i32>("leaf_answer") }.unwrap();
        // What is there has a trail of its own.
        for round in 0..4 {
            let leaf = open(&beside("leaf"));
            let root = open(&root);
            assert_eq!((address(&leaf) as usize, answer(&root)), (address(&root) as usize, ANSWER), "round {round}");
        }
        let first = open(&root);
        let second = open(&root);
        assert_eq!(first.bias(), second.bias());
        drop((first, second));
        // The C library's loader has it.
        let path = CString::new(beside("leaf").as_os_str().as_bytes()).unwrap();
        let leaf = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        let theirs = unsafe { libc::dlsym(leaf, c"leaf_answer".as_ptr()) };
        for _ in 0..3 {
            let root = open(&root);
            assert_eq!((address(&root) as usize, answer(&root)), (theirs as usize, ANSWER));
        }
    });
}

#[test]
fn what_is_there_by_the_path_of_something_else_is_not_loaded_again() {
    on_ours(|_| {
        let root = closure();
        let other = make("other", 7, &[]);
        let link = beside("link");
        symlink(other, &link).unwrap();
        for _ in 0..3 {
            let _there = open(&link);
            assert_eq!(answer_of(&root), ANSWER);
        }
        assert!(!trails().is_empty());
        // The same paths, and the library that the trail says is to be loaded.
        fs::remove_file(&link).unwrap();
        symlink(beside("leaf"), &link).unwrap();
        for _ in 0..3 {
            let there = open(&link);
            let root = open(&root);
            let address =
                |library: &Library| *unsafe { library.get::<extern "C" fn() -> i32>("leaf_answer") }.unwrap() as usize;
            assert_eq!((address(&there), answer(&root)), (address(&root), ANSWER));
        }
    });
}

#[test]
fn where_directories_are_searched_no_trail_is_left() {
    on_ours(|_| {
        let open_thrice = |root: &Path, options: &OpenOptions| {
            for _ in 0..3 {
                assert_eq!(answer(&unsafe { options.open(root) }.unwrap()), 11);
            }
        };
        let leaf = make("leaf", 1, &[]);
        for flags in ["-Wl,-rpath,/no/such", "-Wl,--disable-new-dtags,-rpath,/no/such"] {
            open_thrice(&make_with("root", 10, &[&leaf], &[flags]), &options());
            let middle = make_with("middle", 10, &[&leaf], &[flags]);
            assert_eq!([(); 3].map(|()| answer_of(&make("above", 100, &[&middle]))), [111; 3]);
        }
        let root = make("root", 10, &[&leaf]);
        open_thrice(&root, options().search_dir("/no/such"));
        open_thrice(&root, options().guard(Guard::Snapshot));
        open_thrice(&root, options().huge_pages(true));
        open_thrice(&root, options().namespace(Namespace::isolated()));
        open_thrice(&root, OpenOptions::new().private(true));
        std::env::set_current_dir(scratch()).unwrap();
        open_thrice("./root.so".as_ref(), &options());
        assert_eq!(trails(), [] as [PathBuf; 0]);
        open_thrice(&root, &options());
        trail();
    });
}

#[test]
fn where_the_environment_names_directories_no_trail_is_left() {
    Child::default().env("LD_LIBRARY_PATH", "/no/such").on_ours(|_| {
        let root = closure();
        for _ in 0..3 {
            assert_eq!(answer_of(&root), ANSWER);
        }
        assert_eq!(trails(), [] as [PathBuf; 0]);
    });
}

#[test]
fn who_names_directories_goes_by_no_trail_of_those_who_do_not() {
    on_ours(|_| {
        let loaded = |path: &str| {
            let mut command = command();
            command.args(["load", "--json"]).arg(format!("--snapshots={}", directory().display())).arg("libssl.so.3");
            let output = command.env("LD_LIBRARY_PATH", path).output().unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        };
        // Processes of their own: this one would keep what it has loaded.
        if loaded("").is_none() {
            eprintln!("DID NOT RUN: needs package libssl3");
            assert!(std::env::var_os("CI").is_none());
            return;
        }
        assert!(keeps_trails(|| drop(loaded("").unwrap())), "it goes by the trail");
        let folder = scratch().join("folder");
        fs::create_dir(&folder).unwrap();
        fs::rename(make("own", 3, &[]), folder.join("libssl.so.3")).unwrap();
        let own = folder.join("libssl.so.3").display().to_string();
        assert!(!loaded("").unwrap().contains(&own));
        assert!(loaded(folder.to_str().unwrap()).unwrap().contains(&own));
        let library = unsafe { options().search_dir(&folder).open("libssl.so.3") }.unwrap();
        assert_eq!(library.path(), Path::new(&own));
    });
}

#[test]
fn who_only_asks_whether_it_is_loaded_is_told_that_it_is_not() {
    on_ours(|_| {
        let root = closure();
        settled(&root);
        let ask = || unsafe { options().no_load(true).open(&root) };
        let kept = keeps_trails(|| {
            let error = ask().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::NotLoaded), "{error}");
        });
        assert!(kept);
        let library = open(&root);
        assert_eq!(ask().unwrap().bias(), library.bias());
    });
}

#[test]
fn a_byte_flipped_anywhere_or_a_trail_cut_off_anywhere_is_noticed_and_it_is_left_anew() {
    on_ours(|_| {
        let leaf = make("leaf", 1, &[]);
        let root = make("root", 10, &[&leaf]);
        let trail = settled(&root);
        let made = fs::read(&trail).unwrap();
        let flipped = (0..made.len()).map(|byte| {
            let mut flipped = made.clone();
            flipped[byte] ^= 1 << (byte % 8);
            flipped
        });
        let cut = (0..made.len()).step_by(7).map(|len| made[..len].to_vec());
        let longer = [&made[..], &[0]].concat();
        let mut tried = 0;
        for wrong in flipped.step_by(2).chain(cut).chain([longer, vec![0xff; 1 << 16], fs::read(&leaf).unwrap()]) {
            replace(&trail, &wrong);
            assert_eq!(answer_of(&root), 11);
            assert!(fs::read(&trail).unwrap() == made, "left anew as it was, after {tried}");
            tried += 1;
        }
        assert!(tried > 200, "{tried}");
    });
}

#[test]
fn a_trail_of_another_library_or_session_is_not_gone_by() {
    on_ours(|_| {
        let leaf = make("leaf", 1, &[]);
        let (one, two) = (make("one", 10, &[&leaf]), make("two", 20, &[&leaf]));
        let first = settled(&one);
        open(&two);
        open(&two);
        let second = trails().into_iter().find(|trail| *trail != first).unwrap();
        let (of_one, of_two) = (fs::read(&first).unwrap(), fs::read(&second).unwrap());
        // Each sealed, and in the other's place.
        replace(&first, &of_two);
        replace(&second, &of_one);
        assert_eq!((open(&one).path(), answer_of(&one)), (&*one, 11));
        assert_eq!((open(&two).path(), answer_of(&two)), (&*two, 21));
        assert!(fs::read(&first).unwrap() == of_one && fs::read(&second).unwrap() == of_two, "left anew");

        // Of another session: another secret, other addresses.
        let snapshots = Snapshots::open(&directory()).unwrap();
        snapshots.rotate().unwrap();
        assert_eq!(trails(), [] as [PathBuf; 0]);
        replace(&first, &of_one);
        assert_eq!([(); 3].map(|()| answer_of(&one)), [11; 3]);
        let anew = fs::read(&first).unwrap();
        assert!(anew != of_one && anew.len() == of_one.len());
        assert!(keeps_trails(|| assert_eq!(answer_of(&one), 11)));
    });
}

#[test]
fn a_trail_that_others_can_write_or_own_or_that_is_no_file_is_not_gone_by() {
    on_ours(|_| {
        let leaf = make("leaf", 1, &[]);
        let root = make("root", 10, &[&leaf]);
        let trail = settled(&root);
        let made = fs::read(&trail).unwrap();
        let left_anew = || {
            assert!(!keeps_trails(|| assert_eq!(answer_of(&root), 11)));
            let meta = fs::symlink_metadata(&trail).unwrap();
            assert!(meta.is_file() && meta.mode() & 0o7777 == 0o400 && fs::read(&trail).unwrap() == made);
        };
        for mode in [0o600, 0o420, 0o402, 0o500] {
            fs::set_permissions(&trail, Permissions::from_mode(mode)).unwrap();
            left_anew();
        }
        // Only root can give files away.
        if unsafe { libc::geteuid() } == 0 {
            std::os::unix::fs::chown(&trail, Some(65534), None).unwrap();
            left_anew();
        }
        let elsewhere = scratch().join("elsewhere");
        replace(&elsewhere, &made);
        fs::remove_file(&trail).unwrap();
        symlink(&elsewhere, &trail).unwrap();
        assert_eq!(answer_of(&root), 11);
        assert!(elsewhere.exists() && !trail.is_symlink());
        fs::remove_file(&trail).unwrap();
        let pipe = CString::new(trail.as_os_str().as_bytes()).unwrap();
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o400) }, 0);
        assert_eq!(answer_of(&root), 11);
        assert!(trail.is_file());
        // In the place of a directory nothing is put.
        fs::remove_file(&trail).unwrap();
        fs::create_dir(&trail).unwrap();
        assert_eq!([(); 3].map(|()| answer_of(&root)), [11; 3]);
        assert_eq!(open(&root).snapshot(), USED);
        fs::remove_dir(&trail).unwrap();
        settled(&root);
    });
}

#[test]
fn a_trail_without_the_registry_that_its_addresses_are_from_does_no_harm() {
    on_ours(|_| {
        let root = closure();
        settled(&root);
        for _ in 0..3 {
            fs::remove_file(directory().join("registry")).unwrap();
            // Others take places meanwhile.
            open(&make("other", 3, &[]));
            let library = open(&root);
            assert!(matches!(library.snapshot(), SnapshotUse::Used { .. }), "{}", library.snapshot());
            assert_eq!((told(&library), answer(&library)), (told_plainly_of_open(&root), ANSWER));
        }
    });
}

/// The same for what is open.
fn told_plainly_of_open(path: &Path) -> String {
    told(&unsafe { OpenOptions::new().private(true).no_load(true).open(path) }.unwrap())
}

#[test]
fn trails_count_into_what_a_directory_may_have_and_go_with_the_rest() {
    on_ours(|_| {
        let root = closure();
        settled(&root);
        let snapshots = Snapshots::open(&directory()).unwrap();
        let bytes = || -> u64 {
            let entries = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap());
            let of_ours = entries.filter(|entry| {
                let path = entry.path();
                path.extension().is_some_and(|ending| ending == "snapshot" || ending == "trail")
            });
            // In whole pages, as they take them.
            of_ours.map(|entry| entry.metadata().unwrap().len().next_multiple_of(4096)).sum()
        };
        let all = bytes();
        assert!(all > snapshots.files().iter().map(|file| file.bytes).sum());
        assert_eq!(snapshots.purge(all).unwrap(), []);
        assert_eq!(bytes(), all);
        snapshots.purge(all - 1).unwrap();
        assert!(bytes() < all);
        snapshots.purge(0).unwrap();
        assert_eq!((bytes(), trails()), (0, vec![]));
        settled(&root);
        // The command knows of snapshots alone.
        let dir = format!("--dir={}", directory().display());
        let listed = document(0, ["snapshot", "list", "--json", &dir]);
        assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1, "{listed}");
        let verified = document(0, ["snapshot", "verify", "--json", &dir]);
        let states: Vec<_> = verified["snapshots"].as_array().unwrap().iter().map(|one| &one["state"]).collect();
        assert!(states.iter().all(|state| *state != "damaged"), "{verified}");
        let name = trail().file_name().unwrap().to_str().unwrap().to_owned();
        assert!(!out(["snapshot", "list", &dir]).contains(".trail"));
        assert!(snapshots.verify(&name).is_err() && snapshots.libraries(&name).is_none());
        let purged = document(0, ["snapshot", "purge", "--json", "--keep=0", &dir]);
        assert!(!purged.to_string().contains(".trail"), "{purged}");
        assert_eq!((bytes(), trails()), (0, vec![]));
        settled(&root);
        snapshots.rotate().unwrap();
        assert_eq!((bytes(), trails()), (0, vec![]));
        settled(&root);
    });
}

#[test]
fn many_processes_that_leave_and_go_by_trails_at_once_all_load_what_is_there() {
    on_ours(|_| {
        let root = closure();
        let load = || {
            let mut command = command();
            command.args(["call"]).arg(format!("--snapshots={}", directory().display())).arg(&root).arg("root_answer");
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut processes: Vec<_> = Vec::new();
        for round in 0..10 {
            processes.extend([(); 8].map(|()| load()));
            // Meanwhile trails go, or do not fit any more.
            match round % 3 {
                0 => trails().iter().for_each(|trail| drop(fs::remove_file(trail))),
                1 => fs::hard_link(beside("leaf"), scratch().join(format!("name {round}"))).unwrap(),
                _ => drop(make("leaf", 1, &[])),
            }
        }
        for process in processes {
            let output = process.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(text.trim(), ANSWER.to_string());
        }
        assert_eq!(answer_of(&root), ANSWER);
    });
}

#[test]
fn ten_threads_that_open_and_close_by_a_trail_have_one_library_each_time() {
    on_ours(|_| {
        let root = closure();
        settled(&root);
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| (0..20).for_each(|_| assert_eq!(answer_of(&root), ANSWER)));
            }
        });
        assert_eq!(told_of(&root), told_plainly(&root));
    });
}

#[test]
fn real_libraries_have_the_same_objects_in_the_same_order_by_a_trail_as_by_searching() {
    on_ours(|_| {
        let folder = Path::new("/usr/lib/x86_64-linux-gnu");
        let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        let is_small = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() < 200_000);
        let is_library = |path: &PathBuf| path.to_str().is_some_and(|path| path.contains(".so.")) && is_small(path);
        let mut libraries: Vec<_> = entries.filter(is_library).collect();
        // In an order that is the same here each time, and any.
        libraries.sort_by_key(|path| number_of(path.as_os_str().as_bytes()));
        let told = scratch().join("told");
        let (mut opened, mut gone_by) = (0, 0);
        for library in libraries.iter().take(8) {
            // Each round in a process of its own; what does not open there, or prints, or dies, is left out.
            let round = |plainly: bool| {
                let _ = fs::remove_file(&told);
                let child = unsafe { libc::fork() };
                if child == 0 {
                    let mut options = options();
                    let options = if plainly { options.private(true) } else { &options };
                    let opened = unsafe { options.open(library) };
                    if let Ok(library) = &opened {
                        fs::write(&told, self::told(library)).unwrap();
                    }
                    unsafe { libc::_exit(0) };
                }
                let mut status = 0;
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                fs::read_to_string(&told).ok().filter(|_| status == 0)
            };
            let Some(plainly) = round(true) else { continue };
            opened += 1;
            let before = trails().len();
            let same = || assert_eq!(round(false).as_ref(), Some(&plainly), "{}", library.display());
            same();
            same();
            if trails().len() > before {
                assert!(keeps_trails(same), "{}: by the trail", library.display());
                gone_by += 1;
            }
        }
        if opened == 0 {
            eprintln!("DID NOT RUN: needs libraries in {}", folder.display());
            assert!(std::env::var_os("CI").is_none());
        }
        // Others need nothing that has to be looked for, or name directories of their own.
        assert!(gone_by > 0 || opened == 0, "{gone_by} of {opened}");
    });
}

/// A number that says nothing of the bytes but that they are these (FNV-1a).
fn number_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
