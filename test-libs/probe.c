// Probes for SystemTap: places in the code, each with a note that is in the file and not in memory.
// only: x86_64

// As <sys/sdt.h> has it.
#define PROBE(LABEL, NAME) \
    ".globl " LABEL "\n.type " LABEL ",@function\n" LABEL ": nop\n ret\n" \
    ".pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n.4byte 992f-991f, 994f-993f, 3\n" \
    "991: .asciz \"stapsdt\"\n992: .balign 4\n" \
    "993: .8byte " LABEL ", 0, 0\n .asciz \"rtld\"\n .asciz \"" NAME "\"\n .asciz \"8@%rax\"\n994: .balign 4\n.popsection\n"

__asm__(".text\n" PROBE("before_unmapping", "unmap_start") PROBE("after_unmapping", "unmap_complete")
        PROBE("after_all", "unmap_complete_all"));
