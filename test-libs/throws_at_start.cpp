// An exception that leaves a constructor goes to whoever opened the library, and the process goes on.
// needs: journal
// build: throws_at_start -DTHROWS
// build: opens_and_catches
// build: throws_first -DFOLLOWS
// needs: throws_at_start
// build: throws_below -DROOT
// needs: throws_first

extern "C" {
#include "journal.h"
}

#if defined THROWS
static int starts;
__attribute__((constructor)) static void start() {
    if (journal_hook)
        journal_hook();
    if (++starts == 1)
        throw 7;
}
extern "C" int times_started() { return starts; }
#elif defined FOLLOWS
static int follows;
__attribute__((constructor)) static void start() { follows++; }
extern "C" int times_followed() { return follows; }
#elif defined ROOT
extern "C" int below() { return 1; }
#else
// The header says that it does not throw, and the compiler would leave out the handler.
extern "C" void *dlopen(const char *path, int mode);
extern "C" int open_and_catch(const char *path) {
    try {
        return dlopen(path, 2) ? 0 : -1;
    } catch (int thrown) {
        return thrown;
    }
}
#endif
