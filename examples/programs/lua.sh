# A C module.
# needs: lua5.4 /usr/lib/x86_64-linux-gnu/lua/5.4/cjson.so

prepare() { :; }

run() {
    lua5.4 -e '
        local json = require "cjson"
        print(json.encode({ 1, 2, { 3 } }), json.decode("[4.5]")[1])
        print(pcall(json.decode, "{"))
        print((package.loadlib("/usr/lib/x86_64-linux-gnu/lua/5.4/cjson.so", "no_such_function")))'
}
