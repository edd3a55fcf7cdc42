//! What `soload ldd` tells beyond the list: who brings in what, what else would be loaded, and what to do about gaps.

#![cfg(all(feature = "cli", target_arch = "x86_64"))]

#[path = "common/folder.rs"]
mod folder;

use std::fs;
use std::process::Command;

use folder::{Folder, LOADER, RPATH, RUNPATH, loader, text, without_addresses};
use serde_json::Value;

fn json(folder: &Folder, arguments: &[&str]) -> Vec<Value> {
    let (_, out, err) = folder.ours(&[&["--json"], arguments].concat(), &[]);
    assert!(!out.is_empty(), "{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_stands_in_for_an_object_comes_before_it_and_may_be_missing() {
    let folder = Folder::new();
    for library in ["impl.so", "dep.so", "other.so"] {
        folder.library(library, &[], &[&format!("-Wl,-soname,{library}")]);
    }
    let runpath = format!("{RUNPATH}$ORIGIN");
    folder.library("filt.so", &["dep.so"], &["-Wl,-soname,filt.so", "-Wl,-f,impl.so", &runpath]);
    folder.library("gaps.so", &["dep.so"], &["-Wl,-soname,gaps.so", "-Wl,-f,gone.so", &runpath]);
    folder.library("lost.so", &["dep.so"], &["-Wl,-soname,lost.so", "-Wl,-F,gone.so", &runpath]);
    let rpath = format!("{RPATH}$ORIGIN");
    for (number, needs) in [
        &["filt.so", "other.so"][..],
        &["gaps.so", "other.so", "filt.so"],
        &["impl.so", "other.so", "filt.so"],
        &["filt.so", "other.so", "impl.so"],
        &["lost.so", "other.so"],
    ]
    .iter()
    .enumerate()
    {
        let exe = format!("exe{number}");
        folder.program(&exe, needs, &[&rpath]);
        folder.same(&exe, &[]);
        let (status, ..) = folder.ours(&[folder.path(&exe).to_str().unwrap()], &[]);
        let runs = folder.run(&mut Command::new(folder.path(&exe)), &[]).status.success();
        assert_eq!(status == 0, runs, "{exe}");
    }
    let (_, out, _) = folder.ours(&["./exe1"], &[]);
    assert!(out.contains("gone.so => not found [auxiliary filter; done without]"), "{out}");
    let document = &json(&folder, &["./exe0"])[0];
    let objects = document["objects"].as_array().unwrap();
    assert_eq!((&objects[1]["name"], &objects[1]["role"]), (&"impl.so".into(), &"auxiliary".into()));
}

#[test]
fn what_stands_in_for_the_root_is_asked_before_it_and_the_root_stays_the_first() {
    let folder = Folder::new();
    let flags = ["-shared", "-nostdlib"];
    folder.compile("impl.so", &[], &flags, "int answer(void) { return 2; }").library("dep.so", &[], &[]);
    let runpath = format!("{RUNPATH}$ORIGIN");
    for (root, needs) in [("filt.so", &[][..]), ("more.so", &["dep.so"])] {
        let flags = ["-shared", "-nostdlib", "-Wl,-F,impl.so", &runpath];
        folder.compile(root, needs, &flags, "int answer(void) { return 1; } int ask(void) { return answer(); }");
        folder.same(root, &[]);
        let (status, out, _) = folder.ours(&["--flat", &format!("./{root}")], &[]);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((status, lines[0], lines.len()), (0, &*format!("./{root}"), 2 + needs.len()), "{out}");
        assert!(lines[1].contains("impl.so => ") && !out.contains("statically"), "{out}");
        let mut why = Command::new(env!("CARGO_BIN_EXE_soload"));
        let why = text(&folder.run(why.args(["why", &format!("./{root}"), "answer"]), &[]).stdout);
        let first = why.lines().nth(1).unwrap();
        assert!(first.contains("answer of ") && first.contains("/impl.so"), "{why}");
    }
}

#[test]
fn the_loader_that_stands_in_for_the_root_is_listed_once_as_the_loader() {
    let folder = Folder::new();
    // glibc's own loader crashes when it is to list these.
    let flags =
        ["-shared", "-nostdlib", "-Wl,-F,ld-linux-x86-64.so.2", &format!("-Wl,{LOADER}"), &format!("{RUNPATH}$ORIGIN")];
    folder.library("dep.so", &[], &[]).compile("alone.so", &[], &flags, "").compile("more.so", &["dep.so"], &flags, "");
    for (root, others) in [("alone.so", &[][..]), ("more.so", &["dep.so"])] {
        let (status, out, err) = folder.ours(&["--format=ldd", &format!("./{root}")], &[]);
        assert_eq!((status, &*err), (0, ""), "{root}");
        let names: Vec<&str> = out.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, [&[LOADER, "linux-vdso.so.1"], others].concat(), "{out}");
    }
}

