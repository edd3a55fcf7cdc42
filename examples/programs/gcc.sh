# A plugin in the compiler, and the linker's own for optimising at link time.
# needs: gcc g++ /usr/lib/gcc/x86_64-linux-gnu/*/plugin/include/gcc-plugin.h

prepare() {
    cat > plugin.cc <<'END'
#include <gcc-plugin.h>
#include <plugin-version.h>
#include <tree.h>
#include <cstdio>

int plugin_is_GPL_compatible;

static void finished(void *declaration, void *) {
    tree name = DECL_NAME((tree)declaration);
    if (name)
        fprintf(stderr, "function %s\n", IDENTIFIER_POINTER(name));
}

int plugin_init(plugin_name_args *info, plugin_gcc_version *version) {
    if (!plugin_default_version_check(version, &gcc_version))
        return 1;
    register_callback(info->base_name, PLUGIN_FINISH_PARSE_FUNCTION, finished, nullptr);
    return 0;
}
END
    g++ -shared -fPIC -fno-rtti -I"$(gcc -print-file-name=plugin)/include" -o plugin.so plugin.cc
    printf '#include <stdio.h>\nstatic int f(void) { return 6 * 7; }\nint main(void) { printf("%%d\\n", f()); return 0; }\n' > small.c
}

run() {
    gcc -fplugin="$MADE/plugin.so" -O2 -flto -fuse-linker-plugin -o small "$MADE/small.c"
    ./small
    gcc -fplugin=/no/such.so -c -o small.o "$MADE/small.c" 2>/dev/null || echo "code $?"
}
