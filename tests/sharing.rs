//! Pages of text are the file's own: two processes that load one library by ours have the same ones in memory.

#![cfg(target_pointer_width = "64")]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // reads mapped text; forks before anything is loaded

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use common::maps::maps;
use common::{Lib, fixture, on_ours, ours};

const PAGE: usize = 4096;
const LIBRARY: &str = "libhash_gnu.so";

/// Loads the library, reads all of its text, and says where that is.
fn load_and_touch() -> (Lib, Range<usize>) {
    let library = Lib::Ours(ours("hash_gnu").unwrap());
    assert_eq!(library.call("f_1ff"), 0x1ff);
    let is_text = |map: &common::maps::Map| map.path.ends_with(LIBRARY) && map.perms == "r-xp";
    let text = maps().into_iter().find(is_text).expect("text mapped from the file").range;
    for page in text.clone().step_by(PAGE) {
        unsafe { (page as *const u8).read_volatile() };
    }
    (library, text)
}

/// One entry of a process's pagemap (the kernel's admin-guide/mm/pagemap.rst).
#[derive(Clone, Copy, Debug)]
struct Page(u64);

impl Page {
    fn is_present(self) -> bool {
        self.0 >> 63 & 1 == 1
    }
    fn is_of_a_file(self) -> bool {
        self.0 >> 61 & 1 == 1
    }
    fn is_exclusive(self) -> bool {
        self.0 >> 56 & 1 == 1
    }
    /// The number of its frame in memory; 0 for everyone but root.
    fn frame(self) -> u64 {
        self.0 & ((1 << 55) - 1)
    }
}

fn pages(process: &str, range: Range<usize>) -> Vec<Page> {
    let file = File::open(format!("/proc/{process}/pagemap")).unwrap();
    let entry = |address: usize| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, (address / PAGE * 8) as u64).unwrap();
        Page(u64::from_le_bytes(bytes))
    };
    range.step_by(PAGE).map(entry).collect()
}

#[test]
fn two_processes_with_one_library_share_its_text() {
    on_ours(|_| {
        let (mut from_other, mut to_us) = std::io::pipe().unwrap();
        let (mut from_us, to_other) = std::io::pipe().unwrap();
        // Forked first, so that each process loads for itself.
        let other = unsafe { libc::fork() };
        if other == 0 {
            drop(to_other);
            unsafe { libc::alarm(30) };
            let (_library, text) = load_and_touch();
            to_us.write_all(&[text.start.to_le_bytes(), text.end.to_le_bytes()].concat()).unwrap();
            let _ = from_us.read(&mut [0]); // until the first process has looked, or is gone
            unsafe { libc::_exit(0) };
        }
        drop(to_us);
        let (_library, ours) = load_and_touch();
        let mut theirs = [0; 16];
        from_other.read_exact(&mut theirs).unwrap();
        let [start, end] = [0, 8].map(|at| usize::from_le_bytes(theirs[at..at + 8].try_into().unwrap()));

        let (ours, theirs) = (pages("self", ours), pages(&other.to_string(), start..end));
        drop(to_other);
        assert!(!ours.is_empty() && ours.len() == theirs.len(), "{ours:x?} {theirs:x?}");
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            assert!(ours.is_present() && ours.is_of_a_file() && !ours.is_exclusive(), "{ours:x?}");
            assert!(theirs.is_present() && theirs.is_of_a_file() && !theirs.is_exclusive(), "{theirs:x?}");
            assert_eq!(ours.frame(), theirs.frame());
        }
        let mut status = 0;
        unsafe { libc::waitpid(other, &mut status, 0) };
        assert_eq!(status, 0);
    });
}

/// What a fork has of a library it shares with its parent, relocated pages as well, until one of them writes.
#[test]
#[cfg(feature = "cli")]
fn one_more_process_that_is_forked_costs_nothing() {
    on_ours(|_| {
        let library = Lib::Ours(ours("demo").unwrap());
        let share = |processes: &[String]| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_soload"));
            command.args(["share", "--json", "--pid", &processes.join(",")]).arg(fixture("demo"));
            let answer = command.output().unwrap().stdout;
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            let number = |what: &str| answer["runs"][0]["total"][what].as_u64().unwrap();
            (number("copied"), number("further_bytes"))
        };
        let own = std::process::id().to_string();
        let (copied, further) = share(std::slice::from_ref(&own));
        assert_eq!(further, copied * PAGE as u64, "alone, all copies are its own");
        let (read, write) = std::io::pipe().unwrap();
        let fork = || match unsafe { libc::fork() } {
            0 => {
                // Until the parent is gone, or closes its end.
                unsafe { libc::alarm(30) };
                let mut read = read.try_clone().unwrap();
                unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(&write)) };
                let _ = read.read(&mut [0]);
                unsafe { libc::_exit(0) }
            }
            child => child.to_string(),
        };
        let children = [fork(), fork()];
        let (all, further) = share(&[own, children[0].clone(), children[1].clone()]);
        assert_eq!((all, further), (3 * copied, 0));
        drop((library, write));
    });
}

#[test]
fn no_page_of_text_or_constants_is_private() {
    on_ours(|_| {
        let (_library, text) = load_and_touch();
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut checked = 0;
        for block in blocks(&smaps).filter(|block| block[0].ends_with(LIBRARY) && !block[0].contains(" rw-p ")) {
            // RELRO was written to before it became read-only.
            let is_text = block[0].starts_with(&format!("{:x}-", text.start));
            if is_text || block[0].split_ascii_whitespace().nth(2) == Some("00000000") {
                for field in ["Private_Dirty:", "Anonymous:", "Swap:"] {
                    let line = block.iter().find(|line| line.starts_with(field)).unwrap();
                    assert_eq!(line.split_ascii_whitespace().nth(1), Some("0"), "{}: {line}", block[0]);
                }
                checked += 1;
            }
        }
        assert_eq!(checked, 2, "the headers and tables, and the text: {}", fixture(LIBRARY).display());
    });
}

/// The paragraphs of smaps: a line of the map, then its fields.
fn blocks(smaps: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines: Vec<_> = smaps.lines().collect();
    let is_head = |line: &&str| line.split_ascii_whitespace().next().is_some_and(|word| word.contains('-'));
    let heads: Vec<_> = (0..lines.len()).filter(|at| is_head(&lines[*at])).chain([lines.len()]).collect();
    heads.windows(2).map(|pair| lines[pair[0]..pair[1]].to_vec()).collect::<Vec<_>>().into_iter()
}
