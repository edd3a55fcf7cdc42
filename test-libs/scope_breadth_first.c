// The first definition in breadth-first order wins: the root's second need comes before what its first need needs.
// build: breadth_deep -DANSWER=1
// build: breadth_left
// needs: breadth_deep
// build: breadth_right -DANSWER=2
// build: breadth_root -DROOT
// needs: breadth_left breadth_right

#if defined ANSWER
int breadth_answer(void) { return ANSWER; }
#elif defined ROOT
int breadth_answer(void);
int call_answer(void) { return breadth_answer(); }
#else
int breadth_left(void) { return 0; }
#endif
