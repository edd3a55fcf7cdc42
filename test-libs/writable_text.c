// A segment that is writable and executable is refused, unless the caller allows it.
// only: x86_64
// cc:

__asm__(".section .writable_text, \"awx\", @progbits\n"
        ".globl patched_function\n"
        ".type patched_function, @function\n"
        "patched_function: mov $6, %eax\n"
        "                  ret\n"
        ".text\n");
