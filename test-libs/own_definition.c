// A library's reference to its own symbol goes to the outer library's definition, unless something makes it its own.
// build: own_inner -DINNER -Wl,-z,now
// build: own_lazy_inner -DINNER -Wl,-z,lazy
// build: own_versioned_inner -DINNER -Wl,-z,now
// versions: V1 { global: inner_answer; };
// build: own_chosen_inner -DINNER -DCHOSEN -Wl,-z,now
// build: own_outer
// needs: own_inner

#if defined INNER
#if defined CHOSEN
static int chosen(void) { return 2; }
static int (*choose(void))(void) { return chosen; }
int own_answer(void) __attribute__((ifunc("choose")));
#else
int own_answer(void) { return 2; }
#endif
int inner_answer(void) { return own_answer(); }
#else
int inner_answer(void);
int own_answer(void) { return 1; }
int outer_answer(void) { return inner_answer(); }
#endif
