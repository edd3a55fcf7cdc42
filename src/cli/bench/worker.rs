//! What one process measures: it opens one library by one loader, once, and says what that took.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use serde_json::{Value, json};
use soload::{OpenOptions, SnapshotUse};

use crate::cli::{Outcome, print};

/// What the answer begins with.
pub(super) const ANSWER: &str = r#"{"command":"bench worker""#;

/// Closed before and after the open, for who counts the system calls between: no descriptor has such a number.
pub(super) const MARK: i32 = -0x50_10ad;

/// Whose work is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Loader {
    /// The C library's dlopen, with RTLD_NOW
    Dlopen,
    /// The C library's dlopen, with RTLD_LAZY
    DlopenLazy,
    /// The loader of this command
    Soload,
    /// The loader of this command, with functions bound when they are first called
    SoloadLazy,
    /// The loader of this command, with relocated pages from snapshots
    Snapshot,
    /// No loader: a fork of a process that has the library open, with its end and the wait for it
    Fork,
}

/// What a worker is told.
#[derive(clap::Args)]
pub(super) struct Job {
    /// What this process measures
    #[arg(long, hide = true, value_enum)]
    worker: Option<Loader>,
    /// Opened before the clock, by the same loader
    #[arg(long, hide = true)]
    before: Vec<PathBuf>,
    /// Look at the private pages
    #[arg(long, hide = true)]
    look: bool,
    /// Mark the beginning and the end for who counts system calls
    #[arg(long, hide = true)]
    mark: bool,
    /// The directory of the snapshots
    #[arg(long, hide = true)]
    from: Option<PathBuf>,
}

impl Loader {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dlopen => "dlopen",
            Self::DlopenLazy => "dlopen-lazy",
            Self::Soload => "soload",
            Self::SoloadLazy => "soload-lazy",
            Self::Snapshot => "snapshot",
            Self::Fork => "fork",
        }
    }
}

/// A loader that opens libraries one after the other and keeps them all. How long each stage took, if it says so.
type Open = Box<dyn FnMut(&OsStr) -> Result<Vec<(&'static str, Duration)>, String>>;

impl Job {
    /// The loader to measure, if this process is a worker.
    pub(super) fn loader(&self) -> Option<Loader> {
        self.worker
    }

    /// Opens, measures, says so, and ends the process: no destructor runs.
    pub(super) fn run(&self, loader: Loader, library: &OsStr, out: &mut impl Write) -> Outcome {
        let answer = match loader {
            Loader::Fork => self.opener(Loader::Soload)(library).and_then(|_| self.measure(Box::new(fork), library)),
            _ => self.measure(self.opener(loader), library),
        };
        let document = match &answer {
            Ok(sample) => sample.clone(),
            Err(reason) => json!({"command": "bench worker", "error": reason}),
        };
        print::write_json(out, &document)?;
        out.flush()?;
        // SAFETY: ends the process; what it has printed is written.
        unsafe { libc::_exit(0) }
    }

    fn measure(&self, mut open: Open, library: &OsStr) -> Result<Value, String> {
        for path in &self.before {
            open(path.as_os_str())?;
        }
        // The pages of a fork have gone with it.
        let mut pages = (self.look && self.worker != Some(Loader::Fork)).then(|| [private_bytes(), private_bytes()][1]);
        let faults = faults();
        let busy = processor_time();
        self.mark();
        let begun = Instant::now();
        let stages = open(library)?;
        let time = begun.elapsed();
        self.mark();
        let busy = processor_time().saturating_sub(busy);
        let faults = self::faults() - faults;
        if let Some(before) = &mut pages {
            *before = before.and_then(|before| Some(private_bytes()?.saturating_sub(before)));
        }
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let stages: Vec<_> = stages.iter().map(|(stage, time)| json!([stage, nanoseconds(*time)])).collect();
        Ok(json!({
            "command": "bench worker",
            "nanoseconds": nanoseconds(time),
            "processor_nanoseconds": nanoseconds(busy),
            "faults": faults,
            "private_bytes": pages.flatten(),
            "stages": stages,
        }))
    }

    fn mark(&self) {
        if self.mark {
            // SAFETY: no descriptor has that number, so that nothing happens.
            unsafe { libc::close(MARK) };
        }
    }
}

impl Job {
    fn opener(&self, loader: Loader) -> Open {
        let mut options = OpenOptions::new();
        match (loader, &self.from) {
            (Loader::Snapshot, Some(directory)) => options.snapshots(directory),
            _ => options.private(true).lazy(loader == Loader::SoloadLazy),
        };
        match loader {
            Loader::Soload | Loader::SoloadLazy | Loader::Snapshot | Loader::Fork => Box::new(move |name| {
                // SAFETY: whoever names a library on the command line vouches for its code.
                let library = unsafe { options.open(name) }.map_err(|error| error.to_string())?;
                if let SnapshotUse::Refused(refusal) = library.snapshot() {
                    return Err(format!("{}: {refusal}", print::path(library.path())));
                }
                let stages = library.stages().to_vec();
                std::mem::forget(library);
                Ok(stages)
            }),
            Loader::Dlopen => by_dlopen(libc::RTLD_NOW),
            Loader::DlopenLazy => by_dlopen(libc::RTLD_LAZY),
        }
    }
}

/// What a server of forked workers does for each of them.
fn fork(_: &OsStr) -> Result<Vec<(&'static str, Duration)>, String> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(format!("expected a process of one thread, found {threads}: a fork has only one of them"));
    }
    // SAFETY: there is no other thread.
    match unsafe { nix::unistd::fork() }.map_err(|errno| errno.desc().to_owned())? {
        // SAFETY: ends the process.
        ForkResult::Child => unsafe { libc::_exit(0) },
        ForkResult::Parent { child } => waitpid(child, None).map_err(|errno| errno.desc().to_owned())?,
    };
    Ok(Vec::new())
}

fn by_dlopen(mode: i32) -> Open {
    Box::new(move |name| {
        let name = CString::new(name.as_bytes()).map_err(|_| "the name has a NUL byte".to_owned())?;
        // SAFETY: a C string; whoever names a library on the command line vouches for its code.
        if !unsafe { libc::dlopen(name.as_ptr(), mode) }.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: after a failure there is a message, a C string that stays until this thread's next call.
        Err(unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned())
    })
}

/// How long this thread has been running, or the kernel for it.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one `timespec`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Page faults of this process, and of those it has waited for, that needed no reading from a disk.
fn faults() -> i64 {
    let all = [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN];
    all.map(|who| getrusage(who).map_or(0, |usage| usage.minor_page_faults())).iter().sum()
}

/// Memory of this process that no file is behind: pages that have been written, of files too.
fn private_bytes() -> Option<u64> {
    let mut text = [0; 4096];
    let mut file = File::open("/proc/self/smaps_rollup").ok()?;
    let len = file.read(&mut text).ok()?;
    let line = str::from_utf8(&text[..len]).ok()?.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// What a worker does besides taking the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Look,
    Mark,
}

impl How {
    pub(super) fn flag(self) -> &'static str {
        match self {
            Self::Look => "--look",
            Self::Mark => "--mark",
        }
    }
}
