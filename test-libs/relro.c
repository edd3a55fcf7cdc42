// What is constant after relocation is read-only when a constructor runs.
// cc: -Wl,-z,relro,-z,now

#include <stdio.h>
#include <string.h>

static int target;
int *const relro_pointer = &target; // in .data.rel.ro
int *plain_pointer = &target;
char seen_by_constructor[8], seen_of_plain[8];

static void protection(const void *address, char *perms) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512], found[8];
    unsigned long start, end, wanted = (unsigned long)address;
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx %7s", &start, &end, found) == 3 && start <= wanted && wanted < end)
            strcpy(perms, found);
    if (maps)
        fclose(maps);
}

__attribute__((constructor)) static void start(void) {
    protection(&relro_pointer, seen_by_constructor);
    protection(&plain_pointer, seen_of_plain);
}

const char *constructor_saw(void) { return seen_by_constructor; }
const char *constructor_saw_of_plain(void) { return seen_of_plain; }
