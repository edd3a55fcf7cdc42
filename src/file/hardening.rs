//! What the names that an object imports tell of how its code was compiled: checked copies, stack canaries.

use super::image::Image;
use crate::error::Error;

/// Functions that glibc has in a second form, which knows how large the destination is (`-D_FORTIFY_SOURCE`): behind
/// them stands `__NAME_chk`.
const FORTIFIABLE: [&str; 66] = [
    "asprintf",
    "confstr",
    "dprintf",
    "explicit_bzero",
    "fdelt",
    "fgets",
    "fgets_unlocked",
    "fgetws",
    "fgetws_unlocked",
    "fprintf",
    "fread",
    "fread_unlocked",
    "fwprintf",
    "getcwd",
    "getdomainname",
    "getgroups",
    "gethostname",
    "getlogin_r",
    "gets",
    "getwd",
    "mbsnrtowcs",
    "mbsrtowcs",
    "mbstowcs",
    "memcpy",
    "memmove",
    "mempcpy",
    "memset",
    "poll",
    "ppoll",
    "pread",
    "pread64",
    "printf",
    "ptsname_r",
    "read",
    "readlink",
    "readlinkat",
    "realpath",
    "recv",
    "recvfrom",
    "snprintf",
    "sprintf",
    "stpcpy",
    "stpncpy",
    "strcat",
    "strcpy",
    "strncat",
    "strncpy",
    "swprintf",
    "syslog",
    "ttyname_r",
    "vasprintf",
    "vdprintf",
    "vfprintf",
    "vprintf",
    "vsnprintf",
    "vsprintf",
    "vswprintf",
    "vsyslog",
    "wcrtomb",
    "wcscat",
    "wcscpy",
    "wcsncpy",
    "wcstombs",
    "wctomb",
    "wmemcpy",
    "wprintf",
];

/// What imported names tell of the compiler's protections.
///
/// ```
/// let image = soload::Image::open("/proc/self/exe".as_ref())?;
/// let checks = image.compiled_checks()?;
/// // memcpy and its like are called by every Rust program, and none of them is checked by C's preprocessor.
/// assert!(checks.unfortified.iter().any(|name| name == "memcpy"));
/// # Ok::<(), soload::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompiledChecks {
    /// Functions that it calls in the form that checks sizes, without the `__` and `_chk` around them.
    pub fortified: Vec<String>,
    /// Functions that it calls although there is such a form. The compiler leaves out checks that it has proved useless.
    pub unfortified: Vec<String>,
    /// Whether a function notices that its stack frame was overrun (`-fstack-protector`).
    pub stack_canary: bool,
}

impl Image {
    /// What imported names tell of the compiler's protections.
    ///
    /// # Errors
    /// The symbol tables lie outside of the file, or contradict themselves.
    pub fn compiled_checks(&self) -> Result<CompiledChecks, Error> {
        let mut checks = CompiledChecks::default();
        for name in self.imported_names()? {
            let Ok(name) = str::from_utf8(&name) else { continue };
            let checked = name.strip_prefix("__").and_then(|name| name.strip_suffix("_chk"));
            match checked {
                Some(plain) if FORTIFIABLE.contains(&plain) => checks.fortified.push(plain.into()),
                None if FORTIFIABLE.contains(&name) => checks.unfortified.push(name.into()),
                _ => checks.stack_canary |= matches!(name, "__stack_chk_fail" | "__stack_chk_guard"),
            }
        }
        checks.fortified.sort_unstable();
        checks.unfortified.sort_unstable();
        Ok(checks)
    }
}
