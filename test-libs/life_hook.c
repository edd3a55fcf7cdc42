// A constructor or a destructor may call anything, such as the loader.
// needs: journal
// build: life_hook
// build: life_hook_other
// build: life_hook_user
// needs: life_leaf

#include "journal.h"

int constructed;

__attribute__((constructor)) static void start(void) {
    journal("hook+");
    if (journal_hook)
        journal_hook();
    constructed = 1;
}
__attribute__((destructor)) static void stop(void) {
    constructed = 0;
    journal("hook-");
    if (journal_last_hook)
        journal_last_hook();
}

int is_constructed(void) { return constructed; }
