// A worker of a server finds what the constructor did there, once; what it writes is its own, and nothing runs at its exit.
#define _DEFAULT_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int constructed_by;
static int counted;

static void at_exit(void) { puts("at exit"); }

__attribute__((constructor)) static void start(void) {
    constructed_by = getpid();
    atexit(at_exit);
}
__attribute__((destructor)) static void stop(void) { puts("destructor"); }

int serve_is_fork(void) { return constructed_by == getppid(); }
int serve_count(void) { return ++counted; }
int serve_raise(int signal) { return raise(signal); }
int serve_exit(int code) { _exit(code); }

// Says who it is, and waits for a line.
int serve_main(int argc, char **argv) {
    char line[100] = "", directory[4096];
    for (int i = 0; i < argc; i++)
        printf("[%s]", argv[i]);
    printf("\n%s\n%d\n", getcwd(directory, sizeof directory), getpid());
    fflush(stdout);
    if (fgets(line, sizeof line, stdin))
        printf("read %s", line);
    fputs("to the error\n", stderr);
    return argc;
}

// Starts another process and ends for nothing but SIGKILL.
int serve_stay(void) {
    signal(SIGTERM, SIG_IGN);
    int child = fork();
    if (child)
        printf("%d %d\n", getpid(), child), fflush(stdout);
    for (;;)
        pause();
}
