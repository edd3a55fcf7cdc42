//! Which loader would run a file, and how that one searches: its C library, its directories, its cache, its processor.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::Resolver;
use super::facts::Facts;
use crate::arch::native::Features;
use crate::file::elf::Header;
use crate::file::view::{ByteOrder, Class};
use crate::find::{BuiltIn, Found, Hwcaps, Libc, Root, Search, Settings};
use crate::sys;

/// Bytes of a loader in which its directories are looked for, and of a text that names directories.
const LOADER_MAX: u64 = 16 << 20;
const TEXT_MAX: u64 = 1 << 16;

/// The loader of programs of one kind.
pub(super) struct Loader {
    pub(super) libc: Libc,
    /// Where it is expected; what a program names, or what the programs of a library's machine do.
    pub(super) path: Option<PathBuf>,
    pub(super) search: Search,
    /// What a name means to whoever has no search path of its own, nor anybody above it.
    pub(super) found: Mutex<HashMap<Box<[u8]>, Known>>,
}

/// A library that was found before: by which path, and what is known of it.
pub(super) type Known = Found<(PathBuf, Arc<Facts>)>;

/// What tells loaders apart: two programs with the same of all this are searched for alike.
pub(super) type Kind = (Libc, Abi, Option<Box<[u8]>>);

/// What of a header matters to a search: class, byte order, machine, flags.
type Abi = (Class, ByteOrder, u16, u32);

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("libc", &self.libc).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Loader {
    /// What tells the loader of `root` from others.
    pub(super) fn kind(resolver: &Resolver, root: &Facts) -> Kind {
        let header = &root.brief.header;
        let libc = resolver.libc.unwrap_or_else(|| libc_of(resolver, root));
        let abi = (header.class, header.order, header.machine, header.flags);
        (libc, abi, root.brief.interpreter.clone())
    }

    pub(super) fn of(resolver: &Resolver, root: &Facts, libc: Libc) -> Self {
        let header = &root.brief.header;
        let written = root.brief.interpreter.as_deref().map(|path| PathBuf::from(OsStr::from_bytes(path)));
        let usual = || usual_paths(libc, header).into_iter().find(|path| resolver.facts(path).is_ok());
        let path = written.or_else(usual);
        let settings = match libc {
            Libc::Glibc => of_glibc(resolver, root, path.as_deref()),
            Libc::Musl => {
                let directories = path.as_deref().and_then(|path| musl_directories(&resolver.root, path));
                let usual = || ["/lib", "/usr/local/lib", "/usr/lib"].map(PathBuf::from).to_vec();
                blank(resolver, header, libc, directories.unwrap_or_else(usual), "lib")
            }
            Libc::Bionic => {
                let lib = if header.class == Class::Elf64 { "lib64" } else { "lib" };
                let directories = ["/system", "/odm", "/vendor"].map(|top| Path::new(top).join(lib));
                blank(resolver, header, libc, directories.to_vec(), lib)
            }
        };
        Self { libc, path, search: Search::new(settings), found: Mutex::default() }
    }
}

/// The C library of a file: that of its interpreter, or, of a library, the one that it needs.
fn libc_of(resolver: &Resolver, root: &Facts) -> Libc {
    if let Some(interpreter) = root.brief.interpreter.as_deref() {
        let path = Path::new(OsStr::from_bytes(interpreter));
        let soname = resolver.facts(path).ok().and_then(|facts| facts.names().soname.clone());
        let name = path.file_name().map_or(&b""[..], OsStrExt::as_bytes);
        return match soname.as_deref().unwrap_or(name) {
            b"ld-android.so" => Libc::Bionic,
            soname if soname.starts_with(b"ld-linux") => Libc::Glibc,
            // musl's loader is its C library; what it is called says the interpreter's own name.
            _ if name.starts_with(b"ld-musl-") => Libc::Musl,
            _ if name.starts_with(b"linker") => Libc::Bionic,
            _ => Libc::Glibc,
        };
    }
    let needs = |name: &[u8]| root.names().needed.iter().any(|needed| needed.starts_with(name));
    let needs_plain = root.names().needed.iter().any(|needed| needed == b"libc.so");
    match () {
        () if root.brief.android => Libc::Bionic,
        () if needs(b"libc.so.") || needs(b"ld-linux") => Libc::Glibc,
        () if needs(b"libc.musl-") || needs_plain => Libc::Musl,
        () => Libc::Glibc,
    }
}

