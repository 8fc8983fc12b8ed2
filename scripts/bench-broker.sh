#!/usr/bin/env bash
# Measures poetry-broker beside other message brokers, in interleaved rounds, and prints the medians as Markdown. Every
# byte at every subscriber is counted. Brokers that are not installed are named and left out.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/bench-broker.sh [--rounds N] [--seconds N] [--messages N] [SECTION...]

Sections: paced burst crowd idle stalled [default: all]
  paced    2,000 messages a second to 100 subscribers, one by one and five at a time: CPU
  burst    50,000 messages as fast as they are taken, to 100 subscribers
  crowd    2,000 messages as fast as they are taken, to 900 subscribers: memory
  idle     1,000 subscribers who get nothing: memory
  stalled  1,000 messages of 1 KiB a second to 20 subscribers, without and with another one who never reads

  --rounds N    rounds of each measurement, of which the median counts [default: 3]
  --seconds N   length of one measurement that is paced [default: 2]
  --messages N  messages of a burst; a crowd gets a 25th of them, mosquitto a tenth [default: 50000]

One publisher, messages of 128 bytes if not said otherwise. bare_fanout is the kernel's limit: one epoll loop; read, send
to each, and no queues. redis, nats and mosquitto (QoS 0) are measured where they are installed (Debian: apt-get install
redis-server nats-server mosquitto), with no limits at which they would drop messages and look fast. Where the pace is
ours, the brokers have one processor and the load has another one.
TXT
}

rounds=3 seconds=2 messages=50000 sections=()
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=${2:?--rounds needs a number} && shift 2 ;;
        --seconds) seconds=${2:?--seconds needs a number} && shift 2 ;;
        --messages) messages=${2:?--messages needs a number} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        paced | burst | crowd | idle | stalled) sections+=("$1") && shift ;;
        *) echo "bench-broker.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done
[ ${#sections[@]} -gt 0 ] || sections=(paced burst crowd idle stalled)

cd "$(dirname "$0")/.."
cargo build --release --quiet --workspace --bins
target=${CARGO_TARGET_DIR:-target}/release
ulimit -n "$(ulimit -Hn)"
# Debian has daemons there, which not every PATH has.
PATH=$PATH:/usr/sbin

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
    pid=() port=() on_another=()
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

brokers=(bare_fanout poetry-broker redis nats mosquitto)
declare -A program=([redis]=redis-server [nats]=nats-server [mosquitto]=mosquitto)
declare -A protocol=([bare_fanout]=poetry [poetry-broker]=poetry [redis]=redis [nats]=nats [mosquitto]=mqtt)
missing=()
for broker in "${!program[@]}"; do
    command -v "${program[$broker]}" >/dev/null || missing+=("${program[$broker]}")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "Not installed, and left out: ${missing[*]} (Debian: apt-get install ${missing[*]})" >&2
fi

ours() { # ours PROGRAM ARGS...: one that says where it serves
    local line out
    exec {out}< <(exec "$target/$1" "${@:2}" 2>>"$work/log")
    pid[$1]=$!
    read -r line <&"$out" || { cat "$work/log" >&2 && exit 1; }
    exec {out}<&-
    line=${line##*:}
    port[$1]=${line%.}
}

theirs() { # theirs NAME PORT ARGS...: one that only listens
    local name=$1 tries=0
    port[$name]=$2
    "${program[$name]}" "${@:3}" >>"$work/log" 2>&1 &
    pid[$name]=$!
    until (exec 3<>"/dev/tcp/127.0.0.1/${port[$name]}") 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] || { echo "bench-broker.sh: $name does not listen" >&2 && cat "$work/log" >&2 && exit 1; }
        sleep 0.01
    done
}

free_port() { # one that nobody has now
    local candidate
    for candidate in $(shuf -i 20000-29999 -n 50); do
        (exec 3<>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null || { echo "$candidate" && return; }
    done
}

start() { # start NAME ARGS...: a broker with nothing in it; poetry-broker with these arguments
    local at
    at=$(free_port)
    case $1 in
        bare_fanout) ours bare_fanout ;;
        poetry-broker) ours "$@" -q ;;
        redis)
            theirs redis "$at" --port "$at" --bind 127.0.0.1 --dir "$work" --save '' --appendonly no \
                --client-output-buffer-limit pubsub 0 0 0
            ;;
        nats)
            cat >"$work/nats.conf" <<TXT
