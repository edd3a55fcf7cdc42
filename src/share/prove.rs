//! What is said about mapping files, each claim with an experiment on this machine: what was measured, and what of it
//! cannot be seen here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::experiment::{Area, Writes, faults, forget, one_by_one};
use super::mappings::Mapping;
use super::pages::{Page, PageMap, PageState};
use crate::sys;

/// How an experiment ended.
///
/// ```
/// assert_ne!(soload::Verdict::Pass, soload::Verdict::Fail);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What was claimed was seen.
    Pass,
    /// Something else was seen.
    Fail,
    /// It cannot be seen here, for this reason.
    CannotBeSeen(String),
}

/// A claim about mapping files, and what an experiment has measured.
///
/// ```
/// let proof = soload::Proof::all()[0].run(&std::env::temp_dir());
/// assert_eq!(proof.verdict, soload::Verdict::Pass, "{}", proof.measured);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proof {
    /// What is claimed.
    pub claim: &'static str,
    /// What was measured.
    pub measured: String,
    /// Whether that is what was claimed.
    pub verdict: Verdict,
    /// How to see it with common tools; empty where they do not show it.
    pub by_hand: &'static str,
}

/// A claim that can be put to the test.
///
/// ```
/// assert!(soload::Proof::all().iter().any(|claim| claim.text.contains("copied")));
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// What is claimed.
    pub text: &'static str,
    by_hand: &'static str,
    experiment: fn(&Scratch) -> io::Result<Seen>,
}

/// What an experiment saw.
pub(super) struct Seen {
    pub(super) verdict: Verdict,
    pub(super) measured: String,
}

impl Seen {
    pub(super) fn whether(holds: bool, measured: String) -> Self {
        Self { verdict: if holds { Verdict::Pass } else { Verdict::Fail }, measured }
    }

    pub(super) fn cannot(why: &str, measured: String) -> Self {
        Self { verdict: Verdict::CannotBeSeen(why.into()), measured }
    }
}

macro_rules! claims {
    ($($experiment:path: $text:literal, $by_hand:literal;)*) => {
        [$(Claim { text: $text, by_hand: $by_hand, experiment: $experiment }),*]
    };
}

const CLAIMS: [Claim; 15] = claims! {
    address_space: "mapping a file costs addresses, no memory", "grep -E 'VmSize|VmRSS' /proc/PID/status";
    lazy: "pages are read when they are touched, a few around the touched one with it", "perf stat -e faults,major-faults";
    exact: "page by page: of a file that is read in two places, two pages are mapped", "";
    private: "libraries are mapped privately", "awk '/\\.so/ {print $2, $6}' /proc/PID/maps";
    super::prove_two::same_frame: "two processes have the same page of memory, at different addresses", "as root: /proc/PID/pagemap";
    super::prove_two::frame_and_offset: "an address in memory is a page's number and the offset in the page", "as root: /proc/PID/pagemap";
    super::prove_two::copy_on_write: "a written page is copied; the file and other processes keep theirs", "grep Private_Dirty /proc/PID/smaps";
    super::prove_two::shared_writes: "writes to a shared mapping are seen at once and reach the file", "fincore FILE; sync FILE";
    super::prove_cost::zero_copy: "mapping copies nothing; read() needs memory for all that it reads", "grep Rss /proc/PID/status";
    super::prove_cost::one_buffer: "footnote: read() into one small buffer needs no memory either, and loses less time", "";
    super::prove_cost::large_file: "a file larger than memory can be mapped", "truncate -s 64T FILE";
    super::prove_cost::footprint: "VSZ is addresses, RSS counts shared pages in full, PSS shares them out", "smem; cat /proc/PID/smaps_rollup";
    super::prove_cost::not_mappable: "pipes, terminals and directories cannot be mapped; a TCP socket can", "";
    super::prove_two::truncated: "a file truncated while mapped: reading past its end raises SIGBUS", "truncate -s 0 FILE";
    super::prove_two::overwritten: "a file overwritten in place changes under a mapping; a replaced one does not", "cp over it; mv over it";
};

impl Proof {
    /// All claims, in the order in which they build on one another.
    #[must_use]
    pub fn all() -> &'static [Claim] {
        &CLAIMS
    }
}

impl Claim {
    /// Puts the claim to the test, with files in a new folder below `scratch`, which is removed afterwards.
    ///
    /// Forks: call it while no other thread holds a lock that matters.
    #[must_use]
    pub fn run(&self, scratch: &Path) -> Proof {
        let seen = Scratch::new(scratch).and_then(|scratch| (self.experiment)(&scratch));
        let seen = seen.unwrap_or_else(|error| Seen::cannot(&error.to_string(), String::new()));
        Proof { claim: self.text, measured: seen.measured, verdict: seen.verdict, by_hand: self.by_hand }
    }
}

