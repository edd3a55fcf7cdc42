// Functions that compilers put into every library mostly do nothing; if they have something to call, it is called.

static int called;

// What the `_init` of every library calls if there is such a function.
void __gmon_start__(void)
{
    called++;
}

int count(void)
{
    return called;
}
