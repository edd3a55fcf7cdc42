// A thread-local variable of another library, and one of the C library, are the same for all who use them.
// needs: tls_general
// build: tls_user
// build: tls_user_descriptor
// cc: -mtls-dialect=gnu2

#include <errno.h>

extern __thread int counter;

int *address_of_their_counter(void) { return &counter; }
int read_errno(void) { return errno; }
