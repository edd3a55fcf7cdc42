//! Which file a needed name means, where it was found, and why every other candidate lost.
//!
//! The order is that of glibc 2.36 (`ld.so(8)`, gABI chapter 5 "Shared Object Dependencies"). A name with a slash is a
//! path. Any other name is looked for in
//!
//! 1. the directories the caller gave (`OpenOptions::search_dir`),
//! 2. the RPATH of the asker, of the object that loaded it, and so on up to the program: all of this only if the asker
//!    has no RUNPATH, and skipping every object that has one,
//! 3. `LD_LIBRARY_PATH`, unless the program is set-user-ID,
//! 4. the RUNPATH of the asker alone,
//! 5. `/etc/ld.so.cache`, and 6. the directories built into the loader; neither of the latter two for an object that
//!    was linked with `-z nodefaultlib`.
//!
//! The search itself decides; what touches the system comes in as `Look` and as the caller's `probe`.

pub(crate) mod again;
mod cache;
mod dirs;
pub(crate) mod graph;
mod hwcaps;
pub(crate) mod needs;
pub(crate) mod others;
mod root;
mod rule;
mod settings;
mod table;
mod tokens;
mod walk;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::ops::ControlFlow::{Break, Continue};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Candidate, ErrorKind};
use cache::CacheFile;
pub(crate) use hwcaps::Hwcaps;
pub(crate) use root::Root;
pub use rule::Rule;
use rule::{Place, lost};
pub use settings::Libc;
pub(crate) use settings::{BuiltIn, Settings};
use tokens::Owner;
use walk::Walk;

/// The object that asks for a library: one link of the chain along which `DT_RPATH` is inherited.
///
/// The last link is the program. Where libraries are opened at run time, that means: the chain of an opened library
/// goes straight on to the program, as glibc consults the program's RPATH for every search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// How messages call it.
    pub(crate) name: &'a Path,
    /// Its directory, the value of `$ORIGIN`.
    pub(crate) origin: Option<&'a Path>,
    /// `DT_RPATH`.
    pub(crate) rpath: Option<&'a [u8]>,
    /// `DT_RUNPATH`. Even an empty one disables every RPATH.
    pub(crate) runpath: Option<&'a [u8]>,
    /// Whether it was linked with `-z nodefaultlib` (`DF_1_NODEFLIB`).
    pub(crate) nodeflib: bool,
    /// The object that brought it in.
    pub(crate) loaded_by: Option<&'a Asker<'a>>,
}

/// What opening a candidate gave; `T` is whatever the caller keeps of the open file.
#[derive(Debug)]
pub(crate) enum Probe<T> {
    /// There is no such file, or no permission to open it (`ENOENT`, `EACCES`). The text is the reason.
    Absent(String),
    /// A library for another class or machine. It is passed over, as glibc does.
    Unsuitable(String),
    /// Any other error of opening it, such as a circle of links. glibc then leaves the rest of this list of
    /// directories alone and goes on with the next rule.
    Unreachable(String),
    /// The one.
    Found(T),
    /// A file that ends the search, such as one that is not an ELF file at all.
    Fatal(ErrorKind),
}

/// A library that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found<T> {
    /// What the probe kept of it.
    pub(crate) file: T,
    /// Why it was looked for there.
    pub(crate) rule: Rule,
    /// What was tried before, in order.
    pub(crate) lost: Vec<Candidate>,
}

/// The search of one loader: its settings, and what it knows of the file system.
pub(crate) struct Search {
    settings: Settings,
    /// Where to look in every directory: hwcaps subdirectories best first, then the directory itself.
    subdirectories: OnceLock<Vec<Vec<u8>>>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    known: dirs::Known,
    cache: CacheFile,
}

impl Search {
    /// A search by these settings.
    pub(crate) fn new(settings: Settings) -> Self {
        Self { subdirectories: OnceLock::new(), settings, memory: Mutex::default() }
    }

