// What the fuzzed library needs: it has versions, and code that returns wherever it is entered.
// only: x86_64
// cc: -nostdlib
// versions: NEEDED_1 { global: *; };

int fuzz_needed_variable = 5;
__asm__(".text\n"
        ".globl fuzz_needed\n"
        ".type fuzz_needed, @function\n"
        "fuzz_needed: .fill 64, 1, 0xc3\n");
