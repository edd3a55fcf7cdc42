// What the C library's loader opened globally after the start serves weak and strong references that nobody else does.
// build: later_provider -DPROVIDER
// build: later_weak -DREFERENCE=__attribute__((weak))
// build: later_strong -DREFERENCE=
// build: later_at_one_offset -DREFERENCE= -ftls-model=initial-exec

#if defined PROVIDER
int later_answer(void) { return 5; }
__thread int later_variable = 40;
#else
extern int later_answer(void) REFERENCE;
extern __thread int later_variable REFERENCE;

int call_later(void) { return later_answer ? later_answer() : -1; }
int add_to_later(void) { return ++later_variable; }
#endif
