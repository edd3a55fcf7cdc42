// Initial-exec storage that is larger than what the C library has left: each thread still has its own, with its image.
// cc: -ftls-model=initial-exec
// build: tls_too_large
// build: tls_too_large_other -DOTHER

static int target = 5;

#if defined OTHER
__thread int counter = 140;
#else
__thread int counter = 40;
#endif
__thread int *pointer = &target;
static __thread volatile _Alignas(64) char bytes[6000] = {1};

// 40 + 5 + 1 + 0 - 4 = 42 in a thread that has not called it before; 142 of the other.
int next_value(void) {
    int value = counter + *pointer + bytes[0] + bytes[5999] - 4;
    counter += 1;
    return value;
}

int is_aligned(void) { return ((unsigned long)&bytes & 63) == 0; }
