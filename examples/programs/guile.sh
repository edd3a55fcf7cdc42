# Foreign functions, by dlopen and libffi.
# needs: guile gcc

prepare() {
    cat > "$MADE/plugin.c" <<'END'
#include <stdlib.h>
#include <string.h>
static int count;
int next(void) { return ++count; }
double scale(double x, double y) { return x * y; }
static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
void sort(int *numbers, int count) { qsort(numbers, count, sizeof *numbers, compare); }
END
    gcc -shared -fPIC -o "$MADE/libplugin.so" "$MADE/plugin.c"
}

run() {
    GUILE_AUTO_COMPILE=0 guile -c '
        (use-modules (system foreign) (system foreign-library) (rnrs bytevectors))
        (define plugin (load-foreign-library (string-append (getenv "MADE") "/libplugin")))
        (define next (foreign-library-function plugin "next" #:return-type int))
        (define scale (foreign-library-function plugin "scale" #:return-type double #:arg-types (list double double)))
        (define sort! (foreign-library-function plugin "sort" #:arg-types (list (quote *) int)))
        (next) (display (next)) (newline)
        (display (scale 1.5 4.0)) (newline)
        (define numbers (s32vector 5 3 9 1))
        (sort! (bytevector->pointer numbers) 4)
        (display numbers) (newline)
        (define (open name) (load-foreign-library name #:extensions (list "") #:search-path (list)))
        (define cosine (foreign-library-function (open "libm.so.6") "cos" #:return-type double #:arg-types (list double)))
        (display (cosine 0.5)) (newline)
        (define checksum (foreign-library-function (open "libz.so.1") "crc32"
            #:return-type unsigned-long #:arg-types (list unsigned-long (quote *) unsigned-int)))
        (display (checksum 0 (string->pointer "hello") 5)) (newline)
        (catch #t (lambda () (open "libno-such.so")) (lambda (key . rest) (display "no such library")))
        (newline)
        (display (expt 2 200)) (newline)'
}
