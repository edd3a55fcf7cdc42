# Shared extensions.
# needs: php

prepare() { :; }

run() {
    php -d ffi.enable=1 -r '
        echo implode(",", get_loaded_extensions()), "\n";
        echo strlen(iconv("UTF-8", "UTF-16", "abc")), ctype_alpha("abc"), json_encode(["a" => 1]), "\n";
        echo jdtogregorian(2451545), " ", token_name(token_get_all("<?php 1;")[0][0]), " ", PHP_VERSION, "\n";
        echo FFI::cdef("double cos(double);", "libm.so.6")->cos(0.5), "\n";
        $p = new Phar("small.phar"); 
        exit(4);' 2>&1 | sed 's/ in Command line code.*//'
}
