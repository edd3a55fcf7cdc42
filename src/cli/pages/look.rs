//! What backs each page of a library in a process and, if it is a copy, what has made it one.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anstyle::AnsiColor;
use soload::{
    Bias, Cause, Error, ErrorKind, Forecast, Image, Mapping, Page, PageMap, PageSize, PageState, Plan, Vaddr,
};

use crate::cli::memory::{self, Region};
use crate::cli::print;
use crate::cli::share::workers::Marks;

/// What a page is, as a person wants to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Untouched,
    Exclusive,
    Shared,
    Huge,
    Swapped,
    Relocated,
    Constructed,
    Written,
}

impl Look {
    /// In the order of what they cost: the last one is what is shown of several that share a cell.
    pub(super) const ALL: [Self; 8] = [
        Self::Untouched,
        Self::Exclusive,
        Self::Shared,
        Self::Huge,
        Self::Swapped,
        Self::Relocated,
        Self::Constructed,
        Self::Written,
    ];

    /// A page by its state, and by when it became a copy.
    fn of(page: &Page, at: Vaddr, forecast: &Forecast, marks: Option<&Marks>) -> Self {
        let relocated = || match marks.and_then(|marks| marks.relocated.as_ref()) {
            Some(pages) => pages.contains(&at),
            None => forecast.pages.contains_key(&at),
        };
        match page.state {
            PageState::Untouched => Self::Untouched,
            PageState::Shared | PageState::Exclusive if page.huge => Self::Huge,
            PageState::Shared => Self::Shared,
            PageState::Exclusive => Self::Exclusive,
            PageState::Copied if relocated() => Self::Relocated,
            PageState::Copied if marks.is_some_and(|marks| marks.constructed.contains(&at)) => Self::Constructed,
            PageState::Copied => Self::Written,
            PageState::Swapped => Self::Swapped,
        }
    }

    /// Its letter, what it means, its colour in a terminal, and in a picture.
    pub(super) fn legend(self) -> (char, &'static str, AnsiColor, &'static str) {
        match self {
            Self::Untouched => ('.', "untouched: addresses without memory", AnsiColor::BrightBlack, "#e4e8ea"),
            Self::Shared => ('s', "shared: the file's page, other processes have it too", AnsiColor::Green, "#2f8f6b"),
            Self::Exclusive => ('e', "exclusive: the file's page, only here now", AnsiColor::Cyan, "#97d3bd"),
            Self::Huge => ('H', "huge: the file's, 2 MiB mapped by one entry", AnsiColor::Blue, "#1d6288"),
            Self::Relocated => ('R', "relocated: a copy, by relocation", AnsiColor::Yellow, "#e09a3b"),
            Self::Constructed => ('C', "constructed: a copy, by constructors", AnsiColor::Magenta, "#a4519c"),
            Self::Written => ('W', "written: a copy, by code that ran later", AnsiColor::Red, "#c8402f"),
            Self::Swapped => ('z', "swapped: a copy, moved out of memory", AnsiColor::BrightMagenta, "#7d75c4"),
        }
    }

    pub(super) fn name(self) -> &'static str {
        self.legend().1.split(':').next().unwrap_or_default()
    }

    pub(super) fn is_copy(self) -> bool {
        matches!(self, Self::Relocated | Self::Constructed | Self::Written | Self::Swapped)
    }
}

/// A library as one process has it at one moment.
pub(super) struct Seen<'a> {
    pub(super) subject: &'a Subject,
    pub(super) regions: Vec<(Region, Vec<Look>)>,
}

impl Seen<'_> {
    pub(super) fn looks(&self) -> impl Iterator<Item = Look> {
        self.regions.iter().flat_map(|(_, looks)| looks.iter().copied())
    }

    pub(super) fn count(&self, wanted: Look) -> usize {
        self.looks().filter(|look| *look == wanted).count()
    }
}

/// The largest library that is shown.
const SPAN_MAX: u64 = 4 << 30;

/// What does not change while one looks again.
pub(super) struct Subject {
    pub(super) path: PathBuf,
    /// Where the file can be read, which may be in another container.
    pub(super) file: PathBuf,
    pub(super) process: u32,
    pub(super) bias: Bias,
    pub(super) forecast: Forecast,
    plan: Plan,
    marks: Option<Marks>,
}

impl Subject {
    /// The library at `path`, in a process that has loaded it by that loader.
    pub(super) fn find(path: &Path, process: u32, marks: Option<Marks>) -> Result<Self, String> {
        let mappings = Mapping::all_of(process).map_err(|error| format!("process {process}: {error}"))?;
        let found = Self::among(&mappings, path, path, process).map_err(|error| error.to_string())?;
        let found = found.ok_or_else(|| format!("process {process}: has not loaded {}", print::path(path)))?;
        Ok(Self { marks, ..found })
    }

