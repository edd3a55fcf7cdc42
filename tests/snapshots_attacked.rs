//! Snapshots that are damaged, foreign or being fought over: never a crash, never a wrong load, always a reason.

#![cfg(all(feature = "cli", target_arch = "x86_64", target_env = "gnu"))]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types that the tests state

mod common;

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::maps::maps;
use common::snapshots::directory;
use common::*;
use serde_json::Value;
use soload::{OpenOptions, Snapshot, SnapshotUse, Snapshots};

const SOLOAD: &str = env!("CARGO_BIN_EXE_soload");

/// Opens the fixture, makes sure that it is the right one, and answers what its snapshot was good for.
#[track_caller]
fn outcome(name: &str) -> SnapshotUse {
    outcome_in(&directory(), name)
}

#[track_caller]
fn outcome_in(directory: &Path, name: &str) -> SnapshotUse {
    let library = unsafe { OpenOptions::new().snapshots(directory).open(fixture(name)) }.unwrap();
    let outcome = library.snapshot();
    let library = Lib::Ours(library);
    match name {
        "demo" => assert!(library.call_text("demo_greeting").starts_with("hello")),
        "tls_initial" => assert_eq!(library.call("next_value"), 42),
        "ifunc_outer" => assert_eq!(library.call("call_outer"), 1),
        other => panic!("{other}: what is it for?"),
    }
    outcome
}

#[track_caller]
fn refused(name: &str) -> String {
    match outcome(name) {
        SnapshotUse::Refused(refusal) => refusal.to_string(),
        other => panic!("{name}: {other}"),
    }
}

/// The one snapshot there is.
fn file() -> PathBuf {
    let entries = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let mut files = entries.filter(|path| path.extension().is_some_and(|ending| ending == "snapshot"));
    let file = files.next().expect("a snapshot");
    assert!(files.next().is_none(), "one snapshot");
    file
}

/// Puts other bytes in place of a snapshot, with the permissions that ours have.
fn replace(file: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(file);
    fs::write(file, bytes).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o400)).unwrap();
}

/// Where the pages of a snapshot begin.
fn first_page(bytes: &[u8]) -> usize {
    (u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize).next_multiple_of(4096)
}

#[test]
fn a_bit_flipped_anywhere_in_header_or_list_is_noticed_and_the_next_process_makes_it_anew() {
    on_ours(|_| {
        for name in ["tls_initial", "ifunc_outer"] {
            outcome(name);
            let (file, made) = (file(), fs::read(file()).unwrap());
            // All of the header, then one bit of each byte.
            let bits = (0..96 * 8).step_by(5).chain((96..first_page(&made)).step_by(9).map(|byte| byte * 8 + byte % 8));
            for bit in bits {
                let mut flipped = made.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                replace(&file, &flipped);
                let why = refused(name);
                assert!(why.starts_with("snapshot refused: "), "bit {bit}: {why}");
                assert!(!file.exists(), "removed");
            }
            assert_eq!(outcome(name), SnapshotUse::Used { made: true });
            assert!(fs::read(&file).unwrap() == made, "made anew as it was");
            fs::remove_file(file).unwrap();
        }
    });
}

#[test]
fn one_that_is_cut_off_or_longer_or_something_else_is_noticed() {
    on_ours(|_| {
        outcome("ifunc_outer");
        let (file, made) = (file(), fs::read(file()).unwrap());
        for len in (0..made.len()).step_by(61) {
            replace(&file, &made[..len]);
            assert!(refused("ifunc_outer").starts_with("snapshot refused: "), "{len} bytes");
        }
        replace(&file, &[&made[..], &[0; 4096]].concat());
        assert_eq!(refused("ifunc_outer"), "snapshot refused: damaged: it is not as long as it states");
        replace(&file, &fs::read(fixture("demo")).unwrap());
        assert_eq!(refused("ifunc_outer"), "snapshot refused: no snapshot: it does not begin as one");
        // A directory, a link to the right bytes, a pipe that nobody writes to.
        let elsewhere = scratch().join("elsewhere");
        replace(&elsewhere, &made);
        symlink(&elsewhere, &file).unwrap();
        assert!(refused("ifunc_outer").ends_with("expected a regular file, found a link"));
        assert!(elsewhere.exists());
        let pipe = CString::new(file.to_str().unwrap()).unwrap();
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o400) }, 0);
        assert!(refused("ifunc_outer").ends_with("expected a regular file, found something else"));
    });
}

