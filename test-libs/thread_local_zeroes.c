// Thread-local variables without an initial image are zero in every thread at first, whoever had the place before.
// build: zeroes_general
// cc: -ftls-model=global-dynamic
// build: zeroes_local
// cc: -ftls-model=local-dynamic
// build: zeroes_initial
// cc: -ftls-model=initial-exec
// build: zeroes_descriptor
// cc: -mtls-dialect=gnu2

__thread int zeroes_counter;
static __thread volatile _Alignas(32) char more[40];

// 1 in a thread that has not called it before, then 3, 5 and so on.
int count(void) {
    more[39] += 1;
    return zeroes_counter++ + more[39];
}

int *address_of_counter(void) { return &zeroes_counter; }