    /// What it goes by.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Forgets which directories do not exist, and has the cache file looked at again. To be called before each `open`, so
    /// that directories are asked for once per group, and yet are seen when they appear between two.
    pub(crate) fn refresh(&self) {
        let mut memory = self.memory();
        memory.known.refresh();
        memory.cache.recheck();
    }

    /// The file that `name` means when `asker` needs it, as `probe` opened it.
    pub(crate) fn find<T>(
        &self,
        name: &[u8],
        asker: &Asker<'_>,
        extra_dirs: &[PathBuf],
        probe: &mut dyn FnMut(&Path) -> Probe<T>,
    ) -> Result<Found<T>, ErrorKind> {
        let name = &*self.plain_name(name, asker)?;
        let mut walk = Walk { search: self, name, probe, lost: Vec::new(), noted: None };
        match walk.places(asker, extra_dirs) {
            Break(Ok((file, rule))) => Ok(Found { file, rule, lost: walk.lost }),
            Break(Err(kind)) => Err(kind),
            Continue(()) => Err(ErrorKind::NotFound { tried: walk.lost }),
        }
    }

    /// The path that the cache has for `name`. `None`, too, where `LD_LIBRARY_PATH` has directories to be asked before.
    pub(crate) fn in_cache(&self, name: &[u8]) -> Option<PathBuf> {
        let settings = &self.settings;
        let cache = self.memory().cache.get(&settings.cache, &settings.root, settings.order).ok()?;
        let hit = cache.lookup(name, settings.cache_flags, &settings.hwcaps);
        hit.filter(|_| settings.library_path.is_empty()).map(|hit| OsStr::from_bytes(hit.path).into())
    }

    /// Whether the cache has the same file of that name for all processors.
    #[cfg(feature = "snapshots")]
    pub(crate) fn cached_for_all(&self, name: &[u8]) -> bool {
        let settings = &self.settings;
        let cache = self.memory().cache.get(&settings.cache, &settings.root, settings.order);
        cache.is_ok_and(|cache| cache.is_for_all(name, settings.cache_flags))
    }

    /// The directories that a name without a slash is looked for in when `asker` needs it, in order. Each ends with a
    /// slash, except for the working directory, which is empty.
    pub(crate) fn directories(&self, asker: &Asker<'_>) -> Result<Vec<PathBuf>, ErrorKind> {
        let probe = &mut |_: &Path| Probe::<()>::Absent(String::new());
        let noted = Some(Vec::new());
        let mut walk = Walk { search: self, name: b"*", probe, lost: Vec::new(), noted };
        match walk.places(asker, &[]) {
            Break(Err(kind)) => Err(kind),
            Break(Ok(_)) | Continue(()) => Ok(walk.noted.unwrap_or_default()),
        }
    }

    /// `name` with its tokens expanded: what has to be compared with the names of objects that are loaded already.
    pub(crate) fn plain_name<'n>(&self, name: &'n [u8], asker: &Asker<'_>) -> Result<Cow<'n, [u8]>, ErrorKind> {
        if name.contains(&0) {
            return Err(ErrorKind::NulInName);
        }
        if name.len() > tokens::PATH_LIMIT {
            let (limit, found) = (tokens::PATH_LIMIT as u64, name.len() as u64);
            return Err(ErrorKind::Limit { what: "length of a library's name", limit, found });
        }
        if self.settings.libc != Libc::Glibc || !tokens::has_token(name) {
            return Ok(name.into());
        }
        let mut plain = Vec::new();
        let expanded = if self.settings.secure {
            Err("tokens in names are not for set-user-ID programs")
        } else {
            tokens::expand(name, asker.owner(), &self.settings, &mut plain)
        };
        expanded
            .map(|()| plain.into())
            .map_err(|reason| ErrorKind::NotFound { tried: vec![lost(name, Place::AsGiven, reason.into())] })
    }

