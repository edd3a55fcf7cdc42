// A program is not a library, position-independent or not.
// build: programs/pie -pie
// build: programs/fixed -no-pie

int main(void) { return 0; }
