// A library that calls itself a part of the C library is left to that, and may need what others of the group need.
// build: posing/stub/libposing_part.so -DPART
// build: posing/libposing_leaf.so
// build: posing/part/libposing_part.so -DPART
// soname: libBrokenLocale.so.1
// runpath: $ORIGIN/..
// needs: posing/libposing_leaf.so
// build: posing/root.so -DROOT
// runpath: $ORIGIN:$ORIGIN/part
// needs: posing/libposing_leaf.so posing/stub/libposing_part.so
// build: posing/apart/part/libposing_leaf.so
// soname: libposing_leaf.so
// build: posing/apart/part/libposing_part.so -DPART
// soname: libBrokenLocale.so.1
// runpath: $ORIGIN
// needs: posing/libposing_leaf.so
// build: posing/apart/root.so -DROOT
// runpath: $ORIGIN/..:$ORIGIN/part
// needs: posing/libposing_leaf.so posing/stub/libposing_part.so

int posing_count(void);

#if defined PART
int posing_part(void) { return posing_count(); }
#elif defined ROOT
int posing_part(void);
int posing_root(void) {
    int first = posing_count();
    return 10 * first + posing_part();
}
#else
int posing_counter;
int posing_count(void) { return ++posing_counter; }
#endif
