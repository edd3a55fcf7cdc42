// Versions are looked for in the very file that was found, whatever name that is known by.
// build: versions_by_file/libprovider.so -DPROVIDER
// versions: V1 { global: by_file; };
// build: versions_by_file/libuser.so
// needs: versions_by_file/libprovider.so
// build: versions_by_file/libuser_of_part.so
// needs: empty_parts/at_link/libthreads.so versions_by_file/libprovider.so

int by_file(void);
#if defined PROVIDER
int by_file(void) { return 1; }
#else
int call_by_file(void) { return by_file(); }
#endif
