// A debugger stops in the library at a line of this file.
// cc: -g -O0

int debugged_inner(int value) {
    return value + 1; // break here
}

int debugged_outer(void) { return debugged_inner(42); }

// Before anybody has called it.
int debugged_ready;
__attribute__((constructor)) static void debugged_start(void) { debugged_ready = 1; }

// Keeps a processor busy for a while, for a profiler to look.
unsigned long debugged_busy(void) {
    volatile unsigned long sum = 0;
    for (unsigned long i = 0; i < 100000000; i++)
        sum += i;
    return sum;
}
