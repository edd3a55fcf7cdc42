//! The trampoline of lazy binding: where the first call of a function that is not bound yet ends up.
//!
//! The procedure linkage table pushes the number of its relocation, then the word that stands at `DT_PLTGOT` + 8, and
//! jumps to the address that stands at `DT_PLTGOT` + 16 (psABI, "Procedure Linkage Table"). The arguments of the call
//! are in registers then, and in whatever vector registers the processor has: all of them are kept.
//!
//! # Safety
//! The word at `DT_PLTGOT` + 8 is the address of a [`Binder`]; whoever writes it there sees to that. Every register that
//! may hold an argument is as the caller left it when the function is entered: `rax` to `r9` (`al` counts vector
//! arguments), `r10` (the static chain), vector registers and masks. `r11` is nobody's; the return address is not
//! touched, so a shadow stack agrees.

/// Who is asked, as the trampoline knows him: his first word is the function to call.
#[repr(C)]
pub(crate) struct Binder {
    /// Answers the address of the function that relocation number `index` of the procedure linkage table is about.
    pub(crate) bind: unsafe extern "C" fn(binder: *const Binder, index: usize) -> usize,
}

/// The address that belongs at `DT_PLTGOT` + 16, made for the registers that this processor has and the kernel keeps.
#[cfg(target_arch = "x86_64")]
pub(crate) fn address() -> usize {
    use std::sync::OnceLock;
    use std::sync::atomic::Ordering;

    unsafe extern "C" {
        fn soload_bind_fxsave();
        fn soload_bind_xsave();
        fn soload_bind_xsavec();
    }
    static ADDRESS: OnceLock<usize> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let state = processor::state();
        state::BYTES.store(state.bytes, Ordering::Relaxed);
        state::MASK.store(state.mask, Ordering::Relaxed);
        match state.way {
            processor::Way::Fxsave => soload_bind_fxsave as *const () as usize,
            processor::Way::Xsave => soload_bind_xsave as *const () as usize,
            processor::Way::Xsavec => soload_bind_xsavec as *const () as usize,
        }
    })
}

/// There is no loading on other machines yet: no word of theirs leads here.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn address() -> usize {
    0
}

/// What the trampolines keep, and how much room that takes.
#[cfg(target_arch = "x86_64")]
mod state {
    use std::sync::atomic::{AtomicU32, AtomicUsize};

    pub(super) static BYTES: AtomicUsize = AtomicUsize::new(0);
    pub(super) static MASK: AtomicU32 = AtomicU32::new(0);
}

/// Which registers there are (Intel SDM volume 1, chapter 13, "Managing State Using the XSAVE Feature Set").
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)] // `__cpuid` is safe from Rust 1.94 on
mod processor {
    use core::arch::x86_64::{__cpuid, __cpuid_count};

    use crate::arch::native::kept_registers;

    /// By which instruction the registers are kept.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Way {
        Fxsave,
        Xsave,
        Xsavec,
    }

    #[derive(Clone, Copy, Debug)]
    pub(super) struct State {
        pub(super) way: Way,
        /// A multiple of 64.
        pub(super) bytes: usize,
        pub(super) mask: u32,
    }

    /// What may hold arguments: SSE, AVX, bounds, the masks and the two upper parts of AVX-512. Arguments of the x87 kind
    /// are on the stack, and tiles are nobody's arguments.
    const ARGUMENTS: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;
    /// The part that both layouts begin with, and the header behind it.
    const LEGACY: usize = 512;
    const HEADER: usize = 64;

    /// The components of `ARGUMENTS` behind the header, and their bytes: AVX, bounds and their control, masks, the upper
    /// halves of the lower vectors, the upper vectors (chapter 13.5). All are multiples of 64: no gaps between them.
    const SIZES: [(u32, usize); 6] = [(2, 256), (3, 64), (4, 64), (5, 64), (6, 512), (7, 1024)];

    pub(super) fn state() -> State {
        const OSXSAVE: u32 = 1 << 27;
        const XSAVEC: u32 = 1 << 1;
        // Asked as little as possible: in a virtual machine each `cpuid` ends in the hypervisor.
        // SAFETY: every x86-64 processor has `cpuid` and leaf 1; those with `OSXSAVE` have leaf 0xd.
        unsafe {
            if __cpuid(1).ecx & OSXSAVE == 0 {
                return State { way: Way::Fxsave, bytes: LEGACY, mask: 0 };
            }
            let mask = kept_registers() as u32 & ARGUMENTS;
            let sizes = SIZES.iter().filter(|(component, _)| mask >> component & 1 == 1);
            if __cpuid_count(0xd, 1).eax & XSAVEC != 0 {
                let bytes = sizes.fold(LEGACY + HEADER, |end, (_, size)| end + size);
                return State { way: Way::Xsavec, bytes, mask };
            }
            // Here each component has its own place, beyond those that are left out.
            let ends = sizes.map(|(component, size)| __cpuid_count(0xd, *component).ebx as usize + size);
            State { way: Way::Xsave, bytes: ends.fold(LEGACY + HEADER, usize::max).next_multiple_of(64), mask }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        #[allow(unused_unsafe)]
        fn components_are_as_large_as_the_processor_says() {
            let state = state();
            for (component, size) in SIZES.iter().filter(|(component, _)| state.mask >> component & 1 == 1) {
                // SAFETY: the leaf is there where the mask is not empty.
                assert_eq!(unsafe { __cpuid_count(0xd, *component) }.eax as usize, *size, "{component}");
            }
        }

        #[test]
        fn the_room_is_enough_for_what_the_processor_has() {
            let state = state();
            assert_eq!(state.bytes % 64, 0);
            let least = match state.way {
                Way::Fxsave => 512,
                _ if state.mask & 1 << 2 != 0 => 512 + 64 + 256,
                _ => 512 + 64,
            };
            assert!(state.bytes >= least && state.bytes < 4096, "{state:?}");
        }
    }
}

