//! What `soload ldd` does with what is damaged, odd, endless or hostile: one line for each error, and never more than that.

#![cfg(all(feature = "cli", target_arch = "x86_64"))]

#[path = "common/folder.rs"]
mod folder;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use folder::{Folder, RPATH, loader, text};
use serde_json::Value;

const FORMATS: [&str; 6] =
    ["--format=tree", "--format=flat", "--format=ldd", "--format=json", "--format=dot", "--format=%n %p %w %s %u %f"];

#[test]
fn the_exit_status_is_that_of_the_worst_file() {
    let folder = Folder::new();
    folder.program("whole", &[], &[]).library("leaf.so", &[], &[]);
    folder.program("gap", &["leaf.so"], &[&format!("{RPATH}$ORIGIN/none")]);
    folder.compile("lost", &[], &["-Wl,--dynamic-linker=/no/such/loader"], "int main(void) { return 0; }");
    folder.compile("bare", &[], &["-shared"], "int nobody(void); int call(void) { return nobody(); }");
    folder.compile("static", &[], &["-static"], "int main(void) { return 0; }");
    fs::write(folder.path("text"), "text").unwrap();
    let status = |arguments: &[&str]| folder.ours(arguments, &[]).0;
    for (expected, arguments) in [
        (0, &["./whole"][..]),
        (0, &["./static"]),
        (0, &["./bare"]),
        (1, &["-r", "./bare"]),
        (1, &["./gap"]),
        (1, &["./lost"]),
        (2, &["./text"]),
        (2, &["./none"]),
        (2, &["--no-such-option", "./whole"]),
        (2, &[]),
        (1, &["./gap", "./whole"]),
        (2, &["./text", "./gap", "./whole"]),
        (2, &["./gap", "./text"]),
    ] {
        assert_eq!(status(arguments), expected, "{arguments:?}");
        if !arguments.is_empty() && expected < 2 {
            for format in FORMATS {
                assert_eq!(status(&[&[format], arguments].concat()), expected, "{format} {arguments:?}");
            }
        }
    }
}

#[test]
fn nothing_is_waited_for() {
    let folder = Folder::new();
    folder.library("leaf.so", &[], &[]).program("exe", &["leaf.so"], &[&format!("{RPATH}$ORIGIN")]).remove("leaf.so");
    // The loader itself would wait here for a writer.
    assert!(Command::new("mkfifo").arg(folder.path("leaf.so")).status().unwrap().success());
    let start = Instant::now();
    let (status, out, err) = folder.ours(&["--flat", "./exe"], &[]);
    assert!(status == 1 && out.contains("leaf.so => file type: expected a regular file, found a FIFO"), "{out}{err}");
    let (status, _, err) = folder.ours(&["./leaf.so", "/dev/null", "/dev/tty", "/proc/self/fd", "./exe"], &[]);
    assert_eq!((status, err.lines().count()), (2, 4), "{err}");
    let (status, out, err) = folder.ours(&["-R", "--flat", "."], &[]);
    assert!(status == 1 && out.contains("exe") && err.is_empty(), "{out}{err}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn names_that_would_move_the_cursor_are_shown_as_text() {
    let folder = Folder::new();
    let evil = "evil\u{1b}[31m\u{7}\n\u{9b}2J.so";
    folder.library("leaf.so", &[], &[&format!("-Wl,-soname,{evil}")]);
    folder.library("user.so", &["leaf.so"], &[&format!("-Wl,-soname,user{evil}")]);
    folder.program("exe", &["user.so", "leaf.so"], &[&format!("{RPATH}$ORIGIN:/\u{1b}[2J")]);
    fs::rename(folder.path("user.so"), folder.path(&format!("user{evil}"))).unwrap();
    let clean = |text: &str| !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t');
    for format in FORMATS {
        let (status, out, err) = folder.ours(&[format, "-v", "-r", "-u", "./exe"], &[]);
        assert!(status == 1 && clean(&out) && clean(&err), "{format}: {out:?}{err:?}");
        assert!(out.contains(r"\u{1b}") || out.contains(r"\u001b"), "{format}: {out:?}");
    }
    for arguments in [&["--explain"][..], &["--why", "evil"], &["--only-missing", "--explain"], &["--duplicates"]] {
        let (_, out, err) = folder.ours(&[arguments, &["./exe"]].concat(), &[]);
        assert!(clean(&out) && clean(&err) && out.contains(r"\u{1b}"), "{arguments:?}: {out:?}{err:?}");
    }
    let (_, out, err) = folder.ours(&["--reverse", "leaf.so", "./exe"], &[]);
    assert!(clean(&out) && clean(&err));
}

#[test]
fn names_that_are_no_text_are_kept() {
    let folder = Folder::new();
    folder.program("exe", &[], &[]);
    let odd = folder.0.path().join(OsStr::from_bytes(b"odd\xff\"\\\n"));
    fs::rename(folder.path("exe"), &odd).unwrap();
    for format in FORMATS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
        let output = folder.run(command.args(["ldd", format]).arg(&odd), &[]);
        assert!(output.status.success() && str::from_utf8(&output.stdout).is_ok(), "{format}");
        if format == "--format=json" {
            let document: Value = serde_json::from_slice(&output.stdout).unwrap();
            let hex: String = odd.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(document["file_bytes"], hex);
        }
    }
    let missing = OsStr::from_bytes(b"none\xff\x1b[m");
    let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
    let output = folder.run(command.arg("ldd").arg(missing), &[]);
    let err = text(&output.stderr);
    assert!(output.status.code() == Some(2) && err.lines().count() == 1 && !err.contains('\u{1b}'), "{err}");
}

