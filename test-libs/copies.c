// Each page becomes a copy for another reason: relocation, a constructor, a call; and one by none.

#define PAGE __attribute__((aligned(4096)))

int by_constructor[1024] PAGE = {1};
int by_call[1024] PAGE = {1};
int by_nobody[1024] PAGE = {1};
int *by_relocation[512] PAGE = {by_nobody};

__attribute__((constructor)) static void start(void) { by_constructor[1] = 2; }

void change(void) { by_call[1] = 2; }
