#!/usr/bin/env bash
# Measures the four clients over HTTP beside curl, in interleaved rounds, and prints the medians as Markdown.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/bench-downloads.sh [--rounds N] [--files N] [--dir DIR] [SECTION...]

Sections: files error [default: both]
  files  files of 13 KB from one process of nginx, 50 at once on kept connections: nowhere, and into DIR
  error  676 files, of which a quarter breaks off and half of the others comes 500 ms late, 100 at once:
         the time beside the bound of the report

  --rounds N  rounds of each measurement, of which the median counts [default: 9]
  --files N   files of the first section [default: 1000]
  --dir DIR   where files are written, and removed again [default: a new directory in /dev/shm]

Where there is no nginx, fastpoetry --http is the origin; without curl its rows are missing (Debian: apt-get install
nginx-light curl). Times are of whole processes, CPU is theirs in user mode and in the kernel.
TXT
}

rounds=9 files=1000 place="" sections=()
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=${2:?--rounds needs a number} && shift 2 ;;
        --files) files=${2:?--files needs a number} && shift 2 ;;
        --dir) place=${2:?--dir needs a directory} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        files | error) sections+=("$1") && shift ;;
        *) echo "bench-downloads.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done
[ ${#sections[@]} -gt 0 ] || sections=(files error)

cd "$(dirname "$0")/.."
cargo build --release --quiet --bins
bin=${CARGO_TARGET_DIR:-target}/release

work=$(mktemp -d)
if [ -n "$place" ]; then
    out=$(mktemp -d -p "$place")
else
    out=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
fi
server=""
clean_up() {
    trap '' INT TERM
    stop
    rm -rf "$work" "$out"
}
stop() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    server=""
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

serve() { # serve FLAG...: with fastpoetry; says where in $origin
    local line
    exec {ready}< <(exec "$bin/fastpoetry" -q --http "$@" 2>"$work/log")
    server=$!
    read -r line <&"$ready" || { cat "$work/log" >&2 && exit 1; }
    origin=${line##* }
    origin=http://${origin%.}
}

serve_with_nginx() { # serve_with_nginx DIR
    local port tries=0
    for port in $(shuf -i 20000-29999 -n 50); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    cat >"$work/nginx.conf" <<TXT
daemon off; master_process off; pid $work/nginx.pid; error_log stderr crit;
events { worker_connections 10000; }
http { access_log off; sendfile on; keepalive_requests 1000000000;
    client_body_temp_path $work/1; proxy_temp_path $work/2; fastcgi_temp_path $work/3; uwsgi_temp_path $work/4;
    scgi_temp_path $work/5;
    server { listen 127.0.0.1:$port backlog=4096; root $1; } }
TXT
    nginx -p "$work" -c "$work/nginx.conf" -e stderr 2>"$work/log" &
    server=$!
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] || { echo "bench-downloads.sh: nginx does not listen" >&2 && cat "$work/log" >&2 && exit 1; }
        sleep 0.01
    done
    origin=http://127.0.0.1:$port
}

# timed NAME COMMAND...: once; wall time and CPU in ms are added to $work/NAME
timed() {
    local name=$1 TIMEFORMAT='%R %U %S'
    shift
    rm -rf "${out:?}"/*
    { time "$@" >"$work/output" 2>&1; } 2>"$work/time" || { cat "$work/output" >&2 && exit 1; }
    awk '{ print "wall=" $1 * 1000, "cpu=" ($2 + $3) * 1000 }' "$work/time" >>"$work/$name"
}

median() { # median FIELD FILE
    tr ' ' '\n' <"$2" | sed -n "s/^$1=//p" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

row() { # row NAME TITLE BASE: beside the row BASE
    [ -e "$work/$1" ] || return 0
    local wall cpu base=$3
    wall=$(median wall "$work/$1")
    cpu=$(median cpu "$work/$1")
    [ -e "$work/$base" ] || base=$1
    awk -v title="$2" -v wall="$wall" -v cpu="$cpu" -v w="$(median wall "$work/$base")" -v c="$(median cpu "$work/$base")" \
        'BEGIN { printf "| %s | %.0f | %.0f | %.2f | %.2f |\n", title, wall, cpu, wall / w, cpu / c }'
}

files() {
    local name round client root=$work/root
    mkdir "$root"
    for ((number = 0; number < files; number++)); do
        head -c 13000 /dev/urandom >"$root/$number.bin"
    done
    if command -v nginx >/dev/null; then serve_with_nginx "$root"; else serve "$root"; fi
    for ((number = 0; number < files; number++)); do
        echo "$origin/$number.bin"
        printf 'url = %s/%s.bin\noutput = /dev/null\n' "$origin" "$number" >&3
        printf 'url = %s/%s.bin\noutput = %s/%s.bin\n' "$origin" "$number" "$out" "$number" >&4
    done >"$work/list" 3>"$work/nowhere" 4>"$work/into"
    for client in "" -select -threads -blocking; do
        # Once with every byte looked at.
        rm -rf "${out:?}"/*
        "$bin/get-poetry$client" -q -o "$out" --input "$work/list"
        diff -r "$out" "$root"
    done
    for ((round = 0; round < rounds; round++)); do
        if command -v curl >/dev/null; then
            timed curl curl -sSZ --parallel-max 50 -K "$work/nowhere"
            timed curl-serial curl -sS -K "$work/nowhere"
            timed curl-files curl -sSZ --parallel-max 50 -K "$work/into"
            timed curl-serial-files curl -sS -K "$work/into"
        fi
        for client in "" -select -threads -blocking; do
            timed "ours$client" "$bin/get-poetry$client" -q --discard --input "$work/list"
            timed "ours$client-files" "$bin/get-poetry$client" -q -o "$out" --input "$work/list"
        done
    done
    stop
    printf '\n### %s files of 13 KB over HTTP, 50 at once on kept connections\n' "$files"
    for name in "" -files; do
        printf '\n%s:\n\n' "$([ -z "$name" ] && echo "Nowhere" || echo "Into files ($(stat -f -c %T "$out"))")"
        echo '| client | ms | CPU ms | wall / curl | CPU / curl |'
        echo '|---|---|---|---|---|'
        row "curl$name" "curl -Z" "curl$name"
        row "ours$name" "get-poetry" "curl$name"
        row "ours-select$name" "get-poetry-select" "curl$name"
        row "ours-threads$name" "get-poetry-threads" "curl$name"
        row "curl-serial$name" "curl, one after another" "curl-serial$name"
        row "ours-blocking$name" "get-poetry-blocking" "curl-serial$name"
    done
    printf '\nFiles beside nowhere, wall time: '
    for client in "" -select -threads -blocking; do
        awk -v name="get-poetry$client" -v files="$(median wall "$work/ours$client-files")" \
            -v nowhere="$(median wall "$work/ours$client")" 'BEGIN { printf "%s %.2f  ", name, files / nowhere }'
    done
    printf '\n'
}

error() {
    local round client number
    for number in 1 2 3 4 5 6 7 8; do
        echo '[[connection]]'
        case $number in
            1 | 5) echo 'cut-at = 30' ;;
            2 | 4 | 7) echo 'first-byte-delay = "500ms"' ;;
        esac
    done >"$work/error.toml"
    serve --script "$work/error.toml" --cycle 8 flags/de/de.gif
    for ((number = 0; number < 676; number++)); do
        echo "$origin/"
    done >"$work/list"
    for ((round = 0; round < rounds; round++)); do
        for client in "" -select -threads; do
            "$bin/get-poetry$client" --json -j 100 --input "$work/list" >"$work/report" 2>"$work/said" || true
            sed -E 's/.*"elapsed_us":([0-9]+),"bound_us":([0-9]+),.*/elapsed=\1 bound=\2/' "$work/report" >>"$work/error$client"
        done
    done
    printf '\n### 676 files, a quarter breaks off, half of the others comes 500 ms late, 100 at once\n\n'
    echo '| client | ms | bound ms | ratio | the tally |'
    echo '|---|---|---|---|---|'
    for client in "" -select -threads; do
        "$bin/get-poetry$client" --discard -j 100 --input "$work/list" 2>"$work/said" || true
        awk -v name="get-poetry$client" -v elapsed="$(median elapsed "$work/error$client")" \
            -v bound="$(median bound "$work/error$client")" -v tally="$(tail -n 1 "$work/said")" \
            'BEGIN { printf "| %s | %.0f | %.0f | %.3f | %s |\n", name, elapsed / 1000, bound / 1000, elapsed / bound, tally }'
    done
    stop
}

processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
echo "$(date -u +%F), $(nproc) × ${processor:-unknown processor}, Linux $(uname -r); median of $rounds interleaved rounds"
for section in "${sections[@]}"; do
    "$section"
done
