// Whoever opens it sees a constructor that has finished, and no destructor that has begun, whatever other threads do.

#include <unistd.h>

static volatile int ready;

__attribute__((constructor)) static void start(void) {
    usleep(50 * 1000);
    ready++;
}

__attribute__((destructor)) static void stop(void) {
    ready = -1;
    usleep(50 * 1000);
}

int times_constructed(void) { return ready; }
