#!/usr/bin/env bash
# Fetches the same three slow poems with all four clients, and shows what each model of waiting costs.
# Needs nothing but Rust and the tools of any Unix: bash, awk, sed.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/compare.sh [--delay DURATION] [--runs N] [--timeline FILE]

Starts three slow servers, and races get-poetry-blocking, get-poetry-threads, get-poetry-select and
get-poetry against each other: how long each took, what it cost, and what each poem was doing when.

  --delay DURATION  time between two pieces of a poem [default: 20ms]
  --runs N          runs of each client [default: 1]
  --timeline FILE   draw the picture as SVG, too

The bound is the sum over the servers for the blocking client, and the slowest server for the others.
Exits with 1 if a poem did not arrive.
TXT
}

delay=20ms runs=1 timeline=""
while [ $# -gt 0 ]; do
    case $1 in
        --delay) delay=${2:?--delay needs a duration} && shift 2 ;;
        --delay=*) delay=${1#*=} && shift ;;
        --runs) runs=${2:?--runs needs a number} && shift 2 ;;
        --timeline) timeline=${2:?--timeline needs a file} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        *) echo "compare.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
command -v cargo >/dev/null || { echo "compare.sh: there is no cargo on the PATH; https://rustup.rs has it" >&2 && exit 1; }
programs=(slowpoetry poetry-race get-poetry-blocking get-poetry-threads get-poetry-select get-poetry)
bin=${CARGO_TARGET_DIR:-target}/quick
[ -x "$bin/poetry-race" ] || echo "Building the programs, which takes about a minute, once ..." >&2
quiet=()
[ -t 2 ] || quiet=(--quiet)
cargo build --profile quick "${quiet[@]}" "${programs[@]/#/--bin=}"

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

poems=()
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
    poems+=("$1=${port%.}")
    time=$(sed -n 's/.*"total_us":\([0-9]*\).*/\1/p' "$log" | head -n 1)
    total=$((total + time))
    slowest=$((time > slowest ? time : slowest))
}
seconds() { # seconds MICROSECONDS
    awk -v us="$1" 'BEGIN { printf "%.1f", us / 1e6 }'
}

serve ecstasy 30
serve fascination 10
serve science 10

printf 'Three poems, a piece every %s: %s s in turn, %s s for the slowest alone.\n' "$delay" \
    "$(seconds "$total")" "$(seconds "$slowest")"
printf 'Four clients, one after the other: about %.0f s.\n\n' "$(seconds $((runs * (total + 3 * slowest))))"
options=(--runs "$runs" --warm-up 0 --progress --waterfall)
[ -z "$timeline" ] || options+=(--timeline "$timeline")
"$bin/poetry-race" "${options[@]}" "${poems[@]}"
