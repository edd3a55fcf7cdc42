//! Everything `soload inspect` knows of one file: each fact by itself, so that damage to one table hides no other.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use soload::{
    CompiledChecks, Error, Forecast, HashQuality, Image, Kind, Outline, PageSize, Plan, RelocationCount, SymbolCounts,
    VersionNeed,
};

use crate::cli::memory::{self, Region};

pub(super) struct Facts<'a> {
    pub(super) path: &'a Path,
    /// What its headers claim, if that much can be read.
    pub(super) outline: Option<Outline>,
    /// The rest, if its headers contradict neither themselves nor the file.
    pub(super) contents: Option<Contents>,
    /// All that could not be read.
    pub(super) errors: Vec<Error>,
}

pub(super) struct Contents {
    pub(super) image: Image,
    pub(super) plan: Option<(Plan, Vec<Region>)>,
    /// What becomes of it with each page size of its machine, the planned one left out.
    pub(super) other_page_sizes: Vec<(PageSize, Option<Extent>)>,
    pub(super) relocations: Option<Vec<RelocationCount>>,
    pub(super) symbols: Option<SymbolCounts>,
    pub(super) versions_needed: Option<Vec<VersionNeed>>,
    pub(super) versions_defined: Option<Vec<Vec<u8>>>,
    pub(super) search_path: Vec<SearchDir>,
    pub(super) hash: Option<HashQuality>,
    pub(super) checks: Option<CompiledChecks>,
}

/// How much room it takes with pages of some size.
pub(super) struct Extent {
    pub(super) pages: u64,
    /// Pages that relocation makes private, if its tables could be read.
    pub(super) private: Option<usize>,
}

/// A directory of RPATH or RUNPATH.
pub(super) struct SearchDir {
    pub(super) text: Vec<u8>,
    /// Why somebody else may put a library there.
    pub(super) danger: Option<&'static str>,
}

impl<'a> Facts<'a> {
    pub(super) fn gather(path: &'a Path, page: Option<PageSize>) -> Self {
        let mut facts = Self { path, outline: None, contents: None, errors: Vec::new() };
        match Image::open(path) {
            Ok(image) => {
                facts.outline = Outline::open(path).ok();
                facts.contents = Some(Contents::of(image, page, &mut facts.errors));
            }
            Err(error) => {
                facts.outline = Outline::open(path).ok();
                facts.errors.push(error);
            }
        }
        facts
    }
}

impl Contents {
    fn of(image: Image, page: Option<PageSize>, errors: &mut Vec<Error>) -> Self {
        // Damage is told once, though several facts come from the same table.
        let mut note = |error: Error| {
            if !errors.iter().any(|known| known.to_string() == error.to_string()) {
                errors.push(error);
            }
        };
        let page = page.unwrap_or_else(|| usual_page_size(&image));
        let mappable = !image.segments().is_empty() && !is_debug_only(&image);
        let plan = mappable.then(|| Plan::of(&image, page)).transpose().map_err(&mut note).ok().flatten();
        let plan = plan.map(|plan| {
            let forecast = Forecast::of(&image, &plan).map_err(&mut note).ok();
            let regions = memory::regions(&plan, forecast.as_ref());
            (plan, regions)
        });
        let sizes = image.machine().map_or(&[][..], |machine| machine.page_sizes);
        let others = sizes.iter().filter_map(|bytes| PageSize::new(*bytes)).filter(|size| mappable && *size != page);
        Self {
            plan,
            other_page_sizes: others.map(|size| (size, extent(&image, size))).collect(),
            relocations: image.relocation_counts().map_err(&mut note).ok(),
            symbols: image.symbol_counts().map_err(&mut note).ok(),
            versions_needed: image.versions_needed().map_err(&mut note).ok(),
            versions_defined: image.versions_defined().map_err(&mut note).ok(),
            search_path: search_path(&image),
            hash: image.hash_quality().map_err(&mut note).ok().flatten(),
            checks: image.compiled_checks().map_err(&mut note).ok(),
            image,
        }
    }

    /// What kind of file it is.
    pub(super) fn kind(&self) -> &'static str {
        match self.image.elf_type() {
            3 if self.image.is_position_independent_executable() => "position-independent executable",
            other => kind_of(other),
        }
    }

    /// Whether it only has the debug information of another file.
    pub(super) fn is_debug_only(&self) -> bool {
        is_debug_only(&self.image)
    }

    /// `full`: everything that can be is read-only once it is loaded; `partial`: not what lazy binding writes to.
    pub(super) fn relro(&self) -> &'static str {
        match (self.image.relro(), self.image.binds_now()) {
            (None, _) => "none",
            (Some(_), true) => "full",
            (Some(_), false) => "partial",
        }
    }

    /// Whether it may be loaded at any address.
    pub(super) fn is_position_independent(&self) -> bool {
        self.image.elf_type() == 3
    }

    /// The program headers of segments that are writable and executable at once.
    pub(super) fn writable_executable(&self) -> Vec<usize> {
        let segments = self.image.segments().iter();
        segments.filter(|segment| segment.flags.write && segment.flags.execute).map(|segment| segment.header).collect()
    }

    /// How many relocations there are of each group of kinds; groups that there are none of are left out.
    pub(super) fn relocation_groups(&self) -> Vec<(&'static str, u64)> {
        let count = |group| {
            let counts = self.relocations.iter().flatten().filter(|count| group_of(count.kind) == group);
            (group, counts.map(|count| count.count).sum())
        };
        GROUPS.into_iter().map(count).filter(|(_, count)| *count > 0).collect()
    }
}

