// A program that opens libraries lazily gets by without functions that it does not call, and ends when it calls one.
// cc: -pie
// build: programs/lazy

#include <dlfcn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static void *open_in(const char *folder, const char *name, int mode) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return dlopen(path, mode);
}

static int call(void *library, const char *name) {
    int (*function)(void) = library ? (int (*)(void))dlsym(library, name) : 0;
    return function ? function() : -1;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 1;
    printf("bound at once %d\n", open_in(argv[1], "liblazy_missing.so", RTLD_NOW) != 0);
    printf("linked so %d\n", open_in(argv[1], "liblazy_missing_now.so", RTLD_LAZY) != 0);
    void *missing = open_in(argv[1], "liblazy_missing.so", RTLD_LAZY);
    printf("bound later %d, works %d\n", missing != 0, call(missing, "call_present"));
    // What is there already stays as it is.
    printf("opened again %d\n", open_in(argv[1], "liblazy_missing.so", RTLD_NOW) == missing);
    void *calls = open_in(argv[1], "liblazy_calls.so", RTLD_LAZY | RTLD_GLOBAL);
    printf("calls %d %d %d\n", call(calls, "sums"), call(calls, "results"), call(calls, "catch_what_is_thrown"));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        // The line that it prints is the loader's own.
        close(2);
        call(missing, "call_missing");
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    printf("called what is missing: %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    return 0;
}
