// The same with so few zeros that a snapshot has pages for them.

#define PAGES 2
#include "bss.c"
