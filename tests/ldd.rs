//! `soload ldd` against the loader itself: the same objects in the same order, for each rule of the search.
//!
//! With `SOLOAD_LDD_ALL=1` the last test goes through every program and library of `/usr/bin` and `/usr/lib`:
//! `SOLOAD_LDD_ALL=1 cargo test --release --test ldd -- --nocapture every_file`.

#![cfg(all(feature = "cli", target_arch = "x86_64"))]

#[path = "common/folder.rs"]
mod folder;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use folder::{Folder, RPATH, RUNPATH, loader, text, without_addresses};
use serde_json::Value;

#[test]
fn an_rpath_is_inherited_by_grandchildren_and_a_runpath_is_not() {
    for (kind, inherited) in [(RPATH, true), (RUNPATH, false)] {
        let folder = Folder::new();
        folder.library("sub/leaf.so", &[], &[]).library("sub/middle.so", &["sub/leaf.so"], &[]);
        folder.program("exe", &["sub/middle.so"], &[&format!("{kind}$ORIGIN/sub")]);
        let listed = folder.same("exe", &[]);
        assert_eq!(!listed.contains("leaf.so => not found"), inherited, "{listed}");
    }
}

#[test]
fn an_object_with_a_runpath_ignores_the_rpath_of_those_above_it() {
    let folder = Folder::new();
    folder.library("sub/leaf.so", &[], &[]);
    folder.library("sub/middle.so", &["sub/leaf.so"], &[&format!("{RUNPATH}/none")]);
    folder.program("exe", &["sub/middle.so"], &[&format!("{RPATH}$ORIGIN/sub")]);
    assert!(folder.same("exe", &[]).contains("leaf.so => not found"));
}

#[test]
fn ld_library_path_comes_before_runpath_and_after_rpath() {
    for (kind, found) in [(RPATH, "/one/"), (RUNPATH, "two/")] {
        let folder = Folder::new();
        folder.library("one/leaf.so", &[], &[]).library("two/leaf.so", &[], &[]);
        folder.program("exe", &["one/leaf.so"], &[&format!("{kind}$ORIGIN/one")]);
        for list in ["two", "/none:two", "/none;two", "./two/"] {
            assert!(folder.same("exe", &[("LD_LIBRARY_PATH", list)]).contains(found), "{list}");
        }
    }
}

#[test]
fn an_empty_item_is_the_working_directory_and_a_relative_one_counts_from_it() {
    let folder = Folder::new();
    folder.library("leaf.so", &[], &[]).library("sub/other.so", &[], &[]);
    folder.program("exe", &["leaf.so", "sub/other.so"], &[&format!("{RPATH}sub")]);
    let listed = folder.same("exe", &[("LD_LIBRARY_PATH", ":/none")]);
    assert!(!listed.contains("not found") && listed.contains("other.so => sub/other.so"), "{listed}");
}

#[test]
fn nodefaultlib_leaves_out_the_directories_of_the_system() {
    let folder = Folder::new();
    folder.program("exe", &[], &["-Wl,-z,nodefaultlib"]);
    assert!(folder.same("exe", &[]).contains("libc.so.6 => not found"));
}

#[test]
fn what_is_needed_first_breadth_first_is_what_everybody_gets() {
    let folder = Folder::new();
    folder.library("one/leaf.so", &[], &[]).library("two/leaf.so", &[], &[]);
    folder.library("a.so", &["one/leaf.so"], &[&format!("{RUNPATH}$ORIGIN/one")]);
    folder.library("b.so", &[], &[]);
    folder.program("exe", &["a.so", "two/leaf.so", "b.so"], &[&format!("{RUNPATH}$ORIGIN/two:$ORIGIN")]);
    let listed = folder.same("exe", &[]);
    assert!(listed.contains("/two/leaf.so") && !listed.contains("/one/"), "{listed}");
}

