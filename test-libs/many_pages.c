// Relocated constants on some six hundred pages: every pointer is relocated, what stands between them is as in the file.
// cc: -Wl,-z,pack-relative-relocs -Wl,-z,relro

#define COUNT (150 * 1024)
#define LONG 0x1111111111111111

static char target;
const struct entry { char *pointer; long other; } constants[COUNT] = {[0 ... COUNT - 1] = {&target, LONG}};

// Pages of variables that nobody writes to.
char untouched[128 * 4096] = {1};

int count_wrong(void) {
    const volatile struct entry *seen = constants;
    int wrong = 0;
    for (int i = 0; i < COUNT; i++)
        wrong += seen[i].pointer != &target || seen[i].other != LONG;
    return wrong;
}
