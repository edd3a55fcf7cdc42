//! How the cost of opening grows: with relocations, symbols, libraries in scope, and threads; soload beside `dlopen`.
//!
//! ```text
//! cargo bench --bench scaling            # everything
//! cargo bench --bench scaling -- scope   # the tables whose title contains "scope"
//! ```
//!
//! Each open is that of a fresh process, as in `soload bench`; sizes and loaders take turns and their order rotates. Times
//! are medians. The growth is the slope of a line through the logarithms: 0 is a constant cost, 1 is one that is proportional.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the libraries have no code

mod synthetic;

use std::ffi::CString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use synthetic::{Folder, symbol};

const ROUNDS: usize = 31;

/// The same rounds, by soload and by `dlopen`.
const LOADERS: [&str; 2] = ["soload", "dlopen"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, worker, loader, before, libraries @ ..] = &arguments[..]
        && worker == "--worker"
    {
        return work(loader, libraries.split_at(before.parse().unwrap()));
    }
    let wanted = arguments.iter().skip(1).find(|argument| !argument.starts_with("--"));
    let tables = [relative, symbolic, distinct, scope, threads];
    for table in tables {
        table(wanted.map_or("", |wanted| wanted));
    }
}

/// Opens libraries, then those to be measured, each on a thread of its own if there are several; prints the nanoseconds
/// that those took together.
fn work(loader: &str, (before, libraries): (&[String], &[String])) {
    let open = |library: &String| match loader {
        "soload" => std::mem::forget(unsafe { soload::Library::new(library) }.unwrap()),
        _ => {
            let name = CString::new(library.as_bytes()).unwrap();
            assert!(!unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) }.is_null(), "{library}");
        }
    };
    before.iter().for_each(open);
    let nanoseconds = match libraries {
        [library] => {
            let begun = Instant::now();
            open(library);
            begun.elapsed().as_nanos()
        }
        libraries => {
            let begin = Barrier::new(libraries.len() + 1);
            thread::scope(|scope| {
                let run = |library| {
                    begin.wait();
                    open(library);
                };
                let threads: Vec<_> = libraries.iter().map(|library| scope.spawn(move || run(library))).collect();
                begin.wait();
                let begun = Instant::now();
                threads.into_iter().for_each(|thread| thread.join().unwrap());
                begun.elapsed().as_nanos()
            })
        }
    };
    println!("{nanoseconds}");
}

/// What is opened before the clock, and what is measured.
struct Task {
    before: Vec<PathBuf>,
    libraries: Vec<PathBuf>,
}