#[test]
fn a_library_that_is_there_satisfies_by_its_name_its_soname_or_its_file() {
    let folder = Folder::new();
    folder.library("libother.so", &[], &[]).library("user.so", &["libother.so"], &[]).remove("libother.so");
    folder.library("libsame.so", &[], &[]).program("exe", &["libsame.so", "user.so"], &[&format!("{RPATH}$ORIGIN")]);
    assert!(folder.same("exe", &[]).contains("libother.so => not found"));
    folder.library("libsame.so", &[], &["-Wl,-soname,libother.so"]);
    assert!(!folder.same("exe", &[]).contains("libother.so"));

    folder.library("plain.so", &[], &[]);
    symlink("plain.so", folder.path("linked.so")).unwrap();
    folder.program("exe", &["plain.so", "linked.so"], &[&format!("{RPATH}$ORIGIN")]);
    let listed = folder.same("exe", &[]);
    assert!(listed.contains("plain.so") && !listed.contains("linked.so"), "{listed}");
}

#[test]
fn a_needed_path_is_taken_as_it_is_and_origin_in_it_is_expanded() {
    let folder = Folder::new();
    folder.library("sub/leaf.so", &[], &["-Wl,-soname,sub/leaf.so"]);
    folder.library("sub/near.so", &[], &["-Wl,-soname,$ORIGIN/sub/near.so"]);
    folder.program("exe", &["sub/leaf.so", "sub/near.so"], &[]);
    let listed = folder.same("exe", &[]);
    let near = folder.path("sub/near.so");
    assert!(listed.contains("\tsub/leaf.so (") && listed.contains(&format!("\t{} (", near.display())), "{listed}");
}

#[test]
fn only_whole_words_are_tokens() {
    let folder = Folder::new();
    folder.library("ALx/leaf.so", &[], &[]);
    folder.program("exe", &["ALx/leaf.so"], &[&format!("{RPATH}$ORIGINAL/x:$LIBRARY:${{ORIGIN}}/ALx")]);
    assert!(folder.same("exe", &[]).contains("/ALx/leaf.so"));
}

#[test]
fn a_library_for_another_machine_is_passed_over_and_a_file_that_is_none_is_fatal() {
    let folder = Folder::new();
    folder.library("one/leaf.so", &[], &[]).library("two/leaf.so", &[], &[]);
    folder.program("exe", &["one/leaf.so"], &[&format!("{RPATH}$ORIGIN/one:$ORIGIN/two")]);
    let mut bytes = fs::read(folder.path("one/leaf.so")).unwrap();
    bytes[18] = 183;
    fs::write(folder.path("one/leaf.so"), bytes).unwrap();
    assert!(folder.same("exe", &[]).contains("/two/leaf.so"));

    fs::write(folder.path("one/leaf.so"), "text").unwrap();
    let (listed, err) = folder.theirs("exe", &[]);
    assert!(listed.is_empty() && err.contains("file too short"), "{listed}{err}");
    let (status, out, _) = folder.ours(&["./exe"], &[]);
    assert_eq!(status, 1);
    assert!(out.contains("leaf.so => expected ELF magic"), "{out}");
}

#[test]
fn a_missing_library_is_listed_once_for_each_who_needs_it() {
    let folder = Folder::new();
    folder.library("gone.so", &[], &[]).library("user.so", &["gone.so"], &[]);
    folder.program("exe", &["gone.so", "user.so"], &[&format!("{RPATH}$ORIGIN")]).remove("gone.so");
    let listed = folder.same("exe", &[]);
    assert_eq!(listed.matches("gone.so => not found").count(), 2, "{listed}");
    let (status, out, err) = folder.ours(&["--only-missing", "--explain", "./exe"], &[]);
    assert_eq!((status, err.as_str()), (1, ""));
    assert!(out.contains("needed by ./exe") && out.contains("/user.so") && out.contains("no such file [RPATH of"));
}

