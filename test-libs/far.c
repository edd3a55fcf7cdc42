// A word beyond 4 GiB is bound as any other, and so is one that leads to what lies before the object that it refers to.
// build: far -Wl,--section-start=.far=0x180000000
// build: far_before -DBEFORE

#include <unistd.h>

#if defined BEFORE
#define BACK (1L << 40)
#else
#define BACK 0L
__attribute__((section(".far,\"aw\",@progbits#")))
#endif
char *word = (char *)getpid - BACK;

int finds_itself(void) { return ((pid_t (*)(void))(word + BACK))() == getpid(); }
