// One name in twenty versions, and a library that refers to each: it gets twenty functions.
// build: versions_many
// soname: libversions_many.so
// versions: V1 { global: foo; local: *; };
// versions: V2 { global: foo; } V1;
// versions: V3 { global: foo; } V2;
// versions: V4 { global: foo; } V3;
// versions: V5 { global: foo; } V4;
// versions: V6 { global: foo; } V5;
// versions: V7 { global: foo; } V6;
// versions: V8 { global: foo; } V7;
// versions: V9 { global: foo; } V8;
// versions: V10 { global: foo; } V9;
// versions: V11 { global: foo; } V10;
// versions: V12 { global: foo; } V11;
// versions: V13 { global: foo; } V12;
// versions: V14 { global: foo; } V13;
// versions: V15 { global: foo; } V14;
// versions: V16 { global: foo; } V15;
// versions: V17 { global: foo; } V16;
// versions: V18 { global: foo; } V17;
// versions: V19 { global: foo; } V18;
// versions: V20 { global: foo; } V19;
// build: versions_many_user -DUSER
// needs: versions_many

#define EACH(of) \
    of(1) of(2) of(3) of(4) of(5) of(6) of(7) of(8) of(9) of(10) \
    of(11) of(12) of(13) of(14) of(15) of(16) of(17) of(18) of(19) of(20)

#if defined USER
#define REFER(n) extern int foo_##n(void); __asm__(".symver foo_" #n ", foo@V" #n);
#define ADDRESS(n) foo_##n,
EACH(REFER)

int (*volatile all[])(void) = {EACH(ADDRESS)};

// The first that got another one, if there is one.
int wrong(void) {
    for (int n = 1; n <= 20; n++) {
        if (all[n - 1]() != n) return n;
    }
    return 0;
}
#else
#define DEFINE(n) int foo_##n(void) { return n; } __asm__(".symver foo_" #n ", foo@V" #n);
EACH(DEFINE)
#endif
