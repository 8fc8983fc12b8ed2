#!/usr/bin/env bash
# Fetches the same three slow poems with all four clients, and shows what each model of waiting costs.
# Needs nothing but Rust and the tools of any Unix: bash, awk, sed, cmp.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/compare.sh [--delay DURATION]

Starts three slow servers, fetches their poems with get-poetry-blocking, get-poetry-threads,
get-poetry-select and get-poetry, and prints a table.

  --delay DURATION  time between two pieces of a poem [default: 100ms]

The ideal time is the sum over the servers for the blocking client, and the slowest server for the others.
Exits with 1 if a poem did not arrive whole.
TXT
}

delay=100ms
while [ $# -gt 0 ]; do
    case $1 in
        --delay) delay=${2:?--delay needs a duration} && shift 2 ;;
        --delay=*) delay=${1#*=} && shift ;;
        -h | --help) usage && exit 0 ;;
        *) echo "compare.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
cargo build --release --quiet --bins
bin=${CARGO_TARGET_DIR:-target}/release

work=$(mktemp -d)
servers=()
clean_up() {
    trap '' INT TERM
    if [ ${#servers[@]} -gt 0 ]; then
        kill "${servers[@]}" 2>/dev/null || true
        wait "${servers[@]}" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

ports=()
total=0   # microseconds that one client after the other needs
slowest=0 # microseconds that the slowest server needs

serve() { # serve POEM NUM_BYTES
    local log=$work/$1.log line port time
    exec {out}< <(exec "$bin/slowpoetry" --log-format json --delay "$delay" --num-bytes "$2" "poetry/$1.txt" 2>"$log")
    servers+=($!)
    if ! read -r line <&"$out"; then
        cat "$log" >&2
        exit 1
    fi
    port=${line##*:}
    ports+=("${port%.}")
    time=$(sed -n 's/.*"total_us":\([0-9]*\).*/\1/p' "$log" | head -n 1)
    total=$((total + time))
    slowest=$((time > slowest ? time : slowest))
}
poems=(ecstasy fascination science)
serve ecstasy 30
serve fascination 10
serve science 10

# Bars on a terminal, silence elsewhere.
quiet=()
[ -t 2 ] || quiet=(--quiet)

fetch() { # fetch PROGRAM: its time in microseconds in $time
    rm -rf "$work/poems"
    if ! "$bin/$1" "${quiet[@]}" --output "$work/poems" --report "$work/report.json" "${ports[@]}"; then
        echo "compare.sh: $1 failed" >&2
        exit 1
    fi
    local task
    for task in 1 2 3; do
        cmp "poetry/${poems[task - 1]}.txt" "$work/poems/$task-127.0.0.1-${ports[task - 1]}.txt"
    done
    time=$(sed -n 's/.*"elapsed_us":\([0-9]*\),"ok".*/\1/p' "$work/report.json")
}

rows=""
for model in blocking threads select async; do
    program=get-poetry-$model
    ideal=$slowest
    case $model in
        blocking) ideal=$total ;;
        async) program=get-poetry ;;
    esac
    [ -t 2 ] && echo "$program ${ports[*]}" >&2
    fetch "$program"
    rows+="$model $program $time $ideal"$'\n'
done

printf '%s' "$rows" | awk -v pause="$delay" '
    BEGIN {
        printf "Three poems, a piece every %s:\n\n", pause
        printf "%-9s %-20s %10s %10s %7s %9s  %s\n", "model", "program", "time", "ideal", "ratio", "speed-up", "within 2% + 20ms of the ideal"
    }
    NR == 1 { blocking = $3 }
    {
        near = ($3 <= $4 * 1.02 + 20000 && $3 >= $4 * 0.98 - 20000) ? "yes" : "no"
        printf "%-9s %-20s %9.3fs %9.3fs %7.3f %8.2fx  %s\n", $1, $2, $3 / 1e6, $4 / 1e6, $3 / $4, blocking / $3, near
    }'
