// Relocations of text are applied, and the text is executable and not writable afterwards.
// only: x86_64
// cc: -Wl,-z,notext

int text_target = 9;

__asm__(".text\n"
        ".globl text_words, read_target\n"
        "text_words: .quad text_target + 4\n"
        "            .quad text_local\n"
        "text_local:\n"
        ".type read_target, @function\n"
        "read_target: movabs $text_target, %rax\n"
        "             mov (%rax), %eax\n"
        "             ret\n");
