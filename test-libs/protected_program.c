// A protected function keeps its own address where the program has made another one's known by that name; if a call of the
// program's would get to it, its address is the one that the program has made known.
// build: protected_first -DFIRST
// build: protected_own -DOWN
// build: protected_gone/stub/libprotected_gone.so -DFIRST
// build: protected_gone/libprotected_gone.so -DGONE
// build: programs/protected_gone -no-pie -fno-pic -Wl,-z,lazy -DPROGRAM -DALONE
// needs: protected_gone/stub/libprotected_gone.so
// runpath: $ORIGIN/../protected_gone
// build: programs/protected -no-pie -fno-pic -DPROGRAM
// needs: protected_first
// runpath: $ORIGIN/..

int answer(void);
#if defined FIRST
int answer(void) { return 1; }
#elif defined OWN
__attribute__((visibility("protected"))) int answer(void) { return 2; }
int (*volatile answer_at)(void) = answer;
int own_answer(void) { return answer_at(); }
#elif defined GONE
int nobody_answers(void) { return 0; }
#else
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments) {
    int (*volatile answer_at)(void) = answer; // in code, not in data: its PLT entry becomes the address
    char path[4096];
    snprintf(path, sizeof path, "%s/libprotected_own.so", count > 1 ? arguments[1] : ".");
    void *own = dlopen(path, RTLD_NOW);
    int (**own_answer_at)(void) = own ? (int (**)(void))dlsym(own, "answer_at") : 0;
    printf("the same %d\n", own_answer_at ? *own_answer_at == answer_at : -1);
#ifndef ALONE
    int (*own_answer)(void) = own ? (int (*)(void))dlsym(own, "own_answer") : 0;
    printf("%d %d\n", answer_at(), own_answer ? own_answer() : -1);
#endif
    return 0;
}
#endif