    fn among(mappings: &[Mapping], path: &Path, file: &Path, process: u32) -> Result<Option<Self>, Error> {
        let image = Image::open(file)?;
        let plan = Plan::of(&image, PageSize::native())?;
        let Some(bias) = Mapping::bias_of(mappings, &image, &plan) else { return Ok(None) };
        let forecast = Forecast::of(&image, &plan)?;
        let (path, file) = (path.to_owned(), file.to_owned());
        Ok(Some(Self { path, file, process, bias, forecast, plan, marks: None }))
        // The image is closed here: it has the file mapped, which would make its pages look shared.
    }

    /// All that a process has loaded, in the order of addresses; and why the rest of its files with code could not be read.
    pub(super) fn all_of(process: u32) -> Result<(Vec<Self>, Vec<String>), ErrorKind> {
        let mut files: BTreeMap<(u64, u64), Vec<Mapping>> = BTreeMap::new();
        for mapping in Mapping::all_of(process)?.into_iter().filter(|mapping| mapping.inode != 0) {
            files.entry((mapping.device, mapping.inode)).or_default().push(mapping);
        }
        files.retain(|_, mappings| mappings.iter().any(|mapping| mapping.protection.execute));
        let mut files: Vec<_> = files.into_values().collect();
        files.sort_by_key(|mappings| mappings[0].range.start);
        let progress = io::stderr().is_terminal() && files.len() > 20;
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for (index, mappings) in files.iter().enumerate() {
            if progress {
                let _ = write!(io::stderr(), "\r{} of {} ", index + 1, files.len());
            }
            let path = &mappings[0].path;
            let root = PathBuf::from(format!("/proc/{process}/root"));
            let file = root.join(path.strip_prefix("/").unwrap_or(path));
            match Self::among(mappings, path, &file, process) {
                // More cells than anybody could look at.
                Ok(Some(subject)) if subject.plan.span.end.0 - subject.plan.span.start.0 > SPAN_MAX => {
                    others.push(format!("{}: larger than 4 GiB", print::path(path)));
                }
                Ok(Some(subject)) => found.push(subject),
                Ok(None) if mappings.iter().any(|mapping| mapping.deleted) => {
                    others
                        .push(format!("{}: is not there any more; the process keeps the old file", print::path(path)));
                }
                Ok(None) => others.push(format!("{}: is not mapped as a library", print::path(path))),
                // Its own message names the way by which it was opened.
                Err(error) => others.push(format!("{}: {}", print::path(path), error.kind())),
            }
        }
        if progress {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        Ok((found, others))
    }

    pub(super) fn look(&self) -> Result<Seen<'_>, String> {
        let of_region = |region: Region| {
            let range = self.bias.at(region.range.start)..self.bias.at(region.range.end);
            let map = PageMap::of_process(self.process, range)?;
            let at = |index: usize| Vaddr(region.range.start.0 + index as u64 * map.page.bytes());
            let looks = map.pages.iter().enumerate();
            let looks = looks.map(|(index, page)| Look::of(page, at(index), &self.forecast, self.marks.as_ref()));
            let looks = looks.collect();
            Ok((region, looks))
        };
        let regions = memory::regions(&self.plan, Some(&self.forecast)).into_iter().map(of_region);
        let regions = regions.collect::<Result<_, ErrorKind>>();
        let regions = regions.map_err(|error| format!("process {}: {error}", self.process))?;
        Ok(Seen { subject: self, regions })
    }

    /// Whether it is known which copies constructors have made.
    pub(super) fn knows_constructors(&self) -> bool {
        self.marks.is_some()
    }

    /// Why relocation writes to a page.
    pub(super) fn causes(&self, page: Vaddr) -> Option<String> {
        let writes = self.forecast.pages.get(&page)?;
        let cause = |cause: Cause| format!("{} {}", writes.by(cause), cause.name());
        Some(writes.causes().map(cause).collect::<Vec<_>>().join(", "))
    }

    /// Bytes of a page.
    pub(super) fn size(&self) -> u64 {
        self.plan.page.bytes()
    }
}

/// The looks of all pages of several libraries, to be compared with those of a moment later.
pub(super) fn changed(before: &[Look], now: &[Look]) -> usize {
    let differ = before.iter().zip(now).filter(|(before, now)| before != now).count();
    differ + before.len().abs_diff(now.len())
}
