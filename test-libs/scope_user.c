// Refers to a symbol without saying which library has it.
// needs: journal

#include "journal.h"
IN_AND_OUT("user")

int provided(void);
int call_provided(void) { return provided(); }
