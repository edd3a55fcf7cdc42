// Words of the initial image are relocated before any thread gets it: addresses, symbols of others, and what resolvers decide.
// needs: journal
// only: x86_64
// build: tls_relocated
// build: tls_relocated_initial -ftls-model=initial-exec

static int chosen(void) { return 30; }
static int also_chosen(void) { return 8; }
static int (*choose(void))(void) { return chosen; }
static int (*choose_also(void))(void) { return also_chosen; }
int decided(void) __attribute__((ifunc("choose")));
static int hidden_decided(void) __attribute__((ifunc("choose_also")));

void journal(const char *word);
static int here = 3;

static __thread int (*through_symbol)(void) = decided;
static __thread int (*through_base)(void) = hidden_decided;
static __thread int *local = &here;
static __thread void (*of_another)(const char *) = journal;

int sum_of_words(void) { return through_symbol() + through_base() + *local + (of_another == journal); }
