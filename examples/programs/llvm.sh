# A plugin with a pass of its own.
# needs: opt-14 g++ /usr/lib/llvm-14/include/llvm/Passes/PassPlugin.h

prepare() {
    cat > pass.cc <<'END'
#include <llvm/IR/PassManager.h>
#include <llvm/Passes/PassBuilder.h>
#include <llvm/Passes/PassPlugin.h>
#include <llvm/Support/raw_ostream.h>

struct Names : llvm::PassInfoMixin<Names> {
    llvm::PreservedAnalyses run(llvm::Function &function, llvm::FunctionAnalysisManager &) {
        llvm::errs() << "function " << function.getName() << " of " << function.size() << "\n";
        return llvm::PreservedAnalyses::all();
    }
};

extern "C" llvm::PassPluginLibraryInfo llvmGetPassPluginInfo() {
    return {LLVM_PLUGIN_API_VERSION, "names", "1", [](llvm::PassBuilder &builder) {
        builder.registerPipelineParsingCallback([](llvm::StringRef name, llvm::FunctionPassManager &passes, auto) {
            if (name != "names")
                return false;
            passes.addPass(Names());
            return true;
        });
    }};
}
END
    g++ -std=c++17 -shared -fPIC -fno-rtti -I/usr/lib/llvm-14/include -o pass.so pass.cc
    printf 'define i32 @same(i32 %%a) {\n  %%b = add i32 %%a, 0\n  ret i32 %%b\n}\n' > same.ll
}

run() {
    opt-14 -S -load-pass-plugin="$MADE/pass.so" -passes=names,instcombine "$MADE/same.ll"
    opt-14 -S -load-pass-plugin=/no/such.so -passes=names "$MADE/same.ll" 2>/dev/null || echo "code $?"
}
