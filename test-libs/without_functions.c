// A library in which nothing runs by itself: no constructors, no destructors.
// cc: -nostartfiles

int answer(void) { return 42; }
