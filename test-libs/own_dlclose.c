// A library that has a function of the loader's itself, and is bound to itself first, calls its own.
// cc: -Wl,-z,lazy

// So that nothing is written where its table of functions is but that.
char page[0x1000] __attribute__((aligned(0x1000))) = {1};

int dlclose(void *handle) { return handle ? 76 : 77; }
int call_dlclose(void) { return dlclose(0); }
