#!/usr/bin/env bash
# Downloads flags one after another, with threads, with a readiness loop and with tasks: from a server that takes its time,
# and from one that fails. Needs nothing but Rust and bash.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/flags.sh [--delay DURATION] [--at-once N] [--runs N] [--timeline FILE]

Starts servers of the pictures in flags/, on this machine, and downloads all of them with all four clients:

  DELAY  every reply comes after a while
  ERROR  a quarter of the replies breaks off, and half of the others comes late

and shows how long each client took, what that cost, and what each flag was doing when.

  --delay DURATION  the while [default: 100ms]
  --at-once N       flags under way at once [default: 8]
  --runs N          runs of each client [default: 1]
  --timeline FILE   draw the picture as SVG, too

Exits with 1 if a flag did not arrive that should have.
TXT
}

delay=100ms at_once=8 runs=1 timeline=""
while [ $# -gt 0 ]; do
    case $1 in
        --delay) delay=${2:?--delay needs a duration} && shift 2 ;;
        --at-once) at_once=${2:?--at-once needs a number} && shift 2 ;;
        --runs) runs=${2:?--runs needs a number} && shift 2 ;;
        --timeline) timeline=${2:?--timeline needs a file} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        *) echo "flags.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
command -v cargo >/dev/null || { echo "flags.sh: there is no cargo on the PATH; https://rustup.rs has it" >&2 && exit 1; }
clients=(get-poetry-blocking get-poetry-threads get-poetry-select get-poetry)
programs=(fastpoetry poetry-race "${clients[@]}")
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

serve() { # serve FLAG...: all pictures; says where in $origin
    local line
    exec {out}< <(exec "$bin/fastpoetry" -q --http "$@" flags 2>"$work/log")
    servers+=($!)
    if ! read -r line <&"$out"; then
        cat "$work/log" >&2
        exit 1
    fi
    origin=${line##* }
    origin=http://${origin%.}
}

urls() { # urls ORIGIN: of all pictures
    local flag
    for flag in flags/*/*.gif; do
        echo "$1/${flag#flags/}"
    done
}

serve --first-byte-delay "$delay"
urls "$origin" >"$work/delay"
count=$(wc -l <"$work/delay")
printf 'DELAY: %s flags, each after %s, %s at once.\n\n' "$count" "$delay" "$at_once"
options=(--runs "$runs" --warm-up 0 --progress --waterfall --compact -j "$at_once" --input "$work/delay")
[ -z "$timeline" ] || options+=(--timeline "$timeline")
"$bin/poetry-race" "${options[@]}"

# Of eight replies two break off, and three of the other six come late.
cat >"$work/error.toml" <<TOML
[[connection]]
cut-at = 30
[[connection]]
first-byte-delay = "$delay"
[[connection]]
[[connection]]
first-byte-delay = "$delay"
[[connection]]
cut-at = 30
[[connection]]
[[connection]]
first-byte-delay = "$delay"
[[connection]]
TOML
serve --script "$work/error.toml" --cycle 8
urls "$origin" >"$work/error"
printf '\nERROR: a quarter of the replies breaks off, and half of the others comes late.\n\n'
for client in "${clients[@]}"; do
    for retries in 0 9; do
        status=0
        "$bin/$client" --discard -j "$at_once" --retries "$retries" --input "$work/error" 2>"$work/said" || status=$?
        printf '%-19s --retries %s: %s\n' "$client" "$retries" "$(tail -n 1 "$work/said")"
        [ "$status:$retries" != 1:9 ] || exit 1
    done
done
