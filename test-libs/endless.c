// A constructor that never returns keeps whoever loads the library waiting.

#include <unistd.h>

__attribute__((constructor)) static void start(void) {
    for (;;) pause();
}
