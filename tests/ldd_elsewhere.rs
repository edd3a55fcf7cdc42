//! `soload ldd` for other roots, machines and C libraries.

#![cfg(all(feature = "cli", target_arch = "x86_64"))]

#[path = "common/folder.rs"]
mod folder;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use folder::{Folder, RPATH, RUNPATH, text, without_addresses};

const MUSL_LOADER: &str = "/lib/ld-musl-x86_64.so.1";

/// Whether what a test needs is there. CI installs it.
fn has(path: &str, package: &str) -> bool {
    let there = Path::new(path).exists();
    if !there {
        eprintln!("DID NOT RUN: needs package {package}");
        assert!(std::env::var_os("CI").is_none(), "CI installs {package}");
    }
    there
}

/// A folder whose compiler is musl's.
struct Musl(Folder);

impl Musl {
    fn new() -> Option<Self> {
        has("/usr/bin/musl-gcc", "musl-tools").then(|| Self(Folder::new()))
    }

    fn compile(&self, file: &str, needs: &[&str], flags: &[&str], source: &str) -> &Self {
        self.0.compile_with("musl-gcc", file, needs, flags, source);
        self
    }

    fn library(&self, file: &str, needs: &[&str], flags: &[&str]) -> &Self {
        self.compile(file, needs, &[&["-shared"], flags].concat(), "int answer(void) { return 1; }")
    }

    fn program(&self, file: &str, needs: &[&str], flags: &[&str]) -> &Self {
        self.compile(file, needs, flags, "int main(void) { return 0; }")
    }

    /// Asserts that musl's loader and we find the same libraries in the same order, and returns `name => path` of each.
    #[track_caller]
    fn same(&self, file: &str, environment: &[(&str, &str)]) -> Vec<String> {
        let file = self.0.path(file);
        let output = self.0.run(Command::new(MUSL_LOADER).arg("--list").arg(&file), environment);
        let lines = |text: &str| -> Vec<String> {
            let lines = without_addresses(text);
            let lines = lines.lines().filter(|line| line.contains(" => ") && !line.contains("not found"));
            lines.map(|line| line.trim().trim_end_matches(" (0x0000000000000000)").to_owned()).collect()
        };
        let theirs = lines(&text(&output.stdout));
        let (status, ours, err) = self.0.ours(&["--format=ldd", file.to_str().unwrap()], environment);
        // In our list of a name that is a path, that is said once.
        let mut ours: Vec<String> = lines(&ours);
        let only_name = |line: &String| line.split(" => ").collect::<BTreeSet<_>>().len() == 1;
        let mut theirs: Vec<String> = theirs.into_iter().filter(|line| !only_name(line)).collect();
        // Where the C library itself stands in the order makes no difference to musl, which has it from the start.
        let is_libc = |line: &String| line.ends_with(MUSL_LOADER);
        let libc = (theirs.iter().any(is_libc), ours.iter().any(is_libc));
        theirs.retain(|line| !is_libc(line));
        ours.retain(|line| !is_libc(line));
        assert_eq!((libc.0, &theirs), (libc.1, &ours), "{}{err}", text(&output.stderr));
        assert_eq!(output.status.success(), status == 0, "{}{err}", text(&output.stderr));
        ours
    }
}

#[test]
fn a_program_for_musl_is_resolved_by_the_rules_of_musl() {
    let Some(musl) = Musl::new() else { return };
    // Its own C library, by whatever name, is the loader itself; glibc's names would find something else.
    musl.program("plain", &[], &[]).same("plain", &[]);
    let (status, out, _) = musl.0.ours(&["./plain"], &[]);
    assert!(status == 0 && out.contains("libc.so => /lib/ld-musl-x86_64.so.1"), "{out}");
    // A RUNPATH is inherited, as an RPATH is.
    for kind in [RPATH, RUNPATH] {
        musl.library("sub/leaf.so", &[], &[]).library("sub/middle.so", &["sub/leaf.so"], &[]);
        musl.program("exe", &["sub/middle.so"], &[&format!("{kind}$ORIGIN/sub")]);
        assert_eq!(musl.same("exe", &[]).len(), 2);
    }
    // The environment comes before even an RPATH.
    musl.library("env/leaf.so", &[], &[]);
    musl.program("exe", &["sub/leaf.so"], &[&format!("{RPATH}$ORIGIN/sub")]);
    let env = musl.0.path("env");
    let found = musl.same("exe", &[("LD_LIBRARY_PATH", env.to_str().unwrap())]);
    assert!(found[0].ends_with("/env/leaf.so"), "{found:?}");
    // An empty item means nothing, a token other than $ORIGIN spoils the path.
    assert!(musl.same("exe", &[("LD_LIBRARY_PATH", ":")])[0].ends_with("/sub/leaf.so"));
    musl.program("exe", &["sub/leaf.so"], &[&format!("{RPATH}$ORIGIN/sub:$LIB")]);
    assert!(musl.same("exe", &[]).is_empty());
}

