#!/usr/bin/env bash
# Measures how true the poem servers are to their schedules: late pieces, drift, rates, replays.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/bench-pace.sh [--pieces N] [--clients N]

Both servers give out a poem of N pieces, a piece every 10 ms and at 100 kB/s, to one client; fastpoetry also at
100 kB/s to many clients at once, and poetry-chaos in front of it, which has the pace then. Each piece is compared with its time in the schedule (--rehearse), and a replay with
its recording. Rates are those that the clients measured.

  --pieces N   pieces of 1 kB [default: 1000, which is 10 seconds]
  --clients N  clients at once of fastpoetry and of poetry-chaos [default: 1000]
TXT
}

pieces=1000 clients=1000
while [ $# -gt 0 ]; do
    case $1 in
        --pieces) pieces=${2:?--pieces needs a number} && shift 2 ;;
        --clients) clients=${2:?--clients needs a number} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        *) echo "bench-pace.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
cargo build --release --quiet --bins
bin=${CARGO_TARGET_DIR:-target}/release
work=$(mktemp -d)
trap 'kill "${servers[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
poem=$work/poem servers=()
head -c $((pieces * 1000)) /dev/zero >"$poem"

serve() { # serve PROGRAM ARGUMENT...: starts a server of the poem
    start "$@" "$poem"
}

start() { # start PROGRAM ARGUMENT...: starts a server, and finds its port
    mkfifo "$work/line"
    "$bin/$1" -q "${@:2}" >"$work/line" &
    servers+=($!)
    read -r line <"$work/line"
    rm "$work/line"
    line=${line%.} port=${line##*:}
}

stop() {
    kill "${servers[@]}"
    wait "${servers[@]}" || true
    servers=()
}

fetch() { # fetch ARGUMENT...: a stall is an error, and said
    "$bin/get-poetry" -q --discard --idle-timeout 10s "$@"
}

late() { # late NAME EXPECTED ACTUAL [FROM_FIRST]: compares two recordings, piece by piece; from the first of each connection
    awk -v name="$1" -v from_first="${4:-}" '
        !/"send"/ { next }
        { split($0, part, /[:,}]/); key = part[2] " " ++count[FILENAME, part[2]] }
        from_first && count[FILENAME, part[2]] == 1 { first[FILENAME, part[2]] = part[4] }
        from_first { part[4] -= first[FILENAME, part[2]] }
        FNR == NR { expected[key] = part[4]; next }
        key in expected { late[++n] = part[4] - expected[key] }
        END { sort(late, n); printf "%-34s %6d pieces, late by %7.3f ms (median) %7.3f ms (99 %%) %7.3f ms (most)\n",
              name, n, late[int((n + 1) / 2)] / 1000, late[int(n * 0.99 + 0.5)] / 1000, late[n] / 1000 }
        function sort(a, n,  gap, i, j, x) {
            for (gap = int(n / 2); gap > 0; gap = int(gap / 2))
                for (i = gap + 1; i <= n; i++) {
                    x = a[i]
                    for (j = i; j > gap && a[j - gap] > x; j -= gap) a[j] = a[j - gap]
                    a[j] = x
                }
        }' "$2" "$3"
}

rates() { # rates NAME REPORT SINCE: bytes a second of each poem, from then to its end
    grep -oE "\"(bytes|$3|end_us)\": ?[0-9]+" "$2" | awk -v name="$1" -v since="\"$3\"" -F ': *' '
        { value[$1] = $2 }
        $1 ~ /end_us/ {
            rate = value["\"bytes\""] * 1e6 / (value["\"end_us\""] - value[since])
            if (!n++ || rate < min) min = rate
            if (rate > max) max = rate
            sum += rate
        }
        END { printf "%-34s %6d clients, %7.0f B/s (slowest) %7.0f B/s (mean) %7.0f B/s (fastest)\n", name, n, min, sum / n, max }'
}

for program in slowpoetry fastpoetry; do
    pace=(--num-bytes 1k --delay 10ms)
    "$bin/$program" "${pace[@]}" --rehearse 1 "$poem" >"$work/plan"
    serve "$program" "${pace[@]}" --record "$work/done"
    fetch "$port"
    stop
    late "$program, every 10 ms" "$work/plan" "$work/done"

    pace=(--num-bytes 1k --delay 10ms --jitter 8ms --seed 1)
    serve "$program" "${pace[@]}" --record "$work/jittered"
    fetch "$port"
    stop
    serve "$program" --replay "$work/jittered" --record "$work/replayed"
    fetch "$port"
    stop
    late "$program, jitter replayed" "$work/jittered" "$work/replayed"

    serve "$program" --rate 100k
    fetch --report "$work/report" "$port"
    stop
    rates "$program, --rate 100k" "$work/report" connected_us
done

mapfile -t ports < <(yes "$clients" | head -n "$clients")
serve fastpoetry --rate 100k
ports=("${ports[@]/*/$port}")
fetch --report "$work/report" "${ports[@]}"
stop
rates "fastpoetry, --rate 100k" "$work/report" connected_us

serve fastpoetry
start poetry-chaos --rate 100k "$port"
fetch --report "$work/report" "${ports[@]/*/$port}"
stop
# When it has something to send.
rates "poetry-chaos, --rate 100k" "$work/report" first_byte_us

pace=(--num-bytes 10k)
"$bin/fastpoetry" "${pace[@]}" --delay 100ms --rehearse "$clients" "$poem" >"$work/plan"
serve fastpoetry
start poetry-chaos "${pace[@]}" --pace 100ms --record "$work/done" "$port"
fetch "${ports[@]/*/$port}"
stop
# Its schedule begins when upstream has accepted.
late "poetry-chaos, $clients clients" "$work/plan" "$work/done" from_first
