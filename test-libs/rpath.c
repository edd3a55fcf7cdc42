// RPATH holds for the libraries needed by those needed, too; RUNPATH only for the library that has it.
// build: rpath/hidden/librpath_leaf.so -DANSWER=1
// build: rpath/librpath_middle.so
// needs: rpath/hidden/librpath_leaf.so
// runpath:
// build: rpath/with_rpath.so -DROOT
// rpath: $ORIGIN:$ORIGIN/hidden
// needs: rpath/librpath_middle.so
// build: rpath/own/librpath_middle.so
// runpath: $ORIGIN/nothing_here
// needs: rpath/hidden/librpath_leaf.so
// build: rpath/over_runpath.so -DROOT
// rpath: $ORIGIN/own:$ORIGIN/hidden
// needs: rpath/own/librpath_middle.so
// build: rpath/with_runpath.so -DROOT
// runpath: $ORIGIN:$ORIGIN/hidden
// needs: rpath/librpath_middle.so

#if defined ANSWER
int leaf_answer(void) { return ANSWER; }
#elif defined ROOT
int middle_answer(void);
int root_answer(void) { return middle_answer(); }
#else
int leaf_answer(void);
int middle_answer(void) { return leaf_answer(); }
#endif
