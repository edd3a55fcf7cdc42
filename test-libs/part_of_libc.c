// A library that needs a part of the C library which is not there yet: the C library's own loader brings it, and takes it.
// cc: -Wl,--no-as-needed -lresolv

#include <arpa/nameser.h>

int calls_part(void) {
    unsigned char bytes[] = {1, 2};
    return ns_get16(bytes);
}
