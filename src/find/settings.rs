//! What a search depends on besides the object that asks: the loader's built-in directories, the environment, the processor.

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::dirs::{Look, look};
use super::hwcaps::Hwcaps;
use super::root::Root;
use super::tokens;
use crate::arch::native::Features;
use crate::file::view::ByteOrder;
use crate::sys;

/// The C libraries whose loaders differ in how they search.
///
/// ```
/// let closure = soload::Resolver::new().resolve("/proc/self/exe".as_ref())?;
/// assert_eq!(closure.libc, soload::Libc::Glibc);
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Libc {
    /// The GNU C library (`ld.so(8)`).
    Glibc,
    /// musl (`ldso/dynlink.c` of its source).
    Musl,
    /// Android's (`linker.cpp` of its source).
    Bionic,
}

/// What is found out when a search comes to where it matters.
pub(crate) type Later<T> = LazyLock<T, Box<dyn FnOnce() -> T + Send + Sync>>;

/// What a loader was built with.
pub(crate) struct BuiltIn {
    /// The directories that it searches at last; a set-user-ID program trusts them.
    pub(crate) directories: Vec<PathBuf>,
    /// The value of `$LIB`.
    pub(crate) lib: Vec<u8>,
}

/// Everything a search depends on besides the object that asks.
pub(crate) struct Settings {
    /// The value of `LD_LIBRARY_PATH`.
    pub(crate) library_path: Vec<u8>,
    /// The directory of the program: what `$ORIGIN` means in `LD_LIBRARY_PATH`.
    pub(crate) program_origin: Option<PathBuf>,
    /// The index that `ldconfig` writes.
    pub(crate) cache: PathBuf,
    /// The flags that its entries for this machine have.
    pub(crate) cache_flags: u32,
    /// What the loader was built with, which a look at a directory tells.
    pub(crate) built_in: Later<BuiltIn>,
    /// What the processor offers, and `$PLATFORM`. The instruction that tells (CPUID) takes tens of microseconds in a
    /// virtual machine.
    pub(crate) hwcaps: Later<Hwcaps>,
    /// Whether the program is set-user-ID or the like (`AT_SECURE`).
    pub(crate) secure: bool,
    /// Which byte of the cache's numbers comes first.
    pub(crate) order: ByteOrder,
    /// The C library whose loader searches.
    pub(crate) libc: Libc,
    /// The file system in which it does.
    pub(crate) root: Root,
    /// How to ask whether a directory exists.
    pub(crate) look: Look,
}

impl BuiltIn {
    fn of_this_machine() -> Self {
        // Debian's glibc has its own directories built in; the others' (upstream's default) end in lib64.
        let debian = format!("lib/{ARCH}-linux-gnu");
        let (lib, directories) = if look(&Path::new("/").join(&debian)).is_ok() {
            let multiarch = [format!("/{debian}"), format!("/usr/{debian}"), "/lib".into(), "/usr/lib".into()];
            (debian, multiarch.map(PathBuf::from).to_vec())
        } else {
            ("lib64".into(), ["/lib64", "/usr/lib64"].map(PathBuf::from).to_vec())
        };
        Self { directories, lib: lib.into() }
    }
}

impl Settings {
    /// What need not be found out.
    pub(crate) fn known<T: Send + Sync + 'static>(value: T) -> Later<T> {
        LazyLock::new(Box::new(move || value))
    }

    /// Those of the loader that started this process. `platform` is what the kernel says (`AT_PLATFORM`); `features`, what
    /// the processor offers, is asked if that can matter.
    pub(crate) fn of_this_process(
        library_path: Option<&[u8]>,
        secure: bool,
        platform: Option<&[u8]>,
        features: fn() -> Features,
    ) -> Self {
        let library_path = if secure { &[] } else { library_path.unwrap_or_default() };
        let program_origin = || Some(std::fs::read_link("/proc/self/exe").ok()?.parent()?.to_path_buf());
        Self {
            program_origin: if tokens::has_token(library_path) { program_origin() } else { None },
            library_path: library_path.to_vec(),
            cache: "/etc/ld.so.cache".into(),
            // 3 is glibc's own kind of library; the upper byte tells the machines that share one cache apart.
            cache_flags: match ARCH {
                "x86_64" => 0x303,
                "aarch64" => 0xa03,
                _ => 0x3,
            },
            built_in: LazyLock::new(Box::new(BuiltIn::of_this_machine)),
            hwcaps: LazyLock::new(Box::new({
                let platform = platform.map(<[u8]>::to_vec);
                move || Hwcaps::of_processor(platform.as_deref(), features()).known_to(sys::c_library_release())
            })),
            secure,
            order: ByteOrder::Little,
            libc: Libc::Glibc,
            root: Root::default(),
            look: Box::new(look),
        }
    }
}
