//! Name spaces: sets of libraries that see one another and the C library, and nothing else of the process.

use std::sync::atomic::{AtomicI64, Ordering};

/// A set of libraries that see one another and the C library, and nothing else of the process.
///
/// Each name space has copies of its own of the libraries that are opened in it and of all they need, with their own
/// variables, thread-local storage and constructors, and a global scope of its own: what the first open of it brought in,
/// and what was opened [global](crate::OpenOptions::global) there. Only the C library (`libc.so.6`, `libm.so.6`, the
/// loader …) is the process's everywhere, and so are `malloc` and its kin: threads, standard output, `errno` and memory
/// pass between name spaces as between functions. What a library opens by `dlopen` is in its own name space.
///
/// A name space costs nothing by itself, and there may be any number of them. It is not opened or closed: it is what its
/// libraries have in common, which go when they are closed.
///
/// ```
/// use soload::{Namespace, OpenOptions};
/// // SAFETY: zlib's constructors are sound.
/// let open = |namespace| unsafe { OpenOptions::new().namespace(namespace).open("libz.so.1") };
/// let (first, second) = (Namespace::isolated(), Namespace::isolated());
/// if let (Ok(one), Ok(other), Ok(same)) = (open(first), open(second), open(first)) {
///     assert_ne!(one.bias(), other.bias(), "two copies");
///     assert_eq!(one.bias(), same.bias(), "one copy");
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(i64);

impl Default for Namespace {
    fn default() -> Self {
        Self::BASE
    }
}

/// glibc's own name spaces have smaller numbers (`DL_NNS`).
const FIRST: i64 = 16;

impl Namespace {
    /// The program's: what it started with, and what is opened without any other choice (`LM_ID_BASE`).
    pub const BASE: Self = Self(0);

    /// A new one (`LM_ID_NEWLM`).
    #[must_use]
    pub fn isolated() -> Self {
        static NEXT: AtomicI64 = AtomicI64::new(FIRST);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// What `dlinfo(RTLD_DI_LMID)` answers for its libraries, and `dlmopen` takes.
    #[must_use]
    pub fn number(self) -> i64 {
        self.0
    }

    /// The one of that number; `None` if it is none of ours.
    pub(crate) fn of_number(number: i64) -> Option<Self> {
        (number == 0 || number >= FIRST).then_some(Self(number))
    }

    /// Whether it is the program's.
    pub(crate) fn is_base(self) -> bool {
        self == Self::BASE
    }
}
