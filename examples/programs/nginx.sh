# Dynamic modules, one worker, a handful of requests.
# needs: nginx curl /usr/lib/nginx/modules/ngx_http_echo_module.so /usr/lib/nginx/modules/ngx_http_image_filter_module.so /usr/lib/nginx/modules/ngx_stream_module.so

prepare() {
    printf 'R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs=' | base64 -d > one.gif
}

run() {
    mkdir logs files
    cp "$MADE/one.gif" files
    chmod -R a+rX .
    cat > nginx.conf <<END
load_module /usr/lib/nginx/modules/ngx_http_echo_module.so;
load_module /usr/lib/nginx/modules/ngx_http_image_filter_module.so;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
pid $PWD/nginx.pid;
error_log $PWD/logs/error.log;
events {}
stream {}
http {
    access_log off;
    client_body_temp_path $PWD/logs/body;
    proxy_temp_path $PWD/logs/proxy;
    fastcgi_temp_path $PWD/logs/fastcgi;
    uwsgi_temp_path $PWD/logs/uwsgi;
    scgi_temp_path $PWD/logs/scgi;
    server {
        listen 127.0.0.1:$PORT;
        location /echo { echo "hello \$arg_name"; echo_sleep 0.01; echo done; }
        location /size/ { alias $PWD/files/; image_filter size; }
        location /gone { return 404; }
    }
}
END
    nginx -t -p "$PWD" -c nginx.conf -e logs/error.log
    nginx -p "$PWD" -c nginx.conf -e logs/error.log &
    server=$!
    trap 'kill -QUIT $server; wait $server' EXIT
    at="http://127.0.0.1:$PORT"
    curl --silent --retry 50 --retry-connrefused --retry-delay 1 "$at/echo?name=world"
    curl --silent "$at/size/one.gif"
    curl --silent --output /dev/null --write-out '%{http_code}\n' "$at/gone"
    grep -c 'exited on signal\|emerg' logs/error.log || true
}
