// A strong reference that nothing defines is an error that names it, even if nothing ever calls it.
// build: undefined_function -DFUNCTION
// build: undefined_variable

#if defined FUNCTION
void soload_undefined_function(void);
void call_undefined(void) { soload_undefined_function(); }
#else
extern int soload_undefined_variable;
int *undefined_pointer = &soload_undefined_variable;
#endif
