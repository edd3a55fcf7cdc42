# A native addon.
# needs: node g++ /usr/include/node/node_api.h

prepare() {
    cat > addon.cc <<'END'
#include <node_api.h>
#include <stdexcept>
#include <string>

static thread_local int calls = 0;

static napi_value answer(napi_env env, napi_callback_info) {
    napi_value result;
    try {
        throw std::runtime_error(std::string("caught ") + std::to_string(++calls));
    } catch (const std::exception &error) {
        napi_create_string_utf8(env, error.what(), NAPI_AUTO_LENGTH, &result);
    }
    return result;
}

NAPI_MODULE_INIT() {
    napi_value function;
    napi_create_function(env, "answer", NAPI_AUTO_LENGTH, answer, nullptr, &function);
    napi_set_named_property(env, exports, "answer", function);
    return exports;
}
END
    g++ -shared -fPIC -I/usr/include/node -o addon.node addon.cc
}

run() {
    node -e '
        const addon = require(process.env.MADE + "/addon.node");
        console.log(addon.answer(), addon.answer());
        const { Worker } = require("worker_threads");
        const worker = new Worker("console.log(require(process.env.MADE + \"/addon.node\").answer())", { eval: true });
        worker.on("error", error => console.log(error.message));
        worker.on("exit", () => {
            try { process.dlopen({ exports: {} }, "/no/such.node"); } catch (error) { console.log(error.code); }
            process.exit(5);
        });' || echo "code $?"
}
