// A program that opens libraries and calls functions of theirs, in the main thread and in another, prints what they answer.
// build: programs/calls -pie

#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <thread>

// `PATH:FUNCTION` for each; every library twice, as the second time meets what the first left behind.
int main(int argc, char **argv) {
    for (int round = 0; round < 2; round++) {
        for (int argument = 1; argument < argc; argument++) {
            std::string path(argv[argument]), function = path.substr(path.rfind(':') + 1);
            path.resize(path.rfind(':'));
            void *library = dlopen(path.c_str(), RTLD_LAZY);
            auto call = library ? (int (*)())dlsym(library, function.c_str()) : nullptr;
            if (!call) {
                std::printf("%s\n", dlerror());
                return 1;
            }
            int here = call(), there = 0;
            std::thread([&] { there = call(); }).join();
            std::printf("%s %d %d\n", function.c_str(), here, there);
            dlclose(library);
        }
    }
    return 0;
}