/// A trampoline that keeps vector registers by `$save` and `$restore`, after `$prepare` has made their room fit.
///
/// `rbp` holds the frame, with a copy of the return address above the caller's `rbp`: unwinders find their way however
/// large the room is, those too that go by frame pointers alone.
#[cfg(target_arch = "x86_64")]
macro_rules! trampoline {
    ($name:literal, [$($prepare:literal),*], $save:literal, $restore:literal) => {
        core::arch::global_asm!(
            concat!(".pushsection .text.", $name, ", \"ax\", @progbits"),
            ".p2align 4",
            concat!(".hidden ", $name),
            concat!(".globl ", $name),
            concat!(".type ", $name, ", @function"),
            concat!($name, ":"),
            ".cfi_startproc",
            // The two words of the procedure linkage table.
            ".cfi_adjust_cfa_offset 16",
            "endbr64",
            "push qword ptr [rsp + 16]",
            ".cfi_adjust_cfa_offset 8",
            "push rbp",
            ".cfi_adjust_cfa_offset 8",
            ".cfi_rel_offset rbp, 0",
            "mov rbp, rsp",
            ".cfi_def_cfa_register rbp",
            "and rsp, -64",
            "sub rsp, qword ptr [rip + {bytes}]",
            "sub rsp, 64",
            "mov [rsp], rax",
            "mov [rsp + 8], rcx",
            "mov [rsp + 16], rdx",
            "mov [rsp + 24], rsi",
            "mov [rsp + 32], rdi",
            "mov [rsp + 40], r8",
            "mov [rsp + 48], r9",
            "mov [rsp + 56], r10",
            "mov eax, dword ptr [rip + {mask}]",
            "xor edx, edx",
            $($prepare,)*
            concat!($save, " [rsp + 64]"),
            "mov rdi, [rbp + 16]",
            "mov rsi, [rbp + 24]",
            "call [rdi]",
            "mov r11, rax",
            "mov eax, dword ptr [rip + {mask}]",
            "xor edx, edx",
            concat!($restore, " [rsp + 64]"),
            "mov rax, [rsp]",
            "mov rcx, [rsp + 8]",
            "mov rdx, [rsp + 16]",
            "mov rsi, [rsp + 24]",
            "mov rdi, [rsp + 32]",
            "mov r8, [rsp + 40]",
            "mov r9, [rsp + 48]",
            "mov r10, [rsp + 56]",
            "mov rsp, rbp",
            ".cfi_def_cfa_register rsp",
            "pop rbp",
            ".cfi_adjust_cfa_offset -8",
            ".cfi_restore rbp",
            "add rsp, 24",
            ".cfi_adjust_cfa_offset -24",
            "jmp r11",
            ".cfi_endproc",
            concat!(".size ", $name, ", . - ", $name),
            ".popsection",
            bytes = sym state::BYTES,
            mask = sym state::MASK,
        );
    };
}

#[cfg(target_arch = "x86_64")]
trampoline!("soload_bind_fxsave", [], "fxsave64", "fxrstor64");

/// One that keeps them by an instruction of the XSAVE kind. It does not write all of the header (`xsavec64` the first two
/// words, `xsave64` some bits of the first), and restoring refuses what is not zero in the rest.
#[cfg(target_arch = "x86_64")]
macro_rules! xsave_trampoline {
    ($name:literal, $save:literal) => {
        trampoline!(
            $name,
            [
                "mov [rsp + 576], rdx",
                "mov [rsp + 584], rdx",
                "mov [rsp + 592], rdx",
                "mov [rsp + 600], rdx",
                "mov [rsp + 608], rdx",
                "mov [rsp + 616], rdx",
                "mov [rsp + 624], rdx",
                "mov [rsp + 632], rdx"
            ],
            $save,
            "xrstor64"
        );
    };
}

#[cfg(target_arch = "x86_64")]
xsave_trampoline!("soload_bind_xsave", "xsave64");

#[cfg(target_arch = "x86_64")]
xsave_trampoline!("soload_bind_xsavec", "xsavec64");
