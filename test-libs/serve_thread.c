// A library whose constructor starts a thread cannot be served: a fork has only one of them.
// cc: -pthread
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

static atomic_int begun;

static void *wait_for_ever(void *nothing) {
    begun = 1;
    for (;;)
        pause();
    return nothing;
}

__attribute__((constructor)) static void start(void) {
    pthread_t thread;
    pthread_create(&thread, 0, wait_for_ever, 0);
    // From here on it may be unmapped: the thread does not come back.
    while (!begun)
        sched_yield();
}
