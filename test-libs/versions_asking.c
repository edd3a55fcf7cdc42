// What a library may ask of its loader by the name of a version that no symbol has: a test has it need one of these.

int GLIBC_ABI_DT_RELR, GLIBC_ABI_DT_X86_64_PLT, GLIBC_ABI_DT_OTHER;
int answer(void) { return 42; }
