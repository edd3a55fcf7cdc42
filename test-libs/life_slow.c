// Whoever opens it sees a constructor that has finished, also if another thread runs it.

#include <unistd.h>

static volatile int ready;

__attribute__((constructor)) static void start(void) {
    usleep(50 * 1000);
    ready++;
}

int times_constructed(void) { return ready; }
