// What another library may bind to, if the scope lets it see this.
// needs: journal

#include "journal.h"
IN_AND_OUT("provider")

int provided(void) { return 5; }
