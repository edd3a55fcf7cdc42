//! What only the machine itself can say, in its own instructions: the thread pointer, and the simplest TLS descriptor.
//!
//! # Safety
//! One instruction that reads a register of this thread, and one function that keeps to the psABI's convention for TLS
//! descriptors: argument and result in `rax`, every other register as it was.

/// The thread pointer: what offsets of thread-local storage count from (psABI, "Thread-Local Storage").
#[cfg(target_arch = "x86_64")]
pub(crate) fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads the first word of the thread control block, which by the psABI holds its own address.
    unsafe { core::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly)) };
    pointer
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.soload_static_descriptor, \"ax\", @progbits",
    ".p2align 4",
    ".hidden soload_static_descriptor",
    ".globl soload_static_descriptor",
    ".type soload_static_descriptor, @function",
    "soload_static_descriptor:",
    "endbr64",
    "mov rax, [rax + 8]",
    "ret",
    ".size soload_static_descriptor, . - soload_static_descriptor",
    ".popsection",
);

/// The address of a TLS descriptor's function whose argument is the variable's offset from the thread pointer.
#[cfg(target_arch = "x86_64")]
pub(crate) fn static_descriptor() -> usize {
    unsafe extern "C" {
        fn soload_static_descriptor();
    }
    soload_static_descriptor as *const () as usize
}

/// The size of the reserve of static thread-local storage, in bytes: what jemalloc, OpenGL and the like ask for.
pub(crate) const RESERVE: usize = 8192;

/// What it is aligned to, in every thread.
pub(crate) const RESERVE_ALIGN: u64 = 64;

// Not zeroes to be cleared (`.tbss`): threads start with a copy of the initial image, which is changed for them.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .tdata.soload_reserve, \"awT\", @progbits",
    ".balign {align}",
    ".hidden soload_reserve",
    ".globl soload_reserve",
    ".type soload_reserve, @object",
    "soload_reserve:",
    ".fill {size}, 1, 0",
    ".size soload_reserve, {size}",
    ".popsection",
    size = const RESERVE,
    align = const RESERVE_ALIGN,
);

/// Where this thread has the reserve.
#[cfg(target_arch = "x86_64")]
pub(crate) fn reserve() -> usize {
    let address: usize;
    // SAFETY: the general-dynamic sequence of the psABI, byte for byte, so that linkers can shorten it; it calls a
    // function that keeps to the C convention, on a stack that `asm!` has aligned.
    unsafe {
        core::arch::asm!(
            ".byte 0x66",
            "lea rdi, [rip + soload_reserve@tlsgd]",
            ".value 0x6666",
            "rex64",
            "call __tls_get_addr@PLT",
            out("rax") address,
            clobber_abi("C"),
        );
    }
    address
}

/// Whether the processor says that Intel made it.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)] // safe from Rust 1.94 on
pub(crate) fn made_by_intel() -> bool {
    // SAFETY: every x86-64 processor has the instruction, and leaf 0.
    let vendor = unsafe { core::arch::x86_64::__cpuid(0) };
    let [first, second, third] = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
    [first, second, third].concat() == b"GenuineIntel"
}

/// There is no loading on other machines yet, so nobody asks.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn thread_pointer() -> usize {
    0
}

/// See [`thread_pointer`].
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn static_descriptor() -> usize {
    0
}

/// See [`thread_pointer`].
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn reserve() -> usize {
    0
}
