# A program that opens JavaScriptCore and evaluates scripts: numbers, a closure called often enough to be compiled, an error.
# needs: gcc /usr/lib/*/libjavascriptcoregtk-4.1.so.0

prepare() {
    cat > evaluate.c <<'END'
#include <dlfcn.h>
#include <stdio.h>

static void *jsc;
#define JS(result, name, ...) ((result(*)(__VA_ARGS__))dlsym(jsc, "JS" #name))

int main(void) {
    jsc = dlopen("libjavascriptcoregtk-4.1.so.0", RTLD_NOW);
    if (!jsc)
        return puts(dlerror()), 1;
    const char *scripts[] = {
        "var s = 0; for (var i = 0; i < 1000; i++) s += i; s * 2",
        "function add(n) { return function(m) { return n + m; } } var a = add(3), t = 0;"
        "for (var i = 0; i < 300000; i++) t = (t + a(i)) % 1000003; t",
        "JSON.stringify({list: [3, 1, 2].sort(), text: 'Grüße'.toUpperCase()})",
        "throw new Error('thrown')",
    };
    void *context = JS(void *, GlobalContextCreate, void *)(0);
    for (int i = 0; i < 4; i++) {
        void *thrown = 0, *script = JS(void *, StringCreateWithUTF8CString, const char *)(scripts[i]);
        void *value = JS(void *, EvaluateScript, void *, void *, void *, void *, int, void **)(context, script, 0, 0, 1, &thrown);
        void *text = JS(void *, ValueToStringCopy, void *, void *, void **)(context, value ? value : thrown, 0);
        char shown[200];
        JS(size_t, StringGetUTF8CString, void *, char *, size_t)(text, shown, sizeof shown);
        printf("%s%s\n", value ? "" : "thrown: ", shown);
    }
    fflush(stdout);
    JS(void, GlobalContextRelease, void *)(context);
    return 0;
}
END
    gcc -o evaluate evaluate.c
}

run() {
    "$MADE/evaluate"
}
