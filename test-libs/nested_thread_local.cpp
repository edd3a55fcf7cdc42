// Destructors of thread-local objects use the loader, and objects of the C++ library are destroyed like any other.
// build: nested/thread_local.so
// runpath: $ORIGIN/inner
#include <dlfcn.h>
#include <string>
#include <vector>

int inner_answers; // of destructors that have run

struct Opens {
    bool used = false;
    ~Opens() {
        if (!used)
            return;
        void *inner = dlopen("libnested_inner.so", RTLD_NOW);
        auto answer = inner ? (int (*)())dlsym(inner, "inner_answer") : nullptr;
        if (answer)
            __atomic_fetch_add(&inner_answers, answer(), __ATOMIC_SEQ_CST);
        if (inner)
            dlclose(inner);
    }
};

static thread_local Opens opens;
static thread_local std::vector<std::string> words;

extern "C" int answers_of_destructors() { return __atomic_load_n(&inner_answers, __ATOMIC_SEQ_CST); }
extern "C" int use_thread_locals() {
    opens.used = true;
    words.emplace_back("a word that is too long to be kept in place");
    return (int)words.size();
}
