// Thread-local variables of a library that was opened before, by name through the global scope, and of what one needs.
// build: tls_across
// build: tls_across_descriptor -mtls-dialect=gnu2
// build: tls_across_initial -DINITIAL -ftls-model=initial-exec
// build: tls_needs_needs -DSECOND
// needs: tls_user

#if defined SECOND
int *address_of_counter(void), *address_of_their_counter(void);
int same_for_all(void) { return address_of_counter() == address_of_their_counter() && (*address_of_counter())++ >= 40; }
#else
extern __thread int counter;
int add_to_counter(void) { return ++counter; }
#endif
