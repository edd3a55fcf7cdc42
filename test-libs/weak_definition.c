// A weak definition that comes first wins over a strong one that comes later.
// build: weak_definition_first -DWEAK
// build: weak_definition_second -DSTRONG
// build: weak_definition_user -DUSER
// needs: weak_definition_first weak_definition_second

#if defined WEAK
__attribute__((weak)) int weak_answer(void) { return 1; }
#elif defined STRONG
int weak_answer(void) { return 2; }
#else
int weak_answer(void);
int call_answer(void) { return weak_answer(); }
#endif
