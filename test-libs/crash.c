// A constructor that crashes takes the process with it, whoever loads the library.

#include <stdlib.h>

__attribute__((constructor)) static void start(void) { abort(); }
