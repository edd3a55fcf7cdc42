// A function that nobody defines is no error until it is called, unless the library is to be bound at once.
// build: lazy_missing
// build: lazy_missing_now -Wl,-z,now
// build: lazy_missing_now_writable -Wl,-z,now,-z,norelro

void soload_missing_function(void);
int soload_perhaps(void) __attribute__((weak));
void call_missing(void) { soload_missing_function(); }
int call_present(void) { return soload_perhaps ? -1 : 1; }
