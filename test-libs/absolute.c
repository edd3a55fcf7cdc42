// An absolute symbol has its value wherever the library is; one of the value zero is a definition too.

__asm__(".globl absolute_value, absolute_zero, absolute_small\n"
        ".set absolute_value, 0x123456789abc\n"
        ".set absolute_small, 0x12345678\n"
        ".set absolute_zero, 0\n");
