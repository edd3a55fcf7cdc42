// One name, several versions: an old reference keeps the old definition, a new one gets the default.
// soname: libversions_provider.so
// build: versions_provider
// versions: V1 { global: foo; old_only; local: *; };
// versions: V2 { global: foo; } V1;
// build: at_link/libversions_provider.so -DNEWER
// versions: V1 { global: foo; old_only; local: *; };
// versions: V2 { global: foo; } V1;
// versions: V3 { global: fresh; } V2;
// build: unversioned/libversions_provider.so -DUNVERSIONED

#if defined UNVERSIONED
int foo(void) { return 9; }
#else
int foo_1(void) { return 1; }
int foo_2(void) { return 2; }
int old_only_1(void) { return 10; }
__asm__(".symver foo_1, foo@V1");
__asm__(".symver foo_2, foo@@V2");
__asm__(".symver old_only_1, old_only@V1");
#if defined NEWER
int fresh(void) { return 3; }
#endif
#endif
