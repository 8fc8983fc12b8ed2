#!/usr/bin/env bash
# The whole story of poetry-library: a PostgreSQL of its own, two instances, the session of the book, and what becomes of
# their caches when the database is restarted, beside an instance that trusts blindly.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/library.sh [--install] [--prove SECONDS]

Starts a private PostgreSQL in a temporary directory, as an ordinary user, on a free port; two instances of poetry-library
and one with --cache-mode naive; and talks to them with curl. In the end everything is gone again.

  --install        if there is no PostgreSQL, install Debian's (apt-get install postgresql, as root or with sudo)
  --prove SECONDS  write and read for so long, through a restart of the database [default: 4]
TXT
}

install=false prove=4
while [ $# -gt 0 ]; do
    case $1 in
        --install) install=true && shift ;;
        --prove) prove=${2:?--prove needs a number} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        *) echo "library.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
. scripts/postgres.sh

if $install && ! postgres_programs >/dev/null; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    echo "Installing PostgreSQL ..."
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq postgresql >/dev/null
fi
command -v curl >/dev/null || { echo "library.sh: there is no curl" >&2 && exit 1; }
if ! command -v poetry-library >/dev/null; then
    echo "Building the program, which takes a minute, once ..."
    cargo build --profile quick --quiet --bin poetry-library
    PATH=${CARGO_TARGET_DIR:-$PWD/target}/quick:$PATH
fi

work=$(mktemp -d)
chmod 755 "$work"
instances=()
clean_up() {
    trap '' INT TERM
    [ ${#instances[@]} = 0 ] || kill "${instances[@]}" 2>/dev/null || true
    wait
    stop_postgres "$work/postgres"
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n%s\n' "$*"; }

# show COMMAND...: as one would type it, and what comes of it
show() {
    printf '$'
    for word in "$@"; do
        case $word in *[\ \{]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$@" | sed -E '/^(HTTP|X-Cache|Server-Timing|[[{n])/!d; s/\r$//'
    echo
}

# lend NAME FLAG...: an instance, whose URL is in a variable of that name
lend() {
    local ready line
    exec {ready}< <(exec poetry-library --database "$database" "${@:2}" 2>"$work/$1.log")
    instances+=($!)
    read -r line <&"$ready" || { cat "$work/$1.log" >&2 && exit 1; }
    line=${line##* }
    printf -v "$1" 'http://%s' "${line%.}"
}

# dish URL: what the patron likes, as an instance has it, and where from
dish() {
    curl -si -w '\n' "$1/patron/1" | sed -En 's/\r$//; s/^X-Cache: (.*)/\1/p; s/.*"fav_dish":"([^"]*)".*/\1/p; s/^\{"msg.*/no answer/p' |
        tac | paste -sd ' ' | sed -E 's/^(.*) ([A-Z]+)$/\1 (\2)/'
}

say "A PostgreSQL of its own, and two instances:"
start_postgres "$work/postgres"
lend a
lend b
# shellcheck disable=SC2154 # set by lend
printf 'A is %s, B is %s, the database is %s\n' "$a" "$b" "$database"

say "A patron is made through A, and read through both:"
json='Content-Type: application/json'
show curl -s "$a/patron" -H "$json" -d '{"name":"Carol","fav_dish":"SPAM Bruschetta"}'
show curl -si "$a/patron/1"
show curl -si "$a/patron/1"
show curl -si "$b/patron/1"

say "What is written through B is told to A, which reads it again before anybody asks:"
show curl -s -X PUT "$b/patron/1" -H "$json" -d '{"name":"Carol","fav_dish":"eggs"}'
show curl -si "$a/patron/1"

say "Whoever changes it, in whatever way, all are told:"
sql() {
    printf "\$ psql -c \"%s\"\n" "$1"
    psql -X -q "$database" -c "$1" >/dev/null
}
sql "UPDATE patron SET fav_dish = 'ham'"
show curl -s "$b/patron/1"

say "Now the connections on which that is announced are cut, and the dish changes. N is an instance with --cache-mode naive:"
lend n --cache-mode naive
# shellcheck disable=SC2154 # set by lend
dish "$n" >/dev/null
psql -X -q "$database" -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '% listen'" \
    -c "UPDATE patron SET fav_dish = 'lobster thermidor'" >/dev/null
for instance in a b n; do
    printf '%s says: %s\n' "${instance^^}" "$(dish "${!instance}")"
done

say "Does anybody see an old row? $prove seconds of writes through A and reads through A and B; in the middle, PostgreSQL is restarted:"
printf '$ poetry-library --prove %ss %s %s\n' "$prove" "$a" "$b"
poetry-library --prove "${prove}s" "$a" "$b" >"$work/proof" &
proof=$!
sleep "$(awk -v s="$prove" 'BEGIN { print s / 3 }')"
restart_postgres "$work/postgres"
wait "$proof"
sed "s|$a|A|g; s|$b|B|g" "$work/proof"