#[test]
fn auditors_are_named_and_stay_out_of_the_list() {
    let folder = Folder::new();
    let auditor = "#include <unistd.h>\nunsigned la_version(unsigned v) { write(1, \"RAN\\n\", 4); return v; }";
    folder.compile("audit.so", &[], &["-shared"], auditor);
    let audit = folder.path("audit.so");
    folder.program("exe", &[], &[&format!("-Wl,--audit={}:./none.so", audit.display())]);
    let (status, out, _) = folder.ours(&["./exe"], &[]);
    assert!(status == 0 && !out.contains("RAN"), "{out}");
    let line = format!("auditor {0} => {0}, which the loader runs before the program [DT_AUDIT]", audit.display());
    assert!(out.contains(&line), "{out}");
    assert!(out.contains("auditor ./none.so: ") && out.contains("the loader goes on without it"), "{out}");
    // glibc's own list runs it, and does not show it either.
    let theirs = folder.run(&mut loader(&folder.path("exe")), &[]);
    let theirs = text(&theirs.stdout);
    assert!(theirs.contains("RAN") && !theirs.contains("audit.so"), "{theirs}");
    let documents = json(&folder, &["./exe"]);
    assert_eq!(documents[0]["auditors"][0]["by"], "DT_AUDIT");
    assert!(documents[0]["auditors"][1]["error"].is_string());
    let (_, out, _) = folder.ours(&["--secure", "./exe"], &[("LD_AUDIT", "./audit.so")]);
    assert!(!out.contains("LD_AUDIT"), "{out}");
}

#[test]
fn a_plugin_gets_what_its_program_has() {
    let folder = Folder::new();
    folder.library("inner/deep.so", &[], &[]).library("have.so", &[], &["-Wl,-soname,libhave.so.1"]);
    fs::copy(folder.path("have.so"), folder.path("libhave.so.1")).unwrap();
    folder.program("exe", &["have.so"], &[&format!("{RPATH}$ORIGIN:$ORIGIN/inner"), "-rdynamic"]);
    let source = "int answer(void); int main(void); int use(void) { return answer() + main(); }";
    folder.compile("plugin.so", &["have.so", "inner/deep.so"], &["-shared", "-nostdlib"], source);
    let (status, out, _) = folder.ours(&["-r", "./plugin.so"], &[]);
    assert!(status == 1 && out.contains("deep.so => not found") && out.contains("undefined: main"), "{out}");
    let (status, out, err) = folder.ours(&["-r", "--as-loaded-by", "./exe", "./plugin.so"], &[]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("libhave.so.1 => ") && out.contains("[the program has it]"), "{out}");
    assert!(out.contains("/inner/deep.so [RPATH of ./exe]"), "{out}");
    let (status, _, err) = folder.ours(&["--as-loaded-by", "./none", "./plugin.so"], &[]);
    assert!(status == 2 && err.starts_with("soload: ./none: cannot open the file"), "{err}");
    let (status, _, err) = folder.ours(&["--as-loaded-by", "./exe", "./exe"], &[]);
    assert!(status == 2 && err.contains("found a position-independent executable"), "{err}");
}

#[test]
fn the_files_that_need_a_library_are_found_with_those_that_bring_it_in() {
    let folder = Folder::new();
    folder.library("leaf.so", &[], &[]).library("user.so", &["leaf.so"], &[]);
    let rpath = format!("{RPATH}$ORIGIN");
    folder.program("both", &["user.so", "leaf.so"], &[&rpath]).program("one", &["user.so"], &[&rpath]);
    folder.program("none", &[], &[]);
    let (status, out, _) = folder.ours(&["--reverse", "leaf.so", "./both", "./one", "./none"], &[]);
    let user = folder.path("user.so");
    let user = user.display();
    assert_eq!(status, 0);
    assert_eq!(out, format!("./both needs leaf.so itself and through {user}\n./one needs leaf.so through {user}\n"));
    // A path means the file, whatever it is called.
    let (_, by_path, _) = folder.ours(&["--reverse", "./leaf.so", "-R", "."], &[]);
    assert_eq!(by_path.lines().count(), 2, "{by_path}");
    assert_eq!(folder.ours(&["--reverse", "no-such.so", "./both"], &[]), (1, String::new(), String::new()));
    let documents = json(&folder, &["--reverse", "leaf.so", "./none", "./one"]);
    assert_eq!(documents.len(), 1);
    assert_eq!((&documents[0]["file"], &documents[0]["direct"]), (&"./one".into(), &false.into()));
}

