// Sound as it is; the tests damage copies of it, one field each.
// needs: absolute
// cc: -Wl,-z,now

extern char absolute_value[];
static int number = 1;
static int *pointer_to_number = &number;
char *pointer_to_absolute = absolute_value;
char zeros[0x3000];
static int started;

__attribute__((constructor)) static void start(void) { started = 1; }

int seed_answer(void) { return *pointer_to_number + started + zeros[0]; }
int seed_other(void) { return seed_answer(); }
