// A resolver can read data of a library that its own needs, and call into it.
// build: ifunc_inner -DINNER
// build: ifunc_outer
// needs: ifunc_inner

#if defined INNER
static int value = 3;
int *inner_pointer = &value;
int inner_value(void) { return *inner_pointer; }
// An indirect function of the dependency itself.
static int three(void) { return 3; }
static int (*volatile inner_choice)(void) = three;
static int (*resolve(void))(void) { return inner_choice; }
int inner_indirect(void) __attribute__((ifunc("resolve")));
#else
extern int *inner_pointer;
int inner_value(void);
int inner_indirect(void);
static int right(void) { return 1; }
static int wrong(void) { return 0; }
static int (*resolve(void))(void) { return *inner_pointer == 3 && inner_value() == 3 ? right : wrong; }
static int outer(void) __attribute__((ifunc("resolve")));
int call_outer(void) { return outer(); }
int call_inner_indirect(void) { return inner_indirect(); }
#endif
