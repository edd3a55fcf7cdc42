// A GNU unique symbol is one in the process, though two libraries that do not know each other define it.
// build: unique_a
// build: unique_b
// build: unique_unused -DUNUSED

__asm__(".data\n"
        ".globl unique_counter\n"
        ".type unique_counter, @gnu_unique_object\n"
        ".size unique_counter, 4\n"
        "unique_counter: .long 7\n"
        ".text\n");

#ifndef UNUSED
extern int unique_counter;

int *unique_address(void) { return &unique_counter; }
int unique_count(void) { return unique_counter++; }
#endif
