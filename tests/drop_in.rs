//! The drop-in: programs that know nothing of soload print and return the same when it loads what they open.

#[path = "common/drop_in.rs"]
mod drop_in;

use std::path::Path;
use std::process::{Command, Output};

use drop_in::drop_in;

/// Runs a program without the drop-in and with it; answers what both gave, after asserting that it is the same.
#[track_caller]
fn same_on_both(package: &str, program: &str, arguments: &[&str]) {
    let run = |preload: Option<&Path>| -> Option<Output> {
        let mut command = Command::new(program);
        command.args(arguments);
        preload.map(|path| command.env("LD_PRELOAD", path));
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            output => Some(output.unwrap()),
        }
    };
    let Some(host) = run(None) else {
        eprintln!("DID NOT RUN: {program} needs the package {package}");
        assert!(std::env::var_os("CI").is_none(), "CI installs {package}");
        return;
    };
    let ours = run(Some(drop_in())).unwrap();
    let text = |output: &Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    assert_eq!((ours.status, text(&ours)), (host.status, text(&host)), "{program} {arguments:?}");
    assert!(host.status.success(), "{program} works at all: {}", text(&host));
}

#[test]
fn a_program_that_uses_all_of_dlfcn_prints_the_same() {
    let libraries = env!("SOLOAD_TEST_LIBS");
    same_on_both("none: a fixture", &format!("{libraries}/programs/dlfcn"), &[libraries]);
}

#[test]
fn a_program_and_a_library_it_started_with_open_what_their_own_search_paths_lead_to() {
    same_on_both("none: a fixture", &format!("{}/programs/asks", env!("SOLOAD_TEST_LIBS")), &[]);
}

#[test]
fn a_program_that_opens_lazily_prints_the_same() {
    let libraries = env!("SOLOAD_TEST_LIBS");
    same_on_both("none: a fixture", &format!("{libraries}/programs/lazy"), &[libraries]);
}

#[test]
fn a_program_that_knows_another_function_by_the_name_of_a_protected_one_prints_the_same() {
    let libraries = env!("SOLOAD_TEST_LIBS");
    same_on_both("none: a fixture", &format!("{libraries}/programs/protected"), &[libraries]);
    same_on_both("none: a fixture", &format!("{libraries}/programs/protected_gone"), &[libraries]);
}

#[test]
fn python_works_through_its_extension_modules() {
    let script = "\
import ctypes, sys, ssl, sqlite3, hashlib, zlib, bz2, lzma, decimal, json
db = sqlite3.connect(':memory:')
db.execute('create table t (a, b)')
db.executemany('insert into t values (?, ?)', [(i, str(i)) for i in range(100)])
print(db.execute('select sum(a), count(b) from t').fetchone())
print(hashlib.sha256(b'abc').hexdigest(), zlib.crc32(b'abc'), decimal.Decimal(1) / 3)
print(lzma.decompress(lzma.compress(b'abc')), bz2.decompress(bz2.compress(b'abc')), json.dumps([1]))
print(ssl.create_default_context().minimum_version)
cos = ctypes.CDLL('libm.so.6').cos
cos.restype, cos.argtypes = ctypes.c_double, [ctypes.c_double]
print(cos(0.0), ctypes.CDLL(None).getpid() > 0)
try: ctypes.CDLL('libno-such.so')
except OSError as error: print('libno-such.so' in str(error))
";
    same_on_both("python3", "python3", &["-c", script]);
    let loaded = "print(any('_sqlite3' in line for line in open('/proc/self/maps')))";
    same_on_both("python3", "python3", &["-c", &format!("import sqlite3\n{loaded}")]);
}

#[test]
fn perl_works_through_its_xs_modules() {
    let script = "print POSIX::floor(3.7), sum(1..10), sha256_hex('abc'), length freeze([1, 2, {a => 3}]), \
                  encode('UTF-16BE', 'x'), \"\\n\"";
    let modules = ["-MPOSIX", "-MList::Util=sum", "-MDigest::SHA=sha256_hex", "-MStorable=freeze", "-MEncode"];
    same_on_both("perl", "perl", &[&modules[..], &["-e", script]].concat());
}

#[test]
fn openssl_works_through_its_providers() {
    same_on_both("openssl", "openssl", &["list", "-providers", "-provider", "legacy", "-provider", "default"]);
}

#[test]
fn a_program_that_merely_links_the_crate_interposes_nothing() {
    let own = std::env::current_exe().unwrap();
    let listed = Command::new("nm").args(["-D", "--defined-only"]).arg(own).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in ["dlopen", "dlsym", "dlclose", "dladdr", "dl_iterate_phdr", "_dl_find_object", "soload"] {
        assert!(!listed.contains(name), "{name} is defined: {listed}");
    }
}
