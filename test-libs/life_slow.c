// Whoever opens it sees a constructor that has finished, also if another thread runs it.
// build: life_slow
// build: life_slow_root -DROOT
// needs: life_slow life_hook

#if defined ROOT
int slow_root(void) { return 1; }
#else
#include <unistd.h>

static volatile int ready;

__attribute__((constructor)) static void start(void) {
    usleep(50 * 1000);
    ready++;
}

int times_constructed(void) { return ready; }
#endif
