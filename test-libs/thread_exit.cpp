// A thread that ends itself, or is cancelled, in a library destroys the objects of the functions that it leaves.
#include <pthread.h>
#include <unistd.h>

static int destroyed, waiting;

struct Guest {
    ~Guest() { __atomic_fetch_add(&destroyed, 1, __ATOMIC_SEQ_CST); }
};

static void *ends_itself(void *) {
    Guest guest;
    pthread_exit(nullptr);
}

static void *waits(void *) {
    Guest guest;
    __atomic_store_n(&waiting, 1, __ATOMIC_SEQ_CST);
    for (;;)
        pause();
}

// So many objects were destroyed.
extern "C" int ends_and_is_cancelled() {
    pthread_t thread;
    destroyed = waiting = 0;
    pthread_create(&thread, nullptr, ends_itself, nullptr);
    pthread_join(thread, nullptr);
    pthread_create(&thread, nullptr, waits, nullptr);
    while (!__atomic_load_n(&waiting, __ATOMIC_SEQ_CST))
        usleep(100);
    pthread_cancel(thread);
    void *result;
    pthread_join(thread, &result);
    return result == PTHREAD_CANCELED ? __atomic_load_n(&destroyed, __ATOMIC_SEQ_CST) : -1;
}
