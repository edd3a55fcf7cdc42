// Libraries that need parts of the C library which are not there yet, before and between others: the order is as if they were.
// build: parts_right
// build: parts_left
// cc: -Wl,--no-as-needed -lresolv
// needs: parts_right
// build: parts_root
// cc: -Wl,--no-as-needed -lresolv -lBrokenLocale
// needs: parts_left parts_right

int parts_answer(void) { return 42; }
