#!/usr/bin/env bash
# Two listeners, of whom one does not read: what do the sender and the other one notice?
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
    '' | drop-new | drop-old | disconnect | wait) policy=${1:-drop-new} ;;
    -h | --help)
        echo "Usage: scripts/one-stalled.sh [drop-new|drop-old|disconnect|wait]"
        echo "Sends 1,500 messages past a listener that reads and one that does not, with that --when-full of poetry-broker."
        exit
        ;;
    *) echo "one-stalled.sh: '$1' is no policy of these; see --help" >&2 && exit 2 ;;
esac
for tool in poetry-broker poetry-listen poetry-send; do
    command -v "$tool" >/dev/null || { echo "one-stalled.sh: there is no $tool" >&2 && exit 1; }
done

work=$(mktemp -d)
children=()
trap 'kill -9 "${children[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

# Starts a program that goes on until the end of this script, which says nothing of it.
beside() {
    "$@" &
    children+=($!)
    disown $!
}

# await TEXT N FILE: until so many lines of the file have it.
await() {
    local tries
    for tries in {1..3000}; do
        [ "$(grep -c -- "$1" "$3" || true)" -lt "$2" ] || return 0
        read -rt 0.01 <> <(:) || true
    done
    echo "one-stalled.sh: no '$1' after $tries looks: $(cat "$3")" >&2
    exit 1
}

beside poetry-broker -v --when-full "$policy" >"$work/address" 2>"$work/broker"
await 'Carrying messages' 1 "$work/address"
port=$(sed 's/.*:\([0-9]*\)\.$/\1/' "$work/address")
# One takes a message, and then nothing for an hour.
poetry-listen -q --check --idle-timeout 2s "$port" /topic/poems >"$work/reads" 2>/dev/null &
reads=$!
beside poetry-listen -q --slow 1h "$port" /topic/poems >/dev/null 2>&1
await 'listens to' 2 "$work/broker"

status=0
poetry-send --stamp --size 2000 --count 1500 --rate 1000 --timeout 2s "$port" /topic/poems 2>"$work/sends" || status=$?
wait "$reads" || true
sends=$(tail -n 1 "$work/sends" | sed -E 's/^.*: nothing for 2s .*/nothing was taken for 2s/; s/ in .*//')
got=$(sed -n 's/^\([0-9]*\) messages\{0,1\} from.*/\1/p' "$work/reads")
lost=$(sed -n 's/.*: \([0-9]*\) lost.*/\1/p' "$work/reads")
[ "$got" = 1500 ] || got="fewer than 1500"
about=$(grep -Em 1 'Dropping|Disconnected|holds up' "$work/broker" | sed -E 's/^\S+ +\S+ +//; s/127\.0\.0\.1:[0-9]+/the stalled one/; s/[0-9]+ bytes/N bytes/')

printf '%-12s%s\n' 'the sender' "$sends (status $status)" 'who reads' "got $got, $lost of them lost" 'the broker' "$about"