    fn subdirectories(&self) -> &[Vec<u8>] {
        self.subdirectories.get_or_init(|| match self.settings.libc {
            Libc::Glibc => self.settings.hwcaps.subdirectories(),
            Libc::Musl | Libc::Bionic => vec![Vec::new()],
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // What is in there is complete after every statement, so a panic elsewhere does not spoil it.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asker<'_> {
    fn owner(&self) -> Owner<'_> {
        Owner { origin: self.origin, program: self.loaded_by.is_none() }
    }

    /// The last link of the chain.
    fn program(&self) -> &Asker<'_> {
        let mut link = self;
        while let Some(next) = link.loaded_by {
            link = next;
        }
        link
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    use super::cache::tests::{Writer, X86_64};
    use super::hwcaps::Hwcaps;
    use super::*;
    use crate::arch::native::Features;

    /// What is at a path of the file system that a test makes up.
    #[derive(Clone, Copy)]
    enum Thing {
        Library,
        OtherMachine,
        Loop,
        Text,
    }

    #[derive(Default)]
    struct World {
        things: BTreeMap<&'static str, Thing>,
        library_path: &'static str,
        cache: Writer,
        secure: bool,
        probed: RefCell<Vec<String>>,
    }

    impl World {
        /// Libraries at these paths.
        fn of(paths: &[&'static str]) -> Self {
            Self { things: paths.iter().map(|path| (*path, Thing::Library)).collect(), ..Self::default() }
        }

        fn but(mut self, path: &'static str, thing: Thing) -> Self {
            self.things.insert(path, thing);
            self
        }

        fn find(&self, name: &str, asker: &Asker<'_>, extra_dirs: &[&str]) -> Result<Found<PathBuf>, ErrorKind> {
            let dir = tempfile::tempdir().unwrap();
            let cache = dir.path().join("cache");
            std::fs::write(&cache, self.cache.write()).unwrap();
            let search = self.search(&cache);
            let extra_dirs: Vec<PathBuf> = extra_dirs.iter().map(PathBuf::from).collect();
            search.find(name.as_bytes(), asker, &extra_dirs, &mut |path| {
                let path = path.to_str().unwrap();
                self.probed.borrow_mut().push(path.into());
                match self.things.get(path) {
                    None => Probe::Absent("no such file".into()),
                    Some(Thing::Library) => Probe::Found(path.into()),
                    Some(Thing::OtherMachine) => Probe::Unsuitable("wrong machine".into()),
                    Some(Thing::Loop) => Probe::Unreachable("too many links".into()),
                    Some(Thing::Text) => Probe::Fatal(ErrorKind::NotElf { found: "text".into() }),
                }
            })
        }

        fn search(&self, cache: &Path) -> Search {
            let ancestors = self.things.keys().flat_map(|path| Path::new(path).ancestors().skip(1));
            let directories: BTreeSet<PathBuf> = ancestors.map(Path::to_path_buf).collect();
            Search::new(Settings {
                library_path: self.library_path.into(),
                program_origin: Some("/program".into()),
                cache: cache.into(),
                cache_flags: X86_64,
                built_in: Settings::known(BuiltIn {
                    directories: vec!["/lib".into(), "/usr/lib".into()],
                    lib: b"lib/m".to_vec(),
                }),
                hwcaps: Settings::known(Hwcaps::x86_64(3, false, None)),
                secure: self.secure,
                order: crate::file::view::ByteOrder::Little,
                libc: Libc::Glibc,
                root: Root::default(),
                look: Box::new(move |dir| directories.contains(dir).then_some(()).ok_or("no such directory")),
            })
        }

        /// Where `l` is found for `asker`, and by which rule.
        fn path(&self, asker: &Asker<'_>) -> Option<(String, String)> {
            let found = self.find("l", asker, &[]).ok()?;
            Some((found.file.to_str().unwrap().into(), found.rule.to_string()))
        }
    }

    fn asker(name: &'static str) -> Asker<'static> {
        Asker { name: Path::new(name), origin: None, rpath: None, runpath: None, nodeflib: false, loaded_by: None }
    }

    fn pair(path: &str, rule: &str) -> Option<(String, String)> {
        Some((path.into(), rule.into()))
    }

    #[test]
    fn the_places_come_in_the_order_of_the_loader() {
        let all = ["/extra/l", "/rpath/l", "/parent/l", "/env/l", "/cached/l", "/lib/l", "/usr/lib/l"];
        let rules = [
            "OpenOptions::search_dir",
            "RPATH of a.so",
            "RPATH of program",
            "LD_LIBRARY_PATH",
            "ld.so.cache",
            "default directory",
            "default directory",
        ];
        let program = Asker { rpath: Some(b"/parent"), ..asker("program") };
        let a = Asker { rpath: Some(b"/rpath"), loaded_by: Some(&program), ..asker("a.so") };
        for first in 0..all.len() {
            let mut world = World::of(&all[first..]);
            world.library_path = "/env";
            world.cache = Writer::default().plain("l", "/cached/l");
            let found = world.find("l", &a, &["/extra"]).unwrap();
            assert_eq!((found.file.as_path(), &*found.rule.to_string()), (Path::new(all[first]), rules[first]));
            let lost: Vec<_> = found.lost.iter().map(|candidate| &*candidate.rule).collect();
            assert_eq!(lost, rules[..first]);
        }
        let mut world = World::of(&["/run/l", "/env/l", "/lib/l"]);
        let a = Asker { runpath: Some(b"/run"), ..asker("a.so") };
        assert_eq!(world.path(&a), pair("/run/l", "RUNPATH of a.so"));
        world.library_path = "/env";
        assert_eq!(world.path(&a), pair("/env/l", "LD_LIBRARY_PATH"));
    }

    #[test]
    fn the_directories_of_a_search_are_told_without_a_search() {
        let mut world = World::of(&[]);
        world.library_path = "/env:";
        let program = Asker { rpath: Some(b"/parent"), ..asker("program") };
        let a = Asker { rpath: Some(b"/rpath/:/"), loaded_by: Some(&program), ..asker("a.so") };
        let told = |asker: &Asker<'_>| {
            let told = world.search(Path::new("/no/cache")).directories(asker).unwrap();
            told.into_iter().map(|dir| dir.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(told(&a), ["/rpath/", "/", "/parent/", "/env/", "", "/lib/", "/usr/lib/"]);
        let a = Asker { runpath: Some(b"$ORIGIN/r"), origin: Some(Path::new("/o")), nodeflib: true, ..a };
        assert_eq!(told(&a), ["/env/", "", "/o/r/"]);
        assert!(world.probed.borrow().is_empty());
    }

    #[test]
    fn a_name_with_a_slash_is_a_path_and_is_not_searched() {
        let world = World::of(&["/lib/l", "dir/l", "/o/l"]);
        let a = Asker { origin: Some(Path::new("/o")), ..asker("a.so") };
        let path = |name| world.find(name, &a, &["/lib"]).ok().map(|found| (found.file, found.rule));
        assert_eq!(path("dir/l"), Some(("dir/l".into(), Rule::AsGiven)));
        assert_eq!(path("$ORIGIN/l"), Some(("/o/l".into(), Rule::AsGiven)));
        assert_eq!(path("./l"), None);
        assert_eq!(*world.probed.borrow(), ["dir/l", "/o/l", "./l"]);
    }

    #[test]
    fn a_name_may_have_tokens_without_a_slash() {
        let world = World::of(&["/lib/l$X"]);
        assert!(world.find("l$X", &asker("a"), &[]).is_ok());
        let tried = world.find("l$PLATFORM", &asker("a"), &[]).unwrap_err();
        assert!(matches!(tried, ErrorKind::NotFound { tried } if tried[0].reason == "$PLATFORM is not known"));
    }

    #[test]
    fn the_rpath_of_every_loader_counts_but_not_of_one_with_a_runpath() {
        let world = World::of(&["/top/l"]);
        let top = Asker { rpath: Some(b"/top"), ..asker("top") };
        let middle = Asker { loaded_by: Some(&top), ..asker("middle") };
        let bottom = Asker { loaded_by: Some(&middle), ..asker("bottom") };
        assert_eq!(world.path(&bottom), pair("/top/l", "RPATH of top"));
        let middle = Asker { rpath: Some(b"/other"), runpath: Some(b"/third"), ..middle };
        assert_eq!(world.path(&Asker { loaded_by: Some(&middle), ..bottom }), pair("/top/l", "RPATH of top"));
        let top = Asker { runpath: Some(b"/elsewhere"), ..top };
        let middle = Asker { loaded_by: Some(&top), ..middle };
        assert_eq!(world.path(&Asker { loaded_by: Some(&middle), ..bottom }), None);
    }

    #[test]
    fn a_runpath_disables_every_rpath_even_if_it_is_empty_and_is_not_inherited() {
        let world = World::of(&["/r/l"]);
        let top = Asker { rpath: Some(b"/r"), ..asker("top") };
        assert_eq!(world.path(&Asker { runpath: Some(b""), loaded_by: Some(&top), ..asker("a") }), None);
        assert_eq!(world.path(&Asker { runpath: Some(b""), rpath: Some(b"/r"), ..asker("a") }), None);
        let top = Asker { runpath: Some(b"/r"), ..asker("top") };
        assert_eq!(world.path(&Asker { loaded_by: Some(&top), ..asker("a") }), None);
    }

    #[test]
    fn a_semicolon_separates_only_the_items_of_ld_library_path() {
        let mut world = World::of(&["/b/l"]);
        assert_eq!(world.path(&Asker { runpath: Some(b"/a;/b"), ..asker("a") }), None);
        assert_eq!(world.path(&Asker { rpath: Some(b"/a;/b"), ..asker("a") }), None);
        world.library_path = "/a;/b";
        assert_eq!(world.path(&asker("a")), pair("/b/l", "LD_LIBRARY_PATH"));
    }

    #[test]
    fn an_empty_item_is_the_working_directory_but_an_empty_path_is_nothing() {
        let mut world = World::of(&["l"]);
        assert_eq!(world.path(&asker("a")), None);
        assert_eq!(world.path(&Asker { runpath: Some(b"/x:"), ..asker("a") }), pair("l", "RUNPATH of a"));
        world.library_path = ":";
        assert_eq!(world.path(&asker("a")), pair("l", "LD_LIBRARY_PATH"));
    }

    #[test]
    fn origin_is_of_the_object_that_has_the_path_and_of_the_program_in_ld_library_path() {
        let mut world = World::of(&["/t/x/l"]);
        let top = Asker { origin: Some(Path::new("/t")), rpath: Some(b"$ORIGIN/x"), ..asker("top") };
        let a = Asker { origin: Some(Path::new("/a")), loaded_by: Some(&top), ..asker("a") };
        assert_eq!(world.path(&a), pair("/t/x/l", "RPATH of top"));
        world = World::of(&["/program/x/l"]);
        world.library_path = "$ORIGIN/x//";
        assert_eq!(world.path(&a), pair("/program/x/l", "LD_LIBRARY_PATH"));
    }

    #[test]
    fn an_item_that_cannot_be_expanded_is_dropped_with_the_reason() {
        let world = World::of(&["/b/l"]);
        let a = Asker { runpath: Some(b"/x/$ORIGIN:/b"), ..asker("a") };
        let found = world.find("l", &a, &[]).unwrap();
        assert_eq!(found.rule, Rule::Runpath { of: "a".into(), item: "/b".into() });
        let expected = ("/x/$ORIGIN".into(), "RUNPATH of a".into(), "$ORIGIN is not known".into());
        assert_eq!(found.lost, [expected].map(|(path, rule, reason)| Candidate { path, rule, reason }));
    }

    #[test]
    fn a_subdirectory_for_the_processor_comes_before_the_directory() {
        let a = Asker { runpath: Some(b"/b"), ..asker("a") };
        let path = |paths: &[&'static str]| World::of(paths).path(&a).map(|(path, _)| path);
        let v4 = "/b/glibc-hwcaps/x86-64-v4/l";
        let v3 = "/b/glibc-hwcaps/x86-64-v3/l";
        let v2 = "/b/glibc-hwcaps/x86-64-v2/l";
        assert_eq!(path(&[v4, v3, v2, "/b/tls/l", "/b/l"]).as_deref(), Some(v3));
        assert_eq!(path(&[v4, v2, "/b/tls/l", "/b/l"]).as_deref(), Some(v2));
        assert_eq!(path(&[v4, "/b/tls/l", "/b/l"]).as_deref(), Some("/b/tls/l"));
        assert_eq!(path(&[v4, "/b/l"]).as_deref(), Some("/b/l"));
        assert_eq!(path(&[v4]), None);
    }

    #[test]
    fn a_library_for_another_machine_is_passed_over() {
        let world = World::of(&["/b/l"]).but("/a/l", Thing::OtherMachine);
        let found = world.find("l", &Asker { runpath: Some(b"/a:/b"), ..asker("a") }, &[]).unwrap();
        assert_eq!(found.file, Path::new("/b/l"));
        assert_eq!(found.lost[0].reason, "wrong machine");
    }

    #[test]
    fn a_file_that_is_no_library_ends_the_search() {
        let world = World::of(&["/b/l"]).but("/a/l", Thing::Text);
        let error = world.find("l", &Asker { runpath: Some(b"/a:/b"), ..asker("a") }, &[]).unwrap_err();
        assert!(matches!(error, ErrorKind::NotElf { .. }));
    }

    #[test]
    fn a_file_that_cannot_be_reached_ends_only_the_list_it_is_in() {
        let mut world = World::of(&["/b/l", "/c/l"]).but("/a/l", Thing::Loop);
        world.library_path = "/a:/b";
        assert_eq!(world.path(&Asker { runpath: Some(b"/c"), ..asker("a") }), pair("/c/l", "RUNPATH of a"));
        // In a subdirectory it does not matter: what counts is the last try of a directory.
        let mut world = World::of(&["/b/l", "/c/l"]).but("/a/tls/l", Thing::Loop);
        world.library_path = "/a:/b";
        assert_eq!(world.path(&asker("a")), pair("/b/l", "LD_LIBRARY_PATH"));
    }

    #[test]
    fn without_default_libraries_neither_default_directories_nor_their_cache_entries_count() {
        let a = Asker { nodeflib: true, ..asker("a") };
        let mut world = World::of(&["/lib/l", "/lib64/l", "/usr/lib/sub/l"]);
        assert_eq!(world.path(&a), None);
        world.cache = Writer::default().plain("l", "/usr/lib/sub/l");
        assert_eq!(world.path(&a), None);
        assert_eq!(world.path(&asker("b")), pair("/usr/lib/sub/l", "ld.so.cache"));
        world.cache = Writer::default().plain("l", "/lib64/l");
        assert_eq!(world.path(&a), pair("/lib64/l", "ld.so.cache"));
    }

    #[test]
    fn a_stale_cache_entry_leaves_the_default_directories() {
        let mut world = World::of(&["/usr/lib/l"]);
        world.cache = Writer::default().plain("l", "/gone/l").named("l", "/gone/v3/l", "x86-64-v3", 0);
        let found = world.find("l", &asker("a"), &[]).unwrap();
        assert_eq!((found.file.as_path(), found.rule), (Path::new("/usr/lib/l"), Rule::Default));
        assert_eq!(found.lost[0].path, Path::new("/gone/v3/l"));
        assert_eq!(found.lost[0].rule, "ld.so.cache (x86-64-v3)");
    }

    #[test]
    fn an_absent_directory_costs_no_attempt_to_open_a_file() {
        let world = World::of(&["/b/l"]);
        let found = world.find("l", &Asker { runpath: Some(b"/a:/b"), ..asker("a") }, &[]).unwrap();
        assert_eq!(*world.probed.borrow(), ["/b/l"]);
        assert_eq!((found.lost[0].path.as_path(), &*found.lost[0].reason), (Path::new("/a/"), "no such directory"));
    }

    #[test]
    fn a_name_found_nowhere_says_every_place() {
        let world = World::of(&["/a/x", "/usr/lib/x"]);
        let a = Asker { runpath: Some(b"/a:/none"), ..asker("liba.so") };
        let Err(ErrorKind::NotFound { tried }) = world.find("l", &a, &[]) else { panic!("nothing is there") };
        let tried: Vec<_> = tried.iter().map(|c| (&*c.rule, &*c.reason)).collect();
        let expected = [
            ("RUNPATH of liba.so", "no such file"),
            ("RUNPATH of liba.so", "no such directory"),
            ("ld.so.cache", "the cache has no such name"),
            ("default directory", "no such directory"),
            ("default directory", "no such file"),
        ];
        assert_eq!(tried, expected);
    }

    #[test]
    fn a_set_user_id_program_expands_no_token_in_a_name() {
        let world = World { secure: true, ..World::of(&["/o/l", "/lib/l"]) };
        let program = asker("program");
        let a = Asker { origin: Some(Path::new("/o")), loaded_by: Some(&program), ..asker("a") };
        assert!(matches!(world.find("$ORIGIN/l", &a, &[]), Err(ErrorKind::NotFound { tried }) if tried.len() == 1));
        assert!(world.find("l", &a, &[]).is_ok());
    }

    #[test]
    fn ld_library_path_is_not_for_set_user_id_programs() {
        assert_eq!(Settings::of_this_process(Some(b"/x"), true, None, Features::asked).library_path, b"");
        assert_eq!(Settings::of_this_process(Some(b"/x"), false, None, Features::asked).library_path, b"/x");
    }

    #[test]
    fn a_name_that_no_file_can_have_is_refused() {
        let world = World::default();
        assert!(matches!(world.find("a\0b", &asker("a"), &[]), Err(ErrorKind::NulInName)));
        let long = "l".repeat(5000);
        assert!(matches!(world.find(&long, &asker("a"), &[]), Err(ErrorKind::Limit { limit: 4095, found: 5000, .. })));
        assert!(matches!(world.find("", &asker("a"), &[]), Err(ErrorKind::NotFound { tried }) if tried.is_empty()));
    }

    #[test]
    fn a_directory_that_appears_is_seen_after_a_refresh() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        let search = Search::new(Settings::of_this_process(None, false, None, Features::asked));
        let find = || {
            let probe = &mut |path: &Path| {
                if path.starts_with(&sub) { Probe::Found(()) } else { Probe::Absent("no such file".into()) }
            };
            search.find(b"libsoload-no-such.so", &asker("a"), std::slice::from_ref(&sub), probe).is_ok()
        };
        assert!(!find());
        std::fs::create_dir(&sub).unwrap();
        assert!(!find());
        search.refresh();
        assert!(find());
    }

    #[test]
    fn this_process_finds_the_c_library_that_it_runs_on() {
        let search = Search::new(Settings::of_this_process(None, false, None, Features::asked));
        let open = &mut |path: &Path| match std::fs::canonicalize(path) {
            Ok(path) => Probe::Found(path),
            Err(_) => Probe::Absent("no such file".into()),
        };
        let found = search.find(b"libc.so.6", &asker("a"), &[], open).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(maps.contains(found.file.to_str().unwrap()), "{} is not mapped here", found.file.display());
    }
}