#[test]
fn a_version_that_is_not_defined_is_named_with_both_sides() {
    let folder = Folder::new();
    let script = folder.path("map");
    fs::write(&script, "V2 { answer; };").unwrap();
    let versions = format!("-Wl,--version-script={}", script.display());
    folder.library("leaf.so", &[], &[&versions]);
    let source = "int answer(void); int main(void) { return answer(); }";
    folder.compile("exe", &["leaf.so"], &[&format!("{RPATH}$ORIGIN")], source);
    fs::write(&script, "V1 { answer; };").unwrap();
    folder.library("leaf.so", &[], &[&versions]);
    // ldd writes what the loader says on either stream.
    let (list, errors) = folder.theirs("exe", &[]);
    let (_, ours, _) = folder.ours(&["--format=ldd", folder.path("exe").to_str().unwrap()], &[]);
    assert_eq!(ours, errors + &list);
    assert!(ours.contains("leaf.so: version `V2' not found (required by /"), "{ours}");
    let (status, out, _) = folder.ours(&["./exe"], &[]);
    assert_eq!(status, 1, "{out}");
}

#[test]
fn what_is_preloaded_comes_first_and_what_cannot_be_is_ignored() {
    let folder = Folder::new();
    folder.library("pre.so", &[], &[]).program("exe", &[], &[]);
    let listed = folder.same("exe", &[("LD_PRELOAD", "./pre.so:./none.so")]);
    assert_eq!(listed.lines().nth(1), Some("\t./pre.so (0x0000000000000000)"));
    let (status, _, err) = folder.ours(&["./exe"], &[("LD_PRELOAD", "./none.so")]);
    assert_eq!(status, 0);
    // The variable is also for the loader that starts us, which says so in its own way.
    assert!(err.lines().filter(|line| line.starts_with("soload: ./none.so: ")).count() == 1, "{err}");
}

#[test]
fn secure_leaves_the_environment_out() {
    let folder = Folder::new();
    folder.library("leaf.so", &[], &[]).program("exe", &["leaf.so"], &[]);
    let environment = [("LD_LIBRARY_PATH", "."), ("LD_PRELOAD", "./leaf.so")];
    assert_eq!(folder.ours(&["./exe"], &environment).0, 0);
    assert_eq!(folder.ours(&["--secure", "./exe"], &environment).0, 1);
}

#[test]
fn origin_of_a_linked_program_is_where_the_program_is_and_of_a_linked_library_where_the_link_is() {
    let folder = Folder::new();
    folder.library("real/leaf.so", &[], &[]);
    folder.program("real/exe", &["real/leaf.so"], &[&format!("{RPATH}$ORIGIN")]);
    folder.library("real/user.so", &["real/leaf.so"], &[&format!("{RPATH}$ORIGIN")]);
    symlink("real/exe", folder.path("exe")).unwrap();
    symlink("real/user.so", folder.path("user.so")).unwrap();
    // glibc's own ldd is wrong about the program: it starts.
    assert!(folder.run(&mut Command::new(folder.path("exe")), &[]).status.success());
    assert_eq!(folder.ours(&["./exe"], &[]).0, 0);
    // And so is that of 2.43 about the library, which dlopen does not open.
    assert!(folder.ours(&["--format=ldd", "user.so"], &[]).1.contains("leaf.so => not found"));
}

#[test]
fn an_auditor_is_run_by_the_loader_and_never_by_us() {
    let folder = Folder::new();
    let auditor = "#include <unistd.h>\nunsigned la_version(unsigned v) { write(1, \"RAN\\n\", 4); return v; }";
    folder.compile("audit.so", &[], &["-shared"], auditor);
    let audit = format!("-Wl,--audit={}", folder.path("audit.so").display());
    folder.program("exe", &[], &[&audit]);
    assert!(folder.theirs("exe", &[]).0.contains("RAN"));
    let (_, ours, _) = folder.ours(&["--format=ldd", "./exe"], &[]);
    assert!(ours.contains("libc.so.6") && !ours.contains("RAN"), "{ours}");
}