listen: 127.0.0.1:$at
max_pending: 1073741824
write_deadline: "60s"
TXT
            theirs nats "$at" -c "$work/nats.conf"
            ;;
        mosquitto)
            # As root it becomes somebody else, who cannot read here.
            cat >"$work/mosquitto.conf" <<TXT
listener $at 127.0.0.1
user $(id -un)
allow_anonymous true
persistence false
log_type error
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
TXT
            theirs mosquitto "$at" -c "$work/mosquitto.conf"
            ;;
    esac
}

start_all() { # start_all ARGS...: each broker that is there; poetry-broker with these arguments
    local name
    for name in "${brokers[@]}"; do
        if [ -z "${program[$name]:-}" ] || command -v "${program[$name]}" >/dev/null; then start "$name" "$@"; fi
    done
}

# On two processors it is the scheduler's mood whether a message wakes a subscriber on another one, which costs half as
# much again as the message.
keep_apart() { # brokers on one processor, with as many threads as they began with, and the load on another one
    local name
    { taskset -c 0 true && taskset -c 1 true; } 2>/dev/null || return 0
    for name in "${!pid[@]}"; do
        taskset -a -p -c 0 "${pid[$name]}" >/dev/null
    done
    on_another=(taskset -c 1)
}
on_another=()

# load TITLE NAME OPTIONS...: once, if it runs; the result is added to $work/TITLE.NAME
load() {
    local title=$1 name=$2
    [ -n "${pid[$name]:-}" ] || return 0
    "${on_another[@]}" "$target/broker_load" "127.0.0.1:${port[$name]}" --protocol "${protocol[$name]}" --pid "${pid[$name]}" \
        "${@:3}" >>"$work/$title.$name" || { echo "bench-broker.sh: $title: $name failed" >&2 && failed=1; }
}
failed=0

median() { # median FIELD TITLE NAME
    [ -e "$work/$2.$3" ] || return 0
    tr ' ' '\n' <"$work/$2.$3" | sed -n "s/^$1=//p" | sort -g | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)] }'
}

ratio() { # ratio FIELD TITLE NAME BASE: of medians, where both are there
    awk -v a="$(median "$1" "$2" "$3")" -v b="$(median "$1" "$2" "$4")" 'BEGIN { if (a != "" && b > 0) printf "%.2f", a / b }'
}

row() { # row NAME CELL...
    printf '| %s ' "$@" && printf '|\n'
}

rows() { # rows CELLS TITLE: for each broker that was measured, CELLS NAME prints it
    local name
    for name in "${brokers[@]}"; do
        [ ! -e "$work/$2.$name" ] || "$1" "$2" "$name"
    done
}

# As long as the queues of the others, which have no limit.
no_limits=(--queue 256MiB --max-clients 20000)

share() { # share NAME PARTS: of the messages of a burst
    local count=$((messages / $2))
    # It takes a minute for what the others do in two seconds.
    [ "$1" != mosquitto ] || count=$((count / 10))
    echo $((count > 0 ? count : 1))
}

paced() {
    local round name bunch count
    count=$(awk -v s="$seconds" 'BEGIN { printf "%d", 2000 * s }')
    for ((round = 0; round < rounds; round++)); do
        start_all "${no_limits[@]}"
        keep_apart
        for bunch in 1 5; do
            for name in "${brokers[@]}"; do
                load "paced-$bunch" "$name" --rate 2000 --messages "$count" --bunch $bunch
            done
        done
        stop_all
    done
    printf '\n### Paced: 2,000 messages a second, 100 subscribers\n'
    for bunch in 1 5; do
        printf '\n%s:\n\n' "$([ $bunch = 1 ] && echo "One by one" || echo "Five at a time")"
        echo '| broker | CPU s / million | of bare_fanout | of redis | p50 µs | p99 µs |'
        echo '|---|---|---|---|---|---|'
        rows paced_cells "paced-$bunch"
    done
}

