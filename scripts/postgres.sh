# shellcheck shell=bash
# A PostgreSQL of one's own, for scripts: in a directory that is theirs, as an ordinary user, on a free port.
#
#   start_postgres DIRECTORY   starts it; its URL is in $database, its first process in $postgres
#   restart_postgres DIRECTORY stops it and starts it again, where it was
#   stop_postgres DIRECTORY    stops it

# Debian puts its programs where nobody's PATH leads; the newest counts.
postgres_programs() {
    local directory
    directory=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
    [ -z "$directory" ] || { echo "$directory" && return; }
    directory=$(command -v initdb) && dirname "$(readlink -f "$directory")"
}

# as_somebody DIRECTORY COMMAND...: it refuses root
as_somebody() {
    if [ "$(id -u)" = 0 ]; then
        (cd "$1" && exec setpriv --reuid=nobody --regid=nogroup --clear-groups "${@:2}")
    else
        (cd "$1" && exec "${@:2}")
    fi
}

start_postgres() {
    local directory=$1 programs port tries
    programs=$(postgres_programs) || { echo "there is no PostgreSQL (Debian: apt-get install postgresql)" >&2 && return 1; }
    mkdir -p "$directory"
    [ "$(id -u)" != 0 ] || chown nobody:nogroup "$directory"
    as_somebody "$directory" "$programs/initdb" --auth=trust --username=postgres --encoding=UTF8 --no-sync \
        --no-instructions -D "$directory/data" >"$directory/log" 2>&1 || { cat "$directory/log" >&2 && return 1; }
    # A port that was free may be taken by now.
    for tries in 1 2 3 4 5; do
        port=$(shuf -i 20000-29999 -n 1)
        ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue
        if as_somebody "$directory" "$programs/pg_ctl" -D "$directory/data" -l "$directory/data/log" -w -s start \
            -o "-p $port -h 127.0.0.1 -k $directory -c fsync=off" 2>"$directory/log"; then
            postgres=$(head -n 1 "$directory/data/postmaster.pid")
            database=postgres://postgres@127.0.0.1:$port/postgres
            export postgres database
            return
        fi
    done
    echo "PostgreSQL does not start after $tries tries:" >&2
    cat "$directory/data/log" >&2
    return 1
}

restart_postgres() {
    as_somebody "$1" "$(postgres_programs)/pg_ctl" -D "$1/data" -l "$1/data/log" -m fast -w -s restart
}

stop_postgres() {
    local programs
    [ ! -e "$1/data/postmaster.pid" ] || {
        programs=$(postgres_programs)
        as_somebody "$1" "$programs/pg_ctl" -D "$1/data" -m fast -w -s stop || true
    }
}