#[test]
fn every_view_tells_of_every_object_once() {
    let folder = Folder::new();
    folder.library("leaf.so", &[], &[]).library("user.so", &["leaf.so"], &[]);
    folder.program("exe", &["user.so", "leaf.so"], &[&format!("{RPATH}$ORIGIN")]);
    let (_, tree, _) = folder.ours(&["./exe"], &[]);
    assert!(tree.starts_with("./exe (interpreter /lib64/"), "{tree}");
    assert!(tree.contains("├── user.so => ") && tree.contains("│   └── leaf.so => "), "{tree}");
    assert!(tree.contains("[RPATH of ./exe]"), "{tree}");
    let (_, flat, _) = folder.ours(&["--flat", "./exe"], &[]);
    assert_eq!(flat.matches("leaf.so => ").count(), 1, "{flat}");
    let (_, direct, _) = folder.ours(&["--direct", "./exe"], &[]);
    assert!(!direct.contains("│   "), "{direct}");
    let (_, dot, _) = folder.ours(&["--format=dot", "./exe"], &[]);
    assert!(dot.starts_with("digraph \"./exe\" {") && dot.contains("n0 -> n1;") && dot.contains("n1 -> n2;"), "{dot}");
    let (_, why, _) = folder.ours(&["--why", "leaf", "./exe"], &[]);
    assert!(why.contains("by the item \"$ORIGIN\", which is ") && why.contains("needed by "), "{why}");
    let (_, json, _) = folder.ours(&["--json", "./exe", "./user.so"], &[]);
    let documents: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(documents.len(), 2);
    let rule = &documents[0]["objects"][1]["rule"];
    assert_eq!((&rule["name"], &rule["item"], &rule["of"]), (&"rpath".into(), &"$ORIGIN".into(), &"./exe".into()));
}

#[test]
fn a_file_that_cannot_be_inspected_is_one_line_and_the_others_are_still_done() {
    let folder = Folder::new();
    folder.program("exe", &[], &[]);
    fs::write(folder.path("odd\u{1b}[31m"), "text").unwrap();
    let fifo = Command::new("mkfifo").arg(folder.path("fifo")).status().unwrap();
    assert!(fifo.success());
    let (status, out, err) = folder.ours(&["odd\u{1b}[31m", "none", "fifo", ".", "./exe"], &[]);
    assert_eq!((status, err.lines().count()), (2, 4), "{err}");
    assert!(err.lines().all(|line| line.starts_with("soload: ")) && !err.contains('\u{1b}'), "{err}");
    assert!(out.contains("./exe") && !out.contains('\u{1b}'), "{out}");
    let (status, out, _) = folder.ours(&["--format=ldd", "none", "./exe"], &[]);
    assert_eq!(status, 2);
    assert!(out.starts_with("none:\n./exe:\n\tlinux-vdso"), "{out}");
}

#[test]
fn undefined_symbols_are_named_with_their_version_and_the_library_that_was_to_have_them() {
    let folder = Folder::new();
    let script = folder.path("map");
    fs::write(&script, "V2 { answer; lost; };").unwrap();
    let versions = format!("-Wl,--version-script={}", script.display());
    let library = "int answer(void) { return 1; } int lost(void) { return 2; }";
    folder.compile("leaf.so", &[], &["-shared", &versions], library);
    let source = "int answer(void); int lost(void); __attribute__((weak)) int maybe(void);\n\
                  int main(void) { return answer() + lost() + (maybe ? maybe() : 0); }";
    folder.compile("exe", &["leaf.so"], &[&format!("{RPATH}$ORIGIN")], source);
    assert_eq!(folder.ours(&["-r", "./exe"], &[]).0, 0);
    folder.library("leaf.so", &[], &[&versions]);
    let (status, out, _) = folder.ours(&["-r", "./exe"], &[]);
    assert_eq!(status, 1);
    assert!(out.contains("undefined: lost@V2, needed by ./exe, expected in leaf.so"), "{out}");
    assert!(out.contains("undefined but weak: maybe, needed by ./exe"), "{out}");

    let path = folder.path("exe");
    let theirs = folder.run(loader(&path).env("LD_WARN", "yes").env("LD_BIND_NOW", "yes"), &[]);
    let (_, ours, _) = folder.ours(&["-r", "--format=ldd", path.to_str().unwrap()], &[]);
    assert_eq!(ours, without_addresses(&text(&theirs.stdout)) + &text(&theirs.stderr));
    let (_, json, _) = folder.ours(&["-r", "--json", "./exe"], &[]);
    let document: Value = serde_json::from_str(&json).unwrap();
    let undefined = document["undefined"].as_array().unwrap();
    assert!(undefined.iter().any(|symbol| symbol["symbol"] == "lost" && symbol["expected_in"] == "leaf.so"));
}

