// An IFUNC resolver runs when its function is first called, and may itself call functions for the first time, also while its library is being loaded.
// build: lazy_resolved -DRESOLVED
// build: lazy_resolver
// needs: lazy_resolved

#include <execinfo.h>
#include <stdlib.h>
#include <string.h>

int choose(void);
int choose_early(void);
int indirect(void);
extern int times_resolved, frames_of_caller;

#if defined RESOLVED
int times_resolved, frames_of_caller;
static int one(void) { return 1; }
static int two(void) { return 2; }
int choose(void) { return 2; }
int choose_early(void) { return 1; }

__attribute__((noinline)) static void look_around(void) {
    void *frames[64];
    int count = backtrace(frames, 64);
    char **names = backtrace_symbols(frames, count);
    for (int frame = 0; names && frame < count; frame++)
        frames_of_caller += strstr(names[frame], "(call_indirect+") != 0;
    free(names);
}

static int (*resolve(void))(void) {
    times_resolved++;
    look_around();
    return choose() == 2 ? two : one;
}
int indirect(void) __attribute__((ifunc("resolve")));
#else
int call_indirect(void) { return indirect() + 40; }
int call_indirect_again(void) { return indirect() + 40; }

static int early(void) { return 3; }
static int late(void) { return 4; }
static int (*resolve_early(void))(void) { return choose_early() == 1 ? early : late; }
static int own(void) __attribute__((ifunc("resolve_early")));
int call_own(void) { return own(); }
#endif
