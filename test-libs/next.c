// RTLD_NEXT finds the definition after the caller's own, in the order in which the libraries were needed.
// build: next_last -DLAST
// build: next_wrapper -DWRAPPER
// needs: journal
// build: next_root
// needs: next_wrapper next_last

#define _GNU_SOURCE
#include <dlfcn.h>
#include "journal.h"

#if defined LAST
int next_answer(void) { return 10; }
int only_in_last(void) { return 5; }
#elif defined WRAPPER
int next_answer(void) {
    int (*next)(void) = (int (*)(void))dlsym(RTLD_NEXT, "next_answer");
    return next ? next() + 1 : -1;
}
// What the library that needs both brings is in the wrapper's scope, too.
int beside(void) {
    int (*found)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "only_in_last");
    return found ? found() : -1;
}
// The C library has it, and nobody after that.
int finds_getpid(void) { return dlsym(RTLD_NEXT, "getpid") != 0 && dlsym(RTLD_NEXT, "no_such_symbol") == 0; }
// And so it is while all of them go.
__attribute__((destructor)) static void stop(void) {
    journal(next_answer() == 11 && beside() == 5 && finds_getpid() ? "found at last" : "not found");
}
#else
int next_answer(void), beside(void);
int call_next(void) { return next_answer(); }
int call_beside(void) { return beside(); }
#endif