#[test]
fn a_direct_dependency_that_nothing_refers_to_is_unused() {
    let folder = Folder::new();
    folder.library("used.so", &[], &[]).compile("idle.so", &[], &["-shared", "-nostdlib"], "int idle;");
    let source = "int answer(void); int main(void) { return answer(); }";
    folder.compile("exe", &["used.so", "idle.so"], &[&format!("{RPATH}$ORIGIN")], source);
    let (status, out, _) = folder.ours(&["-u", "--flat", "./exe"], &[]);
    assert_eq!(status, 1);
    let unused: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("unused: ")).collect();
    assert!(unused.len() == 1 && unused[0].ends_with("/idle.so"), "{out}");
}

#[test]
fn why_a_symbol_binds_shows_the_definition_that_wins_and_the_one_that_loses() {
    let folder = Folder::new();
    folder.library("one.so", &[], &[]).library("two.so", &[], &[]);
    let source = "int answer(void); int main(void) { return answer(); }";
    folder.compile("exe", &["one.so", "two.so"], &[&format!("{RPATH}$ORIGIN")], source);
    let run = |symbol: &str| {
        let output = folder.run(Command::new(env!("CARGO_BIN_EXE_soload")).args(["why", "./exe", symbol]), &[]);
        (output.status.code(), text(&output.stdout))
    };
    let (status, out) = run("answer");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(status, Some(0));
    assert!(lines[1].contains("/one.so: 1 of the references") && lines[2].contains("/two.so: no reference"), "{out}");
    assert!(lines[3].starts_with("./exe wants answer => ") && lines[3].ends_with("/one.so"), "{out}");
    assert_eq!(run("no_such_symbol").0, Some(1));
}

#[test]
fn calls_bind_to_the_function_where_its_address_is_the_linkage_table_of_a_fixed_program() {
    let folder = Folder::new();
    folder.library("one.so", &[], &[]);
    folder.compile("calls.so", &[], &["-shared"], "int answer(void); int calls(void) { return answer() + 1; }");
    folder.compile("takes.so", &[], &["-shared"], "int answer(void); void *takes(void) { return answer; }");
    let source = "int answer(void), calls(void), *takes(void);
        int main(void) { return answer() + calls() + (takes() == (void *)answer); }";
    let fixed = ["-no-pie", "-fno-pic", "-Wl,-z,now", &format!("{RPATH}$ORIGIN")];
    folder.compile("exe", &["calls.so", "takes.so", "one.so"], &fixed, source);
    // What glibc binds, as `user => provider`, and what we say.
    let glibc = folder.run(&mut Command::new("./exe"), &[("LD_DEBUG", "bindings")]);
    let of = |path: &str| Path::new(path).file_name().unwrap().to_str().unwrap().to_owned();
    let glibc: BTreeSet<String> = text(&glibc.stderr)
        .lines()
        .filter(|line| line.contains("`answer'"))
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .map(|words| words[words.iter().position(|word| *word == "file").unwrap()..].to_vec())
        .map(|words| format!("{} => {}", of(words[1]), of(words[4])))
        .collect();
    let ours = folder.run(Command::new(env!("CARGO_BIN_EXE_soload")).args(["why", "./exe", "answer"]), &[]);
    let ours: BTreeSet<String> = text(&ours.stdout)
        .lines()
        .filter_map(|line| line.split_once(" wants answer => "))
        .map(|(user, provider)| format!("{} => {}", of(user), of(provider)))
        .collect();
    assert_eq!(ours, glibc);
    assert!(ours.contains("calls.so => one.so") && ours.contains("takes.so => exe"), "{ours:?}");
}

