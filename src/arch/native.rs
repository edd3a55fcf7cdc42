//! What only the machine itself can say or do quickly, in its own instructions: the thread pointer, the simplest TLS
//! descriptor, the hash of sixteen bytes at once, what to read soon.
//!
//! # Safety
//! One instruction that reads a register of this thread, one function that keeps to the psABI's convention for TLS
//! descriptors (argument and result in `rax`, every other register as it was), and arithmetic on registers and prefetching,
//! which every processor of the kind has.

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

/// What the processor offers and the system lets programs use: registers of `cpuid`, by their bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Leaf 1, `ecx`.
    pub(crate) basic: u32,
    /// Leaf 7, `ebx`.
    pub(crate) structured: u32,
    /// Leaf 0x8000_0001, `ecx`.
    pub(crate) extended: u32,
}

impl Features {
    /// Whether all of those are among them.
    pub(crate) fn include(&self, others: &Self) -> bool {
        self.basic & others.basic == others.basic
            && self.structured & others.structured == others.structured
            && self.extended & others.extended == others.extended
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)] // `__cpuid` is safe from Rust 1.94 on
impl Features {
    /// Asks the processor, which takes microseconds in a virtual machine: each `cpuid` ends in the hypervisor.
    pub(crate) fn asked() -> Self {
        use core::arch::x86_64::{__cpuid, __cpuid_count};
        const OSXSAVE: u32 = 1 << 27;
        const YMM: u64 = 0b110;
        const ZMM: u64 = 0b1110_0110;
        // SAFETY: every x86-64 processor has `cpuid`, and the leaves 0, 1, 0x8000_0000 and 0x8000_0001; 7 is asked for only if
        // the first says that it is there.
        let [mut basic, mut structured, extended] = unsafe {
            let seven = if __cpuid(0).eax < 7 { 0 } else { __cpuid_count(7, 0).ebx };
            [__cpuid(1).ecx, seven, __cpuid(0x8000_0001).ecx]
        };
        // SAFETY: `cpuid` says `OSXSAVE`.
        let kept = if basic & OSXSAVE == 0 { 0 } else { unsafe { kept_registers() } };
        if kept & YMM != YMM {
            // FMA, AVX, F16C; AVX2.
            (basic, structured) = (basic & !(1 << 12 | 1 << 28 | 1 << 29), structured & !(1 << 5));
        }
        if kept & ZMM != ZMM {
            // AVX-512 F, DQ, CD, BW, VL.
            structured &= !(1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31);
        }
        Self { basic, structured, extended }
    }

    /// Whether the processor says that Intel made it.
    pub(crate) fn made_by_intel() -> bool {
        // SAFETY: every x86-64 processor has the instruction, and leaf 0.
        let vendor = unsafe { core::arch::x86_64::__cpuid(0) };
        let [first, second, third] = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        [first, second, third].concat() == b"GenuineIntel"
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Features {
    /// On other machines nothing depends on them.
    pub(crate) fn asked() -> Self {
        Self::default()
    }
}

/// Which registers the kernel keeps for each thread, by the bits of `XCR0`.
///
/// # Safety
/// `cpuid` says `OSXSAVE`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "xsave")]
pub(crate) unsafe fn kept_registers() -> u64 {
    // SAFETY: the caller's promise.
    unsafe { core::arch::x86_64::_xgetbv(0) }
}

/// A GNU hash (`h * 33 + byte`) that is made sixteen bytes a step.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct GnuHash {
    /// In the low half of either: what bytes 0 to 7 of all steps add, multiplied 33^8 times less than it counts; bytes 8 to 15.
    halves: core::arch::x86_64::__m128i,
}

#[cfg(target_arch = "x86_64")]
impl GnuHash {
    /// The hash of what comes before.
    #[inline(always)]
    pub(crate) fn of(before: u32) -> Self {
        // SAFETY: SSE2 is part of x86-64.
        Self { halves: unsafe { core::arch::x86_64::_mm_set_epi64x(before.into(), 0) } }
    }

    /// With sixteen bytes more. Zeroes in front do not count: `power` is 33 to the power of how many bytes there are without
    /// them.
    #[inline(always)]
    pub(crate) fn and(self, bytes: [u8; 16], power: u32) -> Self {
        use core::arch::x86_64::*;
        let bytes = vector(bytes);
        // SAFETY: SSE2 is part of x86-64.
        unsafe {
            // Pairs of bytes, pairs of pairs, and so on: no sum is larger than its place.
            let first = _mm_and_si128(bytes, _mm_set1_epi16(0xff));
            let twos = _mm_add_epi16(_mm_mullo_epi16(first, _mm_set1_epi16(33)), _mm_srli_epi16::<8>(bytes));
            let fours = _mm_madd_epi16(twos, _mm_set1_epi32((1 << 16) | (33 * 33)));
            let first = _mm_mul_epu32(fours, _mm_set1_epi64x(33 * 33 * 33 * 33));
            let eights = _mm_add_epi32(first, _mm_srli_epi64::<32>(fours));
            // From here on modulo 2^32, as the hash itself.
            Self { halves: _mm_add_epi32(_mm_mul_epu32(self.halves, _mm_set1_epi64x(power.into())), eights) }
        }
    }

    #[inline(always)]
    pub(crate) fn value(self) -> u32 {
        use core::arch::x86_64::*;
        // SAFETY: SSE2 is part of x86-64.
        let [first, second] =
            unsafe { [self.halves, _mm_unpackhi_epi64(self.halves, self.halves)].map(|half| _mm_cvtsi128_si32(half)) };
        (first as u32).wrapping_mul(33u32.wrapping_pow(8)).wrapping_add(second as u32)
    }
}

/// See above.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Clone, Copy)]
pub(crate) struct GnuHash(u32);

#[cfg(not(target_arch = "x86_64"))]
impl GnuHash {
    pub(crate) fn of(before: u32) -> Self {
        Self(before)
    }

    pub(crate) fn and(self, bytes: [u8; 16], power: u32) -> Self {
        let new = bytes.iter().fold(0u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)));
        Self(self.0.wrapping_mul(power).wrapping_add(new))
    }

    pub(crate) fn value(self) -> u32 {
        self.0
    }
}

/// Which of sixteen bytes are zero: one bit each, the lowest for the first.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn zeros_of_sixteen(bytes: [u8; 16]) -> u32 {
    use core::arch::x86_64::*;
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(vector(bytes), _mm_setzero_si128())) as u32 }
}

/// Asks memory for what will be read soon.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch<T>(place: &T) {
    // SAFETY: SSE is part of x86-64; the instruction changes nothing that a program can see.
    unsafe { core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>((&raw const *place).cast()) };
}

/// See above.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn prefetch<T>(_: &T) {}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn vector(bytes: [u8; 16]) -> core::arch::x86_64::__m128i {
    let bytes = u128::from_le_bytes(bytes);
    // SAFETY: SSE2 is part of x86-64.
    unsafe { core::arch::x86_64::_mm_set_epi64x((bytes >> 64) as i64, bytes as i64) }
}

/// See above.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn zeros_of_sixteen(bytes: [u8; 16]) -> u32 {
    bytes.iter().rev().fold(0, |zeros, byte| zeros << 1 | u32::from(*byte == 0))
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
