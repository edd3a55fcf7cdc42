// Its names lie in the writable segment, behind its variables, as tools put them that give a library other names.
// cc: -Wl,-T,test-libs/moved_names.ld

static int answer = 42;
int *answer_at = &answer;

int answer_now(void) { return *answer_at; }
