// What LD_PRELOAD names comes before the C library, for a library opened later too: getppid answers 4711.

int getppid(void) { return 4711; }
