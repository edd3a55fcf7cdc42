// What it registered with atexit runs before its destructor, on unload and on exit.
// needs: journal

#include "journal.h"
#include <stdlib.h>

static void handler(void) { journal("handler"); }
__attribute__((constructor)) static void start(void) { atexit(handler); }
__attribute__((destructor)) static void stop(void) { journal("destructor"); }