/// Where programs of such a machine say that their interpreter is.
fn usual_paths(libc: Libc, header: &Header) -> Vec<PathBuf> {
    let little = header.order == ByteOrder::Little;
    let wide = header.class == Class::Elf64;
    let glibc: &[&str] = match (header.machine, wide) {
        (62, true) => &["/lib64/ld-linux-x86-64.so.2"],
        (62, false) => &["/libx32/ld-linux-x32.so.2"],
        (3, _) => &["/lib/ld-linux.so.2"],
        (183, _) => &["/lib/ld-linux-aarch64.so.1"],
        (40, _) => &["/lib/ld-linux-armhf.so.3", "/lib/ld-linux.so.3"],
        (21, _) if little => &["/lib64/ld64.so.2"],
        (21, _) => &["/lib64/ld64.so.1"],
        (20, _) => &["/lib/ld.so.1"],
        (22, true) => &["/lib/ld64.so.1"],
        (22, false) | (8, false) => &["/lib/ld.so.1"],
        (8, true) => &["/lib64/ld.so.1", "/lib32/ld.so.1"],
        (243, true) => &["/lib/ld-linux-riscv64-lp64d.so.1", "/lib/ld-linux-riscv64-lp64.so.1"],
        (243, false) => &["/lib/ld-linux-riscv32-ilp32d.so.1"],
        (258, _) => &["/lib64/ld-linux-loongarch-lp64d.so.1"],
        (43, _) => &["/lib64/ld-linux.so.2"],
        (2 | 18, _) => &["/lib/ld-linux.so.2"],
        _ => &[],
    };
    let musl: &[&str] = match (header.machine, wide) {
        (62, true) => &["x86_64"],
        (62, false) => &["x32"],
        (3, _) => &["i386"],
        (183, _) if little => &["aarch64"],
        (183, _) => &["aarch64_be"],
        (40, _) if little => &["armhf", "arm"],
        (40, _) => &["armebhf", "armeb"],
        (21, _) if little => &["powerpc64le"],
        (21, _) => &["powerpc64"],
        (20, _) => &["powerpc", "powerpc-sf"],
        (22, _) => &["s390x"],
        (8, true) if little => &["mips64el", "mipsn32el"],
        (8, true) => &["mips64", "mipsn32"],
        (8, false) if little => &["mipsel", "mipsel-sf"],
        (8, false) => &["mips", "mips-sf"],
        (243, true) => &["riscv64"],
        (243, false) => &["riscv32"],
        (258, _) => &["loongarch64"],
        _ => &[],
    };
    match libc {
        Libc::Glibc => glibc.iter().map(PathBuf::from).collect(),
        Libc::Musl => musl.iter().map(|arch| format!("/lib/ld-musl-{arch}.so.1").into()).collect(),
        Libc::Bionic if wide => vec!["/system/bin/linker64".into()],
        Libc::Bionic => vec!["/system/bin/linker".into()],
    }
}

/// The settings of glibc's loader at `path`.
fn of_glibc(resolver: &Resolver, root: &Facts, path: Option<&Path>) -> Settings {
    let header = &root.brief.header;
    let platform = sys::auxiliary_str(libc::AT_PLATFORM).map(CStr::to_bytes);
    let is_usual = path.is_some_and(|path| usual_paths(Libc::Glibc, header).iter().any(|usual| usual == path));
    let (mut settings, release) = if resolver.root.is_host() && root.is_native() && (is_usual || path.is_none()) {
        let settings = Settings::of_this_process(
            Some(resolver.library_path.as_bytes()),
            resolver.secure,
            platform,
            Features::asked,
        );
        (Settings { program_origin: None, ..settings }, sys::c_library_release())
    } else {
        let loader = path.and_then(|path| resolver.root.open(path).ok()).filter(|file| file.size <= LOADER_MAX);
        let loader = loader.and_then(|file| file.map().ok());
        let bytes = loader.as_deref().unwrap_or_default();
        // A loader with a single directory has it nowhere that could be recognised; it is the one it lies in itself.
        let beside = || path.and_then(Path::parent).map(|directory| vec![directory.to_owned()]);
        let directories = directories_in(bytes).or_else(beside).unwrap_or_default();
        let lib = lib_of(&directories, header.class);
        let (mut settings, release) = (blank(resolver, header, Libc::Glibc, directories, &lib), release_in(bytes));
        let hwcaps = match root.is_native() {
            true => Hwcaps::of_processor(platform, Features::asked()),
            false => Hwcaps::of_machine(header.machine, None),
        };
        settings.hwcaps = Settings::known(hwcaps.known_to(release));
        (settings, release)
    };
    if let Some(level) = &resolver.cpu {
        settings.hwcaps = Settings::known(Hwcaps::of_machine(header.machine, Some(level)).known_to(release));
    }
    settings
}

/// Settings without processor.
fn blank(resolver: &Resolver, header: &Header, libc: Libc, directories: Vec<PathBuf>, lib: &str) -> Settings {
    let library_path = if resolver.secure { Vec::new() } else { resolver.library_path.as_bytes().to_vec() };
    let root = resolver.root.clone();
    let look = root.clone();
    Settings {
        library_path,
        program_origin: None,
        cache: "/etc/ld.so.cache".into(),
        cache_flags: cache_flags(header),
        built_in: Settings::known(BuiltIn { directories, lib: lib.into() }),
        hwcaps: Settings::known(Hwcaps::of_machine(header.machine, None)),
        secure: resolver.secure,
        order: header.order,
        libc,
        root,
        look: Box::new(move |directory| look.look(directory)),
    }
}