#[test]
fn one_of_another_library_or_session_is_not_taken_for_this_one() {
    on_ours(|_| {
        outcome("demo");
        let demo = file();
        let of_demo = fs::read(&demo).unwrap();
        fs::remove_file(&demo).unwrap();
        outcome("ifunc_outer");
        replace(&file(), &of_demo);
        assert_eq!(refused("ifunc_outer"), "snapshot refused: it has the name of another one");
        // The same, from a session with another secret.
        let other = scratch().join("other");
        outcome_in(&other, "demo");
        let foreign = fs::read_dir(&other).unwrap().map(|entry| entry.unwrap().path());
        let foreign = foreign.into_iter().find(|path| path.extension().is_some()).unwrap();
        replace(&demo, &fs::read(foreign).unwrap());
        assert_eq!(refused("demo"), "snapshot refused: damaged, or made in another session: its seal does not fit");
        // A session of an earlier boot has other addresses now.
        outcome("demo");
        let seed = directory().join("seed");
        let mut bytes = fs::read(&seed).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        replace(&seed, &bytes);
        assert_eq!(outcome("demo"), SnapshotUse::Used { made: true });
        assert!(fs::read(&seed).unwrap()[..32] != bytes[..32], "a new seed");
    });
}

#[test]
fn what_others_can_write_or_own_is_not_used() {
    on_ours(|_| {
        outcome("demo");
        let modes = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for mode in [0o777, 0o720, 0o702] {
            modes(&directory(), mode);
            let why = refused("demo");
            assert!(why.contains("permissions: expected not writable by others"), "{why}");
        }
        modes(&directory(), 0o700);
        for name in ["seed", "registry"] {
            let mode = fs::metadata(directory().join(name)).unwrap().mode();
            modes(&directory().join(name), 0o622);
            assert!(refused("demo").contains("permissions: expected not writable by others"), "{name}");
            modes(&directory().join(name), mode & 0o777);
        }
        for mode in [0o600, 0o420, 0o500] {
            outcome("demo");
            modes(&file(), mode);
            assert!(refused("demo").contains("permissions: expected not writable "), "{mode:o}");
        }
        let link = scratch().join("link");
        symlink(directory(), &link).unwrap();
        let why = outcome_in(&link, "demo").to_string();
        assert!(why.ends_with("expected a directory, found something else or a link"), "{why}");
        fs::write(scratch().join("plain"), "").unwrap();
        assert!(matches!(outcome_in(&scratch().join("plain"), "demo"), SnapshotUse::Refused(_)));
        assert!(matches!(outcome_in(&scratch().join("no/such"), "demo"), SnapshotUse::Refused(_)));
        // Only root can give files away.
        if unsafe { libc::geteuid() } == 0 {
            outcome("demo");
            for path in [file(), directory().join("seed"), directory()] {
                std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
                let why = refused("demo");
                assert!(why.contains("owner: expected root or the user, found 65534"), "{why}");
                if path.exists() {
                    std::os::unix::fs::chown(&path, Some(0), None).unwrap();
                }
            }
        }
    });
}

