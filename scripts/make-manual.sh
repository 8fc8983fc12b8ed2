#!/usr/bin/env bash
# Makes the man pages and the shell completions of every program from the definitions of their command lines.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/make-manual.sh [--check]

Writes man/*.1 and completions/{bash,zsh,fish}/*, which are checked in.

  --check  write nothing; exit with 1 if they are not what would be written
TXT
}

check=""
while [ $# -gt 0 ]; do
    case $1 in
        --check) check=yes && shift ;;
        -h | --help) usage && exit 0 ;;
        *) echo "make-manual.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo run --quiet --locked -p poetry-tools --bin manual -- "$work"

for directory in man completions; do
    if [ -z "$check" ]; then
        rm -rf "$directory"
        cp -r "$work/$directory" "$directory"
    elif ! diff -ru "$directory" "$work/$directory" >&2; then
        echo "make-manual.sh: $directory is not what the programs say; run scripts/make-manual.sh" >&2
        exit 1
    fi
done