/// The time that one loader takes for a task in a fresh process, in nanoseconds.
fn time(loader: &str, Task { before, libraries }: &Task) -> f64 {
    // What only the first open of a process costs is not asked here.
    let empty = Folder::made_by("empty", |folder| folder.library("empty", ".data\n.quad 0", &[]));
    let mut worker = Command::new(std::env::current_exe().unwrap());
    worker.args(["--worker", loader]).arg((before.len() + 1).to_string());
    worker.arg(empty.path("empty")).args(before).args(libraries);
    let output = worker.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// For each task the medians of both loaders in nanoseconds, and that of their ratio in the same round.
///
/// The tasks take turns, too: how fast the machine is changes from second to second, and costs are compared across them.
fn measure(tasks: &[Task]) -> Vec<[f64; 3]> {
    let mut rounds = vec![Vec::new(); tasks.len()];
    for round in 0..=ROUNDS {
        for turn in 0..tasks.len() {
            let number = (round + turn) % tasks.len();
            let mut times = [0.0; 2];
            for turn in 0..LOADERS.len() {
                let loader = (round + turn) % LOADERS.len();
                times[loader] = time(LOADERS[loader], &tasks[number]);
            }
            // The first round only brings the files into memory.
            if round > 0 {
                rounds[number].push([times[0], times[1], times[0] / times[1]]);
            }
        }
    }
    let median = |rounds: &[[f64; 3]], column: usize| {
        let mut all: Vec<f64> = rounds.iter().map(|round| round[column]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    rounds.iter().map(|rounds| [0, 1, 2].map(|column| median(rounds, column))).collect()
}

/// The slope of the line through the logarithms that fits best (least squares).
fn growth(points: &[(f64, f64)]) -> f64 {
    let logarithms: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logarithms.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| logarithms.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (above, below) = logarithms.iter().fold((0.0, 0.0), |(above, below), point| {
        (above + (point.0 - x) * (point.1 - y), below + (point.0 - x).powi(2))
    });
    above / below
}

/// Measures with each of `sizes` and prints a table; `per` says what the cost is divided by in the columns for one.
fn table(wanted: &str, title: &str, sizes: &[usize], per: Option<(&str, usize)>, make: impl Fn(usize) -> Task) {
    if !title.contains(wanted) {
        return;
    }
    let per_title = per.map_or(String::new(), |(what, _)| format!("{:>18} {:>9}", format!("ns a {what}:"), "dlopen"));
    println!("{title}\n\n{:>10} {:>12} {:>12} {:>6}{per_title}", "", "soload us", "dlopen us", "ratio");
    let mut points = [Vec::new(), Vec::new()];
    let tasks: Vec<Task> = sizes.iter().map(|size| make(*size)).collect();
    for (&size, [ours, theirs, ratio]) in sizes.iter().zip(measure(&tasks)) {
        let mut line = format!("{size:>10} {:>12.1} {:>12.1} {ratio:>6.2}", ours / 1e3, theirs / 1e3);
        if let Some((_, count)) = per {
            let _ = write!(line, "{:>18.1} {:>9.1}", ours / count as f64, theirs / count as f64);
        }
        println!("{line}");
        for (points, time) in points.iter_mut().zip([ours, theirs]) {
            points.push((size as f64, time));
        }
    }
    let [ours, theirs] = points.map(|points| growth(&points));
    println!("{:>10} {ours:>12.2} {theirs:>12.2}\n", "growth");
}

/// To open the library that needs all others of the folder.
fn top(folder: &Folder) -> Task {
    Task { before: Vec::new(), libraries: vec![folder.path("top")] }
}

fn relative(wanted: &str) {
    table(wanted, "relative relocations", &[1000, 3000, 10_000, 30_000, 100_000, 300_000], None, |count| {
        top(&Folder::made_by(&format!("relative-{count}"), |folder| {
            let words = format!(".rept {count}\n.quad here\n.endr");
            folder.library("top", &format!(".section .data.rel.ro,\"aw\"\n{words}\n.data\nhere: .quad 1"), &[]);
        }))
    });
}

/// A library with `references` references, spread over all symbols of `libraries` others, in an order without order.
fn referring(references: usize, symbols: usize, libraries: usize) -> Folder {
    let name = format!("symbols-{references}-{symbols}-{libraries}");
    Folder::made_by(&name, |folder| {
        let each = symbols / libraries;
        let needed = folder.providers(libraries, each);
        // A stride that has no divisor in common with their number meets every one before it meets one again.
        let words: String = (0..references)
            .map(|index| index * 7_368_787 % (each * libraries))
            .map(|index| format!(".quad {}\n", symbol(index / each, index % each)))
            .collect();
        folder.library("top", &format!(".section .data.rel.ro,\"aw\"\n{words}"), &needed);
    })
}

fn symbolic(wanted: &str) {
    let sizes = [1000, 3000, 10_000, 30_000, 100_000];
    table(wanted, "symbolic relocations against 1000 symbols of 10 libraries", &sizes, None, |count| {
        top(&referring(count, 1000, 10))
    });
}

fn distinct(wanted: &str) {
    let sizes = [1000, 3000, 10_000, 30_000, 100_000];
    table(wanted, "distinct symbols of 10 libraries", &sizes, None, |count| top(&referring(count, count, 10)));
}

fn scope(wanted: &str) {
    const SYMBOLS: usize = 100_000;
    let title = "libraries in scope, 100000 distinct symbols of them";
    table(wanted, title, &[1, 10, 100, 1000], Some(("symbol", SYMBOLS)), |libraries| {
        let folder = referring(SYMBOLS, SYMBOLS, libraries);
        // They are there before: what remains is the cost of the symbols.
        Task { before: folder.provider_paths(libraries), ..top(&folder) }
    });
}

fn threads(wanted: &str) {
    table(wanted, "threads, each opening a library with 3000 symbols of 10 others", &[1, 2, 4, 8], None, |threads| {
        let one = |thread| {
            let folder = Folder::made_by(&format!("thread-{thread}"), |folder| {
                let needed = folder.providers(10, 300);
                let words: String = (0..3000)
                    .map(|index| index * 7_368_787 % 3000)
                    .map(|index| format!(".quad {}\n", symbol(index / 300, index % 300)))
                    .collect();
                folder.library("top", &format!(".section .data.rel.ro,\"aw\"\n{words}"), &needed);
            });
            folder.path("top")
        };
        Task { before: Vec::new(), libraries: (0..threads).map(one).collect() }
    });
}
