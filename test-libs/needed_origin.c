// $ORIGIN is expanded in the name of a needed library, too.
// build: origin/inner/liborigin_inner.so -DINNER
// soname: $ORIGIN/inner/liborigin_inner.so
// build: origin/outer.so
// runpath:
// needs: origin/inner/liborigin_inner.so

#if defined INNER
int origin_answer(void) { return 1; }
#else
int origin_answer(void);
int call_origin(void) { return origin_answer(); }
#endif
