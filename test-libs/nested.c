// A library calls the functions of <dlfcn.h> and <link.h>: they know who calls, and answer for it.
// build: nested/inner/libnested_inner.so -DINNER
// soname: libnested_inner.so.1
// build: nested/plugin.so
// runpath: $ORIGIN/inner
// build: nested/plugin_rpath.so
// rpath: $ORIGIN/inner
// build: nested/plugin_nowhere.so
// build: nested/plugin_own.so -DOWN
// build: nested/plugin_symbolic.so -DOWN -Wl,-Bsymbolic
// build: nested/plugin_bare.so
// runpath:
// build: nested/needs_plugin.so -DNEEDS
// rpath: $ORIGIN/inner:$ORIGIN
// needs: nested/plugin_bare.so
// build: nested/constructor.so -DCONSTRUCTOR
// runpath: $ORIGIN/inner

#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

#if defined NEEDS
int needs_plugin(void) { return 1; }
#elif defined INNER
int inner_answer(void) { return 1; }
#else
void *plugin_open(const char *name, int mode) {
    void *volatile handle = dlopen(name, mode); // not as a jump, which would make it the caller's call
    return handle;
}
void *plugin_symbol(void *handle, const char *name) {
    void *volatile found = dlsym(handle, name);
    return found;
}
void *plugin_version(void *handle, const char *name, const char *version) {
    void *volatile found = dlvsym(handle, name, version);
    return found;
}
int plugin_close(void *handle) { return dlclose(handle); }
const char *plugin_error(void) { return dlerror(); }
int plugin_own(void) { return 1; }
int one_of_two(void) { return 2; }
int other_of_two(void) __attribute__((alias("one_of_two")));
#if defined OWN
int soload_test_of_the_program(void) { return 12; } // as the program has one
#endif

const char *file_of_plugin(void) {
    Dl_info info;
    return dladdr((char *)plugin_own + 1, &info) ? info.dli_fname : 0;
}
const char *name_of_function(void) {
    Dl_info info;
    return dladdr((char *)plugin_own + 1, &info) && info.dli_saddr == (void *)plugin_own ? info.dli_sname : 0;
}
const char *name_of_two(void) {
    Dl_info info;
    return dladdr((void *)one_of_two, &info) ? info.dli_sname : 0;
}
int entry_is_right(void) {
    Dl_info info;
    const ElfW(Sym) *entry = 0;
    struct link_map *map = 0;
    return dladdr1((void *)plugin_own, &info, (void **)&entry, RTLD_DL_SYMENT)
        && dladdr1((void *)plugin_own, &info, (void **)&map, RTLD_DL_LINKMAP)
        && (char *)map->l_addr + entry->st_value == (char *)plugin_own && map->l_ld == _DYNAMIC
        && strcmp(map->l_name, info.dli_fname) == 0;
}

static char origin[4096];
const char *origin_of(void *handle) { return dlinfo(handle, RTLD_DI_ORIGIN, origin) == 0 ? origin : 0; }
const char *map_name_of(void *handle) {
    struct link_map *map = 0;
    return dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 ? map->l_name : 0;
}
int space_of(void *handle) {
    Lmid_t space = -7;
    return dlinfo(handle, RTLD_DI_LMID, &space) == 0 ? (int)space : -1;
}
#ifndef RTLD_DI_PHDR
#define RTLD_DI_PHDR 11 // since 2.36
#endif
int headers_of(void *handle) {
    const ElfW(Phdr) *headers = 0;
    int count = dlinfo(handle, RTLD_DI_PHDR, &headers);
    int loads = 0;
    for (int i = 0; i < count; i++)
        loads += headers[i].p_type == PT_LOAD;
    return loads > 1;
}
static char search_paths[8192];
const char *search_paths_of(void *handle) {
    Dl_serinfo size;
    if (dlinfo(handle, RTLD_DI_SERINFOSIZE, &size) != 0)
        return 0;
    Dl_serinfo *all = malloc(size.dls_size);
    *all = size; // as the manual says
    search_paths[0] = 0;
    if (dlinfo(handle, RTLD_DI_SERINFO, all) == 0)
        for (unsigned i = 0; i < all->dls_cnt; i++)
            strcat(strcat(search_paths, all->dls_serpath[i].dls_name), all->dls_serpath[i].dls_flags ? "?" : ":");
    free(all);
    return search_paths;
}

static int has_plugin(struct dl_phdr_info *info, size_t size, void *count) {
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        ElfW(Addr) offset = (ElfW(Addr))plugin_own - info->dlpi_addr - header->p_vaddr;
        *(int *)count += header->p_type == PT_LOAD && offset < header->p_memsz;
    }
    return 0;
}
int times_gone_through(void) {
    int count = 0;
    dl_iterate_phdr(has_plugin, &count);
    return count;
}
// An object may be opened while another is looked at.
static int opens_inner(struct dl_phdr_info *info, size_t size, void *handle) {
    (void)info, (void)size;
    *(void **)handle = dlopen("libnested_inner.so", RTLD_NOW);
    return 5;
}
int open_while_going_through(void) {
    void *handle = 0;
    int answer = dl_iterate_phdr(opens_inner, &handle);
    return answer == 5 && handle && dlclose(handle) == 0;
}

#if __GLIBC_PREREQ(2, 35)
int finds_itself(void) {
    struct dl_find_object found;
    return _dl_find_object((char *)plugin_own + 1, &found) == 0 && found.dlfo_map_start <= (void *)plugin_own
        && found.dlfo_map_end > (void *)plugin_own && found.dlfo_eh_frame && found.dlfo_link_map->l_ld == _DYNAMIC;
}
#else
int finds_itself(void) { return 1; }
#endif

// Opens the plugin again, and closes that from within.
int close_own_handle(void) {
    void *self = dlopen(file_of_plugin(), RTLD_NOW);
    return self && dlclose(self) == 0 && plugin_own();
}

// The functions on the stack, by the names that backtrace_symbols finds, innermost first.
static char names[8192];
static __attribute__((noinline)) void note_names(void) {
    void *frames[32];
    int count = backtrace(frames, 32);
    char **symbols = backtrace_symbols(frames, count);
    names[0] = 0;
    for (int i = 0; i < count; i++)
        if (strlen(names) + strlen(symbols[i]) + 2 < sizeof names)
            strcat(strcat(names, symbols[i]), "\n");
    free(symbols);
}
__attribute__((noinline)) const char *plugin_backtrace(void) {
    note_names();
    return names;
}

int opened_in_constructor;
#if defined CONSTRUCTOR
__attribute__((constructor)) static void start(void) {
    void *inner = dlopen("libnested_inner.so", RTLD_NOW);
    int (*answer)(void) = inner ? (int (*)(void))dlsym(inner, "inner_answer") : 0;
    opened_in_constructor = answer ? answer() : -1;
}
#endif
#endif
