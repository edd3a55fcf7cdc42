// Two versions of one name, and references of the library itself to each.
// versions: V1 { global: foo; call_1; call_2; local: *; };
// versions: V2 { global: foo; } V1;

int foo_1(void) { return 1; }
int foo_2(void) { return 2; }
__asm__(".symver foo_1, foo@V1");
__asm__(".symver foo_2, foo@@V2");

extern int own_1(void), own_2(void);
__asm__(".symver own_1, foo@V1");
__asm__(".symver own_2, foo@V2");

int (*volatile at_1)(void) = own_1;
int (*volatile at_2)(void) = own_2;

int call_1(void) { return at_1(); }
int call_2(void) { return at_2(); }
