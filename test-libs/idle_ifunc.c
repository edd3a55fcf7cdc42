// What `_init` calls if there is such a function may be one that a resolver chooses, after everything else is relocated.

static int called;

static void start(void)
{
    called++;
}

static void (*choose(void))(void)
{
    return start;
}

void __gmon_start__(void) __attribute__((ifunc("choose")));

int count(void)
{
    return called;
}
