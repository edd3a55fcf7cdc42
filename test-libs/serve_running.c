// A library whose code goes on running until the process has ended: in a thread, and at exit.
// cc: -pthread
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>

static volatile unsigned long steps;

static void *run(void *nothing) {
    for (;;)
        steps++;
    return nothing;
}

static void at_exit(int status, void *nothing) { steps += status; }

__attribute__((constructor)) static void start(void) {
    pthread_t thread;
    pthread_create(&thread, 0, run, 0);
    // Closing the library does not call it, as what atexit is given.
    on_exit(at_exit, 0);
}