#[test]
fn no_function_that_the_loader_calls_comes_from_the_pages() {
    on_ours(|_| {
        outcome("demo");
        let (file, made) = (file(), fs::read(file()).unwrap());
        let text = {
            let library = unsafe { OpenOptions::new().snapshots(directory()).open(fixture("demo")) }.unwrap();
            let at = library.bias().unwrap().get();
            let text = maps().into_iter().find(|map| map.range.start >= at && map.perms == "r-xp").unwrap();
            assert!(text.path.ends_with("libdemo.so"));
            text.range
        };
        // Whoever can write the file of a user is that user; even so, code addresses in the pages are not believed.
        let mut hostile = made.clone();
        let mut changed = 0;
        for word in hostile[first_page(&made)..].chunks_exact_mut(8) {
            if text.contains(&(u64::from_le_bytes(word.try_into().unwrap()) as usize)) {
                word.copy_from_slice(&0x4141_4141_4141u64.to_le_bytes());
                changed += 1;
            }
        }
        assert!(changed >= 2, "the arrays of constructors and destructors");
        replace(&file, &hostile);
        assert_eq!(outcome("demo"), SnapshotUse::Used { made: false }, "constructors and destructors have run");
        // Whoever asks is told.
        let snapshots = Snapshots::open(&directory()).unwrap();
        let error = snapshots.verify(file.file_name().unwrap().to_str().unwrap()).unwrap_err();
        assert!(error.to_string().ends_with("damaged: its pages do not have the hash that it states"), "{error}");
    });
}

/// A memory file with that content, sealed or not.
fn memory(bytes: &[u8], seals: libc::c_int) -> OwnedFd {
    let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).unwrap();
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) }, 0);
    file.into()
}

#[test]
fn a_memory_file_that_could_still_change_is_refused_and_a_damaged_one_too() {
    on_ours(|_| {
        let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        let snapshot = Snapshot::create(fixture("ifunc_outer")).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&snapshot));
        let link = format!("/proc/self/fd/{fd}");
        let made = fs::read(&link).unwrap();
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_GET_SEALS) } & seals, seals);
        let denied = fs::OpenOptions::new().write(true).open(&link).and_then(|mut file| file.write_all(b"x"));
        assert_eq!(denied.unwrap_err().raw_os_error(), Some(libc::EPERM), "sealed, for root too");

        assert!(Snapshot::from_fd(memory(&made, seals)).is_ok());
        for missing in [libc::F_SEAL_WRITE, libc::F_SEAL_SHRINK, libc::F_SEAL_GROW, libc::F_SEAL_SEAL] {
            let error = Snapshot::from_fd(memory(&made, seals & !missing)).unwrap_err();
            assert!(error.to_string().contains("sealed against writing and resizing"), "{error}");
        }
        let plain = File::open(fixture("demo")).unwrap();
        let error = Snapshot::from_fd(plain.into()).unwrap_err();
        assert!(error.to_string().ends_with("expected a sealed memory file, found another kind of file"), "{error}");
        for byte in (0..first_page(&made)).step_by(7) {
            let mut flipped = made.clone();
            flipped[byte] ^= 1 << (byte % 8);
            assert!(Snapshot::from_fd(memory(&flipped, seals)).is_err(), "byte {byte}");
        }
        for len in (0..made.len()).step_by(997) {
            assert!(Snapshot::from_fd(memory(&made[..len], seals)).is_err(), "{len} bytes");
        }
    });
}

