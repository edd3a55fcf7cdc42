// The plugin that `soload` shows when no library is named: something to call, and pages of every kind.

#define PAGE 4096
#define EIGHT(x) x, x + 1, x + 2, x + 3, x + 4, x + 5, x + 6, x + 7
#define SIXTY_FOUR(x) EIGHT(x), EIGHT(x + 8), EIGHT(x + 16), EIGHT(x + 24), EIGHT(x + 32), EIGHT(x + 40), EIGHT(x + 48), EIGHT(x + 56)
#define PAGEFUL(x) SIXTY_FOUR(x), SIXTY_FOUR(x + 64), SIXTY_FOUR(x + 128), SIXTY_FOUR(x + 192), \
                   SIXTY_FOUR(x + 256), SIXTY_FOUR(x + 320), SIXTY_FOUR(x + 384), SIXTY_FOUR(x + 448)

static const char letters[4 * 512] = "soload";

// Each page of pointers becomes private when it is relocated; constant ones are read-only afterwards (RELRO) ...
static const char *const constant_table[4 * 512] = {PAGEFUL(letters), PAGEFUL(letters), PAGEFUL(letters), PAGEFUL(letters)};
// ... and variable ones stay writable.
static const char *variable_table[2 * 512] = {PAGEFUL(letters), PAGEFUL(letters)};
// Data without relocations stays shared until someone writes to it.
char demo_untouched[2 * PAGE] __attribute__((aligned(PAGE))) = {1};
// Zeros that need no file.
char demo_zeros[3 * PAGE];

static int greeted;

__attribute__((constructor)) static void start(void) { greeted = 1; }
__attribute__((destructor)) static void stop(void) { greeted = 0; }

int demo_add(int a, int b) { return a + b; }

double demo_scale(double x, double factor) { return x * factor; }

const char *demo_greeting(void) { return greeted ? "hello from a library that dlopen never saw" : "no constructor has run"; }

char demo_letter(unsigned index) { return *constant_table[index % 2048] + *variable_table[index % 1024] - *letters; }
