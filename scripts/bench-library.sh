#!/usr/bin/env bash
# Measures poetry-library beside bare hyper, the book's shape on Sanic and asyncpg, and pgbench, over one PostgreSQL, in
# interleaved rounds, and prints the medians as Markdown.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/bench-library.sh [--rounds N] [--seconds N] [SECTION...]

Sections: hit miss write triggers [default: all]
  hit       one of 1,000 patrons, all in memory, on 32 kept connections
  miss      one of 100,000 patrons, 3 of 100 in memory, on 32 kept connections
  write     a write through one instance, until it shows through another
  triggers  what it costs eight writers that each change is announced

  --rounds N   rounds of each measurement, of which the median counts [default: 5]
  --seconds N  time of each measurement [default: 2]

Needs PostgreSQL, psql and wrk (Debian: apt-get install postgresql wrk); the book's shape needs sanic and asyncpg (PyPI).
TXT
}

rounds=5 seconds=2 sections=()
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=${2:?--rounds needs a number} && shift 2 ;;
        --seconds) seconds=${2:?--seconds needs a number} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        hit | miss | write | triggers) sections+=("$1") && shift ;;
        *) echo "bench-library.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done
[ ${#sections[@]} -gt 0 ] || sections=(hit miss write triggers)

cd "$(dirname "$0")/.."
. scripts/postgres.sh
cargo build --release --quiet --bin poetry-library
cargo build --release --quiet --package poetry-tools --bin hello
bin=${CARGO_TARGET_DIR:-target}/release

work=$(mktemp -d)
chmod 755 "$work"
servers=()
stop() {
    for server in "${servers[@]}"; do
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    done
    servers=()
}
clean_up() {
    trap '' INT TERM
    stop
    stop_postgres "$work/postgres"
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start_postgres "$work/postgres"
"$bin/poetry-library" --init --database "$database" >"$work/log"
psql -X -q "$database" -c "INSERT INTO patron (name, fav_dish) SELECT 'Carol', 'SPAM Bruschetta' FROM generate_series(1, 100000)" \
    -c 'VACUUM ANALYZE patron'

serve() { # serve PROGRAM FLAG...: says where in $address, and who in $pid
    local line
    exec {ready}< <(exec "$bin/$1" "${@:2}" 2>"$work/log")
    pid=$!
    servers+=("$pid")
    read -r line <&"$ready" || { cat "$work/log" >&2 && exit 1; }
    address=${line##* }
    address=${address%.}
}

serve_book() { # serve_book ROWS: the book's shape; fails if it is not there
    local port tries=0
    /usr/bin/env python3 -c 'import sanic, asyncpg' 2>/dev/null || return 1
    for port in $(shuf -i 20000-29999 -n 50); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    python3 tools/peers/lending.py "$database" "$port" "$1" >"$work/log" 2>&1 &
    pid=$! address=127.0.0.1:$port
    servers+=("$pid")
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 1000 ] || { cat "$work/log" >&2 && exit 1; }
        sleep 0.01
    done
}

median() { # median FIELD FILE
    tr ' ' '\n' <"$2" | sed -n "s/^$1=//p" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

cpu() { # cpu PID: of a process and its children, in ms
    local process
    for process in "$1" $(pgrep -P "$1"); do
        cat "/proc/$process/stat"
    done 2>/dev/null | awk -v tick="$(getconf CLK_TCK)" '{ sum += $14 + $15 } END { printf "%d", sum * 1000 / tick }'
}

ask() { # ask NAME ADDRESS PID PATRONS: requests per second, and the CPU time of the server and of PostgreSQL for each
    local before before_database
    cat >"$work/wrk.lua" <<TXT
math.randomseed(os.time())
request = function() return wrk.format("GET", "/patron/" .. math.random($4)) end
TXT
    before=$(cpu "$3") before_database=$(cpu "$postgres")
    wrk -t 1 -c 32 -d "$seconds" -s "$work/wrk.lua" "http://$2" >"$work/wrk"
    awk -v ms="$(($(cpu "$3") - before))" -v database="$(($(cpu "$postgres") - before_database))" '
        /requests in/ { count = $1 }
        /Non-2xx/ { bad = $NF }
        /^Requests\/sec:/ { print "rate=" $2, "us=" ms * 1000 / count, "database=" database * 1000 / count, "bad=" bad + 0 }
    ' "$work/wrk" >>"$work/$1"
}

warm() { # warm ADDRESS PATRONS: each once
    seq -f "url = http://$1/patron/%.0f" 1 "$2" | curl -s -K - >/dev/null
}

row() { # row FILE TITLE BASE
    awk -v title="$2" -v rate="$(median rate "$work/$1")" -v base="$(median rate "$work/$3")" -v us="$(median us "$work/$1")" \
        -v database="$(median database "$work/$1")" -v bad="$(median bad "$work/$1")" \
        'BEGIN { printf "| %s | %d | %.2f | %.1f | %.1f | %d |\n", title, rate, rate / base, us, database, bad }'
}

compare() { # compare TITLE BASE ROW...
    printf '\n### %s\n\n' "$1"
    printf '| server | requests/s | of %s | CPU µs each | of PostgreSQL µs | errors |\n|---|---|---|---|---|---|\n' "${2#*:}"
    for row in "${@:3}"; do
        [ ! -e "$work/${row%%:*}" ] || row "${row%%:*}" "${row#*:}" "${2%%:*}"
    done
}

hit() {
    local round hello same library book="" name value
    local fields=()
    serve hello
    hello="$address $pid"
    serve poetry-library -q --database "$database"
    library="$address $pid"
    warm "$address" 1000
    # What ours says beside what hyper says itself.
    while IFS=: read -r name value; do
        case $name in Cache-Control | X-* | Referrer-* | Content-Security-*) fields+=(--field "$name:$value") ;; esac
    done < <(curl -si "http://$address/patron/1" | tr -d '\r')
    serve hello "${fields[@]}"
    same="$address $pid"
    if serve_book 65536; then
        book="$address $pid"
        warm "$address" 1000
    fi
    for ((round = 0; round < rounds; round++)); do
        # shellcheck disable=SC2086 # two words each
        {
            ask hello $hello 1000
            ask same $same 1000
            ask hit $library 1000
            [ -z "$book" ] || ask book-hit $book 1000
        }
    done
    stop
    compare "In memory" "hello:bare hyper" "hello:bare hyper, the same body" "same:bare hyper, the same body and fields" "hit:poetry-library" \
        "book-hit:the book's shape on Sanic and asyncpg"
}

miss() {
    local round library book="" base=miss title=poetry-library
    serve poetry-library -q --database "$database" --cache 1000k
    library="$address $pid"
    ! serve_book 3000 || book="$address $pid" base=book-miss title="the book's shape"
    for ((round = 0; round < rounds; round++)); do
        # shellcheck disable=SC2086 # two words each
        {
            ask miss $library 100000
            [ -z "$book" ] || ask book-miss $book 100000
        }
        pgbench_round
    done
    stop
    compare "From the database" "$base:$title" "miss:poetry-library, 4 connections" \
        "book-miss:the book's shape on Sanic and asyncpg, 32 connections" "pgbench:pgbench, 4 connections"
}

pgbench_round() { # the same SELECT by PostgreSQL's own client, on as many connections
    local programs before
    programs=$(postgres_programs)
    printf '\\set id random(1, 100000)\nSELECT id, name, fav_dish FROM patron WHERE id = :id;\n' >"$work/select.sql"
    before=$(cpu "$postgres")
    "$programs/pgbench" -n -M prepared -c 4 -j 1 -T "$seconds" -f "$work/select.sql" "$database" >"$work/pgbench.txt" 2>/dev/null
    awk -v database="$(($(cpu "$postgres") - before))" '
        /^number of transactions actually processed/ { count = $NF }
        /^tps/ { print "rate=" $3, "us=0", "database=" database * 1000 / count, "bad=0" }
    ' "$work/pgbench.txt" >>"$work/pgbench"
}

write() {
    local round one other
    serve poetry-library -q --database "$database"
    one=$address
    serve poetry-library -q --database "$database"
    other=$address
    for ((round = 0; round < rounds; round++)); do
        "$bin/poetry-library" --prove "${seconds}s" "http://$one" "http://$other"
    done >"$work/proofs"
    stop
    printf '\n### A write through one instance, until it shows\n\n```text\n'
    sed "s/http:\/\/$one/one/; s/http:\/\/$other/another/" "$work/proofs"
    printf '```\n'
}

triggers() { # changes of rows by eight clients of PostgreSQL's own, with the triggers and without
    local programs round state
    programs=$(postgres_programs)
    printf '\\set id random(1, 100000)\nUPDATE patron SET fav_dish = :id WHERE id = :id;\n' >"$work/update.sql"
    for ((round = 0; round < rounds; round++)); do
        for state in "DISABLE" "ENABLE ALWAYS"; do
            psql -X -q "$database" -c "ALTER TABLE patron $state TRIGGER poetry_library_row" -c 'VACUUM patron'
            "$programs/pgbench" -n -M prepared -c 8 -j 1 -T "$seconds" -f "$work/update.sql" "$database" 2>/dev/null |
                awk '/^tps/ { print "rate=" $3 }' >>"$work/${state%% *}"
        done
    done
    printf '\n### Eight writers\n\n| changes are | changes/s | ratio |\n|---|---|---|\n'
    for row in "DISABLE:told nobody" "ENABLE:announced"; do
        awk -v title="${row#*:}" -v rate="$(median rate "$work/${row%%:*}")" -v base="$(median rate "$work/DISABLE")" \
            'BEGIN { printf "| %s | %d | %.2f |\n", title, rate, rate / base }'
    done
}

processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
printf '%s, %s processors; medians of %s rounds\n' "${processor:-unknown processor}" "$(nproc)" "$rounds"
for section in "${sections[@]}"; do
    "$section"
done
