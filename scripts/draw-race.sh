#!/usr/bin/env bash
# Draws docs/race.svg: forty poems, fetched one after another and then all at once, from one server.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
Usage: scripts/draw-race.sh [FILE]

Races the blocking client against the async one for forty poems of one fastpoetry, each of which takes about 0.25 s,
and draws what each poem was doing when, into FILE (default: docs/race.svg). Takes 12 s after the build.
END
}

case ${1-} in
    -h | --help) usage && exit ;;
    -*) usage >&2 && exit 2 ;;
esac
[ $# -le 1 ] || { usage >&2 && exit 2; }

cargo build --locked --quiet --profile quick
programs=${CARGO_TARGET_DIR:-target}/quick

servers=()
for _ in {1..40}; do
    servers+=("{}")
done
"$programs/fastpoetry" --quiet --delay 10ms --num-bytes 27 science -- \
    "$programs/poetry-race" --runs 1 --warm-up 0 --models blocking,async --compact --animate \
    --timeline "${1:-docs/race.svg}" "${servers[@]}"
