// What it registered with atexit runs when it is unloaded, after its destructor, or on exit, before it.
// needs: journal

#include "journal.h"
#include <stdlib.h>

static void handler(void) { journal("handler"); }
__attribute__((constructor)) static void start(void) { atexit(handler); }
__attribute__((destructor)) static void stop(void) { journal("destructor"); }
