// A debugger stops in the library at a line of this file.
// cc: -g -O0

int debugged_inner(int value) {
    return value + 1; // break here
}

int debugged_outer(void) { return debugged_inner(42); }
