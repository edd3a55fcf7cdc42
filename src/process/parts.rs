//! What belongs to the C library, by name: its parts, and the functions of its allocator.

/// Parts of the C library, which only its own loader can load: they share its private data (`GLIBC_PRIVATE`).
const PARTS: [&[u8]; 20] = [
    b"ld-linux-x86-64.so.2",
    b"libc.so.6",
    b"libm.so.6",
    b"libmvec.so.1",
    b"libpthread.so.0",
    b"libdl.so.2",
    b"librt.so.1",
    b"libutil.so.1",
    b"libanl.so.1",
    b"libresolv.so.2",
    b"libBrokenLocale.so.1",
    b"libthread_db.so.1",
    b"libnss_files.so.2",
    b"libnss_dns.so.2",
    b"libnss_compat.so.2",
    b"libnss_db.so.2",
    b"libnss_hesiod.so.2",
    b"libc_malloc_debug.so.0",
    b"libmemusage.so",
    b"libpcprofile.so",
];

/// Parts of which nothing is left since version 2.34: what they had is in the C library itself, with all its versions, and they
/// are there for what was linked before.
const EMPTY: [&[u8]; 5] = [b"libpthread.so.0", b"libdl.so.2", b"librt.so.1", b"libutil.so.1", b"libanl.so.1"];

/// The first version of the C library that has all they had.
pub(super) const SINCE: &[u8] = b"GLIBC_2.34";

/// What a program replaces as a whole if it replaces `malloc` (the GNU C Library manual, "Replacing `malloc`").
const ALLOCATOR: [&[u8]; 12] = [
    b"malloc",
    b"free",
    b"calloc",
    b"realloc",
    b"reallocarray",
    b"cfree",
    b"aligned_alloc",
    b"malloc_usable_size",
    b"memalign",
    b"posix_memalign",
    b"pvalloc",
    b"valloc",
];

/// Whether `name` is that of a part of the C library.
pub(crate) fn is_part_of_libc(name: &[u8]) -> bool {
    PARTS.contains(&name)
}

/// Whether `name` is that of a part which is empty where the C library has [`SINCE`].
pub(super) fn may_be_empty(name: &[u8]) -> bool {
    EMPTY.contains(&name)
}

/// Whether `name` is that of a function of the allocator.
pub(crate) fn is_allocator(name: &[u8]) -> bool {
    ALLOCATOR.contains(&name)
}
