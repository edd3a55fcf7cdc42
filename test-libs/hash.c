// Every exported symbol is found, by a GNU hash table or by a System V one, and no other.
// build: hash_gnu -Wl,--hash-style=gnu
// build: hash_sysv -Wl,--hash-style=sysv
// build: hash_both -Wl,--hash-style=both
// build: hash_empty -Wl,--hash-style=gnu -DEMPTY -nostdlib

#ifndef EMPTY
#define F(n) int f_##n(void) { return 0x##n; }
#define G(n) F(n##0) F(n##1) F(n##2) F(n##3) F(n##4) F(n##5) F(n##6) F(n##7) \
             F(n##8) F(n##9) F(n##a) F(n##b) F(n##c) F(n##d) F(n##e) F(n##f)
#define H(n) G(n##0) G(n##1) G(n##2) G(n##3) G(n##4) G(n##5) G(n##6) G(n##7) \
             G(n##8) G(n##9) G(n##a) G(n##b) G(n##c) G(n##d) G(n##e) G(n##f)
H(0)
H(1)
#endif