#[test]
fn to_musl_a_soname_is_no_name_and_one_file_is_one_library() {
    let Some(musl) = Musl::new() else { return };
    musl.library("sub/real.so", &[], &["-Wl,-soname,other.so"]);
    fs::create_dir_all(musl.0.path("sub")).unwrap();
    symlink("real.so", musl.0.path("sub/other.so")).unwrap();
    symlink("real.so", musl.0.path("sub/third.so")).unwrap();
    musl.library("sub/third-user.so", &[], &[]);
    musl.compile("exe", &["sub/real.so"], &[&format!("{RPATH}$ORIGIN/sub")], "int main(void) { return 0; }");
    musl.same("exe", &[]);
    // Needed by a path, and then by the name in its soname, which nobody can find.
    let path = musl.0.path("path.so");
    musl.library("path.so", &[], &[&format!("-Wl,-soname,{}", path.display())]);
    musl.library("lonely.so", &[], &[]).program("exe", &["path.so", "lonely.so"], &[]);
    musl.0.remove("lonely.so");
    musl.same("exe", &[]);
}

#[test]
fn what_musl_finds_first_it_takes_whatever_it_is() {
    let Some(musl) = Musl::new() else { return };
    musl.library("one/leaf.so", &[], &[]).library("two/leaf.so", &[], &[]);
    musl.program("exe", &["one/leaf.so"], &[&format!("{RPATH}$ORIGIN/one:$ORIGIN/two")]);
    fs::write(
        musl.0.path("one/leaf.so"),
        "text, and more of it than a header has, so that it could be one of those files",
    )
    .unwrap();
    assert!(musl.same("exe", &[]).is_empty());
    musl.0.remove("one/leaf.so");
    assert!(musl.same("exe", &[])[0].ends_with("/two/leaf.so"));
}

/// What a file needs, as binutils say.
fn needed(file: &Path) -> Vec<String> {
    let output = Command::new("readelf").arg("-dW").arg(file).output().unwrap();
    let text = text(&output.stdout);
    let names = text.lines().filter(|line| line.contains("(NEEDED)"));
    names.map(|line| line.split(['[', ']']).nth(1).unwrap().to_owned()).collect()
}

/// Resolves every library of a root, and checks that each closure is what `readelf` says, all of it in the root's `/lib`.
fn all_of_root(root: &str) -> usize {
    let libraries = fs::read_dir(format!("{root}/lib")).unwrap().flatten().map(|entry| entry.path());
    let is_library = |path: &std::path::PathBuf| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"));
    let is_shared = |path: &std::path::PathBuf| fs::read(path).is_ok_and(|bytes| bytes[16..18].contains(&3));
    let libraries: Vec<_> = libraries.filter(|path| path.is_file() && is_library(path) && is_shared(path)).collect();
    let folder = Folder::new();
    for library in &libraries {
        let mut expected = BTreeSet::new();
        let mut pending = needed(library);
        while let Some(name) = pending.pop() {
            if expected.insert(format!("/lib/{name}")) {
                pending.extend(needed(&Path::new(root).join("lib").join(&name)));
            }
        }
        let inside = Path::new("/lib").join(library.file_name().unwrap());
        let arguments = ["--root", root, "--json", inside.to_str().unwrap()];
        let (status, out, err) = folder.ours(&arguments, &[("LD_LIBRARY_PATH", "/usr/lib/x86_64-linux-gnu")]);
        assert_eq!((status, err.as_str()), (0, ""), "{out}");
        let document: serde_json::Value = serde_json::from_str(&out).unwrap();
        let objects = document["objects"].as_array().unwrap()[1..].iter();
        let found: BTreeSet<String> = objects.map(|object| object["path"].as_str().unwrap().to_owned()).collect();
        assert_eq!(found, expected, "{}", library.display());
    }
    libraries.len()
}

