#!/usr/bin/env bash
# Measures the feed of poetry-monitor beside a bare epoll(7) fan-out, in interleaved rounds, and prints the medians as Markdown.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/bench-monitor.sh [--rounds N] [--readers N] [--samples N]

  --rounds N   rounds of each measurement, of which the median counts [default: 5]
  --readers N  how many read at once [default: 1000]
  --samples N  how many samples there are, twenty a second [default: 100]

A sample a twentieth of a second goes to all who read. CPU is that of the server alone.
TXT
}

rounds=5 readers=1000 samples=100
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=${2:?--rounds needs a number} && shift 2 ;;
        --readers) readers=${2:?--readers needs a number} && shift 2 ;;
        --samples) samples=${2:?--samples needs a number} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        *) echo "bench-monitor.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
cargo build --release --quiet --bin poetry-monitor
cargo build --release --quiet --package poetry-tools --bin feed_load --bin broker_load --bin bare_fanout
bin=${CARGO_TARGET_DIR:-target}/release

work=$(mktemp -d)
server=""
stop() {
    [ -z "$server" ] || { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
    server=""
}
clean_up() {
    trap '' INT TERM
    stop
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start() { # start PROGRAM FLAG...: says who in $server, and where in $ready, a line for each address
    exec {ready}< <(exec "$bin/$1" "${@:2}" 2>"$work/log")
    server=$!
}

address() { # the next address that the server says, in $address
    local line
    read -r line <&"$ready" || { cat "$work/log" >&2 && exit 1; }
    address=${line##* }
    address=${address%.}
}

median() { # median FIELD FILE
    tr ' ' '\n' <"$2" | sed -n "s/^$1=//p" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

for ((round = 0; round < rounds; round++)); do
    start poetry-monitor -q --collect 0
    address && pages=$address
    address && collector=$address
    "$bin/feed_load" "$pages" "$collector" --pid "$server" --readers "$readers" --samples "$samples" >>"$work/monitor"
    stop
    start bare_fanout
    address
    "$bin/broker_load" "$address" --pid "$server" --subscribers "$readers" --rate 20 --messages "$samples" \
        --size 128 >>"$work/bare"
    stop
done

processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
printf '%s, %s processors; medians of %s rounds\n\n' "${processor:-unknown processor}" "$(nproc)" "$rounds"
printf '| server | CPU s / million events | ratio | bytes for each reader | p50 ms | p99 ms |\n|---|---|---|---|---|---|\n'
base=$(median cpu_per_million "$work/bare")
for name in bare monitor; do
    awk -v name="$name" -v base="$base" -v cpu="$(median cpu_per_million "$work/$name")" -v each="$(median bytes_each "$work/$name")" \
        -v p50="$(median p50 "$work/$name")" -v p99="$(median p99 "$work/$name")" \
        'BEGIN { printf "| %s | %.2f | %.2f | %s | %.2f | %.2f |\n", name == "bare" ? "bare_fanout" : "poetry-monitor", cpu, cpu / base, each, p50 / 1e3, p99 / 1e3 }'
done
