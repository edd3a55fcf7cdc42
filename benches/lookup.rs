//! What looking a symbol up by name costs in a library that needs a hundred others, beside `dlsym`, measured in turn.
//!
//! ```text
//! cargo bench --bench lookup
//! ```

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // nothing that is looked up is used

mod synthetic;

use std::ffi::{CString, c_void};
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use soload::Library;
use synthetic::{Folder, symbol};

const LIBRARIES: usize = 100;
const SYMBOLS: usize = 500;

const LOOKUPS: usize = 5_000;
const ROUNDS: usize = 101;

/// What a `dlopen` gave, for several threads.
#[derive(Clone, Copy)]
struct Handle(*mut c_void);

// SAFETY: a token; loaders lock what it stands for.
unsafe impl Sync for Handle {}

fn main() {
    let folder = Folder::made_by(&format!("lookup-{LIBRARIES}-{SYMBOLS}"), |folder| {
        let needed = folder.providers(LIBRARIES, SYMBOLS);
        folder.library("top", ".data\n.globl own\n.type own,@object\n.size own,8\nown: .quad 0\n", &needed);
    });
    let path = folder.path("top");
    let ours = unsafe { Library::new(&path) }.unwrap();
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let host = Handle(unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) });
    let drop_in = Handle(unsafe { soload::dl::dlopen(path.as_ptr(), libc::RTLD_NOW) });
    assert!(!host.0.is_null() && !drop_in.0.is_null());
    let lookups: [Lookup<'_>; 4] = [&by_find(&ours), &by_get(&ours), &by_dlsym(drop_in, true), &by_dlsym(host, false)];

    println!("{LIBRARIES} libraries of {SYMBOLS} symbols; nanoseconds a look-up, the best of {ROUNDS} rounds\n");
    println!(
        "{:26} {:>8} {:>8} {:>8} {:>8} {:>12} {:>12}",
        "", "find", "get", "drop-in", "dlsym", "find/dlsym", "get/dlsym"
    );
    let random = |seed: usize| symbol(seed * 7919 % LIBRARIES, seed * 104_729 % SYMBOLS);
    let kinds: [(&str, Vec<String>); 6] = [
        ("its own (3 characters)", vec!["own".into()]),
        ("of the first (58)", vec![symbol(0, SYMBOLS / 2)]),
        ("of the middle", vec![symbol(LIBRARIES / 2, SYMBOLS / 2)]),
        ("of the last", vec![symbol(LIBRARIES - 1, SYMBOLS / 2)]),
        ("missing (30)", vec!["_ZN5bench6absent7Widget000001E".into()]),
        ("5 000 at random", (0..LOOKUPS).map(random).collect()),
    ];
    for (title, names) in &kinds {
        let names: Vec<CString> = names.iter().map(|name| CString::new(name.as_str()).unwrap()).collect();
        write(title, in_turn(&names, lookups, 1));
    }
    println!();
    let names = [CString::new(symbol(LIBRARIES - 1, SYMBOLS / 2)).unwrap()];
    for threads in 1..=thread::available_parallelism().map_or(2, usize::from).min(4) {
        write(&format!("of the last, threads: {threads}"), in_turn(&names, lookups, threads));
    }
}

fn write(title: &str, [find, get, drop_in, dlsym]: [f64; 4]) {
    let (find_to_it, get_to_it) = (find / dlsym, get / dlsym);
    println!("{title:26} {find:8.1} {get:8.1} {drop_in:8.1} {dlsym:8.1} {find_to_it:12.3} {get_to_it:12.3}");
}

type Lookup<'a> = &'a (dyn Fn(&CString) -> bool + Sync);

fn by_find(library: &Library) -> impl Fn(&CString) -> bool {
    |name| unsafe { library.find::<*const u8>(name.as_bytes()) }.is_some()
}

fn by_get(library: &Library) -> impl Fn(&CString) -> bool {
    |name| unsafe { library.get::<*const u8>(name.as_bytes()) }.is_ok()
}

/// By `dlsym` of the C library, or by that of the drop-in.
fn by_dlsym(handle: Handle, drop_in: bool) -> impl Fn(&CString) -> bool + Sync {
    move |name| {
        let handle = handle;
        let found = match drop_in {
            true => unsafe { soload::dl::dlsym(handle.0, name.as_ptr()) },
            false => unsafe { libc::dlsym(handle.0, name.as_ptr()) },
        };
        !found.is_null()
    }
}

/// Nanoseconds of each kind of look-up, on so many threads at once; each has its turn in every round.
fn in_turn<const KINDS: usize>(names: &[CString], lookups: [Lookup<'_>; KINDS], threads: usize) -> [f64; KINDS] {
    let answers = lookups.map(|lookup| names.iter().map(lookup).collect::<Vec<_>>());
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "all find the same");
    let mut times = [(); KINDS].map(|()| Vec::with_capacity(ROUNDS));
    for round in 0..=ROUNDS {
        for turn in 0..KINDS {
            let kind = (round + turn) % KINDS;
            let time = time(names, lookups[kind], threads);
            if round > 0 {
                times[kind].push(time);
            }
        }
    }
    // Whatever disturbs makes a round longer, never shorter.
    times.map(|times| times.into_iter().fold(f64::INFINITY, f64::min))
}

fn time(names: &[CString], lookup: Lookup<'_>, threads: usize) -> f64 {
    let begin = Barrier::new(threads);
    let one = || {
        begin.wait();
        let begun = Instant::now();
        for name in names.iter().cycle().take(LOOKUPS) {
            black_box(lookup(black_box(name)));
        }
        begun.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64
    };
    let times = match threads {
        1 => vec![one()],
        _ => thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        }),
    };
    times.iter().sum::<f64>() / times.len() as f64
}