#[test]
fn definitions_that_win_and_lose_are_told() {
    let folder = Folder::new();
    let source = "int answer(void) { return 1; } int only(void) { return 2; } int (*use)(void) = answer;";
    folder.compile("first.so", &[], &["-shared", "-nostdlib"], source);
    folder.compile(
        "second.so",
        &[],
        &["-shared", "-nostdlib"],
        "int answer(void) { return 3; } int (*use2)(void) = answer;",
    );
    folder.program("exe", &["first.so", "second.so"], &[&format!("{RPATH}$ORIGIN")]);
    let (status, out, _) = folder.ours(&["--duplicates", "--flat", "./exe"], &[]);
    let place = |name: &str| folder.path(name).display().to_string();
    let expected = format!(
        "defined twice: answer by {}, before {1}; not what they expect get {1}",
        place("first.so"),
        place("second.so")
    );
    assert!(status == 0 && out.lines().any(|line| line == expected), "{out}");
    assert!(!out.contains(": only") && !out.contains("GLIBC_2"), "{out}");
    let documents = json(&folder, &["--duplicates", "./exe"]);
    let duplicates = documents[0]["duplicates"].as_array().unwrap();
    let answer = duplicates.iter().find(|duplicate| duplicate["symbol"] == "answer").unwrap();
    assert_eq!((&answer["objects"], &answer["interposed"]), (&serde_json::json!([1, 2]), &serde_json::json!([2])));
}

#[test]
fn a_line_for_each_object_can_have_any_words() {
    let folder = Folder::new();
    folder.library("leaf.so", &[], &["-Wl,-soname,leaf.so"]).library("user.so", &["leaf.so"], &["-Wl,-soname,user.so"]);
    folder.program("exe", &["user.so"], &[&format!("{RPATH}$ORIGIN")]).remove("leaf.so");
    let (status, out, _) = folder.ours(&["--format", r"%n\t%p %s (%u) [%w] 100%% of %f %x", "./exe"], &[]);
    assert_eq!(status, 1);
    let user = folder.path("user.so");
    let user = user.display();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], format!("user.so\t{user} user.so (./exe) [RPATH of ./exe] 100% of ./exe %x"));
    assert!(lines.contains(&&*format!("leaf.so\tnot found  ({user}) [] 100% of ./exe %x")), "{out}");
    let (_, direct, _) = folder.ours(&["--format=%n", "--direct", "./exe"], &[]);
    assert_eq!(direct, "user.so\nlibc.so.6\n");
    let (status, _, err) = folder.ours(&["--format", "xml", "./exe"], &[]);
    assert!(status == 2 && err.contains("expected tree, flat, ldd, json, dot"), "{err}");
}

#[test]
fn needs_are_shown_to_the_depth_that_is_asked_for() {
    let folder = Folder::new();
    folder.library("three.so", &[], &[]).library("two.so", &["three.so"], &[]).library("one.so", &["two.so"], &[]);
    folder.program("exe", &["one.so"], &[&format!("{RPATH}$ORIGIN")]);
    for (depth, shown) in [("0", 0), ("1", 1), ("2", 2), ("3", 3), ("99", 3)] {
        for view in ["--format=tree", "--format=flat", "--format=%n"] {
            let (_, out, _) = folder.ours(&["--max-depth", depth, view, "./exe"], &[]);
            let found = ["one.so", "two.so", "three.so"].iter().filter(|name| out.contains(**name)).count();
            assert_eq!(found, shown, "{depth} {view}: {out}");
        }
    }
}

#[test]
fn what_is_missing_comes_with_what_to_do_about_it() {
    let folder = Folder::new();
    folder.library("sub/leaf.so.2", &[], &["-Wl,-soname,leaf.so.2"]).library("user.so", &["sub/leaf.so.2"], &[]);
    let hint = |arguments: &[&str]| {
        let (status, out, _) = folder.ours(&[arguments, &["--explain", "--only-missing"]].concat(), &[]);
        assert_eq!(status, 1, "{out}");
        out.lines().find_map(|line| line.split_once("┊ help: ").map(|(_, hint)| hint.to_owned())).unwrap()
    };
    // Beside the object that needs it, which does not look there.
    fs::rename(folder.path("user.so"), folder.path("sub/user.so")).unwrap();
    assert!(hint(&["./sub/user.so"]).starts_with("it is beside ./sub/user.so, which does not look there"));
    // The same library with another number.
    folder.program("exe", &["sub/leaf.so.2"], &[&format!("{RPATH}$ORIGIN/sub")]);
    fs::rename(folder.path("sub/leaf.so.2"), folder.path("sub/leaf.so.3")).unwrap();
    folder.library("sub/known.so", &[], &[]);
    folder.program("exe", &["sub/known.so", "sub/leaf.so.3"], &[&format!("{RPATH}$ORIGIN/sub")]);
    let place = folder.path("sub/leaf.so.3");
    assert_eq!(
        hint(&["./exe"]),
        format!("there is {}, of another version: install the one that is asked for", place.display())
    );
    // For another machine.
    let mut bytes = fs::read(&place).unwrap();
    bytes[18] = 183;
    fs::write(folder.path("sub/leaf.so.2"), bytes).unwrap();
    assert!(hint(&["./exe"]).ends_with("is for another kind of machine; install the library for this one"));
    // No library at all.
    fs::write(folder.path("sub/leaf.so.2"), "/* GNU ld script */ INPUT(-lother)").unwrap();
    assert!(hint(&["./exe"]).contains("GNU ld script for the static linker"));
    // Nowhere.
    fs::remove_file(folder.path("sub/leaf.so.2")).unwrap();
    fs::remove_file(place).unwrap();
    assert_eq!(hint(&["./exe"]), "no directory that is searched has it; install the package that does");
    let documents = json(&folder, &["./exe"]);
    let objects = documents[0]["objects"].as_array().unwrap().iter();
    assert_eq!(objects.filter(|object| object["hint"].is_string()).count(), 1);
}

