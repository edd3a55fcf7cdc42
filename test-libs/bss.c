// Variables without initial value are zero: in the rest of the last file page, and in the pages after it.

#ifndef PAGES
#define PAGES 7
#endif

int initialised = 0x600d;
char tail[64];
char pages[PAGES * 4096];

int count_not_zero(void) {
    int wrong = 0;
    for (unsigned i = 0; i < sizeof tail; i++)
        wrong += ((volatile char *)tail)[i] != 0;
    for (unsigned i = 0; i < sizeof pages; i++)
        wrong += ((volatile char *)pages)[i] != 0;
    return wrong;
}

int write_all(void) {
    for (unsigned i = 0; i < sizeof pages; i++)
        ((volatile char *)pages)[i] = 1;
    return pages[sizeof pages - 1];
}
