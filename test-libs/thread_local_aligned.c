// A thread-local block stands where its alignment and its address in the file say, in every thread.
// build: tls_page
// cc: -DALIGN=4096
// build: tls_aligned
// cc: -DALIGN=64
// build: tls_aligned_initial
// cc: -DALIGN=64 -ftls-model=initial-exec
// build: tls_narrow_initial
// cc: -DALIGN=8 -ftls-model=initial-exec

static __thread volatile int image[3] = {40, 1, 1};
static __thread volatile _Alignas(ALIGN) char aligned[ALIGN];

int sum_of_image(void) { return image[0] + image[1] + image[2] + aligned[0] + aligned[ALIGN - 1]; }
int misalignment(void) { return (unsigned long)&aligned % ALIGN; }
int address_modulo_4096(void) { return (unsigned long)&image % 4096; }