#[test]
fn a_library_that_ldconfig_has_not_seen_is_told_apart() {
    let folder = Folder::new();
    for directory in ["lib64", "lib/x86_64-linux-gnu", "etc/conf.d", "bin"] {
        fs::create_dir_all(folder.path(directory)).unwrap();
    }
    fs::copy("/lib64/ld-linux-x86-64.so.2", folder.path("lib64/ld-linux-x86-64.so.2")).unwrap();
    fs::copy("/lib/x86_64-linux-gnu/libc.so.6", folder.path("lib/x86_64-linux-gnu/libc.so.6")).unwrap();
    folder.library("opt/leaf.so", &[], &[]).program("bin/exe", &["opt/leaf.so"], &[]);
    fs::write(folder.path("etc/ld.so.conf"), "# ours\ninclude conf.d/*.conf\n").unwrap();
    fs::write(folder.path("etc/conf.d/a.conf"), "/opt # here\n").unwrap();
    let root = folder.0.path().to_str().unwrap().to_owned();
    let (status, out, _) = folder.ours(&["--root", &root, "--explain", "/bin/exe"], &[]);
    let hint = "help: it is in /opt, which ld.so.conf names, but not in the cache: run `ldconfig`";
    assert!(status == 1 && out.contains(hint), "{out}");
}

#[test]
fn what_an_object_says_it_may_open_is_shown() {
    let folder = Folder::new();
    let metadata = r#"[{\"feature\":\"zip\",\"soname\":[\"libz.so.1\"],\"priority\":\"suggested\"}]"#;
    let note = format!(
        "__asm__(\".pushsection .note.dlopen,\\\"a\\\",%note\\n.balign 4\\n.long 4, 2f-1f, 0x407c0c0a\\n\
         .asciz \\\"FDO\\\"\\n1: .asciz \\\"{}\\\"\\n2: .balign 4\\n.popsection\");\nint answer(void) {{ return 1; }}",
        metadata.replace('\\', r"\\\")
    );
    folder.compile("opens.so", &[], &["-shared", "-nostdlib"], &note);
    folder.program("exe", &["opens.so"], &[&format!("{RPATH}$ORIGIN")]);
    let documents = json(&folder, &["./exe"]);
    assert_eq!(documents[0]["objects"][1]["may_open"][0][0]["soname"][0], "libz.so.1");
    let (_, out, _) = folder.ours(&["--explain", "./exe"], &[]);
    assert!(out.contains(r#"may open at run time: [{"feature":"zip""#), "{out}");
}

#[test]
fn a_terminal_that_shows_nothing_else_shows_how_far_it_is() {
    let folder = Folder::new();
    folder.program("deep/exe", &[], &[]);
    let soload = env!("CARGO_BIN_EXE_soload");
    // `script` gives the command a terminal; only standard error goes there.
    let shown = |redirected: &str| {
        let line = format!("{soload} ldd -R --flat deep {redirected}");
        let mut script = Command::new("script");
        text(&folder.run(script.args(["-qec", &line, "/dev/null"]), &[("TERM", "xterm")]).stdout)
    };
    let progress = shown(">listed");
    assert!(progress.contains("files, ") && progress.contains("deep/exe"), "{progress:?}");
    let listed = fs::read_to_string(folder.path("listed")).unwrap();
    assert!(listed.starts_with("deep/exe (interpreter ") && !listed.contains('\u{1b}'), "{listed}");
    // Both to the terminal: the answers alone. Neither: nothing.
    assert!(!shown("").contains("files, "));
    assert_eq!(shown(">listed 2>errors"), "");
    assert_eq!(without_addresses(&fs::read_to_string(folder.path("errors")).unwrap()), "");
}