paced_cells() {
    row "$2" "$(median cpu_per_million "$@")" "$(ratio cpu_per_million "$@" bare_fanout)" \
        "$(ratio cpu_per_million "$@" redis)" "$(median p50 "$@")" "$(median p99 "$@")"
}

burst() {
    local round name
    for ((round = 0; round < rounds; round++)); do
        start_all "${no_limits[@]}"
        for name in "${brokers[@]}"; do
            load burst "$name" --messages "$(share "$name" 1)"
        done
        stop_all
    done
    printf '\n### Burst: 100 subscribers\n\n'
    echo '| broker | messages | deliveries/s | of nats | CPU s / million | of nats | peak kB |'
    echo '|---|---|---|---|---|---|---|'
    rows burst_cells burst
}

crowd() {
    local round name
    for ((round = 0; round < rounds; round++)); do
        start_all "${no_limits[@]}"
        for name in "${brokers[@]}"; do
            load crowd "$name" --subscribers 900 --messages "$(share "$name" 25)"
        done
        stop_all
    done
    printf '\n### Crowd: a burst to 900 subscribers\n\n'
    echo '| broker | messages | deliveries/s | of nats | CPU s / million | of nats | peak kB |'
    echo '|---|---|---|---|---|---|---|'
    rows burst_cells crowd
}

burst_cells() {
    row "$2" "$(median messages "$@")" "$(median deliveries_per_s "$@")" "$(ratio deliveries_per_s "$@" nats)" \
        "$(median cpu_per_million "$@")" "$(ratio cpu_per_million "$@" nats)" "$(median peak_kb "$@")"
}

idle() {
    local round name
    for ((round = 0; round < rounds; round++)); do
        start_all --max-clients 20000
        for name in "${brokers[@]}"; do
            load idle "$name" --idle --subscribers 1000
        done
        stop_all
    done
    printf '\n### Idle: 1,000 subscribers\n\n'
    echo '| broker | bytes each | kB in all |'
    echo '|---|---|---|'
    rows idle_cells idle
}

idle_cells() {
    row "$2" "$(median rss_per_subscriber "$@")" "$(median rss_kb "$@")"
}

stalled() {
    local round name count options
    count=$(awk -v s="$seconds" 'BEGIN { printf "%d", 1000 * s }')
    options=(--rate 1000 --messages "$count" --size 1024)
    for ((round = 0; round < rounds; round++)); do
        start_all
        keep_apart
        for name in "${brokers[@]}"; do
            # One that has no queues stands still.
            [ "$name" != bare_fanout ] || continue
            load alone "$name" --subscribers 20 "${options[@]}"
            load beside "$name" --subscribers 21 --stalled 1 "${options[@]}"
        done
        stop_all
    done
    printf '\n### Stalled: 20 subscribers, without and with another one who never reads (poetry-broker: with its usual limits)\n\n'
    echo '| broker | p50 µs alone | beside | p99 µs alone | beside | CPU s / million alone | beside | peak kB |'
    echo '|---|---|---|---|---|---|---|---|'
    rows stalled_cells alone
}

stalled_cells() {
    local field cells=()
    for field in p50 p99 cpu_per_million; do
        cells+=("$(median $field alone "$2")" "$(median $field beside "$2")")
    done
    row "$2" "${cells[@]}" "$(median peak_kb beside "$2")"
}

processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
echo "$(date -u +%F), $(nproc) × ${processor:-unknown processor}, Linux $(uname -r)," \
    "$(cat /proc/sys/net/ipv4/tcp_congestion_control); median of $rounds interleaved rounds, brokers started anew for each"
for section in "${sections[@]}"; do
    "$section"
done
[ $failed = 0 ]
