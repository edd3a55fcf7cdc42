// A resolver runs after every plain relocation of its library, wherever in the tables its own relocation stands.

int through_plt(void) { return 4; }
static int right(void) { return 1; }
static int wrong(void) { return 0; }
static int (*resolve(void))(void) { return through_plt() == 4 ? right : wrong; }
int early(void) __attribute__((ifunc("resolve")));

// A relocation to the symbol in the table for data, which stands before that of the PLT.
int (*pointer_to_early)(void) = early;
int call_early(void) { return pointer_to_early(); }
