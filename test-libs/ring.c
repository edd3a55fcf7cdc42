// Where libraries need one another in a circle, constructors and destructors run in glibc's order.
// needs: journal
// runpath: $ORIGIN:$ORIGIN/..
// build: ring/stub/libring_a.so -DNAME=a
// build: ring/stub/libring_b.so -DNAME=b
// build: ring/libring_d.so -DNAME=d
// needs: ring/stub/libring_b.so
// build: ring/libring_c.so -DNAME=c
// needs: ring/stub/libring_a.so ring/libring_d.so
// build: ring/libring_b.so -DNAME=b
// needs: ring/libring_c.so
// build: ring/libring_a.so -DNAME=a
// needs: ring/libring_b.so ring/libring_d.so
// build: ring/libring_root.so -DNAME=root
// needs: ring/libring_d.so ring/libring_a.so

#include "journal.h"
#define TEXT(x) #x
#define NAME_TEXT(x) TEXT(x)
IN_AND_OUT(NAME_TEXT(NAME))
