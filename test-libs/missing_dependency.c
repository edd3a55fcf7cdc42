// A library that needs one that does not exist cannot be opened, and the error names the one that is missing.
// build: stub/libsoload_absent.so -DSTUB
// build: missing_dependency
// needs: stub/libsoload_absent.so
// build: missing_deeper -DDEEPER
// needs: missing_dependency
// cc: -Wl,--unresolved-symbols=ignore-all

int absent(void);
int uses(void);
#if defined STUB
int absent(void) { return 1; }
#elif defined DEEPER
int deeper(void) { return uses(); }
#else
int uses(void) { return absent(); }
#endif
