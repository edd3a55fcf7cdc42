// A reference to a version gets that version, and no other.
// build: versions_old -DOLD
// needs: versions_provider
// build: versions_default
// needs: versions_provider
// build: versions_missing -DMISSING
// needs: at_link/libversions_provider.so
// build: versions_missing_weak -DMISSING_WEAK
// needs: at_link/libversions_provider.so
// build: versions_unversioned
// needs: unversioned/libversions_provider.so

int foo(void);
#if defined OLD
__asm__(".symver foo, foo@V1");
int call_foo(void) { return foo(); }
#elif defined MISSING
int fresh(void);
int call_foo(void) { return fresh(); }
#elif defined MISSING_WEAK
int fresh(void) __attribute__((weak));
int call_foo(void) { return fresh ? fresh() : 100; }
#else
int call_foo(void) { return foo(); }
#endif
