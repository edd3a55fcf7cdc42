// Libraries that need each other are loaded and initialised once each.
// build: cycle/stub/libcycle_a.so -DNAME=a -DOTHER=b
// build: cycle/libcycle_b.so -DNAME=b -DOTHER=a
// needs: cycle/stub/libcycle_a.so journal
// runpath: $ORIGIN:$ORIGIN/..
// build: cycle/libcycle_a.so -DNAME=a -DOTHER=b
// needs: cycle/libcycle_b.so journal
// runpath: $ORIGIN:$ORIGIN/..

#include "journal.h"
#define TEXT(x) #x
#define NAME_TEXT(x) TEXT(x)
#define JOIN(x, y) x##_##y
#define FUNCTION(x, y) JOIN(x, y)
IN_AND_OUT("cycle_" NAME_TEXT(NAME))

int FUNCTION(OTHER, answer)(void);
int FUNCTION(NAME, answer)(void) { return 1; }
int FUNCTION(NAME, asks)(void) { return FUNCTION(OTHER, answer)() + 1; }
