// An address has the name of the last symbol at or before it that reaches so far; one without a size is at its own alone.

// Of what is in the object's memory: a thread-local variable has its place in each thread's, an absolute symbol nowhere.
__asm__(".pushsection .rodata\n"
        ".globl sized, sizeless, small_number\n"
        ".type sized, %object\n"
        ".type sizeless, %object\n"
        "sized: .byte 0, 0\n"
        "sizeless: .byte 0, 0\n"
        ".size sized, 4\n"
        ".byte 0, 0\n"
        ".popsection\n"
        ".set small_number, 8\n"
        ".type small_number, %object\n"
        ".size small_number, 4\n");

__thread int before_it, thread_local_number;
int times_used(void) { return before_it + thread_local_number; }
