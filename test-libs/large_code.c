// Eight megabytes of code: enough for pages of 2 MiB.
// only: x86_64

__asm__(".text\n.balign 4096\n.globl large_code\n.type large_code, @function\nlarge_code: movl $7, %eax\nret\n.fill 8388608, 1, 0xc3\n");
