// What was linked before version 2.34 of the C library needs parts that are empty by now: the C library itself has all they had.
// build: empty_parts/at_link/libthreads.so -DTHREADS
// soname: libpthread.so.0
// versions: GLIBC_2.2.5 { global: pthread_once; local: *; };
// build: empty_parts
// needs: empty_parts/at_link/libthreads.so
// cc: -Wl,--no-as-needed -l:libdl.so.2 -l:librt.so.1
// build: empty_parts/at_link_newer/libthreads.so -DTHREADS
// soname: libpthread.so.0
// versions: GLIBC_9.9 { global: pthread_once; local: *; };
// build: empty_parts_newer
// needs: empty_parts/at_link_newer/libthreads.so
// build: empty_parts_rival -DRIVAL
// build: empty_parts_first -DNOTHING
// cc: -Wl,--no-as-needed -l:libdl.so.2 -l:librt.so.1
// needs: empty_parts_rival
// build: empty_parts/at_link/part.so -DPART
// build: empty_parts/part.so -DPART
// soname: libBrokenLocale.so.1
// build: empty_parts/late.so
// runpath: $ORIGIN
// needs: empty_parts/at_link/libthreads.so empty_parts/at_link/part.so

#include <dlfcn.h>

#if defined THREADS
void pthread_once(void) {}
#elif defined RIVAL
int getdtablesize(void) { return 42; }
#elif defined PART
__attribute__((constructor)) static void bring_another(void) { dlopen("libpthread.so.0", RTLD_NOW); }
#elif defined NOTHING
int nothing(void) { return 0; }
#else
static int calls;
static void once(void) { calls++; }

int pthread_once(int *, void (*)(void));

int calls_once(void) {
    static int control;
    pthread_once(&control, once);
    pthread_once(&control, once);
    return calls;
}
#endif
