// A large thread-local block has its image, its zeros, and room for each thread.
static __thread char image[1 << 20] = {1, [(1 << 20) - 1] = 2};
static __thread char zeros[1 << 20];

// 1 + 2 + 0 + what was written before.
int sum_of_ends(void) {
    int sum = image[0] + image[(1 << 20) - 1] + zeros[0] + zeros[(1 << 20) - 1];
    zeros[(1 << 20) - 1] = 7;
    return sum;
}
