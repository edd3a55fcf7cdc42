// Initial-exec storage that is larger than what the C library has left: each thread still has its own, with its image.
// cc: -ftls-model=initial-exec

static int target = 5;

__thread int counter = 40;
__thread int *pointer = &target;
static __thread volatile _Alignas(64) char bytes[6000] = {1};

// 40 + 5 + 1 + 0 - 4 = 42 in a thread that has not called it before.
int next_value(void) {
    int value = counter + *pointer + bytes[0] + bytes[5999] - 4;
    counter += 1;
    return value;
}

int is_aligned(void) { return ((unsigned long)&bytes & 63) == 0; }
