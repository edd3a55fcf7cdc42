// Every register that may hold an argument has the same value when a function is entered by its first call as when it was called.
// only: x86_64
// build: lazy_registers_seen -DSEEN
// build: lazy_registers
// needs: lazy_registers_seen

// Vector registers, then eight general ones, then masks.
#define SIZE (2048 + 64 + 64)
extern unsigned char seen_registers[SIZE];

#if defined SEEN
unsigned char seen_registers[SIZE];

// Each stores what it is entered with.
#define SEE(name, store)                                                                                               \
    __asm__(".text\n.globl see_" name "\n.type see_" name ", @function\nsee_" name ":\nendbr64\n"                      \
            "mov seen_registers@GOTPCREL(%rip), %r11\n"                                                                \
            "mov %rax, 2048(%r11)\nmov %rdi, 2056(%r11)\nmov %rsi, 2064(%r11)\nmov %rdx, 2072(%r11)\n"                 \
            "mov %rcx, 2080(%r11)\nmov %r8, 2088(%r11)\nmov %r9, 2096(%r11)\nmov %r10, 2104(%r11)\n" store "ret\n")
SEE("sse", ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\nmovups %xmm\\i, 64*\\i(%r11)\n.endr\n");
SEE("avx", ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\nvmovups %ymm\\i, 64*\\i(%r11)\n.endr\nvzeroupper\n");
SEE("avx512", ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
              "vmovups %zmm\\i, 64*\\i(%r11)\n.endr\n"
              ".irp i,0,1,2,3,4,5,6,7\nkmovw %k\\i, 2112+8*\\i(%r11)\n.endr\nvzeroupper\n");
#else
#include <string.h>

#define PASS(name, load)                                                                                               \
    __asm__(".text\n.type pass_" name ", @function\npass_" name ":\nendbr64\npush %rbx\nmov %rdi, %rbx\n" load         \
            "mov 2048(%rbx), %rax\nmov 2056(%rbx), %rdi\nmov 2064(%rbx), %rsi\nmov 2072(%rbx), %rdx\n"                 \
            "mov 2080(%rbx), %rcx\nmov 2088(%rbx), %r8\nmov 2096(%rbx), %r9\nmov 2104(%rbx), %r10\n"                   \
            "call see_" name "@PLT\npop %rbx\nret\n")
PASS("sse", ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\nmovups 64*\\i(%rbx), %xmm\\i\n.endr\n");
PASS("avx", ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\nvmovups 64*\\i(%rbx), %ymm\\i\n.endr\n");
PASS("avx512", ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
               "vmovups 64*\\i(%rbx), %zmm\\i\n.endr\n"
               ".irp i,0,1,2,3,4,5,6,7\nkmovw 2112+8*\\i(%rbx), %k\\i\n.endr\n");
void pass_sse(const void *), pass_avx(const void *), pass_avx512(const void *);

// How many of the bytes that `pass` loads into registers arrive as something else: those of all registers but r10, which is
// the static chain of nested functions, or those of r10 alone.
static int lost(void (*pass)(const void *), unsigned registers, unsigned bytes, unsigned masks, int chain) {
    unsigned char pattern[SIZE];
    for (unsigned at = 0; at < SIZE; at++)
        pattern[at] = at * 7 + at / 256 + 1;
    memset(seen_registers, 0, SIZE);
    pass(pattern);
    int lost = 0;
    for (unsigned at = 0; at < SIZE; at++) {
        int is_vector = at < 2048 && at / 64 < registers && at % 64 < bytes;
        int is_mask = at >= 2112 && (at - 2112) / 8 < masks && at % 8 < 2;
        int is_general = at >= 2048 && at < 2112 && (at < 2104) != chain;
        lost += (is_vector || is_mask || is_general) && pattern[at] != seen_registers[at];
    }
    return lost;
}

int lost_of_sse(void) { return lost(pass_sse, 16, 16, 0, 0); }
int lost_of_static_chain(void) { return lost(pass_sse, 0, 0, 0, 1); }
int lost_of_avx(void) { return __builtin_cpu_supports("avx") ? lost(pass_avx, 16, 32, 0, 0) : 0; }
int lost_of_avx512(void) { return __builtin_cpu_supports("avx512f") ? lost(pass_avx512, 32, 64, 8, 0) : 0; }
#endif
