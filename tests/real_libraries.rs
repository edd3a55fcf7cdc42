//! Libraries of the system, loaded by ours and made to work: the results are known from elsewhere.

#![cfg(target_pointer_width = "64")]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // each function has the type that its manual states
#![allow(non_snake_case)] // and the name

mod common;

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};
use std::ptr::{null, null_mut};

use common::maps::{Map, maps};
use common::on_ours;
use soload::{ErrorKind, Library};

/// Opens by the name that programs need it by. Without the package the test does nothing, and says so.
fn library(name: &str, package: &str) -> Option<Library> {
    match unsafe { Library::new(name) } {
        Ok(library) => Some(library),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound { .. }) => {
            eprintln!("DID NOT RUN: needs package {package}");
            assert!(std::env::var_os("CI").is_none(), "{error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The mappings of files with these words in their names.
fn mapped(words: &[&str]) -> Vec<Map> {
    maps().into_iter().filter(|map| words.iter().any(|word| map.path.contains(word))).collect()
}

/// A function of a library, as a plain function pointer.
macro_rules! function {
    ($library:ident, $name:ident: fn($($argument:ty),*) $(-> $result:ty)?) => {
        let $name = *unsafe { $library.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>(stringify!($name)) }.unwrap();
    };
}

#[test]
fn libz_compresses_and_decompresses() {
    on_ours(|_| {
        let Some(z) = library("libz.so.1", "zlib1g") else { return };
        function!(z, compressBound: fn(c_ulong) -> c_ulong);
        function!(z, compress: fn(*mut u8, *mut c_ulong, *const u8, c_ulong) -> c_int);
        function!(z, uncompress: fn(*mut u8, *mut c_ulong, *const u8, c_ulong) -> c_int);

        let text = b"a page that is shared is a page that is not copied; ".repeat(1000);
        let mut packed = vec![0; unsafe { compressBound(text.len() as c_ulong) } as usize];
        let mut packed_size = packed.len() as c_ulong;
        let status = unsafe { compress(packed.as_mut_ptr(), &mut packed_size, text.as_ptr(), text.len() as c_ulong) };
        assert_eq!(status, 0);
        assert!((packed_size as usize) < text.len() / 20, "{packed_size}");

        let mut unpacked = vec![0; text.len()];
        let mut size = unpacked.len() as c_ulong;
        assert_eq!(unsafe { uncompress(unpacked.as_mut_ptr(), &mut size, packed.as_ptr(), packed_size) }, 0);
        assert!(size as usize == text.len() && unpacked == text);
        z.close().unwrap();
        assert_eq!(mapped(&["libz.so"]), []);
    });
}

#[test]
fn libsqlite3_creates_inserts_and_selects() {
    type Row = unsafe extern "C" fn(*mut Vec<String>, c_int, *const *const c_char, *const *const c_char) -> c_int;
    unsafe extern "C" fn row(
        rows: *mut Vec<String>,
        columns: c_int,
        values: *const *const c_char,
        _names: *const *const c_char,
    ) -> c_int {
        let values = unsafe { std::slice::from_raw_parts(values, columns as usize) };
        let texts: Vec<_> = values.iter().map(|value| unsafe { CStr::from_ptr(*value) }.to_str().unwrap()).collect();
        unsafe { &mut *rows }.push(texts.join(" "));
        0
    }
    on_ours(|_| {
        let Some(sqlite) = library("libsqlite3.so.0", "libsqlite3-0") else { return };
        function!(sqlite, sqlite3_open: fn(*const c_char, *mut *mut c_void) -> c_int);
        function!(sqlite, sqlite3_exec: fn(*mut c_void, *const c_char, Option<Row>, *mut Vec<String>, *mut *mut c_char) -> c_int);
        function!(sqlite, sqlite3_close: fn(*mut c_void) -> c_int);

        let mut database = null_mut();
        assert_eq!(unsafe { sqlite3_open(c":memory:".as_ptr(), &mut database) }, 0);
        let mut rows = Vec::new();
        for statement in [
            c"create table page (kind text, count integer)",
            c"insert into page values ('shared', 40), ('private', 2), ('shared', 2)",
            c"select kind, sum(count) from page group by kind order by kind",
        ] {
            assert_eq!(
                unsafe { sqlite3_exec(database, statement.as_ptr(), Some(row), &mut rows, null_mut()) },
                0,
                "{statement:?}"
            );
        }
        assert_eq!(unsafe { sqlite3_close(database) }, 0);
        assert_eq!(rows, ["private 2", "shared 42"]);
    });
}

#[test]
fn libcrypto_hashes_a_known_text() {
    on_ours(|_| {
        let Some(crypto) = library("libcrypto.so.3", "libssl3") else { return };
        function!(crypto, SHA256: fn(*const u8, usize, *mut u8) -> *mut u8);
        let mut digest = [0; 32];
        unsafe { SHA256(b"abc".as_ptr(), 3, digest.as_mut_ptr()) };
        let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        // FIPS 180-2, appendix B.1.
        assert_eq!(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    });
}

#[test]
fn libm_computes() {
    on_ours(|_| {
        let Some(m) = library("libm.so.6", "libc6") else { return };
        function!(m, cos: fn(f64) -> f64);
        function!(m, pow: fn(f64, f64) -> f64);
        assert_eq!(unsafe { cos(0.0) }, 1.0);
        assert!((unsafe { cos(1.0) } - 0.540_302_305_868_139_8).abs() < 1e-15);
        assert_eq!(unsafe { pow(2.0, 10.0) }, 1024.0);
    });
}

#[test]
fn libpcre2_compiles_and_matches() {
    on_ours(|_| {
        let Some(pcre) = library("libpcre2-8.so.0", "libpcre2-8-0") else { return };
        function!(pcre, pcre2_compile_8: fn(*const u8, usize, c_uint, *mut c_int, *mut usize, *const c_void) -> *mut c_void);
        function!(pcre, pcre2_match_data_create_from_pattern_8: fn(*mut c_void, *const c_void) -> *mut c_void);
        function!(pcre, pcre2_match_8: fn(*mut c_void, *const u8, usize, usize, c_uint, *mut c_void, *const c_void) -> c_int);
        function!(pcre, pcre2_get_ovector_pointer_8: fn(*mut c_void) -> *mut usize);

        let (pattern, text) = (b"(\\w+)\\.so\\.(\\d+)", b"opens libplug.so.12 now");
        let (mut error, mut offset) = (0, 0);
        let code = unsafe { pcre2_compile_8(pattern.as_ptr(), pattern.len(), 0, &mut error, &mut offset, null()) };
        assert!(!code.is_null(), "error {error} at {offset}");
        let data = unsafe { pcre2_match_data_create_from_pattern_8(code, null()) };
        let groups = unsafe { pcre2_match_8(code, text.as_ptr(), text.len(), 0, 0, data, null()) };
        assert_eq!(groups, 3);
        let ends = unsafe { std::slice::from_raw_parts(pcre2_get_ovector_pointer_8(data), 6) };
        assert_eq!((&text[ends[2]..ends[3]], &text[ends[4]..ends[5]]), (&b"libplug"[..], &b"12"[..]));
    });
}

#[test]
fn several_at_once_do_not_disturb_each_other_and_all_go() {
    on_ours(|_| {
        // Not libcrypto: it is linked with -z nodelete.
        let names = ["libz.so.1", "libsqlite3.so.0", "libpcre2-8.so.0"];
        let open = || names.iter().filter_map(|name| unsafe { Library::new(name) }.ok()).collect::<Vec<_>>();
        let (first, second) = (open(), open());
        assert_eq!(first.len(), second.len());
        drop(first);
        drop(second);
        assert_eq!(mapped(&["libz.so", "libsqlite3.so", "libpcre2-8.so"]), []);
    });
}
