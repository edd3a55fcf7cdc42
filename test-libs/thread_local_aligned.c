// A thread-local block stands where its alignment and its address in the file say, in every thread.
// build: tls_page
// cc: -DALIGN=4096
// build: tls_skewed
// cc: -DALIGN=64 -DSKEWED
// build: tls_skewed_initial
// cc: -DALIGN=64 -DSKEWED -ftls-model=initial-exec

#if defined SKEWED
// The image is aligned less than what follows it: the segment starts where the image does.
static __thread int image[3] = {40, 1, 1};
static __thread _Alignas(ALIGN) char aligned[ALIGN];
#else
static __thread int image[3] = {40, 1, 1};
static __thread _Alignas(ALIGN) char aligned[ALIGN] = {0};
static __thread _Alignas(ALIGN) char also_in_the_image[ALIGN] = {1};
#endif

int sum_of_image(void) {
#if !defined SKEWED
    image[2] = also_in_the_image[0];
#endif
    return image[0] + image[1] + image[2] + aligned[0] + aligned[ALIGN - 1];
}
int misalignment(void) { return (unsigned long)aligned % ALIGN + (unsigned long)image % sizeof(int); }
