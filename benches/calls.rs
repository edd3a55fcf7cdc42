//! What the calls cost that follow an open, and how that grows with the libraries that are there: the drop-in beside the C
//! library's own functions.
//!
//! ```text
//! cargo bench --bench calls
//! ```
//!
//! Each row is measured in fresh processes, one for each loader in turn. Times are medians.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the libraries have no code

mod synthetic;

use std::ffi::{CStr, CString, c_int, c_void};
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use synthetic::{Folder, symbol};

/// Libraries that are there.
const COUNTS: [usize; 3] = [1, 100, 1000];
const MOST: usize = COUNTS[COUNTS.len() - 1];
const ROUNDS: usize = 11;
const LOADERS: [&str; 2] = ["soload", "dlopen"];
/// How often each call is made.
const CALLS: usize = 1000;

/// Where names are looked for besides: directories that are there and have no such library, and then, last, the one that has.
const DIRECTORIES: [&str; 4] = ["/usr", "/usr/bin", "/usr/share", "/etc"];

const ROWS: [&str; 10] = [
    "open another one and close it",
    "the same, by its name",
    "open what is nowhere, by its name",
    "open one that is open",
    "close one of its two handles",
    "dlsym by its handle",
    "the same, missing",
    "dlsym by RTLD_DEFAULT, C library",
    "the same, missing",
    "open as many with RTLD_GLOBAL, each",
];

/// The functions of one loader.
struct Loader {
    open: unsafe fn(&CStr, c_int) -> *mut c_void,
    close: unsafe fn(*mut c_void) -> c_int,
    symbol: unsafe fn(*mut c_void, &CStr) -> *mut c_void,
}

const OURS: Loader = Loader {
    open: |name, mode| unsafe { soload::dl::dlopen(name.as_ptr(), mode) },
    close: |handle| unsafe { soload::dl::dlclose(handle) },
    symbol: |handle, name| unsafe { soload::dl::dlsym(handle, name.as_ptr()) },
};

const HOSTS: Loader = Loader {
    open: |name, mode| unsafe { libc::dlopen(name.as_ptr(), mode) },
    close: |handle| unsafe { libc::dlclose(handle) },
    symbol: |handle, name| unsafe { libc::dlsym(handle, name.as_ptr()) },
};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, worker, loader, count] = &arguments[..]
        && worker == "--worker"
    {
        let times = work(if loader == "soload" { OURS } else { HOSTS }, count.parse().unwrap());
        times.iter().for_each(|time| println!("{time}"));
        return;
    }
    for count in COUNTS {
        let mut rounds: [Vec<Vec<f64>>; 2] = Default::default();
        for round in 0..=ROUNDS {
            for turn in 0..LOADERS.len() {
                let loader = (round + turn) % LOADERS.len();
                let times = measured(LOADERS[loader], count);
                // The first round only brings the files into memory.
                if round > 0 {
                    rounds[loader].push(times);
                }
            }
        }
        println!("{count} libraries\n\n{:38} {:>10} {:>10} {:>7}", "us", "soload", "dlopen", "ratio");
        for (row, title) in ROWS.iter().enumerate() {
            let [ours, theirs] = [0, 1].map(|loader| median(rounds[loader].iter().map(|times: &Vec<f64>| times[row])));
            let in_rounds = rounds[0].iter().zip(&rounds[1]);
            let ratio = median(in_rounds.map(|(ours, theirs)| ours[row] / theirs[row]));
            println!("{title:38} {:>10.3} {:>10.3} {ratio:>7.2}", ours / 1e3, theirs / 1e3);
        }
        println!();
    }
}

fn median(all: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = all.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// The nanoseconds of each row, as a fresh process has them.
fn measured(loader: &str, count: usize) -> Vec<f64> {
    let own = local().path("");
    let directories = DIRECTORIES.iter().map(Path::new).chain(own.parent());
    let mut worker = Command::new(std::env::current_exe().unwrap());
    worker.env("LD_LIBRARY_PATH", std::env::join_paths(directories).unwrap());
    let output = worker.args(["--worker", loader]).arg(count.to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// One library more than are there.
fn local() -> Folder {
    Folder::made_by("calls-local", |folder| drop(folder.providers(MOST + 1, 3)))
}

fn work(Loader { open, close, symbol: find }: Loader, count: usize) -> Vec<f64> {
    let local = local();
    let global = Folder::made_by("calls-global", |folder| {
        for number in 0..MOST {
            let name = |number| symbol(number, 0);
            let others = [number / 2, number / 3, number - number / 8].map(|other| format!(".quad {}\n", name(other)));
            let own = name(number);
            let typed = format!(".globl {own}\n.type {own},@object\n.size {own},24\n{own}:\n");
            folder.library(&format!("global-{number}"), &format!(".data\n{typed}{}", others.concat()), &[]);
        }
    });
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let paths: Vec<CString> = local.provider_paths(MOST + 1).iter().map(|path| text(path)).collect();
    let opened = |path: &CStr, mode| {
        let handle = unsafe { open(path, libc::RTLD_NOW | mode) };
        assert!(!handle.is_null(), "{}", path.to_string_lossy());
        handle
    };
    let handles: Vec<*mut c_void> = paths[..count].iter().map(|path| opened(path, 0)).collect();
    let (last, another) = (count - 1, &paths[MOST]);
    let name = text(Path::new(another.to_str().unwrap()).file_name().unwrap().as_ref());
    let (own, c_library, missing) = (CString::new(symbol(last, 0)).unwrap(), c"qsort", c"no_such_symbol");
    let found = |handle, name: &CStr| assert!(!unsafe { find(black_box(handle), name) }.is_null());
    let lacks = |handle, name: &CStr| assert!(unsafe { find(black_box(handle), name) }.is_null());
    let rows = |calls: usize| {
        vec![
            each(calls.min(100), |_| unsafe { close(opened(another, 0)) }),
            each(calls.min(100), |_| unsafe { close(opened(&name, 0)) }),
            each(calls.min(100), |_| assert!(unsafe { open(c"libsoload_nowhere.so", libc::RTLD_NOW) }.is_null())),
            each(calls, |number| opened(&paths[number % count], 0)),
            each(calls, |number| unsafe { close(handles[number % count]) }),
            each(calls, |_| found(handles[last], &own)),
            each(calls, |_| lacks(handles[last], missing)),
            each(calls, |_| found(libc::RTLD_DEFAULT, c_library)),
            each(calls, |_| lacks(libc::RTLD_DEFAULT, missing)),
        ]
    };
    // What only the first call of each kind costs is not asked here.
    rows(1);
    let mut times = rows(CALLS);
    let paths: Vec<CString> = (0..count).map(|number| text(&global.path(&format!("global-{number}")))).collect();
    times.push(each(count, |number| opened(&paths[number], libc::RTLD_GLOBAL)));
    times
}

/// Nanoseconds of a call.
fn each<T>(calls: usize, mut call: impl FnMut(usize) -> T) -> f64 {
    let begun = Instant::now();
    for number in 0..calls {
        black_box(call(number));
    }
    begun.elapsed().as_nanos() as f64 / calls as f64
}
