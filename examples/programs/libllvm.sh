# A program that opens LLVM, has it parse, optimise and print a function, and sees an error of its parser.
# needs: gcc /usr/lib/*/libLLVM-14.so.1

prepare() {
    cat > optimise.c <<'END'
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static void *llvm;
#define LLVM(result, name, ...) ((result(*)(__VA_ARGS__))dlsym(llvm, "LLVM" #name))

int main(void) {
    llvm = dlopen("libLLVM-14.so.1", RTLD_NOW);
    if (!llvm)
        return puts(dlerror()), 1;
    const char *texts[] = {"define i32 @f(i32 %x) {\n %y = add i32 %x, 1\n %z = mul i32 %y, %y\n %d = sub i32 %z, %z\n"
                           " %r = add i32 %d, %y\n ret i32 %r\n}\n",
                           "define i32 @broken(\n"};
    for (int i = 0; i < 2; i++) {
        void *context = LLVM(void *, ContextCreate, void)(), *module = 0;
        char *error = 0;
        void *buffer = LLVM(void *, CreateMemoryBufferWithMemoryRangeCopy, const char *, size_t, const char *)(
            texts[i], strlen(texts[i]), "text");
        if (LLVM(int, ParseIRInContext, void *, void *, void **, char **)(context, buffer, &module, &error)) {
            printf("refused: %s\n", error);
            continue;
        }
        void *passes = LLVM(void *, CreatePassManager, void)();
        LLVM(void, AddInstructionCombiningPass, void *)(passes);
        LLVM(void, AddGVNPass, void *)(passes);
        LLVM(int, RunPassManager, void *, void *)(passes, module);
        puts(LLVM(char *, PrintModuleToString, void *)(module));
        LLVM(void, DisposePassManager, void *)(passes);
        LLVM(void, DisposeModule, void *)(module);
        LLVM(void, ContextDispose, void *)(context);
    }
    return dlclose(llvm);
}
END
    gcc -o optimise optimise.c
}

run() {
    "$MADE/optimise"
}