#[test]
fn a_closed_pipe_is_quiet_and_a_full_disk_is_an_error() {
    let folder = Folder::new();
    folder.program("exe", &[], &[]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
    let output = command.args(["ldd", "/bin/true"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write the output"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
    let output = command.args(["ldd", "/bin/true"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn directories_are_gone_through_only_if_that_is_asked_for() {
    let folder = Folder::new();
    folder.program("deep/er/exe", &[], &[]).library("deep/l.so", &[], &[]);
    fs::write(folder.path("deep/text"), "no ELF file").unwrap();
    assert_eq!(folder.ours(&["deep"], &[]).0, 2);
    let (status, out, err) = folder.ours(&["-R", "--format=ldd", "deep"], &[]);
    assert_eq!((status, err.as_str()), (0, ""));
    let headers: Vec<&str> = out.lines().filter(|line| !line.starts_with('\t')).collect();
    assert_eq!(headers, ["deep/er/exe:", "deep/l.so:"]);
}

/// Asserts that the loader's list and ours are the same for these files; answers how many it compared.
fn compare_all(files: &[PathBuf]) -> usize {
    let folder = Folder::new();
    let mut differing = Vec::new();
    let mut compared = 0;
    for chunk in files.chunks(200) {
        let names: Vec<&str> = chunk.iter().filter_map(|file| file.to_str()).collect();
        // Twice the first, so that there is a header before each even if it is the only one.
        let (_, ours, _) = folder.ours(&[&["--format=ldd", names[0]], &*names].concat(), &[]);
        let mut ours = ours.split_inclusive('\n').peekable();
        let mut next = || {
            ours.next();
            let mut lines = String::new();
            while let Some(line) = ours.next_if(|line| line.starts_with('\t') || !line.ends_with(":\n")) {
                lines.push_str(line);
            }
            lines
        };
        next();
        for name in names {
            let ours = next();
            let output = folder.run(&mut loader(Path::new(name)), &[]);
            let theirs = without_addresses(&text(&output.stdout));
            // What the loader refuses is no answer to compare with.
            if !output.stdout.is_empty() {
                compared += 1;
                if ours != theirs {
                    differing.push(format!("{name}:\n{ours}---\n{theirs}"));
                }
            }
        }
    }
    assert!(differing.is_empty(), "{} of {compared} differ:\n{}", differing.len(), differing.concat());
    compared
}

/// Programs and libraries below a directory, links left out.
fn elf_files(directory: &str) -> Vec<PathBuf> {
    let mut pending = vec![PathBuf::from(directory)];
    let mut files = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                Ok(kind) if kind.is_file() && is_elf(&entry.path()) => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort_unstable();
    files
}

fn is_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 20];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head.starts_with(b"\x7fELF\x02\x01") && matches!(head[16], 2 | 3) && head[18] == 62
}

#[test]
fn every_file_of_the_system_is_resolved_as_the_loader_does() {
    let mut files: Vec<PathBuf> = ["/usr/bin", "/usr/lib"].into_iter().flat_map(elf_files).collect();
    let all = std::env::var_os("SOLOAD_LDD_ALL").is_some();
    if !all {
        files = files.into_iter().step_by(17).take(150).collect();
    }
    let compared = compare_all(&files);
    println!("{compared} of {} files are ones that the loader lists; all the same", files.len());
    assert!(compared > 20);
}
