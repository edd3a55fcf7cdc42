// Packed relative relocations (DT_RELR): every pointer is relocated, once, and nothing between them is touched.
// cc: -Wl,-z,pack-relative-relocs

#define LONG 0x1111111111111111
#define P8(n) &bytes[n], &bytes[n + 1], &bytes[n + 2], &bytes[n + 3], &bytes[n + 4], &bytes[n + 5], &bytes[n + 6], &bytes[n + 7]
#define P64(n) P8(n), P8(n + 8), P8(n + 16), P8(n + 24), P8(n + 32), P8(n + 40), P8(n + 48), P8(n + 56)
#define E(n) {&bytes[n], LONG}
#define E8(n) E(n), E(n + 1), E(n + 2), E(n + 3), E(n + 4), E(n + 5), E(n + 6), E(n + 7)
#define E64(n) E8(n), E8(n + 8), E8(n + 16), E8(n + 24), E8(n + 32), E8(n + 40), E8(n + 48), E8(n + 56)

static char bytes[256];
static volatile struct {
    char *dense[192];                              // more than one word of the bitmap covers
    struct { char *pointer; long other; } sparse[64]; // every other word
    long gap[1000];                                // needs a new start address
    char *after_gap[3];
} all = {{P64(0), P64(64), P64(128)}, {E64(0)}, {LONG}, {&bytes[3], 0, &bytes[5]}};

int count_wrong(void) {
    int wrong = 0;
    for (int i = 0; i < 192; i++)
        wrong += all.dense[i] != bytes + i;
    for (int i = 0; i < 64; i++)
        wrong += all.sparse[i].pointer != bytes + i || all.sparse[i].other != LONG;
    for (int i = 0; i < 1000; i++)
        wrong += all.gap[i] != (i == 0 ? LONG : 0);
    return wrong + (all.after_gap[0] != bytes + 3 || all.after_gap[1] != 0 || all.after_gap[2] != bytes + 5);
}