#[test]
fn libraries_of_other_machines_are_resolved_in_their_own_root() {
    if has("/usr/aarch64-linux-gnu/lib/libstdc++.so.6", "libstdc++6-arm64-cross") {
        assert!(all_of_root("/usr/aarch64-linux-gnu") > 10);
    }
    // Most significant byte first.
    if has("/usr/s390x-linux-gnu/lib/libc.so.6", "libc6-s390x-cross") {
        assert!(all_of_root("/usr/s390x-linux-gnu") > 10);
        // Symbols too: everything is defined somewhere.
        let folder = Folder::new();
        let (status, out, _) = folder.ours(&["--root", "/usr/s390x-linux-gnu", "-r", "/lib/libanl.so.1"], &[]);
        assert_eq!(status, 0, "{out}");
        // On this machine's own root, its libraries are none.
        let (status, out, _) = folder.ours(&["--explain", "/usr/s390x-linux-gnu/lib/libanl.so.1"], &[]);
        assert!(status == 1 && out.contains("libc.so.6 => not found"), "{out}");
    }
}

/// A root with a loader and a C library, everything else is to be added.
fn root() -> Folder {
    let folder = Folder::new();
    for directory in ["lib64", "usr/lib/x86_64-linux-gnu", "etc", "bin"] {
        fs::create_dir_all(folder.path(directory)).unwrap();
    }
    // As on a merged system, but with links that only make sense in the root.
    symlink("/usr/lib", folder.path("lib")).unwrap();
    fs::copy("/lib64/ld-linux-x86-64.so.2", folder.path("lib64/ld-linux-x86-64.so.2")).unwrap();
    fs::copy("/lib/x86_64-linux-gnu/libc.so.6", folder.path("usr/lib/x86_64-linux-gnu/libc.so.6")).unwrap();
    folder
}

fn in_root(root: &Folder, arguments: &[&str]) -> (i32, String, String) {
    let directory = root.0.path().to_str().unwrap().to_owned();
    root.ours(&[&["--root", &directory], arguments].concat(), &[("LD_LIBRARY_PATH", "/usr/lib/x86_64-linux-gnu")])
}

#[test]
fn links_in_a_root_stay_in_it_and_the_environment_stays_out() {
    let root = root();
    root.library("usr/lib/leaf.so", &[], &[]).library("zlib/libz.so.1", &[], &["-Wl,-soname,libz.so.1"]);
    root.program("bin/exe", &["usr/lib/leaf.so", "zlib/libz.so.1"], &[]);
    let (status, out, err) = in_root(&root, &["--flat", "/bin/exe"]);
    // The host has one, and LD_LIBRARY_PATH names its directory.
    assert!(status == 1 && out.contains("libz.so.1 => not found"), "{out}{err}");
    assert!(out.contains("leaf.so => /lib/leaf.so [default directory]"), "{out}");
    // A link that climbs out ends at the root's own top, where there is a file of that name.
    symlink("../../../../../../../../../../zlib/libz.so.1", root.path("usr/lib/libz.so.1")).unwrap();
    let (status, out, _) = in_root(&root, &["--flat", "/bin/exe"]);
    assert!(status == 0 && out.contains("libz.so.1 => /lib/libz.so.1"), "{out}");
    // The file may be named as it lies on the host; the answer is the same.
    let (_, typed, _) = in_root(&root, &["--flat", root.path("bin/exe").to_str().unwrap()]);
    assert_eq!(typed, out);
    let (status, out, _) = in_root(&root, &["-R", "--flat", "/bin"]);
    assert!(status == 0 && out.starts_with("/bin/exe "), "{out}");
}

#[test]
fn the_origin_in_a_root_is_a_directory_of_the_root() {
    let root = root();
    root.library("opt/app/lib/leaf.so", &[], &[]);
    root.program("opt/app/bin/exe", &["opt/app/lib/leaf.so"], &[&format!("{RUNPATH}$ORIGIN/../lib")]);
    symlink("/opt/app/bin/exe", root.path("bin/exe")).unwrap();
    let (status, out, _) = in_root(&root, &["--flat", "/bin/exe"]);
    assert!(status == 0 && out.contains("leaf.so => /opt/app/bin/../lib/leaf.so"), "{out}");
}

