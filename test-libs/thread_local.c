// Each thread has its own copy of a thread-local variable, which starts with the initial image, pointers in it included.
// build: tls_general
// cc: -ftls-model=global-dynamic
// build: tls_local
// cc: -ftls-model=local-dynamic
// build: tls_initial
// cc: -ftls-model=initial-exec
// build: tls_descriptor
// cc: -mtls-dialect=gnu2
// build: tls_descriptor_static
// cc: -mtls-dialect=gnu2 -DALSO_INITIAL

static int target = 5;

__thread int counter = 40;
__thread int *pointer = &target;
__thread char zeros[100];
static __thread volatile int hidden = 1;
static __thread volatile _Alignas(64) int aligned = 1;
#ifdef ALSO_INITIAL
static __thread volatile int initial __attribute__((tls_model("initial-exec"))) = 0;
#else
static __thread volatile int initial = 0;
#endif

// 40 + 5 + 0 + 1 + 1 - 5 = 42 in a thread that has not called it before.
int next_value(void) {
    int value = counter + *pointer + zeros[99] + hidden + aligned - 5 + initial;
    counter += 1;
    return value;
}

int is_aligned(void) { return ((unsigned long)&aligned & 63) == 0; }

int *address_of_counter(void) { return &counter; }