/// A folder for the files of one experiment.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    fn new(below: &Path) -> io::Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = below.join(format!("soload-prove-{}-{number}", std::process::id()));
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file of `len` bytes `A`, of which the disk has a copy.
    pub(super) fn file(&self, len: usize) -> io::Result<File> {
        let path = self.path("file");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        let chunk = vec![b'A'; 1 << 20];
        let mut left = len;
        while left > 0 {
            let part = left.min(chunk.len());
            io::Write::write_all(&mut &file, &chunk[..part])?;
            left -= part;
        }
        file.sync_all()?;
        Ok(file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn page_size() -> usize {
    sys::page_size().bytes() as usize
}

pub(super) fn pages(area: &Area) -> io::Result<Vec<Page>> {
    PageMap::of_range(area.range()).map(|map| map.pages).map_err(|error| io::Error::other(format!("{error}")))
}

/// Pages that are mapped to memory.
pub(super) fn present(area: &Area) -> io::Result<usize> {
    Ok(pages(area)?.iter().filter(|page| page.state != PageState::Untouched).count())
}

/// A number of KiB from a file of `/proc`.
pub(super) fn kib(file: &str, field: &str) -> io::Result<u64> {
    let mut text = String::new();
    File::open(file)?.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("{file} has no {field}")))
}

pub(super) fn status(field: &str) -> io::Result<u64> {
    kib("/proc/self/status", field)
}

fn address_space(scratch: &Scratch) -> io::Result<Seen> {
    const LEN: usize = 16 << 20;
    let file = scratch.file(LEN)?;
    let (size, resident) = (status("VmSize")?, status("VmRSS")?);
    let area = Area::map(file.as_fd(), LEN, Writes::Refused)?;
    let (more, used) = (status("VmSize")?.saturating_sub(size), status("VmRSS")?.saturating_sub(resident));
    let present = present(&area)?;
    let measured = format!(
        "16 MiB mapped: VmSize +{more} KiB, VmRSS +{used} KiB, {present} of {} pages in memory",
        LEN / page_size()
    );
    // The kernel counts in batches; what else the process has touched meanwhile is little.
    Ok(Seen::whether(more >= (LEN >> 10) as u64 && used < 1024 && present == 0, measured))
}

fn lazy(scratch: &Scratch) -> io::Result<Seen> {
    const LEN: usize = 8 << 20;
    let file = scratch.file(LEN)?;
    forget(&file);
    let area = Area::map(file.as_fd(), LEN, Writes::Refused)?;
    let before = faults();
    area.read(LEN / 2);
    let after = faults();
    let (now, all) = (present(&area)?, LEN / page_size());
    let measured = format!(
        "one byte read: {} major and {} minor faults, {now} of {all} pages mapped",
        after.1 - before.1,
        after.0 - before.0
    );
    Ok(Seen::whether((1..all / 2).contains(&now), measured))
}

fn exact(scratch: &Scratch) -> io::Result<Seen> {
    const LEN: usize = 8 << 20;
    let file = scratch.file(LEN)?;
    let touched = |area: &Area| {
        area.read(LEN / 4);
        area.read(LEN / 2);
        present(area)
    };
    let around = touched(&Area::map(file.as_fd(), LEN, Writes::Refused)?)?;
    let area = Area::map(file.as_fd(), LEN, Writes::Refused)?;
    let watched = match one_by_one(&area) {
        Ok(watched) => watched,
        Err(error) => {
            let why = format!("userfaultfd counts pages one by one since Linux 6.7 ({error})");
            return Ok(Seen::cannot(&why, format!("{around} pages mapped, with those around them")));
        }
    };
    let alone = touched(&area)?;
    drop(watched);
    let measured = format!("two bytes read: {alone} pages mapped; {around} if the kernel maps those around as well");
    Ok(Seen::whether(alone == 2, measured))
}

fn private(_: &Scratch) -> io::Result<Seen> {
    let mappings = Mapping::all_of(std::process::id()).map_err(|error| io::Error::other(format!("{error}")))?;
    let is_library = |mapping: &&Mapping| {
        let name = mapping.path.file_name().unwrap_or_default().as_encoded_bytes();
        mapping.inode != 0 && name.windows(3).any(|part| part == b".so")
    };
    let of_libraries: Vec<_> = mappings.iter().filter(is_library).collect();
    let private = of_libraries.iter().filter(|mapping| !mapping.shared).count();
    let measured = format!("{private} of {} mappings of libraries in this process are MAP_PRIVATE", of_libraries.len());
    if of_libraries.is_empty() {
        return Ok(Seen::cannot("this process has no library mapped", measured));
    }
    Ok(Seen::whether(private == of_libraries.len(), measured))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_whose_experiment_sees_something_else_fails() {
        let claim = Claim { text: "", by_hand: "", experiment: |_| Ok(Seen::whether(false, "2".into())) };
        assert_eq!(claim.run(&std::env::temp_dir()).verdict, Verdict::Fail);
        let claim = Claim { text: "", by_hand: "", experiment: |_| Err(io::Error::other("no such thing")) };
        let verdict = claim.run(&std::env::temp_dir()).verdict;
        assert_eq!(verdict, Verdict::CannotBeSeen("no such thing".into()));
    }

    #[test]
    fn an_experiment_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let claim = Claim {
            text: "",
            by_hand: "",
            experiment: |scratch| scratch.file(1).map(|_| Seen::whether(true, String::new())),
        };
        assert_eq!(claim.run(folder.path()).verdict, Verdict::Pass);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
