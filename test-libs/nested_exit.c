// Loaded code ends the process, or makes a new one: destructors run once, where they should.
// needs: journal
// build: nested_exit
// build: nested_exit_twin
// build: nested_exit_at_start -DAT_START

#include "journal.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

IN_AND_OUT("exit")

static void *leaves(void *unused) {
    exit(0);
    return unused;
}

void leave(void) { exit(0); }
void leave_at_once(void) { _exit(0); }
void leave_quickly(void) { quick_exit(0); }
void leave_from_a_thread(void) {
    pthread_t thread;
    pthread_create(&thread, 0, leaves, 0);
    pthread_join(thread, 0);
}

// The status of a child that comes to that end.
int child_that(void (*ends)(void)) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        ends();
        _exit(9);
    }
    return waitpid(child, &status, 0) == child ? status : -1;
}

static void note_fork(void) { journal("fork"); }
int watch_forks(void) { return pthread_atfork(note_fork, 0, 0) == 0; }

#if defined AT_START
__attribute__((constructor(101))) static void start(void) { exit(0); }
#endif

static const char *path;
static void opens_at_exit(void) {
    if (!dlopen(path, RTLD_NOW))
        _exit(8);
}
// Leaves with a handler that opens a library, whose destructor has to run, too.
void leave_opening(const char *name) {
    path = name;
    atexit(opens_at_exit);
    exit(0);
}
