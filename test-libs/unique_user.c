// Refers to a unique symbol that another library has, which does not use it itself.
// needs: unique_unused

extern int unique_counter;

int count_from_outside(void) { return unique_counter++; }
