// A handler of a fault in the library looks at the stack, finds the function that faulted, and leaves by siglongjmp.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

static sigjmp_buf before;
static int seen;

static void look(int number) {
    (void)number;
    void *frames[64];
    int count = backtrace(frames, 64);
    Dl_info info;
    for (int i = 0; i < count; i++)
        if (dladdr(frames[i], &info) && info.dli_sname && strcmp(info.dli_sname, "faults_here") == 0)
            seen++;
    siglongjmp(before, 1);
}

__attribute__((noinline)) int faults_here(volatile int *nowhere) { return *nowhere + 1; }

int faults_and_returns(void) {
    struct sigaction action = {.sa_handler = look}, old;
    sigaction(SIGSEGV, &action, &old);
    seen = 0;
    if (sigsetjmp(before, 1) == 0)
        faults_here(0);
    sigaction(SIGSEGV, &old, 0);
    return seen;
}
