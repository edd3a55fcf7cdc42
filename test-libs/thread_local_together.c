// Libraries that are opened together have thread-local blocks of their own in every thread, each as it asks.
// build: tls_together
// needs: tls_general tls_aligned

int next_value(void), sum_of_image(void), misalignment(void);

static __thread volatile char own[3] = {1, 2, 3};

// 42 + 42 + 0 + 6 = 90 in a thread that has not called it before.
int sum_of_all(void) {
    int sum = next_value() + sum_of_image() + misalignment() + own[0] + own[1] + own[2];
    own[1] += 10;
    return sum;
}
