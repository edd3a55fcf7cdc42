// RPATH comes before LD_LIBRARY_PATH, which comes before RUNPATH; a RUNPATH switches the RPATH beside it off.
// build: search/first/libsearched.so -DANSWER=1
// build: search/second/libsearched.so -DANSWER=2
// build: search/by_rpath.so
// rpath: $ORIGIN/first
// needs: search/first/libsearched.so
// build: search/by_runpath.so
// runpath: $ORIGIN/first
// needs: search/first/libsearched.so
// build: search/by_braces.so
// runpath: ${ORIGIN}/first
// needs: search/first/libsearched.so
// build: search/by_tokens.so
// runpath: $ORIGIN/$PLATFORM/$LIB
// needs: search/first/libsearched.so
// build: search/skipping.so
// runpath: $ORIGIN/absent:$ORIGIN/foreign:$ORIGIN/first
// needs: search/first/libsearched.so
// build: search/by_path_only.so
// runpath:
// needs: search/first/libsearched.so

#if defined ANSWER
int searched_answer(void) { return ANSWER; }
#else
int searched_answer(void);
int call_searched(void) { return searched_answer(); }
#endif
