#!/usr/bin/env bash
# Checks scripts/install.sh: installs into a directory of its own, looks at every file, and uninstalls.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

fail() { # fail MESSAGE
    echo "check-install.sh: $1" >&2
    exit 1
}

try() { # try STATUS ARGUMENT...: install.sh must exit so; it says why in one line
    local status=0
    ./scripts/install.sh "${@:2}" 2>"$work/stderr" || status=$?
    [ "$status" = "$1" ] || fail "install.sh ${*:2} exits with $status, not $1: $(cat "$work/stderr")"
    [ "$status" = 0 ] || [ "$(wc -l <"$work/stderr")" = 1 ] || fail "not one line: $(cat "$work/stderr")"
}

look() { # look ROOT: everything is there, and works
    local root=$1 source name page unit program
    for source in src/bin/*.rs; do
        name=$(basename "$source" .rs)
        [ "$("$root/bin/$name" --version)" = "$name $version" ] || fail "$name is not version $version"
        [ -s "$root/share/man/man1/$name.1" ] || fail "$name has no man page"
        # shellcheck disable=SC2016 # expanded by the other bash
        bash --norc -euc '. "$1" && complete -p "$2"' - "$root/share/bash-completion/completions/$name" "$name" \
            >/dev/null || fail "bash does not complete $name"
        check_syntax zsh "$root/share/zsh/site-functions/_$name"
        check_syntax fish "$root/share/fish/vendor_completions.d/$name.fish"
    done
    for page in "$root"/share/man/man[17]/*.[17]; do
        check_page "$page"
    done
    for unit in "$root"/lib/systemd/system/*.service; do
        [ -e "$unit" ] || continue
        program=$(sed -n 's/^ExecStart=[-@:+!]*\([^ ]*\).*/\1/p' "$unit")
        [[ $program == "$prefix"/bin/* && -x $root${program#"$prefix"} ]] || fail "$unit starts $program"
    done
}

check_page() { # check_page FILE: as far as groff is here
    local warnings
    ! command -v groff >/dev/null || warnings=$(groff -man -Tutf8 -ww -z "$1" 2>&1)
    [ -z "${warnings:-}" ] || fail "groff does not like $1: $warnings"
}

check_syntax() { # check_syntax SHELL FILE: as far as that shell is here
    [ -s "$2" ] || fail "there is no $2"
    ! command -v "$1" >/dev/null || "$1" -n "$2" || fail "$1 does not understand $2"
}

try 2 --prefx /nowhere
try 2 --prefix
try 2 --prefix --uninstall
for odd in ' ' % \" \' \\; do
    try 2 --prefix "$prefix/${odd}x"
done
try 2 --no-build --build-only
try 1 --prefix "$prefix" --uninstall

try 0 --prefix "$prefix" --build-only
[ ! -e "$prefix" ] || fail "--build-only installs"
manual=${CARGO_TARGET_DIR:-target}/manual
mv "$manual" "$work/manual"
try 1 --prefix "$prefix" --no-build
mv "$work/manual" "$manual"
[ ! -e "$prefix" ] || fail "half of what is needed was installed"

DESTDIR=$work/stage try 0 --prefix "$prefix"
look "$work/stage$prefix"
[ ! -e "$prefix" ] || fail "something is outside DESTDIR"
! grep -rqF "$work/stage" "$work/stage" || fail "an installed file knows of DESTDIR"

try 0 --prefix "$prefix"
echo foreign >"$prefix/bin/foreign"
echo old >"$prefix/bin/old"
echo bin/old >>"$prefix/share/poetry-suite/installed"
# Root need not have a cargo: this one fails.
printf '#!/bin/sh\nexit 1\n' >"$work/cargo"
chmod +x "$work/cargo"
PATH=$work:$PATH try 0 --prefix="$prefix" --no-build
look "$prefix"
[ ! -e "$prefix/bin/old" ] || fail "a file of an earlier version is still there"

try 0 --prefix "$prefix" --uninstall
left=$(find "$prefix" ! -type d)
[ "$left" = "$prefix/bin/foreign" ] || fail "after --uninstall there is: $left"
echo "All programs, man pages and completions were installed, work, and are gone."
