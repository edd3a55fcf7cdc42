// Constructors run after those of the libraries needed, destructors before.
// needs: journal
// build: life_leaf -DNAME=leaf
// build: life_left -DNAME=left
// needs: life_leaf
// build: life_right -DNAME=right
// needs: life_leaf
// build: life_first -DNAME=first -Wl,-z,initfirst
// needs: life_leaf
// build: life_first_too -DNAME=first_too -Wl,-z,initfirst
// needs: life_first
// build: life_stays -DNAME=stays -Wl,-z,nodelete
// build: life_late -DNAME=late
// needs: life_leaf life_hook
// build: life_asks -DNAME=asks -DASKS
// build: life_asked -DNAME=asked -DASKED
// needs: life_asks
// build: life_root -DNAME=root
// needs: life_left life_right

#include "journal.h"
#define TEXT(x) #x
#define NAME_TEXT(x) TEXT(x)
IN_AND_OUT(NAME_TEXT(NAME))

#if defined ASKS
int is_constructed(void);
int asks(void) { return is_constructed(); }
#elif defined ASKED
int is_constructed(void) { return 1; }
#endif
int present(void) { return 1; }
