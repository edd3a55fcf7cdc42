# Dynamic modules, a handful of requests.
# needs: apache2 curl /usr/lib/apache2/modules/mod_mpm_event.so

prepare() { :; }

run() {
    mkdir files
    echo '<!--#echo var="greeting" default="hello" -->' > files/page.shtml
    chmod -R a+rX .
    {
        built_in=$(apache2 -l)
        for module in mpm_event authz_core authz_host dir mime include deflate rewrite headers alias autoindex env setenvif \
            status info socache_shmcb ssl proxy proxy_http lua expires substitute filter unixd; do
            [[ $built_in == *mod_$module.c* ]] || echo "LoadModule ${module}_module /usr/lib/apache2/modules/mod_$module.so"
        done
        cat <<END
ServerName localhost
Listen 127.0.0.1:$PORT
PidFile $PWD/pid
ErrorLog $PWD/error.log
DefaultRuntimeDir $PWD
Mutex file:$PWD default
DocumentRoot $PWD/files
StartServers 1
TypesConfig /dev/null
AddType text/html .shtml
AddOutputFilter INCLUDES;DEFLATE .shtml
<Directory $PWD/files>
  Options +Includes +Indexes
  Require all granted
</Directory>
RewriteEngine On
RewriteRule ^/moved$ /page.shtml [R=301]
Header set X-Answer 42
LuaHookFixups $PWD/hook.lua fixups
END
        [ "$(id -u)" != 0 ] || printf 'User www-data\nGroup www-data\n'
    } > httpd.conf
    cat > hook.lua <<'END'
function fixups(request)
    request.headers_out["X-Lua"] = tostring(6 * 7)
    return apache2.DECLINED
end
END
    chmod a+r hook.lua
    apache2 -d "$PWD" -f "$PWD/httpd.conf" -t
    apache2 -d "$PWD" -f "$PWD/httpd.conf" -D FOREGROUND &
    server=$!
    trap 'kill -TERM $server; wait $server || true' EXIT
    at="http://127.0.0.1:$PORT"
    curl --silent --compressed --retry 50 --retry-connrefused --retry-delay 1 "$at/page.shtml"
    curl --silent --head "$at/page.shtml" | grep '^X-'
    curl --silent "$at/" | grep -c shtml
    curl --silent --output /dev/null --write-out '%{http_code} %{redirect_url}\n' "$at/moved"
    grep -c 'exit signal' error.log || true
}
