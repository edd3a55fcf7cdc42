// A definition without versions stands in for any version; one of another version does not.
// build: interposer_unversioned
// build: interposer_other
// versions: OTHER { global: foo; };

int foo(void) { return 7; }
