// A reference to another library's absolute symbol is its value, without a base.
// needs: absolute

extern char absolute_value[], absolute_zero[], absolute_small[];

char *pointer_to_value = absolute_value;
char *pointer_to_zero = absolute_zero;
char *pointer_to_small = absolute_small;
