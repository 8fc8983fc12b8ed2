#!/usr/bin/env bash
# Measures the async servers beside others that do the same, in interleaved rounds, and prints the medians as
# Markdown. Every byte is checked. Peers that are not installed are named and left out.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/bench-servers.sh [--rounds N] [--time DURATION] [SECTION...]

Sections: small large stalled tarpit transform proxy http chaos [default: all]
  small      fetches of a poem of 653 bytes, 1 to 4,000 clients at once
  large      poems of 20 MB and 200 MB, 1 and 8 clients
  stalled    10,000 clients that never read, and 8 others that do
  tarpit     10,000 clients that get a byte a second
  transform  requests of 27 bytes, 99 KB and 1 MiB, on a connection each and on one that is kept alive
  proxy      cache hits of poetry-proxy beside fastpoetry; a thousand clients of a cold cache
  chaos      poems through poetry-chaos that disturbs nobody, beside nginx's stream proxy and the poem itself;
             requests over HTTP on kept connections, drawn for each connection and for each request (over_http)
  http       the small poem over HTTP, on kept connections, beside one process of nginx, and beside the bare poem

  --rounds N       rounds of each measurement, of which the median counts [default: 5]; stalled and tarpit have one
  --time DURATION  length of one measurement [default: 2s]

bare_epoll is the kernel's limit: one epoll loop a processor; accept, write, close. bare_transform is the same for
requests. thread_per_client is the standard library's way. nginx, socat and endlessh are measured where they are
installed (Debian: apt-get install nginx-light libnginx-mod-stream socat endlessh). wrk asks over HTTP.
TXT
}

rounds=5 time=2s sections=()
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=${2:?--rounds needs a number} && shift 2 ;;
        --time) time=${2:?--time needs a duration} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        small | large | stalled | tarpit | transform | proxy | http | chaos) sections+=("$1") && shift ;;
        *) echo "bench-servers.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done
