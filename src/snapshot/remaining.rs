//! What a snapshot leaves to each process: which words, on which pages, and why.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::manifest::Member;
use super::memory::Snapshot;
use crate::addr::{PageSize, Vaddr};

/// Why a process writes a word itself, though it has the library's other pages from a snapshot.
///
/// ```
/// assert_eq!(soload::Fixup::ThreadLocal.name(), "TLS");
/// assert_eq!(soload::Fixup::ALL.len(), 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fixup {
    /// It refers to an object of the host, such as the C library, which is elsewhere in each process.
    Host,
    /// It refers to a function of the loader, in place of one of the host's.
    Loader,
    /// It is the answer of a resolver function (IFUNC).
    Ifunc,
    /// It says where thread-local storage is.
    ThreadLocal,
}

impl Fixup {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Host, Self::Loader, Self::Ifunc, Self::ThreadLocal];

    /// What it is called in tables.
    ///
    /// ```
    /// assert_eq!(soload::Fixup::ALL.map(soload::Fixup::name), ["host", "loader", "ifunc", "TLS"]);
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Loader => "loader",
            Self::Ifunc => "ifunc",
            Self::ThreadLocal => "TLS",
        }
    }
}

/// What a snapshot has of one library, and what it leaves to each process that loads it.
///
/// ```
/// # if soload::OpenOptions::new().files("libz.so.1").is_err() { return }
/// let snapshot = soload::Snapshot::create("libz.so.1").unwrap();
/// let remaining = snapshot.remaining(&snapshot.libraries()[0]).unwrap();
/// assert!(remaining.written.len() as u64 <= remaining.pages && remaining.words() > 0);
/// assert!(remaining.count_by(soload::Fixup::Host) > 0, "it calls the C library");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remaining {
    /// The size of each page.
    pub page: PageSize,
    /// Pages of the library that the snapshot has: all of its writable segments that a file is behind, and of zeros up to four.
    pub pages: u64,
    /// Of these, the ones that each process writes to while it loads, by their addresses in the library's file: the number of
    /// words on each, in the order of [`Fixup::ALL`]. The others are shared until the library's own code writes to them.
    pub written: BTreeMap<Vaddr, [u32; Fixup::ALL.len()]>,
    words: [u64; Fixup::ALL.len()],
}

impl Remaining {
    fn of(member: &Member<'_>, page: PageSize) -> Self {
        let pages = member.pages.iter().map(|pages| pages.len / page.bytes()).sum();
        let mut remaining = Self { page, pages, written: BTreeMap::new(), words: Default::default() };
        for (why, place, bytes) in member.words() {
            remaining.words[why as usize] += 1;
            // The pages of its first and last byte: one, mostly.
            let (first, last) = (page.down(place), page.down(place.saturating_add(bytes - 1)));
            for start in [Some(first), Some(last).filter(|last| *last != first)].into_iter().flatten() {
                let count = &mut remaining.written.entry(Vaddr(start)).or_default()[why as usize];
                *count = count.saturating_add(1);
            }
        }
        remaining
    }

    /// Words that each process writes.
    ///
    /// See [`Remaining`] for an example.
    #[must_use]
    pub fn words(&self) -> u64 {
        self.words.iter().sum()
    }

    /// Words that each process writes for that reason.
    ///
    /// ```
    /// # if soload::OpenOptions::new().files("libz.so.1").is_err() { return }
    /// let snapshot = soload::Snapshot::create("libz.so.1").unwrap();
    /// let remaining = snapshot.remaining(&snapshot.libraries()[0]).unwrap();
    /// assert_eq!(soload::Fixup::ALL.map(|why| remaining.words_by(why)).iter().sum::<u64>(), remaining.words());
    /// ```
    #[must_use]
    pub const fn words_by(&self, why: Fixup) -> u64 {
        self.words[why as usize]
    }

    /// How many of the written pages have a word of that kind, alone or with others.
    ///
    /// See [`Remaining`] for an example.
    #[must_use]
    pub fn count_by(&self, why: Fixup) -> usize {
        self.written.values().filter(|words| words[why as usize] > 0).count()
    }
}

impl Snapshot {
    /// What it has of `library`, one of [`Snapshot::libraries`], and what is left to each process: stated by the snapshot
    /// itself, which is what a load goes by.
    ///
    /// See [`Remaining`] for an example.
    #[must_use]
    pub fn remaining(&self, library: &Path) -> Option<Remaining> {
        let manifest = self.0.manifest().ok()?;
        let member = manifest.members.iter().find(|member| OsStr::from_bytes(&member.path) == library)?;
        Some(Remaining::of(&member, PageSize::new(self.0.header.page.into())?))
    }
}
