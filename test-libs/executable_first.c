// The executable's definition comes before the library's own, and so does the C library's.

int soload_test_executable_first(void) { return 1; }
int call_executable_first(void) { return soload_test_executable_first(); }

// Not what the C library's toupper does.
int toupper(int c) { return c + 1000; }
int call_toupper(void) { return toupper('a'); }
