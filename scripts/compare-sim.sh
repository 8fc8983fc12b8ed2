#!/usr/bin/env bash
# Compares the simulation with the real programs: twenty-five scenarios, the time of each and what became of each poem.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/compare-sim.sh [--within PERCENT] [--only WORD] [--cpu]

Runs each scenario live, with servers and a client of this machine, and again with poetry-sim. Times have to agree within
5 %, and status, limit, attempts and bytes of every poem exactly. Prints a table. Exit status 1: one of them does not agree.

  --within PERCENT  how far times may be apart [default: 5]
  --only WORD       only scenarios with this word in their names
  --cpu             instead, calibrate (each time), and compare processor times of select and async with the ledger of poetry-race, for
                    1,000 and 10,000 poems of one fastpoetry, at once and in seven pieces: within 25 %
TXT
}

within=5 only='' cpu=''
while [ $# -gt 0 ]; do
    case $1 in
        --within) within=${2:?--within needs a number} && shift 2 ;;
        --only) only=${2:?--only needs a word} && shift 2 ;;
        --cpu) cpu=yes && shift ;;
        -h | --help) usage && exit 0 ;;
        *) echo "compare-sim.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done
command -v jq >/dev/null || { echo "compare-sim.sh: there is no jq" >&2 && exit 1; }

cd "$(dirname "$0")/.."
[ -n "${BIN-}" ] || cargo build --release --quiet --bins
bin=${BIN:-${CARGO_TARGET_DIR:-target}/release}
work=$(mktemp -d)
servers=() failed=0
trap 'stop; rm -rf "$work"' EXIT

