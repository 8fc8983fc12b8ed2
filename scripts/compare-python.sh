#!/usr/bin/env bash
# Fetches the same three slow poems with three clients in Python and our four, and shows what each way of waiting costs.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/compare-python.sh [--runs N] [--timeline FILE] [POETRY-RACE OPTION...]

Races examples/clients/fetch_blocking.py, fetch_threads.py and fetch_asyncio.py against our four clients for three
slow poems: one table of times, one of costs, and one picture (in characters, and with --timeline as SVG).

  --runs N          runs of each client [default: 1]
  --timeline FILE   draw the picture as SVG, too

All of them are seen through relays, so that they are compared alike. PYTHON is the interpreter [default: python3].
Takes a quarter of a minute after the build. Exits with 1 if a poem did not arrive.
TXT
}

options=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit 0 ;;
        *) options+=("$1") && shift ;;
    esac
done

# Where the options name files, they are meant from here.
from=$PWD
cd "$(dirname "$0")/.."
root=$PWD
# A script that starts Python would be a part of what it costs.
python=$("${PYTHON:-python3}" -c 'import sys; print(sys.executable)') ||
    { echo "compare-python.sh: there is no ${PYTHON:-python3}" >&2 && exit 1; }
command -v cargo >/dev/null || { echo "compare-python.sh: there is no cargo on the PATH; https://rustup.rs has it" >&2 && exit 1; }
bin=$(cd "$(dirname "${CARGO_TARGET_DIR:-target}")" && pwd)/$(basename "${CARGO_TARGET_DIR:-target}")/quick
programs=(poetry-race get-poetry-blocking get-poetry-threads get-poetry-select get-poetry)
quiet=()
[ -t 2 ] || quiet=(--quiet)
cargo build --profile quick "${quiet[@]}" "${programs[@]/#/--bin=}"

clients=()
for way in blocking threads asyncio; do
    clients+=(--client "py$way='$python' '$root/examples/clients/fetch_$way.py' {}")
done
cd "$from"
"$bin/poetry-race" --demo --through --models blocking,threads,select,async "${clients[@]}" --waterfall "${options[@]}"
