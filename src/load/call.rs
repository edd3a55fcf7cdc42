//! Calling into loaded objects: IFUNC resolvers, constructors, destructors.
//!
//! # Safety
//! Foreign code can do anything. What these functions guarantee is that the address was checked to be code of a known
//! object by whoever made the [`Code`], and that the calling convention is the one the psABI gives such functions.

use smallvec::SmallVec;

use crate::addr::Addr;

/// The arguments that constructors get: those of the process (glibc passes them, and Rust's `std::env::args` rests on it).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments {
    pub(crate) count: libc::c_int,
    pub(crate) values: *const *const libc::c_char,
    pub(crate) environment: *const *const libc::c_char,
}

/// A function of an object, its address checked to lie in an executable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Code(Addr);

/// The functions of an object that are run: its constructors and behind them its destructors, in the order in which they run.
#[derive(Default)]
pub(crate) struct Functions {
    all: SmallVec<[Code; 4]>,
    constructors: usize,
}

impl Functions {
    /// The first `constructors` of `all` are constructors.
    pub(crate) fn new(all: SmallVec<[Code; 4]>, constructors: usize) -> Self {
        Self { all, constructors }
    }

    pub(crate) fn constructors(&self) -> &[Code] {
        &self.all[..self.constructors]
    }

    pub(crate) fn destructors(&self) -> &[Code] {
        &self.all[self.constructors..]
    }
}

/// What is known of the functions to run: the words of `DT_INIT_ARRAY` and of `DT_FINI_ARRAY`, 0 for what does nothing.
#[derive(Debug, Default)]
pub(crate) struct Arrays {
    /// Whether `DT_INIT` does nothing.
    pub(crate) idle: bool,
    /// First those of `DT_INIT_ARRAY`: so many.
    pub(crate) words: SmallVec<[usize; 4]>,
    pub(crate) inits: usize,
}

impl Arrays {
    pub(crate) fn init(&self) -> &[usize] {
        &self.words[..self.inits]
    }

    pub(crate) fn fini(&self) -> &[usize] {
        &self.words[self.inits..]
    }
}

impl Code {
    /// `addr`, if `is_code` says that it is.
    pub(crate) fn at(addr: Addr, is_code: impl FnOnce(Addr) -> bool) -> Option<Self> {
        is_code(addr).then_some(Self(addr))
    }

    /// Runs an IFUNC resolver: it answers the address of the implementation for this CPU (psABI, `STT_GNU_IFUNC`).
    ///
    /// # Safety
    /// The object it belongs to, and those it depends on, are relocated but for IFUNCs; whoever opened the library has
    /// promised (`Library::new`) that its code may run.
    pub(crate) unsafe fn resolve(self) -> Addr {
        // SAFETY: the caller's promise; on x86-64 resolvers take no arguments.
        let resolver: extern "C" fn() -> usize = unsafe { std::mem::transmute(self.0.0) };
        Addr(resolver())
    }

    /// Runs a constructor.
    ///
    /// # Safety
    /// The object is relocated, sealed and published; whoever opened the library has promised that its code may run.
    pub(crate) unsafe fn initialise(self, arguments: Arguments) {
        type Constructor =
            unsafe extern "C-unwind" fn(libc::c_int, *const *const libc::c_char, *const *const libc::c_char);
        // SAFETY: the caller's promise; constructors take the process's arguments (or ignore them).
        unsafe {
            let constructor: Constructor = std::mem::transmute(self.0.0);
            constructor(arguments.count, arguments.values, arguments.environment);
        }
    }

    /// Runs a destructor.
    ///
    /// # Safety
    /// The object is still mapped and its constructors have run.
    pub(crate) unsafe fn finish(self) {
        // SAFETY: the caller's promise; destructors take no arguments.
        unsafe {
            let destructor: unsafe extern "C-unwind" fn() = std::mem::transmute(self.0.0);
            destructor();
        }
    }
}
