# A server of its own: initdb, procedural language, extensions.
# needs: /usr/lib/postgresql/*/bin/initdb psql setpriv

prepare() { :; }

as_server() {
    if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; else "$@"; fi
}

run() {
    programs=$(echo /usr/lib/postgresql/*/bin)
    [ "$(id -u)" != 0 ] || chown postgres .
    as_server "$programs/initdb" -D data -U tester -A trust --no-locale -E UTF8
    trap 'as_server "$programs/pg_ctl" -D data -m fast -w stop >/dev/null 2>&1' EXIT
    as_server "$programs/pg_ctl" -D data -w -l log -o "-k $PWD -c listen_addresses= -c jit=on" start >/dev/null
    psql -X -h "$PWD" -U tester postgres -v ON_ERROR_STOP=1 <<'END'
create extension hstore;
create extension pg_trgm;
create extension pgcrypto;
create function factorial_of(n int) returns numeric language plpgsql as $$
begin if n < 2 then return 1; end if; return n * factorial_of(n - 1); end $$;
select factorial_of(30), encode(digest('abc', 'sha256'), 'hex'), 'a=>1'::hstore -> 'a', similarity('word', 'words');
do $$ begin raise exception 'thrown'; exception when others then raise notice 'caught %', sqlerrm; end $$;
select count(*), sum(i) from generate_series(1, 100000) i;
create table t as select i, md5(i::text) m from generate_series(1, 1000) i;
create index on t using gin (m gin_trgm_ops);
select min(m) from t where m like '%abc%';
END
    as_server "$programs/pg_ctl" -D data -m fast -w stop
    grep -c 'FATAL\|PANIC\|terminated by signal' log || true
    trap - EXIT
}
