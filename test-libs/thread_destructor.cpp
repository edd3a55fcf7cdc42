// The destructor of a thread-local object runs when its thread ends, and the library stays until then.
// needs: journal
// build: thread_destructor
// build: thread_destructor_late -DLATE
extern "C" void journal(const char *word);

struct Guest {
    bool here = false;
    ~Guest() { if (here) journal("guest-"); }
};

static thread_local Guest guest;

extern "C" int invite() {
    guest.here = true;
    return 1;
}

#ifdef LATE
// The first to use it, when the library is already going.
__attribute__((destructor)) static void last() { guest.here = true; }
extern "C" int present() { return 1; }
#endif
