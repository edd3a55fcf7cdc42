// A program, and a library that it started with, each open what their own search paths lead to.
// build: asks/inner/libasks_inner.so -DINNER
// build: asks/other/libasks_other.so -DINNER
// build: asks/libasks_beside.so -DBESIDE
// runpath: $ORIGIN/other
// build: programs/asks -pie -DPROGRAM
// needs: asks/libasks_beside.so
// runpath: $ORIGIN/../asks:$ORIGIN/../asks/inner

#include <dlfcn.h>
#include <stdio.h>

#if defined INNER
int present(void) { return 1; }
#elif defined BESIDE
int opens(const char *name) {
    void *volatile handle = dlopen(name, RTLD_NOW); // not as a jump, which would make it the caller's call
    return handle != 0;
}
#else
int opens(const char *name);
int main(void) {
    printf("%d", dlopen("libasks_inner.so", RTLD_NOW | RTLD_NOLOAD) != 0);
    // What one has opened the other finds by its name, so in vain first.
    printf(" %d %d", dlopen("libasks_other.so", RTLD_NOW) != 0, opens("libasks_inner.so"));
    printf(" %d %d\n", dlopen("libasks_inner.so", RTLD_NOW) != 0, opens("libasks_other.so"));
    return 0;
}
#endif
