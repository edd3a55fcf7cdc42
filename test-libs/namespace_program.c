// A program with an allocator of its own shares it with libraries in any name space, as the C library's functions use it.
// cc: -pie -rdynamic
// build: programs/namespace

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// Each block is preceded by its size and a word that no other allocator writes.
enum { MAGIC = 0x50f7 };
static char heap[64 << 20];
static size_t used;
static int blocks;

static void *take(size_t size, size_t align) {
    size_t at = __atomic_load_n(&used, __ATOMIC_SEQ_CST), start, end;
    do {
        start = (at + 16 + align - 1) / align * align;
        end = start + size;
        if (end > sizeof heap)
            return 0;
    } while (!__atomic_compare_exchange_n(&used, &at, end, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    size_t header[2] = {size, MAGIC};
    memcpy(heap + start - 16, header, 16);
    __atomic_add_fetch(&blocks, 1, __ATOMIC_SEQ_CST);
    return heap + start;
}
static size_t size_of(void *block) {
    size_t header[2];
    memcpy(header, (char *)block - 16, 16);
    if (header[1] != MAGIC) {
        static const char text[] = "a block of another allocator\n";
        (void)!write(1, text, sizeof text - 1);
        _exit(1);
    }
    return header[0];
}
void *malloc(size_t size) { return take(size, 16); }
void *calloc(size_t count, size_t size) { return take(count * size, 16); }
void *memalign(size_t align, size_t size) { return take(size, align < 16 ? 16 : align); }
void *aligned_alloc(size_t align, size_t size) { return memalign(align, size); }
int posix_memalign(void **block, size_t align, size_t size) {
    *block = memalign(align, size);
    return *block ? 0 : 12;
}
void free(void *block) {
    if (block)
        size_of(block);
}
void *realloc(void *block, size_t size) {
    void *other = take(size, 16);
    if (block && other)
        memcpy(other, block, size_of(block) < size ? size_of(block) : size);
    return other;
}

int main(int argc, char **argv) {
    (void)argc;
    char path[4096];
    snprintf(path, sizeof path, "%s/libnamespace.so", argv[1]);
    for (int mode = 0; mode < 2; mode++) {
        void *library = dlmopen(LM_ID_NEWLM, path, mode ? RTLD_LAZY : RTLD_NOW);
        if (!library)
            return puts(dlerror()), 1;
        int (*duplicates_and_frees)(const char *) = (int (*)(const char *))dlsym(library, "duplicates_and_frees");
        printf("freed what it got %d\n", duplicates_and_frees("text"));
        char *(*duplicate)(const char *) = (char *(*)(const char *))dlsym(library, "duplicate");
        free(duplicate("text"));
        printf("freed here %d\n", blocks > 0);
    }
    return 0;
}
