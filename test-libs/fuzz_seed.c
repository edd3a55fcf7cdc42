// Small, without constructors, and wherever execution enters its text it returns at once: tests flip its bits, and
// whatever a flipped bit makes the loader call must not be what crashes.
// only: x86_64
// needs: fuzz_needed
// cc: -nostdlib -fcf-protection=none -Wl,-z,now,-z,separate-code,--hash-style=both,--build-id=none
// versions: FUZZ_1 { global: *; };

extern int fuzz_needed_variable;
int fuzz_needed(void);
extern int fuzz_weak __attribute__((weak));

static int number = 1;
int *fuzz_relative = &number;
int *fuzz_symbolic = &fuzz_needed_variable;
int *fuzz_weakly = &fuzz_weak;
int (*fuzz_function)(void) = fuzz_needed;
int fuzz_zeros[100];

__asm__(".text\n"
        ".globl fuzz_return\n"
        ".type fuzz_return, @function\n"
        "fuzz_return: .fill 4096, 1, 0xc3\n"); // ret
