// Constructors run after those of the libraries needed, destructors before.
// needs: journal
// build: life_leaf -DNAME=leaf
// build: life_left -DNAME=left
// needs: life_leaf
// build: life_right -DNAME=right
// needs: life_leaf
// build: life_root -DNAME=root
// needs: life_left life_right

#include "journal.h"
#define TEXT(x) #x
#define NAME_TEXT(x) TEXT(x)
IN_AND_OUT(NAME_TEXT(NAME))

int present(void) { return 1; }
