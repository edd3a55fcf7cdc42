// What the C library's functions do does not depend on what leads to them: arguments and results, jumps, exceptions that
// pass through them, what they know of their caller; and a function has one address.
// build: gathered_1 -DNUMBER=1 -fno-exceptions -nodefaultlibs -lc
// build: gathered_2 -DNUMBER=2 -fno-exceptions -nodefaultlibs -lc
// build: gathered_3 -DNUMBER=3 -fno-exceptions -nodefaultlibs -lc
// build: gathered -DROOT -fno-exceptions -nodefaultlibs -lc
// needs: gathered_1 gathered_2 gathered_3
// build: gathered_throws -DTHROWS
// needs: gathered
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <unistd.h>

#if defined THROWS

static int refuse(const void *, const void *) { throw 5; }
extern "C" int throws_through_sorting() {
    int numbers[] = {3, 1, 2};
    try {
        qsort(numbers, 3, sizeof *numbers, refuse);
    } catch (int thrown) {
        return thrown;
    }
    return -1;
}

#elif !defined ROOT

#define JOIN(a, b) a##b
#define NAME(name, number) JOIN(name, number)

// Says where to count that it is gone: by `__cxa_finalize`, when the library is unloaded.
struct Gone {
    int *counter = nullptr;
    ~Gone() { if (counter) ++*counter; }
};
static Gone gone;
extern "C" void NAME(count_gone_, NUMBER)(int *counter) { gone.counter = counter; }

// The length of a copy: both are indirect functions.
extern "C" int NAME(length_, NUMBER)(const char *text) {
    char copy[64];
    size_t length = strlen(text);
    memcpy(copy, text, length + 1);
    return (int)strlen(copy) * NUMBER;
}

extern "C" int NAME(pid_, NUMBER)() { return getpid(); }

#else

extern "C" {
int length_1(const char *);
int length_2(const char *);
int length_3(const char *);
void count_gone_1(int *);
void count_gone_2(int *);
void count_gone_3(int *);
int pid_1();
int pid_2();
int pid_3();

int lengths() { return length_1("one") + length_2("fours") + length_3(""); }

void count_gone(int *counter) {
    count_gone_1(counter);
    count_gone_2(counter);
    count_gone_3(counter);
}

int same_process() { return pid_1() == getpid() && pid_2() == getpid() && pid_3() == getpid(); }

// Of vector registers `al` says how many there are; more arguments are on the stack.
const char *printed() {
    static char text[64];
    snprintf(text, sizeof text, "%d %.1f %s %.1f %d %d %d %.1f", 1, 2.5, "three", 4.5, 5, 6, 7, 8.5);
    return text;
}

static jmp_buf before;
int jumps() {
    volatile int rounds = 0;
    int came = setjmp(before);
    ++rounds;
    if (came < 3) longjmp(before, came + 1);
    return rounds;
}

// Found by the address of the caller.
const char *own_file() {
    Dl_info info;
    return dladdr((void *)lengths, &info) ? info.dli_fname : "";
}
void *next_lengths() { return dlsym(RTLD_NEXT, "lengths"); }

void *address_of_getpid() { return (void *)getpid; }
void *found_getpid() { return dlsym(RTLD_DEFAULT, "getpid"); }
}

#endif
