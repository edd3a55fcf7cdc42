// A library linked with -z nodefaultlib is not given what only the system's folders have.
// build: nodefault/stub/libz.so.1 -DSTUB
// soname: libz.so.1
// build: nodefault/without.so -Wl,-z,nodefaultlib
// needs: nodefault/stub/libz.so.1
// build: nodefault/with.so
// needs: nodefault/stub/libz.so.1

#if defined STUB
int crc32(void) { return 0; }
#else
int crc32(void);
int (*wanted)(void) = crc32;
#endif
