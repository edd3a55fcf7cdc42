// A weak reference that nothing defines is zero.

extern int soload_nothing_defines_this(void) __attribute__((weak));

int is_zero(void) { return soload_nothing_defines_this == 0; }