#[test]
fn only_a_terminal_is_coloured() {
    let folder = Folder::new();
    folder.program("exe", &[], &[]);
    let (_, plain, _) = folder.ours(&["./exe"], &[]);
    let (_, forced, _) = folder.ours(&["./exe"], &[("CLICOLOR_FORCE", "1")]);
    assert!(!plain.contains('\u{1b}') && forced.contains("\u{1b}["), "{plain:?} {forced:?}");
    let line = format!("{} ldd ./exe", env!("CARGO_BIN_EXE_soload"));
    let on_terminal = |environment: &[(&str, &str)]| {
        // Where CI is set, what prints is taken for a log that shows colours.
        let mut script = Command::new("script");
        text(&folder.run(script.args(["-qec", &line, "/dev/null"]).env_remove("CI"), environment).stdout)
    };
    assert!(on_terminal(&[("TERM", "xterm")]).contains("\u{1b}["));
    assert!(!on_terminal(&[("TERM", "xterm"), ("NO_COLOR", "1")]).contains('\u{1b}'));
    assert!(!on_terminal(&[("TERM", "dumb")]).contains('\u{1b}'));
}

/// Makes `count` libraries out of one, by changing the names in it: number n needs those that `needs` says.
fn many(folder: &Folder, count: usize, needs: impl Fn(usize) -> [usize; 2]) {
    folder.library("s0001.so", &[], &["-Wl,-soname,s0001.so"]).library("s0002.so", &[], &["-Wl,-soname,s0002.so"]);
    let flags = [&format!("{RPATH}$ORIGIN"), "-Wl,-soname,s0000.so"];
    folder.library("model", &["s0001.so", "s0002.so"], &flags);
    let model = fs::read(folder.path("model")).unwrap();
    let named = |number: usize| format!("s{number:04}.so").into_bytes();
    let places = [0, 1, 2].map(|number| {
        let name = named(number);
        let found: Vec<usize> = (0..model.len() - 8).filter(|at| model[*at..].starts_with(&name)).collect();
        assert!(!found.is_empty());
        found
    });
    for number in 0..count {
        let mut bytes = model.clone();
        let [first, second] = needs(number);
        for (places, number) in places.iter().zip([number, first, second]) {
            for at in places {
                bytes[*at..*at + 8].copy_from_slice(&named(number));
            }
        }
        fs::write(folder.path(&format!("s{number:04}.so")), bytes).unwrap();
    }
}

#[test]
fn what_is_needed_a_million_ways_is_shown_once() {
    let folder = Folder::new();
    // Twenty layers of two, each needing both of the next: a million ways down.
    many(&folder, 42, |number| {
        let next = number / 2 * 2 + 2;
        [next.min(40), (next + 1).min(41)]
    });
    for format in FORMATS {
        let (status, out, err) = folder.ours(&[format, "./s0000.so"], &[]);
        assert_eq!(status, 0, "{err}");
        assert!(out.lines().count() < 200 && out.len() < 100_000, "{format}: {} bytes", out.len());
    }
}