/// The value of `$LIB`: where glibc's first directory is, the slashes around it left out.
fn lib_of(directories: &[PathBuf], class: Class) -> String {
    let first = directories.first().and_then(|first| first.to_str());
    match first.map(|first| first.trim_matches('/')) {
        Some(first) if first.starts_with("lib") => first.into(),
        _ if class == Class::Elf64 => "lib64".into(),
        _ => "lib".into(),
    }
}

/// The flags of the entries for such files in `ld.so.cache` (glibc's `sysdeps/generic/ldconfig.h`).
fn cache_flags(header: &Header) -> u32 {
    let wide = header.class == Class::Elf64;
    let of_machine = match (header.machine, wide) {
        (62, true) => 0x300,
        (62, false) => 0x800,
        (43, _) => 0x100,
        (22, true) => 0x400,
        (21, _) => 0x500,
        // EF_MIPS_ABI2
        (8, false) if header.flags & 0x20 != 0 => 0x600,
        (8, true) => 0x700,
        // EF_ARM_ABI_FLOAT_HARD
        (40, _) if header.flags & 0x400 != 0 => 0x900,
        (40, _) => 0xb00,
        (183, _) => 0xa00,
        // EF_RISCV_FLOAT_ABI_SOFT
        (243, _) if header.flags & 6 == 0 => 0xf00,
        (243, _) => 0x1000,
        // EF_LARCH_ABI_SOFT_FLOAT
        (258, _) if header.flags & 7 == 1 => 0x1100,
        (258, _) => 0x1200,
        _ => 0,
    };
    // 3 is glibc's own kind of library.
    of_machine | 3
}

/// The release of a glibc loader, which it would say of itself (`--version`, since 2.33).
fn release_in(bytes: &[u8]) -> Option<(u32, u32)> {
    const BEFORE: &[u8] = b" release version ";
    let at = bytes.windows(BEFORE.len()).position(|window| window == BEFORE)?;
    sys::release(&bytes[at + BEFORE.len()..])
}

/// The directories built into a glibc loader: they stand in it one behind the other, each with a slash at both ends.
fn directories_in(bytes: &[u8]) -> Option<Vec<PathBuf>> {
    let is_directory = |text: &[u8]| {
        text.starts_with(b"/") && text.ends_with(b"/") && text.len() > 2 && text.iter().all(u8::is_ascii_graphic)
    };
    bytes.windows(3).enumerate().filter(|(_, window)| *window == b"/\0/").find_map(|(at, _)| {
        let start = bytes[..at].iter().rposition(|byte| *byte == 0)? + 1;
        let list = bytes[start..].split(|byte| *byte == 0).take_while(|text| is_directory(text));
        let list: Vec<PathBuf> = list.map(|text| OsStr::from_bytes(&text[..text.len() - 1]).into()).collect();
        (list.len() > 1).then_some(list)
    })
}

/// The directories of musl's loader at `path`, if a file names them: `/etc/ld-musl-ARCH.path`, beside the directory it is
/// in.
fn musl_directories(root: &Root, path: &Path) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?.strip_prefix("ld-musl-")?;
    let arch = name.strip_suffix(".so.1").unwrap_or(name);
    let prefix = path.parent().and_then(Path::parent)?;
    let text = root.text(&prefix.join(format!("etc/ld-musl-{arch}.path")), TEXT_MAX)?;
    let items = text.split(|byte| b":\n".contains(byte)).filter(|item| !item.is_empty());
    Some(items.map(|item| OsStr::from_bytes(item).into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loader_says_which_release_it_is_of() {
        let found = |text: &str| release_in(text.as_bytes());
        assert_eq!(found("\0ld.so (GNU libc) stable release version 2.41.\nCopyright"), Some((2, 41)));
        assert_eq!(found("development release version 2.42.9000."), Some((2, 42)));
        for other in ["", "release version 2", " release version ", " release version x.y", " release version 2."] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn the_directories_of_a_loader_stand_behind_each_other() {
        let found = |bytes: &[u8]| directories_in(bytes).unwrap_or_default();
        assert_eq!(found(b"x/a/\0 \0\0/lib/m/\0/lib/\0/usr\0"), ["/lib/m", "/lib"].map(PathBuf::from));
        assert_eq!(found(b"\0/lib/\0"), <[PathBuf; 0]>::default());
        assert_eq!(found(b"/\0/"), <[PathBuf; 0]>::default());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_loader_of_this_machine_says_what_is_known_of_it() {
        let own = Settings::of_this_process(None, false, None, Features::asked);
        let loader = std::fs::read("/lib64/ld-linux-x86-64.so.2").unwrap();
        let directories = directories_in(&loader).unwrap();
        assert_eq!(directories, own.built_in.directories);
        assert_eq!(lib_of(&directories, Class::Elf64).as_bytes(), own.built_in.lib);
        assert_eq!(release_in(&loader), sys::c_library_release());
    }
}