stop() {
    [ ${#servers[@]} -eq 0 ] || kill -KILL "${servers[@]}" 2>/dev/null || true
    [ ${#servers[@]} -eq 0 ] || wait "${servers[@]}" 2>/dev/null || true
    servers=()
}

# outcome: of each poem, what has to be the same; from a report on stdin. With order=any: what becomes of poems at all.
order=
outcome() { jq -c --arg order "$order" '[.tasks[] | [.status, .limit, .attempts, .bytes]] | if $order == "any" then unique else . end'; }

# compare NAME MODEL KIND SERVERS POEMS CLIENT-FLAGS SERVER-FLAG...: runs it live and simulated, and prints a row.
compare() {
    local name=$1 model=$2 kind=$3 number=$4 poems=$5 flags=$6
    shift 6
    [[ $name == *"$only"* ]] || return 0
    local client=get-poetry addresses=() client_flags=() line port live simulated verdict=agree
    [ "$model" = async ] || client=get-poetry-$model
    read -ra client_flags <<<"$flags"
    for ((server = 0; server < number; server++)); do
        mkfifo "$work/line"
        "$bin/${kind}poetry" -q "$@" science >"$work/line" 2>>"$work/log" &
        servers+=($!)
        read -r line <"$work/line"
        rm "$work/line"
        line=${line%.} port=${line##*:}
        addresses+=("$port*$((poems / number))")
    done
    RUST_LOG=off "$bin/$client" -q --json "${client_flags[@]}" "${addresses[@]}" >"$work/live" || true
    stop
    "$bin/poetry-sim" --json --model "$model" --server "$kind" --servers "$number" --poems "$poems" --poem science \
        "${client_flags[@]}" "$@" >"$work/simulated" || true
    live=$(jq .elapsed_us "$work/live") simulated=$(jq .elapsed_us "$work/simulated")
    awk -v a="$live" -v b="$simulated" -v p="$within" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(d <= a * p / 100) }' || verdict='TIMES DIFFER'
    [ "$(outcome <"$work/live")" = "$(outcome <"$work/simulated")" ] || verdict='POEMS DIFFER'
    [ "$verdict" = agree ] || failed=1
    awk -v name="$name" -v model="$model" -v poems="$poems" -v a="$live" -v b="$simulated" -v verdict="$verdict" \
        'BEGIN { printf "%-28s %-8s %6d %9.3f s %9.3f s %+7.2f %%  %s\n", name, model, poems, a / 1e6, b / 1e6, 100 * (b - a) / a, verdict }'
}

# compare_cpu NAME POEMS FLAG...: prints a row for each model; the flags are the server's.
compare_cpu() {
    local name=$1 poems=$2 model live simulated line port
    shift 2
    # Each time: where others use the machine, too, what a call costs changes from one minute to the next.
    "$bin/poetry-sim" --calibrate "$work/costs" >"$work/calibrated"
    mkfifo "$work/line"
    "$bin/fastpoetry" -q "$@" science >"$work/line" 2>>"$work/log" &
    servers+=($!)
    read -r line <"$work/line"
    rm "$work/line"
    line=${line%.} port=${line##*:}
    "$bin/poetry-race" --models select,async --runs 5 --json "$port*$poems" >"$work/race" 2>>"$work/log"
    stop
    for model in select async; do
        live=$(jq --arg model "$model" '.models[] | select(.model == $model) | .cost.cpu_us' "$work/race")
        simulated=$("$bin/poetry-sim" --costs "$work/costs" --json --model "$model" --server fast --servers 1 \
            --poems "$poems" --poem science "$@" | jq .simulated.cpu_us)
        awk -v name="$name" -v model="$model" -v poems="$poems" -v a="$live" -v b="$simulated" 'BEGIN {
            apart = 100 * (b - a) / a
            agree = apart <= 25 && apart >= -25
            printf "%-10s %-8s %6d %9.1f ms %9.1f ms %+7.2f %%  %s\n", name, model, poems, a / 1e3, b / 1e3, apart, agree ? "agree" : "CPU DIFFERS"
            exit !agree
        }' || failed=1
    done
}

if [ -n "$cpu" ]; then
    printf '%-10s %-8s %6s %12s %12s %9s  %s\n' scenario model poems live simulated apart verdict
    for poems in 1000 10000; do
        compare_cpu 'at once' "$poems"
        compare_cpu 'trickling' "$poems" --num-bytes 100 --delay 500ms --jitter 450ms
    done
    exit "$failed"
fi

printf '%-28s %-8s %6s %11s %11s %9s  %s\n' scenario model poems live simulated apart verdict
slow=(--num-bytes 40 --delay 100ms)
compare 'three slow servers' blocking slow 3 3 '' "${slow[@]}"
compare 'three slow servers' threads slow 3 3 '' "${slow[@]}"
compare 'three slow servers' select slow 3 3 '' "${slow[@]}"
compare 'three slow servers' async slow 3 3 '' "${slow[@]}"
compare 'two at a time' async slow 6 6 '-j 2' "${slow[@]}"
compare 'one slow server, five poems' threads slow 1 5 '' --num-bytes 100 --delay 100ms
compare 'one slow server, five poems' select slow 1 5 '' --num-bytes 100 --delay 100ms
compare 'one slow server, thirty poems' async slow 1 30 '' --num-bytes 400 --delay 50ms
compare 'a rate' async slow 4 4 '' --rate 300
compare 'a jitter' async slow 1 1 '' --num-bytes 20 --delay 100ms --jitter 60ms --seed 7
compare 'reset after 400 bytes' select slow 3 3 '' "${slow[@]}" --cut-at 400 --cut rst
compare 'ended after a second' async slow 3 3 '' "${slow[@]}" --cut-at 1s --cut fin
compare 'silence, idle timeout' async slow 3 3 '--idle-timeout 2s' "${slow[@]}" --cut-at 400 --cut hang
compare 'silence, timeout' blocking slow 3 3 '--timeout 2s' "${slow[@]}" --cut-at 400 --cut hang
compare 'three failures, retries' async slow 3 3 '--retries 5' --num-bytes 20 --delay 200ms --fail-first 3
compare 'a failure, a retry' threads slow 3 3 '--retries 1' --num-bytes 20 --delay 200ms --fail-first 1
compare 'nobody accepts' select slow 3 3 '--connect-timeout 3s' --never-accept
compare 'a fast server' select fast 1 2000 '' --first-byte-delay 6s
compare 'a fast server, trickling' async fast 1 2000 '' --num-bytes 100 --delay 1s
compare 'a hundred at a time' async fast 1 2000 '-j 100' --first-byte-delay 200ms
compare 'a fast server' threads fast 1 500 '' --first-byte-delay 4s
compare 'a fast server, cut' async fast 1 1000 '--timeout 5s' --num-bytes 100 --delay 1s --cut-at 3s --cut hang
compare 'a listen queue of three' async slow 1 8 '' --backlog 3 --num-bytes 250 --delay 150ms
compare 'a listen queue of twenty' select slow 1 26 '' --backlog 20 --num-bytes 250 --delay 75ms
# The SYNs that were dropped come again together, most are answered with a cookie, and have no room then: which and how many, the
# scheduler decides.
order=any
compare 'dropped ACKs' async slow 1 40 '--idle-timeout 9s' --backlog 3 --num-bytes 400 --delay 50ms
exit "$failed"
