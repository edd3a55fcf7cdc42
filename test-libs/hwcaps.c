// Of a folder's glibc-hwcaps, the best that this CPU has comes first.
// build: hwcaps/libhwcaps.so -DLEVEL=1
// build: hwcaps/glibc-hwcaps/x86-64-v2/libhwcaps.so -DLEVEL=2
// build: hwcaps/glibc-hwcaps/x86-64-v3/libhwcaps.so -DLEVEL=3
// build: hwcaps/glibc-hwcaps/x86-64-v4/libhwcaps.so -DLEVEL=4
// build: hwcaps/user.so
// runpath: $ORIGIN
// needs: hwcaps/libhwcaps.so

#if defined LEVEL
int hwcaps_level(void) { return LEVEL; }
#else
int hwcaps_level(void);
int call_level(void) { return hwcaps_level(); }
#endif
