// What a fixture says to libjournal.so when it comes and goes: `NAME+` and `NAME-`.

void journal(const char *word);
extern void (*volatile journal_hook)(void), (*volatile journal_last_hook)(void);

#define IN_AND_OUT(name) \
    __attribute__((constructor)) static void come(void) { journal(name "+"); } \
    __attribute__((destructor)) static void go(void) { journal(name "-"); }
