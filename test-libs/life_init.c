// DT_INIT runs before DT_INIT_ARRAY, which runs in the order of priorities; DT_FINI_ARRAY in reverse, then DT_FINI.
// needs: journal
// cc: -Wl,-init=init_function,-fini=fini_function

#include "journal.h"

void init_function(void) { journal("init"); }
void fini_function(void) { journal("fini"); }
__attribute__((constructor(300))) static void third(void) { journal("300"); }
__attribute__((constructor(200))) static void second(void) { journal("200"); }
__attribute__((constructor)) static void last(void) { journal("default"); }
__attribute__((destructor(300))) static void undo_third(void) { journal("-300"); }
__attribute__((destructor(200))) static void undo_second(void) { journal("-200"); }
__attribute__((destructor)) static void undo_last(void) { journal("-default"); }
