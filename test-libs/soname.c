// A needed name is satisfied by a library that has it as its DT_SONAME, whatever its file is called.
// build: soname/stub/libsoname_alias.so.1
// soname: libsoname_alias.so.1
// build: soname/other_file_name.so
// soname: libsoname_alias.so.1
// build: soname/user.so -DUSER
// runpath:
// needs: soname/stub/libsoname_alias.so.1

#if defined USER
int soname_answer(void);
int call_soname(void) { return soname_answer(); }
#else
int soname_answer(void) { return 1; }
#endif
