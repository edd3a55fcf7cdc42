// A C++ exception is caught where it should be: within the library, in its constructor, by its caller, and from its callee.
#include <stdexcept>

static int caught_at_start;

__attribute__((constructor)) static void start() {
    try {
        throw 7;
    } catch (int number) {
        caught_at_start = number;
    }
}

extern "C" int caught_in_constructor() { return caught_at_start; }

extern "C" int thrown_and_caught() {
    try {
        throw std::runtime_error("thrown");
    } catch (const std::exception &) {
        return 1;
    }
}

extern "C" void throw_number() { throw 40; }

extern "C" int call_and_catch(void (*function)()) {
    try {
        function();
    } catch (int thrown) {
        return thrown + 2;
    }
    return -1;
}
