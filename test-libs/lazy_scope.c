// A function that is bound by its first call is looked for as all others are, among what is global at that time.
// needs: journal
// build: lazy_first -DDEFINES=1
// build: lazy_second -DDEFINES=2
// build: lazy_going -DDEFINES=1 -DGOING
// build: lazy_along -DALONG
// needs: lazy_asker lazy_going lazy_second
// build: lazy_asker
// build: lazy_asker_of_needed
// needs: lazy_first
// build: lazy_program_first -DPROGRAM
// build: lazy_goodbye -DGOODBYE
// needs: lazy_first
// build: lazy_goodbye_to_global -DGOODBYE
// build: lazy_goodbye_along -DALONG
// needs: lazy_goodbye_to_global lazy_first

#include "journal.h"

int soload_chosen(void);
int soload_test_answer(void);

#if defined DEFINES
#define TEXT(x) #x
#define SELF(x) TEXT(x)
IN_AND_OUT("definition " SELF(DEFINES))
int soload_chosen(void) { return DEFINES; }
int soload_test_answer(void) { return -1; }
#ifdef GOING
__attribute__((destructor)) static void hook(void) {
    if (journal_last_hook)
        journal_last_hook();
}
#endif
#elif defined ALONG
int present(void) { return 1; }
#elif defined PROGRAM
int soload_test_answer(void) { return -1; }
int call_answer(void) { return soload_test_answer(); }
#elif defined GOODBYE
__attribute__((destructor)) static void last(void) { journal(soload_chosen() == 1 ? "bound at last" : "wrong"); }
int present(void) { return 1; }
#else
int call_chosen(void) { return soload_chosen(); }
#endif
