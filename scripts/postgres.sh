# A throw-away PostgreSQL on loopback; sourced. Needs packages.sh.

# Starts one in a new directory: $throwaway_url is its URL. Durability is switched off: what is in it is worthless.
# It has a port, and not only a socket, for the tests that put themselves between the server and its database.
start_throwaway_postgres() {
    local bin user socket options port attempt
    bin=$(postgres_bin)
    [ -n "$bin" ] || fail "PostgreSQL is not installed."
    # A socket's path must be short, so it is not made within the checkout.
    throwaway_dir=$(mktemp -d /tmp/hearth-postgres.XXXXXX)
    user=$(id -un)
    throwaway_as=''
    if [ "$(id -u)" -eq 0 ]; then
        # PostgreSQL refuses to run as root.
        user=nobody
        getent passwd postgres >/dev/null && user=postgres
        throwaway_as="setpriv --reuid=$user --regid=$(id -g "$user") --clear-groups --"
        chown "$user" "$throwaway_dir"
    fi
    throwaway_bin=$bin
    socket=$throwaway_dir/socket
    options="-k $socket -c listen_addresses=127.0.0.1 -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
    options="$options -c max_connections=400 -c shared_buffers=128MB -c max_wal_size=2GB -c autovacuum=off"
    (
        cd "$throwaway_dir"
        $throwaway_as mkdir -m 755 "$socket"
        $throwaway_as "$bin/initdb" -D data -U hearth -A trust -E UTF8 --locale=C -N >initdb.log 2>&1 ||
            { cat initdb.log >&2; exit 1; }
        # A port that turns out to be taken is nobody's fault.
        for attempt in 1 2 3 4 5; do
            port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
            $throwaway_as "$bin/pg_ctl" -D data -o "$options -p $port" -l data/log -w -t 60 start >/dev/null && break
            [ "$attempt" -lt 5 ] || { cat data/log >&2; exit 1; }
        done
        "$bin/createdb" -h "$socket" -p "$port" -U hearth hearth
        echo "$port" >port
    ) || fail "the throw-away PostgreSQL could not be started"
    throwaway_port=$(cat "$throwaway_dir/port")
    throwaway_url="postgres://hearth@127.0.0.1:$throwaway_port/hearth"
}

# Stops it and removes its directory.
stop_throwaway_postgres() {
    [ -n "${throwaway_dir:-}" ] || return 0
    (cd "$throwaway_dir" && $throwaway_as "$throwaway_bin/pg_ctl" -D "$throwaway_dir/data" -m immediate stop >/dev/null 2>&1) || true
    rm -rf "$throwaway_dir"
    throwaway_dir=''
}
