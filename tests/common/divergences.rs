//! Where ours does on purpose what glibc does not: each constant is its reason.

/// A difference that is meant.
pub(crate) struct Divergence(#[allow(dead_code)] pub(crate) &'static str);

pub(crate) const DIVERGENCE_COPY: Divergence = Divergence(
    "glibc applies a copy relocation in a shared object; it belongs in executables, and here it overwrites other objects' idea of a variable",
);
pub(crate) const DIVERGENCE_WRITABLE_EXECUTABLE: Divergence =
    Divergence("glibc maps a segment that is writable and executable; ours only if the caller allows it");
pub(crate) const DIVERGENCE_EXECUTABLE_STACK: Divergence = Divergence(
    "glibc before 2.41 makes every thread's stack executable when a library asks; ours only if the caller allows it",
);
pub(crate) const DIVERGENCE_OVERFLOW: Divergence =
    Divergence("glibc prints a line about a 32-bit relocation that overflows, and stores the truncated value");
pub(crate) const DIVERGENCE_REL: Divergence =
    Divergence("glibc ignores DT_REL on x86-64, where linkers make only DT_RELA; ours applies what the file says");
pub(crate) const DIVERGENCE_RESOLVERS_LAST: Divergence = Divergence(
    "glibc calls the resolver of a symbol when its relocation is due, and crashes if that uses a word whose turn is later; ours calls it after all plain ones",
);
pub(crate) const DIVERGENCE_CYCLE: Divergence = Divergence(
    "glibc 2.39 destroys libraries that need each other in the reverse of the order of construction, and glibc before 2.36 constructs them in the order in which they are found; ours does what 2.36 does",
);
pub(crate) const DIVERGENCE_STATIC_CHAIN: Divergence = Divergence(
    "glibc's trampoline may change r10, the static chain of nested functions, when a function is bound by its first call; ours keeps it",
);
pub(crate) const DIVERGENCE_ONE_C_LIBRARY: Divergence = Divergence(
    "glibc loads the C library anew into each name space, with its own standard output, malloc and static storage; ours has one for all, so that threads, files and memory pass between name spaces, and so that there is no limit to their number",
);
pub(crate) const DIVERGENCE_GLOBAL_IN_NAMESPACE: Divergence = Divergence(
    "glibc refuses dlmopen with RTLD_GLOBAL, and crashes when a library in a name space opens another so; ours makes it global in that name space",
);
pub(crate) const DIVERGENCE_EMPTY_PARTS: Divergence = Divergence(
    "glibc maps libpthread.so.0 and its like, which are empty since 2.34, for whoever needs them; ours has the C library itself stand for them, unless they are there or are asked for by name",
);
pub(crate) const DIVERGENCE_BASE_VERSION: Divergence = Divergence(
    "glibc 2.41 no longer takes a definition without version of its own for one of whatever version is wanted, where the library has versions; 2.36 does, and so does ours",
);
pub(crate) const DIVERGENCE_ABILITIES: Divergence = Divergence(
    "a library with packed relative relocations, or marked procedure linkage, is refused by releases of glibc that do not know of such things; ours loads it, whichever release it is beside",
);
