// An indirect function is what its resolver chose, and the resolver can read its library's relocated data.

static int one(void) { return 1; }
static int two(void) { return 2; }
// Read by the resolvers: zero-based addresses before relocation.
static int (*volatile choices[])(void) = {one, two};

static int (*resolve_one(void))(void) { return choices[0]; }
static int (*resolve_two(void))(void) { return choices[1]; }

int exported(void) __attribute__((ifunc("resolve_one")));
static int internal(void) __attribute__((ifunc("resolve_two")));

int (*pointer_to_exported)(void) = exported;
int call_exported(void) { return exported(); }
int call_internal(void) { return internal(); }
int call_pointer(void) { return pointer_to_exported(); }
