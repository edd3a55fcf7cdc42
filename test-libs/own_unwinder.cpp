// A library that carries its own C++ runtime and unwinder throws and catches like any other.
// cc: -static-libgcc -static-libstdc++ -Wl,--exclude-libs,ALL
#include <stdexcept>
#include <string>

static int destroyed;
struct Local {
    ~Local() { destroyed++; }
};

static __attribute__((noinline)) void thrower(int depth) {
    Local local;
    if (depth == 0)
        throw std::runtime_error("own");
    thrower(depth - 1);
}

extern "C" int caught_by_own_unwinder() {
    try {
        thrower(3);
    } catch (const std::exception &error) {
        return error.what() == std::string("own") ? destroyed : -1;
    }
    return -2;
}
