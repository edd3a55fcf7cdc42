// A program that uses everything in <dlfcn.h> prints the same whoever provides it.
// cc: -pie -rdynamic
// build: programs/dlfcn

#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define SAY(...) (printf(__VA_ARGS__), puts(""))

static const char *base(const char *path) {
    const char *slash = path ? strrchr(path, '/') : 0;
    return slash ? slash + 1 : path ? path : "(none)";
}

static int count_objects(struct dl_phdr_info *info, size_t size, void *name) {
    (void)size;
    return strcmp(base(info->dlpi_name), name) == 0 && info->dlpi_phnum > 3;
}

static void *fails_elsewhere(void *unused) {
    dlopen("libno-such.so", RTLD_NOW);
    return unused;
}

// Programs look for its words, as GHC for those of a file that is no ELF file; what stands in brackets behind is ours.
static void say_error(const char *call) {
    char *error = dlerror();
    char *ours = error ? strstr(error, " (") : 0;
    if (ours)
        *ours = 0;
    SAY("%s: %s", call, error ? error : "no error");
}

static void say_no_open(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s%s", folder, name);
    dlopen(path, RTLD_NOW);
    say_error(name);
}

int main(int argc, char **argv) {
    (void)argc;
    char path[4096];
    snprintf(path, sizeof path, "%s/liblife_leaf.so", argv[1]);

    void *first = dlopen(path, RTLD_NOW);
    SAY("opened %d, error %d", first != 0, dlerror() != 0);
    SAY("same handle %d", dlopen(path, RTLD_LAZY) == first);
    SAY("there already %d", dlopen(path, RTLD_NOW | RTLD_NOLOAD) == first);
    SAY("not there %d", dlopen("libno-such.so", RTLD_NOW | RTLD_NOLOAD) == 0);
    dlerror();

    int (*present)(void) = (int (*)(void))dlsym(first, "present");
    SAY("called %d", present ? present() : -1);
    SAY("missing symbol %d", dlsym(first, "no_such_symbol") == 0);
    say_error("missing symbol");
    SAY("once %d", dlerror() == 0);
    dlvsym(first, "no_such_symbol", "NO_1.0");
    say_error("missing version");
    say_no_open("", "libno-such.so");
    say_no_open("/no/", "libno-such.so");
    say_no_open("/etc/", "passwd");
    say_no_open(argv[1], "/libmissing_dependency.so");
    say_no_open(argv[1], "/libundefined_function.so");
    SAY("version %d %d", dlvsym(RTLD_DEFAULT, "getpid", "GLIBC_2.2.5") != 0, dlvsym(RTLD_DEFAULT, "getpid", "NO_1.0") == 0);
    dlerror();
    SAY("local %d", dlsym(RTLD_DEFAULT, "present") == 0);
    dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    SAY("promoted %d", dlsym(RTLD_DEFAULT, "present") == (void *)present);
    SAY("through the program %d", dlsym(dlopen(0, RTLD_NOW), "present") == (void *)present);
    SAY("next %d", dlsym(RTLD_NEXT, "puts") == dlsym(RTLD_DEFAULT, "puts"));

    Dl_info info = {0};
    SAY("address %d", dladdr((char *)present + 1, &info) != 0);
    SAY("is in %s, %s %d", base(info.dli_fname), info.dli_sname, info.dli_saddr == (void *)present);
    struct link_map *map = 0;
    SAY("address and map %d", dladdr1((void *)present, &info, (void **)&map, RTLD_DL_LINKMAP) != 0);
    SAY("of %s", map ? base(map->l_name) : "none");
    const ElfW(Sym) *symbol = 0;
    dladdr1((void *)present, &info, (void **)&symbol, RTLD_DL_SYMENT);
    SAY("entry %d", symbol && (char *)map->l_addr + symbol->st_value == (char *)present);
    struct link_map *same = 0;
    SAY("info %d", dlinfo(first, RTLD_DI_LINKMAP, &same));
    SAY("the same %d", same == map);
    char origin[4096] = "";
    SAY("origin %d", dlinfo(first, RTLD_DI_ORIGIN, origin));
    SAY("where it is %d", strcmp(origin, argv[1]));
    SAY("strange request %d", dlinfo(first, 4711, origin));
    SAY("is an error %d", dlerror() != 0);
    SAY("gone through %d", dl_iterate_phdr(count_objects, "liblife_leaf.so"));

    SAY("no mode %d", dlopen(path, 0) == 0);
    SAY("is an error %d", dlerror() != 0);
    SAY("no file %d", dlopen("libno-such.so", RTLD_NOW) == 0);
    pthread_t thread;
    SAY("own error %d", dlerror() != 0);
    pthread_create(&thread, 0, fails_elsewhere, 0);
    pthread_join(thread, 0);
    SAY("another thread's error %d", dlerror() == 0);

    int closes = 0;
    while (closes < 10 && dlclose(first) == 0 && dlopen(path, RTLD_NOW | RTLD_NOLOAD)) {
        dlclose(first);
        closes++;
    }
    SAY("what RTLD_DEFAULT found stays %d %d", closes, dl_iterate_phdr(count_objects, "liblife_leaf.so"));
    snprintf(path, sizeof path, "%s/libbss.so", argv[1]);
    first = dlopen(path, RTLD_NOW);
    dlopen(path, RTLD_NOW);
    dlclose(first);
    SAY("one left %d", dl_iterate_phdr(count_objects, "libbss.so"));
    dlclose(first);
    SAY("gone %d", dl_iterate_phdr(count_objects, "libbss.so"));

    void *math = dlopen("libm.so.6", RTLD_LAZY);
    double (*cosine)(double) = (double (*)(double))dlsym(math, "cos");
    SAY("cos %.1f", cosine ? cosine(0) : -1);
    SAY("closed %d", dlclose(math));
    return 0;
}
