// Each relocation type that a linker makes for a shared library stores what its formula says.
// only: x86_64
// needs: absolute

int target[4] = {11, 22, 33, 44};
int callee(void) { return 5; }
static int local[4] = {55, 66, 77, 88};
extern char absolute_small[];

int *relative = &local[1];         // R_X86_64_RELATIVE: B + A
int *sixty_four = &target[2];      // R_X86_64_64: S + A
char *thirty_two = absolute_small; // made R_X86_64_32 by the test
struct { char before; int *pointer; char after; } __attribute__((packed)) unaligned = {1, &local[2], 2};

int *glob_dat(void) { return target; }       // R_X86_64_GLOB_DAT: S
int jump_slot(void) { return callee() + 1; } // R_X86_64_JUMP_SLOT: S

__asm__(".data\n"
        ".globl pc32, size32, size64\n"
        "pc32:   .long target + 4 - .\n"      // R_X86_64_PC32: S + A - P
        "size32: .long target@SIZE + 1\n"     // R_X86_64_SIZE32: Z + A
        "        .long 0x5a5a5a5a\n"          // what a 32-bit relocation must leave alone
        "size64: .quad target@SIZE + 2\n"     // R_X86_64_SIZE64: Z + A
        ".text\n");
