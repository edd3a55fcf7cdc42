// A library in a name space of its own has copies of its own of all but the C library.
// build: namespace_inner -DINNER
// build: namespace
// needs: namespace_inner
// build: namespace_late -DLATE
// build: namespace_unique -DUNIQUE

#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int inner_next(void);

#if defined INNER
int inner_count;
int inner_next(void) { return ++inner_count; }
#elif defined LATE
int late_next(void) { return inner_next(); } // nothing that it needs has that
#elif defined UNIQUE
__asm__(".globl the_only_one\n.type the_only_one, @gnu_unique_object\n.size the_only_one, 4\n"
        ".data\n.balign 4\nthe_only_one: .long 7\n.text\n");
extern int the_only_one;
int *where_it_is(void) { return &the_only_one; }
#else
static int count;
static __thread int thread_count = 40;
int constructed;
__attribute__((constructor)) static void construct(void) { constructed++; }

int next(void) { return ++count; }
int next_of_inner(void) { return inner_next(); }
int next_of_thread(void) { return ++thread_count; }

void *opens(const char *name, int mode) {
    void *volatile handle = dlopen(name, mode); // not as a jump, which would make it the caller's call
    return handle;
}
int closes(void *handle) { return dlclose(handle); }
void *finds(const char *name) {
    void *volatile found = dlsym(RTLD_DEFAULT, name);
    return found;
}
void *finds_through(void *handle, const char *name) {
    void *volatile found = dlsym(handle, name);
    return found;
}
void *finds_next(const char *name) {
    void *volatile found = dlsym(RTLD_NEXT, name);
    return found;
}
static int count_called(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    void **wanted = data;
    const char *slash = strrchr(info->dlpi_name, '/');
    if (strcmp(slash ? slash + 1 : info->dlpi_name, wanted[0]) == 0)
        ++*(int *)wanted[1];
    return 0;
}
int goes_through(const char *name) {
    int times = 0;
    void *wanted[] = {(void *)name, &times};
    int volatile answer = dl_iterate_phdr(count_called, wanted);
    return answer == 0 ? times : -1;
}
void *standard_output(void) { return stdout; }
char *duplicate(const char *text) { return strdup(text); }
int duplicates_and_frees(const char *text) {
    char *copy = strdup(text);
    int same = strcmp(copy, text) == 0;
    free(copy);
    return same;
}
#endif
