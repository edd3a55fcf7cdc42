// What a process has not read yet of a library changes when its file is overwritten in place: code as well as constants.
// cc: -O1

#define PAGE 4096

// Pages of their own, so that nothing else touches them.
static const int constants[3 * PAGE / sizeof(int)] __attribute__((aligned(PAGE))) = {[PAGE / sizeof(int)] = 42};
static int variables[3 * PAGE / sizeof(int)] __attribute__((aligned(PAGE))) = {[PAGE / sizeof(int)] = 43};

int near_code(void) { return 41; }
int constant(void) { return *(const volatile int *)&constants[PAGE / sizeof(int)]; }
int variable(void) { return *(volatile int *)&variables[PAGE / sizeof(int)]; }

__attribute__((aligned(2 * PAGE), section(".text.far"))) int far_code(void) { return 44; }
