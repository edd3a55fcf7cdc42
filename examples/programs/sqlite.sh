# An extension that `.load` brings.
# needs: sqlite3 gcc /usr/include/sqlite3ext.h

prepare() {
    cat > twice.c <<'END'
#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT1
static void twice(sqlite3_context *context, int count, sqlite3_value **values) {
    (void)count;
    sqlite3_result_int(context, 2 * sqlite3_value_int(values[0]));
}
int sqlite3_twice_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
    (void)error;
    SQLITE_EXTENSION_INIT2(api);
    return sqlite3_create_function(db, "twice", 1, SQLITE_UTF8, 0, twice, 0, 0);
}
END
    gcc -shared -fPIC -o twice.so twice.c
}

run() {
    sqlite3 :memory: ".load $MADE/twice" "select twice(21)" "select sqlite_version()"
    sqlite3 :memory: ".load ./no-such-extension" 2>/dev/null || echo "code $?"
}
