#!/usr/bin/env bash
# Measures charfinder and its servers beside grep, transformedpoetry and nginx, in interleaved rounds, and prints the medians
# as Markdown.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/bench-charfinder.sh [--rounds N] [--time DURATION] [SECTION...]

Sections: cli start lines pages others [default: all]
  cli     whole processes: charfinder beside grep -w on the same names
  start   a server from its start to its first prompt
  lines   "sun" on 32 kept connections, beside transformedpoetry --keep-alive
  pages   pages of http-charfinder on 16 kept connections, beside a file of nginx
  others  "sun" while others ask for everything, and read it or do not

  --rounds N       rounds of each measurement, of which the median counts [default: 9]
  --time DURATION  time of each measurement of a server [default: 1s]

Pages need wrk, and nginx for the last row (Debian: apt-get install wrk nginx-light).
TXT
}

rounds=9 time=1s sections=()
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=${2:?--rounds needs a number} && shift 2 ;;
        --time) time=${2:?--time needs a duration} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        cli | start | lines | pages | others) sections+=("$1") && shift ;;
        *) echo "bench-charfinder.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done
[ ${#sections[@]} -gt 0 ] || sections=(cli start lines pages others)

cd "$(dirname "$0")/.."
cargo build --release --quiet --bin charfinder --bin tcp-charfinder --bin http-charfinder --bin transformedpoetry
cargo build --release --quiet --package poetry-tools --bin load
bin=${CARGO_TARGET_DIR:-target}/release

work=$(mktemp -d)
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
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

serve() { # serve PROGRAM FLAG...: says where in $address, and who in $pid
    local line
    exec {ready}< <(exec "$bin/$1" -q "${@:2}" 2>"$work/log")
    pid=$!
    servers+=("$pid")
    read -r line <&"$ready" || { cat "$work/log" >&2 && exit 1; }
    address=${line##* }
    address=${address%.}
}

serve_file_with_nginx() { # serve_file_with_nginx FILE: with a worker for each of two processors
    local port tries=0
    for port in $(shuf -i 20000-29999 -n 50); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    mkdir "$work/root" && cp "$1" "$work/root/page.html"
    # Its workers are nobody's, if root starts it.
    chmod 755 "$work" "$work/root"
    cat >"$work/nginx.conf" <<TXT
daemon off; worker_processes 2; pid $work/nginx.pid; error_log stderr crit;
events { worker_connections 1000; }
http { access_log off; sendfile on; keepalive_requests 1000000000;
    client_body_temp_path $work/1; proxy_temp_path $work/2; fastcgi_temp_path $work/3; uwsgi_temp_path $work/4;
    scgi_temp_path $work/5;
    server { listen 127.0.0.1:$port reuseport; root $work/root; } }
TXT
    nginx -p "$work" -c "$work/nginx.conf" -e stderr 2>"$work/log" &
    servers+=($!)
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] || { echo "bench-charfinder.sh: nginx does not listen" >&2 && cat "$work/log" >&2 && exit 1; }
        sleep 0.01
    done
    origin=127.0.0.1:$port
}

median() { # median FIELD FILE
    tr ' ' '\n' <"$2" | sed -n "s/^$1=//p" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

# timed NAME COMMAND...: a whole process, in µs
timed() {
    local begin=$EPOCHREALTIME end
    "${@:2}" >"$work/output" 2>&1
    end=$EPOCHREALTIME
    echo "us=$((${end/./} - ${begin/./}))" >>"$work/$1"
}

# Processes are short: more of them.
cli() {
    local round base
    for ((round = 0; round < 10 * rounds; round++)); do
        timed grep grep -w SUN assets/unicode/names.txt
        timed sun "$bin/charfinder" sun
        timed count "$bin/charfinder" --count cjk
        timed true true-as-a-process
    done
    base=$(median us "$work/grep")
    printf '\n### Whole processes\n\n| process | ms | of grep |\n|---|---|---|\n'
    for row in "grep:grep -w SUN names.txt" "sun:charfinder sun" "count:charfinder --count cjk" "true:a process that does nothing"; do
        awk -v title="${row#*:}" -v us="$(median us "$work/${row%%:*}")" -v base="$base" \
            'BEGIN { printf "| %s | %.2f | %.2f |\n", title, us / 1000, us / base }'
    done
}
true-as-a-process() { command env true; }

# From the start of the process until the first byte of a prompt.
prompt() {
    local line connection
    exec {ready}< <(exec "$bin/tcp-charfinder" -q 2>"$work/log")
    servers+=($!)
    read -r line <&"$ready"
    line=${line##*:}
    exec {connection}<>"/dev/tcp/127.0.0.1/${line%.}"
    read -r -n 1 line <&"$connection"
    exec {connection}<&- {ready}<&-
}
start() {
    local round
    for ((round = 0; round < rounds; round++)); do
        timed start prompt
        stop
    done
    printf '\n### A server from its start to its first prompt: %s ms\n' \
        "$(awk -v us="$(median us "$work/start")" 'BEGIN { printf "%.1f", us / 1000 }')"
}

# What is asked, and what is answered: the first prompt is a greeting, and an answer ends with the next one.
line_files() { # line_files ADDRESS
    printf '?> ' >"$work/greeting"
    printf 'sun\n' >"$work/sun"
    exec {connection}<>"/dev/tcp/${1%:*}/${1##*:}"
    printf 'sun\n\xff\xec' >&"$connection"
    tail -c +4 <&"$connection" >"$work/answer"
    exec {connection}<&-
}

lines() {
    local round finder finder_pid transformer transformer_pid text
    serve tcp-charfinder
    finder=$address finder_pid=$pid
    serve transformedpoetry --keep-alive
    transformer=$address transformer_pid=$pid
    line_files "$finder"
    text=$(printf 'x%.0s' {1..40})
    printf '46:shout.%s,' "$text" >"$work/shout"
    printf '40:%s,' "${text^^}" >"$work/shouted"
    for ((round = 0; round < rounds; round++)); do
        "$bin/load" "$finder" --poem "$work/answer" --greeting "$work/greeting" --request "$work/sun" --keep-alive \
            --clients 32 --time "$time" --pid "$finder_pid" >>"$work/lines"
        "$bin/load" "$transformer" --poem "$work/shouted" --request "$work/shout" --keep-alive \
            --clients 32 --time "$time" --pid "$transformer_pid" >>"$work/shouts"
    done
    stop
    printf '\n### Requests on 32 kept connections\n\n'
    printf '| server | requests/s | of transformedpoetry | CPU s / 100k | p99 ms | errors |\n|---|---|---|---|---|---|\n'
    for row in "shouts:transformedpoetry --keep-alive, 40 bytes" "lines:tcp-charfinder, sun"; do
        awk -v title="${row#*:}" -v rate="$(median rate "$work/${row%%:*}")" -v base="$(median rate "$work/shouts")" \
            -v cpu="$(median cpu_per_100k "$work/${row%%:*}")" -v p99="$(median p99 "$work/${row%%:*}")" \
            -v errors="$(median errors "$work/${row%%:*}")" \
            'BEGIN { printf "| %s | %d | %.2f | %.2f | %.2f | %d |\n", title, rate, rate / base, cpu, p99 / 1000, errors }'
    done
}

pages() {
    local round name finder seconds
    if ! command -v wrk >/dev/null || ! command -v curl >/dev/null; then
        printf '\nskipped: pages need wrk and curl\n'
        return
    fi
    # It knows whole seconds, of which one is the least.
    case $time in *ms) seconds=1 ;; *) seconds=${time%s} ;; esac
    serve http-charfinder
    finder=$address
    curl -sS "http://$finder/?query=cjk" >"$work/page"
    origin=""
    ! command -v nginx >/dev/null || serve_file_with_nginx "$work/page"
    for ((round = 0; round < rounds; round++)); do
        for name in rook cjk; do
            ask "$name" "http://$finder/?query=$name" "$pid"
        done
        [ -z "$origin" ] || ask nginx "http://$origin/page.html" "${servers[-1]}"
    done
    stop
    printf '\n### Pages on 16 kept connections\n\n'
    printf '| page | requests/s | of rook | CPU µs each | of rook |\n|---|---|---|---|---|\n'
    for row in "rook:rook, 18 rows" "cjk:cjk, 200 rows" "nginx:the second one as a file of nginx"; do
        [ -e "$work/${row%%:*}" ] || continue
        awk -v title="${row#*:}" -v rate="$(median rate "$work/${row%%:*}")" -v base="$(median rate "$work/rook")" \
            -v us="$(median us "$work/${row%%:*}")" -v base_us="$(median us "$work/rook")" \
            'BEGIN { printf "| %s | %d | %.2f | %.1f | %.2f |\n", title, rate, rate / base, us, us / base_us }'
    done
}

ask() { # ask NAME URL PID: pages per second, and the server's CPU time for each
    local before
    before=$(cpu "$3")
    wrk -t 1 -c 16 -d "$seconds" "$2" >"$work/wrk"
    awk -v ms="$(($(cpu "$3") - before))" '
        /requests in/ { pages = $1 }
        /^Requests\/sec:/ { print "rate=" $2, "us=" ms * 1000 / pages }
    ' "$work/wrk" >>"$work/$1"
}

cpu() { # cpu PID: of a process and its children, in ms
    local process
    for process in "$1" $(pgrep -P "$1"); do
        cat "/proc/$process/stat"
    done | awk -v tick="$(getconf CLK_TCK)" '{ sum += $14 + $15 } END { printf "%d", sum * 1000 / tick }'
}

# One asks now and then: what counts is how long that takes.
others() {
    local round finder
    serve tcp-charfinder --max-clients 1000
    finder=$address
    line_files "$finder"
    for ((round = 0; round < rounds; round++)); do
        alone alone
        # One who never reads, and one who reads all there is.
        exec {silent}<>"/dev/tcp/${finder%:*}/${finder##*:}"
        for _ in 1 2 3 4 5 6 7 8; do echo cjk >&"$silent"; done
        { for ((n = 0; n < 10000; n++)); do echo cjk; done | nc -N "${finder%:*}" "${finder##*:}" >/dev/null; } 2>/dev/null &
        reader=$!
        alone beside
        kill "$reader" 2>/dev/null || true
        pkill -P "$reader" 2>/dev/null || true
        wait "$reader" 2>/dev/null || true
        exec {silent}<&-
    done
    stop
    printf '\n### "sun" on one connection\n\n| beside | p50 ms | p99 ms |\n|---|---|---|\n'
    for row in "alone:nobody" "beside:one who reads cjk over and over, and one who asks for it and reads nothing"; do
        awk -v title="${row#*:}" -v p50="$(median p50 "$work/${row%%:*}")" -v p99="$(median p99 "$work/${row%%:*}")" \
            'BEGIN { printf "| %s | %.2f | %.2f |\n", title, p50 / 1000, p99 / 1000 }'
    done
}

alone() { # alone NAME
    "$bin/load" "$finder" --poem "$work/answer" --greeting "$work/greeting" --request "$work/sun" --keep-alive \
        --clients 1 --time "$time" >>"$work/$1"
}

processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
printf '%s, %s processors; medians of %s rounds\n' "${processor:-unknown processor}" "$(nproc)" "$rounds"
for section in "${sections[@]}"; do
    "$section"
done
