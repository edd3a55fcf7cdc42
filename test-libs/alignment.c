// Alignment above the page size is kept, and what lies between the segments cannot be touched.
// build: align_64k -DALIGN=0x10000 -Wl,-z,max-page-size=0x10000,-z,separate-code
// build: align_2m -DALIGN=0x200000 -Wl,-z,max-page-size=0x200000,-z,separate-code
// build: align_code_first -DALIGN=0x10000 -Wl,-z,max-page-size=0x10000,-z,noseparate-code

_Alignas(ALIGN) int aligned = 1;
const int constant = 2;
static const int *const volatile relocated = &constant;

int function(void) { return aligned + constant + *relocated; }