/// `None`: its segments share pages of that size, so that it cannot be mapped.
fn extent(image: &Image, page: PageSize) -> Option<Extent> {
    let plan = Plan::of(image, page).ok()?;
    let pages = (plan.span.end.0 - plan.span.start.0) / page.bytes();
    let private = Forecast::of(image, &plan).ok().map(|forecast| forecast.pages.len());
    Some(Extent { pages, private })
}

/// `objcopy --only-keep-debug` keeps the program headers, but not what they describe.
fn is_debug_only(image: &Image) -> bool {
    image.segments().iter().any(|segment| segment.flags.execute && segment.file_size == 0)
}

/// What `e_type` means.
pub(super) fn kind_of(elf_type: u16) -> &'static str {
    match elf_type {
        1 => "relocatable object",
        2 => "executable at a fixed address",
        3 => "shared object",
        4 => "core file",
        _ => "object of an unknown type",
    }
}

/// This machine's page size if the file's machine has it too, else the smallest that it has.
fn usual_page_size(image: &Image) -> PageSize {
    let native = PageSize::native();
    match image.machine().map(|machine| machine.page_sizes) {
        Some([first, rest @ ..]) if *first != native.bytes() && !rest.contains(&native.bytes()) => {
            PageSize::new(*first).unwrap_or(native)
        }
        _ => native,
    }
}

/// The groups of relocations, those that cost least first.
const GROUPS: [&str; 10] = [
    "relative",
    "symbolic",
    "slots",
    "IFUNC",
    "TLS in static storage",
    "TLS by module",
    "TLS by descriptor",
    "copy",
    "none",
    "unsupported",
];

fn group_of(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::Relative) => "relative",
        Some(Kind::Absolute { .. } | Kind::SymbolOrRelative | Kind::PcRelative { .. } | Kind::Size { .. }) => {
            "symbolic"
        }
        Some(Kind::Slot) => "slots",
        Some(Kind::Irelative) => "IFUNC",
        // The models of Drepper's "ELF Handling For Thread-Local Storage": initial exec, general dynamic, descriptors.
        Some(Kind::ThreadOffset | Kind::NegatedThreadOffset) => "TLS in static storage",
        Some(Kind::TlsModule | Kind::TlsOffset) => "TLS by module",
        Some(Kind::TlsDescriptor) => "TLS by descriptor",
        Some(Kind::Copy) => "copy",
        Some(Kind::None) => "none",
        _ => "unsupported",
    }
}

/// The directories of RUNPATH, or of RPATH if there is none (gABI chapter 5).
fn search_path(image: &Image) -> Vec<SearchDir> {
    let Some(path) = image.runpath().or(image.rpath()).filter(|path| !path.is_empty()) else { return Vec::new() };
    let directories = path.split(|byte| *byte == b':');
    directories.map(|text| SearchDir { text: text.to_vec(), danger: danger(text, image.path()) }).collect()
}

fn danger(text: &[u8], object: &Path) -> Option<&'static str> {
    let origin = || std::path::absolute(object).ok().and_then(|object| object.parent().map(Path::to_owned));
    let directory: PathBuf = match text {
        [b'/', ..] => Path::new(std::ffi::OsStr::from_bytes(text)).into(),
        text => {
            let rest = text.strip_prefix(b"$ORIGIN").or(text.strip_prefix(b"${ORIGIN}"));
            // An empty one means the current directory as well.
            let Some(rest) = rest else { return Some("relative to the current directory") };
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            origin()?.join(std::ffi::OsStr::from_bytes(rest))
        }
    };
    let anybody = |mode: u32| mode & 0o002 != 0;
    let permissions = std::fs::metadata(directory).ok()?.permissions();
    anybody(permissions.mode()).then_some("writable by everybody")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_path_that_others_can_fill_is_told() {
        let danger = |text: &str| danger(text.as_bytes(), "/usr/lib/libx.so".as_ref());
        assert_eq!(danger("lib"), Some("relative to the current directory"));
        assert_eq!(danger(""), Some("relative to the current directory"));
        assert_eq!(danger("/usr/lib"), None);
        assert_eq!(danger("$ORIGIN/.."), None);
        assert_eq!(danger("${ORIGIN}"), None);
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(danger(folder.path().to_str().unwrap()), Some("writable by everybody"));
    }
}
