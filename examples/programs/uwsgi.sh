# A server whose interpreters are plugins that bind to symbols of the program.
# needs: uwsgi curl /usr/lib/uwsgi/plugins/python3_plugin.so

prepare() {
    cat > "$MADE/application.py" <<'END'
import hashlib, json, sqlite3
import uwsgi

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    db = sqlite3.connect(":memory:")
    answer = {"path": environ["PATH_INFO"], "hash": hashlib.sha256(b"abc").hexdigest(),
              "sum": db.execute("select sum(value) from json_each('[1, 2, 3]')").fetchone()[0],
              "workers": uwsgi.numproc}
    return [json.dumps(answer, sort_keys=True).encode() + b"\n"]
END
}

run() {
    uwsgi --plugins-dir /usr/lib/uwsgi/plugins --plugin http,python3 --http-socket "127.0.0.1:$PORT" --master --processes 2 \
        --threads 2 --wsgi-file "$MADE/application.py" --pidfile "$PWD/pid" --die-on-term --logto "$PWD/log" --need-app &
    server=$!
    trap 'kill -TERM $server; wait $server || true' EXIT
    for path in / /one /two /three; do
        curl --silent --retry 50 --retry-connrefused --retry-delay 1 "http://127.0.0.1:$PORT$path"
    done
    grep -c "WSGI app 0" log
}
