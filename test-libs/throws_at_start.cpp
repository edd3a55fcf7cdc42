// An exception that leaves a constructor goes to whoever opened the library, and the process goes on.
// build: throws_at_start -DTHROWS
// build: opens_and_catches
#include <dlfcn.h>

#if defined THROWS
static int starts;
__attribute__((constructor)) static void start() {
    if (++starts == 1)
        throw 7;
}
extern "C" int times_started() { return starts; }
#else
extern "C" int open_and_catch(const char *path) {
    try {
        return dlopen(path, RTLD_NOW) ? 0 : -1;
    } catch (int thrown) {
        return thrown;
    }
}
#endif
