// Two files of one name in two folders are two libraries; one file under two names is one.
// build: same/a/libsame.so -DANSWER=1
// build: same/b/libsame.so -DANSWER=2
// build: same/needs_a.so -DUSER
// runpath: $ORIGIN/a
// needs: same/a/libsame.so
// build: same/needs_b.so -DUSER
// runpath: $ORIGIN/b
// needs: same/b/libsame.so

#if defined USER
int same_answer(void);
int call_same(void) { return same_answer(); }
#else
int same_answer(void) { return ANSWER; }
int same_counter;
int same_count(void) { return ++same_counter; }
#endif
