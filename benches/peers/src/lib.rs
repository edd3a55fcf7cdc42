//! Workers for `soload bench --peer`: each opens one library by another loader written in Rust, and says what that took.
//!
//! ```text
//! cargo build --release --manifest-path benches/peers/Cargo.toml
//! soload bench --peer benches/peers/target/release/dlopen-rs --peer benches/peers/target/release/elf_loader libz.so.1
//! ```
//!
//! One program for each loader: dlopen-rs puts functions of its own in the place of the C library's, which the other
//! uses. A worker is told `--worker NAME`, `--before PATH` for each library to open
//! before the clock, `--look` (at the private pages) or `--mark` (the beginning and the end, for who counts system calls),
//! and after `--` the library. It prints one document, as the workers of `soload bench` itself do.

use std::fs::read_to_string;
use std::time::Instant;

/// Closed where what is measured begins and ends; the number is that of `soload bench`.
const MARK: i32 = -0x50_10ad;

/// Opens a library and keeps it.
pub type Open = Box<dyn FnMut(&str) -> Result<(), String>>;

/// Does what the arguments say with the loader that `make` prepares, and ends the process.
pub fn main(make: impl FnOnce() -> Result<Open, String>) -> ! {
    let job = Job::of(std::env::args().skip(1)).ok_or_else(|| "wrong arguments".to_owned());
    let answer = job.and_then(|job| job.run(make()?));
    let rest = answer.unwrap_or_else(|error| format!(r#""error":{}"#, quoted(&error)));
    println!(r#"{{"command":"bench worker",{rest}}}"#);
    // No destructor runs, as in the workers of soload.
    unsafe { libc::_exit(0) }
}

/// A string of JSON.
fn quoted(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").chars().map(plain).collect::<String>())
}

#[derive(Default)]
struct Job {
    before: Vec<String>,
    library: String,
    look: bool,
    mark: bool,
}

impl Job {
    fn of(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut job = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--worker" => drop(arguments.next()?),
                "--before" => job.before.push(arguments.next()?),
                "--look" => job.look = true,
                "--mark" => job.mark = true,
                "--" => job.library = arguments.next()?,
                _ => return None,
            }
        }
        (!job.library.is_empty()).then_some(job)
    }

    fn run(&self, mut open: Open) -> Result<String, String> {
        for path in &self.before {
            open(path)?;
        }
        let before = [private_bytes(), private_bytes()][1];
        let faults = faults();
        let busy = processor_nanoseconds();
        self.mark();
        let begun = Instant::now();
        open(&self.library)?;
        let nanoseconds = begun.elapsed().as_nanos();
        self.mark();
        let busy = processor_nanoseconds() - busy;
        let faults = self::faults() - faults;
        let private = private_bytes().saturating_sub(before);
        let private = if self.look { private.to_string() } else { "null".into() };
        let times = format!(r#""nanoseconds":{nanoseconds},"processor_nanoseconds":{busy}"#);
        Ok(format!(r#"{times},"faults":{faults},"private_bytes":{private},"stages":[]"#))
    }

    fn mark(&self) {
        if self.mark {
            // No descriptor has that number.
            unsafe { libc::close(MARK) };
        }
    }
}

fn processor_nanoseconds() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn faults() -> i64 {
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    usage.ru_minflt
}

fn private_bytes() -> u64 {
    let text = read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) * 1024
}