fn command(directory: &Path) -> Command {
    let mut command = Command::new(SOLOAD);
    command.args(["load", "--json"]).arg(format!("--snapshots={}", directory.display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).env_remove("SOLOAD_SNAPSHOTS");
    command
}

/// What `soload snapshot verify` says of each snapshot.
fn verified(directory: &Path) -> Vec<String> {
    let output = Command::new(SOLOAD).args(["snapshot", "verify", "--json", "--dir"]).arg(directory).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = document["snapshots"].as_array().unwrap();
    all.iter().map(|one| one["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_hundred_processes_at_once_make_and_use_and_none_of_it_is_torn() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("snapshots");
    let libraries = ["demo", "tls_initial", "ifunc_outer", "throws", "life_root"];
    let processes: Vec<_> = (0..100)
        .map(|number| {
            // Everyone loads two, so that the registry has different newcomers at the same time.
            let (first, second) = (fixture(libraries[number % 5]), fixture(libraries[(number / 5 + 1) % 5]));
            command(&directory).arg("--").arg(first).arg(second).spawn().unwrap()
        })
        .collect();
    let mut used = 0;
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        for library in document["libraries"].as_array().unwrap() {
            used += usize::from(library["snapshot"]["used"] == true);
        }
    }
    assert!(used > 100, "{used} of 200 loads");
    let states = verified(&directory);
    assert!(!states.is_empty() && states.iter().all(|state| state != "damaged"), "{states:?}");
    assert!(states.iter().filter(|state| *state == "rebuilt").count() >= 5, "{states:?}");
    // Each library has one place, and no two the same.
    let registry = fs::read(directory.join("registry")).unwrap();
    assert_eq!(registry.len() % 64, 0);
    let mut slots: Vec<(&[u8], &[u8])> = registry.chunks(64).map(|record| (&record[..32], &record[32..40])).collect();
    let count = slots.len();
    slots.sort_by_key(|(id, _)| *id);
    slots.dedup_by_key(|(id, _)| *id);
    slots.sort_by_key(|(_, offset)| *offset);
    slots.dedup_by_key(|(_, offset)| *offset);
    assert_eq!(slots.len(), count);
}

#[test]
fn a_writer_that_is_killed_at_any_moment_leaves_nothing_that_is_half_done() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("snapshots");
    let mut killed = 0;
    for moment in 0..60 {
        let mut process = command(&directory).arg("--").arg(fixture("ifunc_outer")).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(moment * 400));
        process.kill().unwrap();
        killed += usize::from(!process.wait().unwrap().success());
        let left = fs::read_dir(&directory).map_or(0, |entries| entries.count());
        assert!(left <= 3, "seed, registry, snapshot");
        if moment % 3 == 0 {
            let _ = fs::remove_dir_all(&directory);
        }
    }
    assert!(killed > 5, "{killed}");
    let output = command(&directory).arg("--").arg(fixture("ifunc_outer")).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["libraries"][0]["snapshot"]["used"], true, "{document}");
    assert_eq!(verified(&directory), ["rebuilt"]);
}

#[test]
fn who_removes_every_snapshot_at_once_keeps_nobody_from_loading() {
    on_ours(|_| {
        outcome("demo");
        let folder = directory();
        std::thread::spawn(move || {
            loop {
                let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
                entries
                    .filter(|path| path.extension().is_some_and(|ending| ending == "snapshot"))
                    // Who makes one anew removes the last one, too.
                    .for_each(|path| drop(fs::remove_file(path)));
            }
        });
        // Some are there long enough to be used.
        let begun = Instant::now();
        let why = loop {
            if let SnapshotUse::Refused(refusal) = outcome("demo") {
                break refusal.to_string();
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no snapshot was removed before it was used");
        };
        assert!(why.ends_with("somebody removes each snapshot as soon as it has been made"), "{why}");
    });
}

#[test]
fn another_scope_has_another_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("snapshots");
    let ask = |preload: Option<PathBuf>| {
        let mut command = Command::new(SOLOAD);
        command.arg("call").arg(format!("--snapshots={}", directory.display()));
        command.arg(fixture("preloaded_user")).arg("ask");
        command.envs(preload.map(|path| ("LD_PRELOAD", path))).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for _ in 0..2 {
        assert_eq!(ask(None).trim(), std::process::id().to_string());
        assert_eq!(ask(Some(fixture("preloaded"))).trim(), "4711");
    }
    assert_eq!(verified(&directory).len(), 2);
}

#[test]
fn a_program_with_rights_that_its_starter_has_not_uses_none() {
    // Only root can make one.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("soload");
    fs::copy(SOLOAD, &program).unwrap();
    std::os::unix::fs::chown(&program, Some(65534), None).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    let library = folder.path().join("libdemo.so");
    fs::copy(fixture("demo"), &library).unwrap();
    let output = Command::new(&program).args(["load", "--snapshots=/tmp", "--"]).arg(&library).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("rights that its starter does not have (AT_SECURE)"), "{printed}");
}