#[test]
fn the_cache_of_a_root_counts_and_so_does_the_processor() {
    let root = root();
    root.library("opt/leaf.so", &[], &["-Wl,-soname,libleaf.so"]);
    root.program("bin/exe", &["opt/leaf.so"], &[]);
    fs::rename(root.path("opt/leaf.so"), root.path("opt/libleaf.so")).unwrap();
    for level in ["v2", "v3"] {
        root.library(&format!("opt/glibc-hwcaps/x86-64-{level}/libleaf.so"), &[], &["-Wl,-soname,libleaf.so"]);
    }
    fs::write(root.path("etc/ld.so.conf"), "/opt\n").unwrap();
    let (status, out, _) = in_root(&root, &["--flat", "/bin/exe"]);
    assert!(status == 1 && out.contains("libleaf.so => not found"), "{out}");
    let made = root.run(Command::new("/sbin/ldconfig").arg("-r").arg(root.0.path()), &[]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    for (level, path) in [
        ("baseline", "/opt/libleaf.so [ld.so.cache]"),
        ("x86-64-v2", "/opt/glibc-hwcaps/x86-64-v2/libleaf.so [ld.so.cache (x86-64-v2)]"),
        ("x86-64-v4", "/opt/glibc-hwcaps/x86-64-v3/libleaf.so [ld.so.cache (x86-64-v3)]"),
    ] {
        let (status, out, _) = in_root(&root, &["--cpu", level, "--flat", "/bin/exe"]);
        assert!(status == 0 && out.contains(&format!("libleaf.so => {path}")), "{level}: {out}");
    }
}

#[test]
fn an_interpreter_that_the_root_lacks_is_missing() {
    let root = root();
    root.program("bin/exe", &[], &[]);
    root.remove("lib64/ld-linux-x86-64.so.2");
    let (status, out, _) = in_root(&root, &["/bin/exe"]);
    assert!(status == 1 && out.contains("interpreter /lib64/ld-linux-x86-64.so.2: cannot open the file"), "{out}");
    let (status, _, err) = root.ours(&["--root", "/no/such", "/bin/exe"], &[]);
    assert!(status == 2 && err.starts_with("soload: /no/such: cannot open the file"), "{err}");
}

#[test]
fn android_looks_in_the_environment_the_runpath_and_its_own_directories() {
    let root = root();
    for file in ["system/lib64/libc.so", "system/lib64/libsys.so", "vendor/lib64/libven.so", "data/lib64/librun.so"] {
        let name = file.rsplit('/').next().unwrap();
        root.library(file, &[], &[&format!("-Wl,-soname,{name}")]);
    }
    fs::create_dir_all(root.path("system/bin")).unwrap();
    root.library("system/bin/linker64", &[], &["-Wl,-soname,ld-android.so"]);
    let needs = ["system/lib64/libc.so", "system/lib64/libsys.so", "vendor/lib64/libven.so", "data/lib64/librun.so"];
    let flags = [&format!("{RUNPATH}$ORIGIN/../$LIB"), "-nostdlib", "-Wl,--dynamic-linker=/system/bin/linker64"];
    root.compile("data/bin/exe", &needs, &flags, "int main(void) { return 0; }");
    let (status, out, _) = in_root(&root, &["--flat", "/data/bin/exe"]);
    assert_eq!(status, 0, "{out}");
    for path in ["/system/lib64/libsys.so", "/vendor/lib64/libven.so", "/data/bin/../lib64/librun.so"] {
        assert!(out.contains(&format!(" => {path} [")), "{out}");
    }
    // An RPATH means nothing to it.
    let flags = [&format!("{RPATH}$ORIGIN/../$LIB"), "-nostdlib", "-Wl,--dynamic-linker=/system/bin/linker64"];
    root.compile("data/bin/exe", &needs, &flags, "int main(void) { return 0; }");
    let (status, out, _) = in_root(&root, &["--flat", "/data/bin/exe"]);
    assert!(status == 1 && out.contains("librun.so => not found"), "{out}");
    let (status, out, _) = in_root(&root, &["--libc", "glibc", "--flat", "/data/bin/exe"]);
    assert!(status == 1 && out.contains("libsys.so => not found") && out.contains("librun.so => /data/"), "{out}");
}