#[test]
fn a_chain_of_thousands_takes_no_stack() {
    let folder = Folder::new();
    const LENGTH: usize = 1600;
    many(&folder, LENGTH, |number| [(number + 1).min(LENGTH - 1); 2]);
    let line = format!("ulimit -s 512; exec {} ldd \"$@\" ./s0000.so", env!("CARGO_BIN_EXE_soload"));
    for arguments in [&["--format=tree"][..], &["--flat"], &["--json"], &["-r", "--flat"], &["--why", "s1599.so"]] {
        let mut shell = Command::new("sh");
        let output = folder.run(shell.args(["-c", &line, "sh"]).args(arguments), &[]);
        assert!(output.status.success(), "{arguments:?}: {:?} {}", output.status, text(&output.stderr));
        assert!(text(&output.stdout).contains("s1599.so"), "{arguments:?}");
    }
}

#[test]
fn a_pipe_that_closes_early_and_a_full_disk_are_no_crash() {
    let folder = Folder::new();
    many(&folder, 300, |number| [(number + 1).min(299); 2]);
    let run = |format: &str, stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
        command.current_dir(folder.0.path()).args(["ldd", format, "-R", "."]).stdout(stdout);
        command.output().unwrap()
    };
    for format in FORMATS {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(format, writer.into());
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{format}");
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = run(format, full.into());
        assert_eq!(output.status.code(), Some(1), "{format}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{format}");
    }
    // Nobody hears the errors either.
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
    assert_eq!(command.args(["ldd", "/no/such"]).stderr(full).status().unwrap().code(), Some(2));
}

#[test]
fn damage_at_random_is_an_error_or_an_answer() {
    let folder = Folder::new();
    folder.library("leaf.so", &[], &[]).program("exe", &["leaf.so"], &[&format!("{RPATH}$ORIGIN")]);
    let (exe, leaf) = (fs::read(folder.path("exe")).unwrap(), fs::read(folder.path("leaf.so")).unwrap());
    let mut seed = 1u64;
    let mut random = |below: usize| {
        // A step of the generator of Numerical Recipes: any will do that is the same every time.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for round in 0..60 {
        let (file, sound) = if round % 2 == 0 { ("exe", &exe) } else { ("leaf.so", &leaf) };
        let mut bytes = sound.clone();
        // Headers, the dynamic section and the tables it names lie in the first and the last of its pages.
        for _ in 0..1 + random(8) {
            let at = if random(2) == 0 { random(1024) } else { random(bytes.len()) };
            bytes[at] = random(256) as u8;
        }
        if random(10) == 0 {
            bytes.truncate(random(bytes.len()));
        }
        fs::write(folder.path("exe"), &exe).unwrap();
        fs::write(folder.path("leaf.so"), &leaf).unwrap();
        fs::write(folder.path(file), &bytes).unwrap();
        let (status, _, err) = folder.ours(&["-r", "-v", "-u", "--explain", "--duplicates", "./exe"], &[]);
        assert!((0..=2).contains(&status) && !err.contains("panicked"), "round {round}: {status} {err}");
        assert!(err.lines().all(|line| line.starts_with("soload: ")), "round {round}: {err}");
    }
}

#[test]
fn nothing_of_the_files_is_run_or_mapped_for_execution() {
    let folder = Folder::new();
    let source = "#include <unistd.h>\n__attribute__((constructor)) void begin(void) { write(1, \"RAN\\n\", 4); }\n\
                  static int real(void) { return 1; }\n\
                  static void *choose(void) { write(1, \"RAN\\n\", 4); return real; }\n\
                  int answer(void) __attribute__((ifunc(\"choose\")));";
    folder.compile("leaf.so", &[], &["-shared"], source);
    let source = "int answer(void); int main(void) { return answer(); }";
    folder.compile("exe", &["leaf.so"], &[&format!("{RPATH}$ORIGIN")], source);
    assert!(text(&folder.run(&mut Command::new(folder.path("exe")), &[]).stdout).contains("RAN"));
    for format in FORMATS {
        let (status, out, _) = folder.ours(&[format, "-r", "-u", "-v", "./exe"], &[]);
        assert!(status == 0 && !out.contains("RAN"), "{out}");
    }
    // The loader's own list maps the segments, which is how an object that overlaps the loader's could take over.
    assert!(text(&folder.run(&mut loader(&folder.path("exe")), &[]).stdout).contains("leaf.so"));
    // A file that may not be executed is read all the same: no call needs that permission.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder.path("leaf.so"), fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(folder.ours(&["-r", "./exe"], &[]).0, 0);
}