[ ${#sections[@]} -gt 0 ] || sections=(small large stalled tarpit transform proxy http chaos)

cd "$(dirname "$0")/.."
cargo build --release --quiet --workspace --bins
target=${CARGO_TARGET_DIR:-target}/release
ulimit -n "$(ulimit -Hn)"

work=$(mktemp -d)
declare -A pid port
clean_up() {
    trap '' INT TERM
    stop_all
    rm -rf "$work"
}
stop_all() {
    if [ ${#pid[@]} -gt 0 ]; then
        kill "${pid[@]}" 2>/dev/null || true
        wait "${pid[@]}" 2>/dev/null || true
    fi
    pid=() port=()
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# nginx gives out a poem only if it can be told to speak without HTTP.
stream_module=/usr/lib/nginx/modules/ngx_stream_module.so
have() {
    command -v "$1" >/dev/null || return 1
    [ "$1" != nginx ] || [ -e $stream_module ] || nginx -V 2>&1 | grep -q -e '--with-stream\( \|$\)'
}

missing=()
for peer in nginx socat endlessh; do
    have "$peer" || missing+=("$peer")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "Not installed, and left out: ${missing[*]} (Debian: apt-get install nginx-light libnginx-mod-stream socat endlessh)" >&2
fi

ours() { # ours NAME PROGRAM ARGS...: one that says where it serves
    local name=$1 line
    shift
    exec {out}< <(exec "$target/$1" "${@:2}" 2>>"$work/log")
    pid[$name]=$!
    read -r line <&"$out" || { cat "$work/log" >&2 && exit 1; }
    line=${line##*:}
    port[$name]=${line%.}
}

theirs() { # theirs NAME PORT COMMAND...: one that only listens
    local name=$1 tries=0
    port[$name]=$2
    shift 2
    "$@" >>"$work/log" 2>&1 &
    pid[$name]=$!
    until (exec 3<>"/dev/tcp/127.0.0.1/${port[$name]}") 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] || { echo "bench-servers.sh: $name does not listen" >&2 && cat "$work/log" >&2 && exit 1; }
        sleep 0.01
    done
}

free_port() { # one that nobody has now
    local candidate
    for candidate in $(shuf -i 20000-29999 -n 50); do
        (exec 3<>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null || { echo "$candidate" && return; }
    done
}

start_nginx() { # start_nginx DIRECTIVE: what it does with each connection
    have nginx || return 0
    local at load=""
    at=$(free_port)
    [ ! -e $stream_module ] || load="load_module $stream_module;"
    cat >"$work/nginx.conf" <<TXT
$load
daemon off; worker_processes 2; worker_rlimit_nofile 20000; pid $work/nginx.pid; error_log stderr crit;
events { worker_connections 10000; }
stream { server { listen 127.0.0.1:$at reuseport backlog=4096; $1; } }
TXT
    theirs nginx "$at" nginx -p "$work" -c "$work/nginx.conf" -e stderr
}

says() { # says POEM: as a directive of nginx
    printf 'return "%s\n"' "$(cat "$1")"
}

start_socat() { # start_socat POEM
    have socat || return 0
    local at
    at=$(free_port)
    theirs socat "$at" socat -U "TCP-LISTEN:$at,bind=127.0.0.1,reuseaddr,fork,backlog=4096" "OPEN:$1,rdonly"
}

# measure TITLE POEM OPTIONS NAME...: rounds of all these, interleaved; the results lie in $work/TITLE.NAME
measure() {
    local title=$1 poem=$2 options=$3 round name
    shift 3
    for ((round = 0; round < rounds; round++)); do
        for name in "$@"; do
            [ -n "${pid[$name]:-}" ] || continue
            # shellcheck disable=SC2086 # the options are words
            "$target/load" "127.0.0.1:${port[$name]}" --poem "$poem" --time "$time" --pid "${pid[$name]}" $options \
                >>"$work/$title.$name"
        done
    done
}

median() { # median FIELD FILE
    tr ' ' '\n' <"$2" | sed -n "s/^$1=//p" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

row() { # row TITLE NAME FIELD...
    local file=$work/$1.$2 field
    [ -e "$file" ] || return 0
    printf '| %s ' "$2"
    for field in "${@:3}"; do
        printf '| %s ' "$(median "$field" "$file")"
    done
    printf '|\n'
}

small() {
    local poem=poetry/science.txt clients name
    ours fastpoetry fastpoetry -q "$poem"
    ours bare_epoll bare_epoll "$poem"
    ours thread_per_client thread_per_client "$poem"
    start_nginx "$(says "$poem")"
    start_socat "$poem"
    printf '\n### Small poem: %s bytes\n' "$(wc -c <"$poem")"
    for clients in 1 64 1000 4000; do
        local names=(bare_epoll fastpoetry nginx thread_per_client)
        [ $clients -gt 64 ] || names+=(socat)
        measure "small-$clients" "$poem" "--clients $clients" "${names[@]}"
        printf '\n%s clients:\n\n' "$clients"
        echo '| server | fetches/s | p50 µs | p99 µs | max µs | CPU s / 100k | peak kB | lost |'
        echo '|---|---|---|---|---|---|---|---|'
        for name in "${names[@]}"; do
            row "small-$clients" "$name" rate p50 p99 max cpu_per_100k peak_kb errors
        done
    done
    stop_all
}

large() {
    local megabytes clients name
    for megabytes in 20 200; do
        local poem=$work/large.txt names=(bare_epoll fastpoetry thread_per_client socat)
        head -c ${megabytes}000000 /dev/urandom >"$poem"
        ours fastpoetry fastpoetry -q "$poem"
        ours bare_epoll bare_epoll "$poem"
        ours thread_per_client thread_per_client "$poem"
        start_socat "$poem"
        for clients in 1 8; do
            measure "large-$megabytes-$clients" "$poem" "--clients $clients" "${names[@]}"
            printf '\n### Poem of %s MB, %s clients\n\n' "$megabytes" "$clients"
            echo '| server | MB/s | CPU s / 100k | peak kB | lost |'
            echo '|---|---|---|---|---|'
            for name in "${names[@]}"; do
                row "large-$megabytes-$clients" "$name" mb_per_s cpu_per_100k peak_kb errors
            done
        done
        stop_all
    done
}

stalled() {
    local poem=$work/stalled.txt name
    head -c 8000000 /dev/urandom >"$poem"
    ours fastpoetry fastpoetry -q --max-clients 20000 "$poem"
    ours bare_epoll bare_epoll "$poem"
    for name in fastpoetry bare_epoll; do
        rounds=1 measure alone "$poem" "--clients 8" "$name"
        # They always stall at fastpoetry: what bare_epoll then loses is the kernel's doing.
        "$target/load" "127.0.0.1:${port[fastpoetry]}" --poem "$poem" --time "$time" --pid "${pid[fastpoetry]}" \
            --mode stall --clients 10000 --others "127.0.0.1:${port[$name]}" >"$work/beside.$name"
    done
    printf '\n### Clients that never read (a poem of 8 MB), and 8 that do\n\n'
    printf '%s clients stall at fastpoetry, %s kB of its memory each.\n\n' \
        "$(median clients "$work/beside.fastpoetry")" "$(median rss_per_client_kb "$work/beside.fastpoetry")"
    echo '| where the 8 fetch | fetches/s alone | fetches/s beside the stalled | p99 µs | lost |'
    echo '|---|---|---|---|---|'
    for name in fastpoetry bare_epoll; do
        printf '| %s | %s ' "$name" "$(median rate "$work/alone.$name")"
        row beside "$name" rate p99 errors | sed "s/^| [^|]*//"
    done
    stop_all
}

tarpit() {
    local endless
    ours fastpoetry fastpoetry -q --max-clients 20000 --delay 1s --num-bytes 1 poetry/science.txt
    if have endlessh; then
        endless=$(free_port)
        theirs endlessh "$endless" endlessh -4 -p "$endless" -d 1000 -l 3 -m 20000
    fi
    rounds=1 time=10s measure tarpit poetry/science.txt "--mode hold --clients 10000" fastpoetry endlessh
    printf '\n### Tarpit: clients that get a byte (endlessh: a short line) a second\n\n'
    echo '| server | clients held | served | kB each | CPU % of one processor |'
    echo '|---|---|---|---|---|'
    row tarpit fastpoetry clients served rss_per_client_kb cpu_percent
    row tarpit endlessh clients served rss_per_client_kb cpu_percent
    stop_all
}

netstring() { # netstring: of what comes on stdin, which has no newline at its end
    local payload
    LC_ALL=C payload=$(cat)
    LC_ALL=C printf '%s:%s,' "${#payload}" "$payload"
}

transform() {
    local bytes clients name
    ours transformedpoetry transformedpoetry -q --max-size 2MiB
    ours kept_alive transformedpoetry -q --max-size 2MiB --keep-alive
    ours bare_transform bare_transform
    for bytes in 15 99000 1048576; do
        local request=$work/request reply=$work/reply names=(bare_transform transformedpoetry)
        yes 'HERE IS MY POEM' | tr '\n' ' ' | head -c "$bytes" >"$work/poem" || true
        { printf 'cummingsify.' && cat "$work/poem"; } | netstring >"$request"
        tr '[:upper:]' '[:lower:]' <"$work/poem" | netstring >"$reply"
        for clients in 1 32 1000; do
            [ "$bytes" = 15 ] || [ $clients -lt 1000 ] || continue
            measure "transform-$bytes-$clients" "$reply" "--request $request --clients $clients" "${names[@]}"
            measure "transform-$bytes-$clients" "$reply" "--request $request --clients $clients --keep-alive" kept_alive
            printf '\n### Requests of %s bytes, %s clients\n\n' "$(wc -c <"$request")" "$clients"
            echo '| server | requests/s | p50 µs | p99 µs | CPU s / 100k | peak kB | lost |'
            echo '|---|---|---|---|---|---|---|'
            for name in "${names[@]}" kept_alive; do
                row "transform-$bytes-$clients" "$name" rate p50 p99 cpu_per_100k peak_kb errors
            done
        done
    done
    stop_all
}

proxy() {
    local poem megabytes clients name names=(fastpoetry poetry-proxy)
    for megabytes in 0 200; do
        poem=poetry/science.txt
        [ $megabytes = 0 ] || { poem=$work/large.txt && head -c ${megabytes}000000 /dev/urandom >"$poem"; }
        ours fastpoetry fastpoetry -q "$poem"
        ours poetry-proxy poetry-proxy -q --max-size 1G "${port[fastpoetry]}"
        "$target/get-poetry" -q --discard "${port[poetry-proxy]}"
        for clients in 1 8 64 1000; do
            [ $megabytes = 0 ] || [ $clients -le 8 ] || continue
            measure "proxy-$megabytes-$clients" "$poem" "--clients $clients" "${names[@]}"
            printf '\n### Cache hits: a poem of %s bytes, %s clients\n\n' "$(wc -c <"$poem")" "$clients"
            echo '| server | fetches/s | MB/s | p50 µs | p99 µs | CPU s / 100k | peak kB | lost |'
            echo '|---|---|---|---|---|---|---|---|'
            for name in "${names[@]}"; do
                row "proxy-$megabytes-$clients" "$name" rate mb_per_s p50 p99 cpu_per_100k peak_kb errors
            done
        done
        stop_all
    done

    ours slowpoetry slowpoetry -q --delay 20ms --num-bytes 30 poetry/science.txt
    ours poetry-proxy poetry-proxy "${port[slowpoetry]}"
    rounds=1 time=10ms measure cold poetry/science.txt "--clients 1000" poetry-proxy
    kill -USR1 "${pid[poetry-proxy]}"
    until grep -q Totals "$work/log"; do sleep 0.01; done
    printf '\n### A cold cache: 1,000 clients at once, of a poem that takes 420 ms\n\n'
    echo '| server | fetches | p50 µs | max µs | peak kB | lost |'
    echo '|---|---|---|---|---|---|'
    row cold poetry-proxy fetches p50 max peak_kb errors
    printf '\n'
    sed -n 's/.*Totals/Totals/p' "$work/log"
    stop_all
}

cpu_of() { # cpu_of PID: seconds of processor time so far, of all its threads and of its children: proc_pid_stat(5)
    local child children stats=("/proc/$1/stat")
    read -ra children <"/proc/$1/task/$1/children" || true # no line has an end there
    for child in "${children[@]}"; do
        stats+=("/proc/$child/stat")
    done
    awk -v ticks="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); split($0, f, " "); sum += f[12] + f[13] } END { print sum / ticks }' "${stats[@]}"
}

# ask_over_http TITLE CLIENTS PATH NAME...: rounds of all these with wrk, interleaved; the results lie in $work/TITLE.NAME
ask_over_http() {
    local title=$1 clients=$2 path=$3 round name before
    shift 3
    for ((round = 0; round < rounds; round++)); do
        for name in "$@"; do
            [ -n "${pid[$name]:-}" ] || continue
            before=$(cpu_of "${pid[$name]}")
            wrk -t1 -c "$clients" -d "$(awk -v t="${time%ms}" -v all="$time" 'BEGIN { print all ~ /ms$/ ? 1 : t + 0 }')s" --latency \
                "http://127.0.0.1:${port[$name]}$path" >"$work/wrk"
            awk -v cpu="$(cpu_of "${pid[$name]}")" -v before="$before" '
                / requests in / { requests = $1 }
                /^Requests\/sec:/ { rate = $2 }
                / 99%/ { p99 = $2 }
                /Non-2xx/ { errors += $NF }
                /Socket errors:/ { gsub(",", ""); errors += $4 + $6 + $8 + $10 }
                END { printf "rate=%.0f p99=%s cpu_per_100k=%.2f errors=%d\n", rate, p99, (cpu - before) / requests * 100000, errors }
            ' "$work/wrk" >>"$work/$title.$name"
        done
    done
}

http() {
    local poem=poetry/science.txt clients name names=(over_http directory nginx)
    if ! have wrk; then
        echo "Not installed, and left out: wrk (Debian: apt-get install wrk)" >&2
        return
    fi
    ours over_http fastpoetry -q --http "$poem"
    ours directory fastpoetry -q --http poetry
    ours fastpoetry fastpoetry -q "$poem"
    if command -v nginx >/dev/null; then
        local at
        at=$(free_port)
        cat >"$work/nginx.conf" <<TXT
daemon off; master_process off; pid $work/nginx.pid; error_log stderr crit;
events { worker_connections 10000; }
http { access_log off; sendfile on; keepalive_requests 1000000000;
    server { listen 127.0.0.1:$at backlog=4096; root $PWD/poetry; } }
TXT
        theirs nginx "$at" nginx -p "$work" -c "$work/nginx.conf" -e stderr
    fi
    printf '\n### Small poem over HTTP, on kept connections (nginx: one process)\n'
    for clients in 1 64 1000; do
        ask_over_http "http-$clients" "$clients" /science.txt "${names[@]}"
        measure "http-$clients" "$poem" "--clients $clients" fastpoetry
        printf '\n%s clients; fastpoetry is the bare poem, with a connection each:\n\n' "$clients"
        echo '| server | requests/s | p99 | CPU s / 100k | lost |'
        echo '|---|---|---|---|---|'
        for name in "${names[@]}" fastpoetry; do
            row "http-$clients" "$name" rate p99 cpu_per_100k errors
        done
    done
    stop_all
}

chaos() {
    local poem megabytes clients name names=(direct poetry-chaos nginx)
    for megabytes in 0 200; do
        poem=poetry/science.txt
        [ $megabytes = 0 ] || { poem=$work/large.txt && head -c ${megabytes}000000 /dev/urandom >"$poem"; }
        ours direct fastpoetry -q "$poem"
        ours poetry-chaos poetry-chaos -q "${port[direct]}"
        start_nginx "proxy_pass 127.0.0.1:${port[direct]}"
        for clients in 1 32 1000; do
            [ $megabytes = 0 ] || [ $clients -le 32 ] || continue
            measure "chaos-$megabytes-$clients" "$poem" "--clients $clients" "${names[@]}"
            printf '\n### Through a proxy that disturbs nobody: a poem of %s bytes, %s clients\n\n' "$(wc -c <"$poem")" "$clients"
            echo '| server | fetches/s | MB/s | p50 µs | p99 µs | CPU s / 100k | peak kB | lost |'
            echo '|---|---|---|---|---|---|---|---|'
            for name in "${names[@]}"; do
                row "chaos-$megabytes-$clients" "$name" rate mb_per_s p50 p99 cpu_per_100k peak_kb errors
            done
        done
        stop_all
    done
    have wrk || return 0
    ours direct fastpoetry -q --http poetry/science.txt
    ours poetry-chaos poetry-chaos -q "${port[direct]}"
    ours over_http poetry-chaos -q --protocol http "${port[direct]}"
    start_nginx "proxy_pass 127.0.0.1:${port[direct]}"
    names=(direct poetry-chaos over_http nginx)
    for clients in 1 32; do
        ask_over_http "kept-$clients" "$clients" / "${names[@]}"
        printf '\n### Requests on kept connections through a proxy that disturbs nobody, %s clients\n\n' "$clients"
        echo '| server | requests/s | p99 | CPU s / 100k | lost |'
        echo '|---|---|---|---|---|'
        for name in "${names[@]}"; do
            row "kept-$clients" "$name" rate p99 cpu_per_100k errors
        done
    done
    stop_all
}

processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
echo "$(date -u +%F), $(nproc) × ${processor:-unknown processor}, Linux $(uname -r)," \
    "$(cat /proc/sys/net/ipv4/tcp_congestion_control); median of $rounds interleaved rounds of $time"
for section in "${sections[@]}"; do
    "$section"
done
