// A demand for an executable stack is refused, unless the caller allows it.
// cc: -Wl,-z,execstack

int present(void) { return 1; }
