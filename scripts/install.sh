#!/usr/bin/env bash
# Builds the programs and installs them, with man pages, shell completions and, if there are any, systemd units.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/install.sh [--prefix DIR] [--no-build | --build-only | --uninstall]

  --prefix DIR  where to install [default: /usr/local]
  --build-only  only build: programs into target/release, man pages and completions into target/manual
  --no-build    only install what --build-only has built, so that root needs no cargo
  --uninstall   remove what was installed there, and nothing else

  DIR/bin                                programs
  DIR/share/man                          man pages
  DIR/share/bash-completion/completions  completions for bash
  DIR/share/zsh/site-functions           completions for zsh
  DIR/share/fish/vendor_completions.d    completions for fish
  DIR/lib/systemd/system                 units
  DIR/share/poetry-suite/installed       the names of all these files

DESTDIR in the environment is put before DIR, for making packages.
Exits with 1 if something cannot be built, installed or removed, with 2 if the command line makes no sense.
TXT
}

fail() { # fail STATUS MESSAGE
    echo "install.sh: $2" >&2
    exit "$1"
}

prefix=/usr/local build=yes install=yes uninstall=""
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) [[ ${2:-} == [!-]* ]] || fail 2 "--prefix needs a directory; see --help" && prefix=$2 && shift 2 ;;
        --prefix=?*) prefix=${1#*=} && shift ;;
        --build-only) install="" && shift ;;
        --no-build) build="" && shift ;;
        --uninstall) uninstall=yes && shift ;;
        -h | --help) usage && exit 0 ;;
        *) fail 2 "unknown argument '$1'; see --help" ;;
    esac
done
[[ $prefix == /* ]] || prefix=$PWD/$prefix
prefix=${prefix%/}
[ -n "$build$install" ] || fail 2 "--no-build and --build-only leave nothing to do"
root=${DESTDIR:-}$prefix
list=$root/share/poetry-suite/installed

remove() { # removes the files named on stdin
    local file
    while read -r file; do
        rm -f "$root/$file"
    done
}

if [ -n "$uninstall" ]; then
    [ -e "$list" ] || fail 1 "nothing is installed in $root: there is no $list"
    remove <"$list"
    rm "$list"
    rmdir --ignore-fail-on-non-empty "${list%/*}"
    echo "Removed what was installed in $root."
    exit
fi

# A unit names the program, and to systemd these are not letters of a name; see systemd.syntax(7), systemd.unit(5).
[[ $prefix != *[[:space:][:cntrl:]%\"\'\\]* ]] || fail 2 "no unit can name a directory with a blank, %, quote or backslash"

cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
programs=()
for source in src/bin/*.rs; do
    programs+=("$(basename "$source" .rs)")
done

if [ -n "$build" ]; then
    command -v cargo >/dev/null || fail 1 "there is no cargo on the PATH; --build-only as somebody who has it, then --no-build"
    # In one go: each package alone would have its dependencies built with other features, that is, again.
    cargo build --release --locked -p poetry-suite -p poetry-tools "${programs[@]/#/--bin=}" --bin manual
    rm -rf "$target/manual"
    "$target/release/manual" "$target/manual"
fi
if [ -z "$install" ]; then
    echo "Built: the programs are in $target/release, man pages and completions in $target/manual."
    exit
fi
# It is made last: if it is there, everything is.
[ -d "$target/manual" ] || fail 1 "there is no $target/manual: nothing is built; see --build-only"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

put() { # put MODE DIRECTORY FILE...: installs files, and takes down their names
    local file
    for file in "${@:3}"; do
        [ -e "$file" ] || fail 1 "there is no $file"
        install -D -m "$1" "$file" "$root/$2/${file##*/}"
        echo "$2/${file##*/}" >>"$work/installed"
    done
}

put 755 bin "${programs[@]/#/$target/release/}"
put 644 share/man/man1 "$target"/manual/man/*.1
put 644 share/man/man7 "$target"/manual/man/*.7
put 644 share/bash-completion/completions "$target"/manual/completions/bash/*
put 644 share/zsh/site-functions "$target"/manual/completions/zsh/*
put 644 share/fish/vendor_completions.d "$target"/manual/completions/fish/*
shopt -s nullglob
for unit in docs/*.service docs/*.socket; do
    # The directory of the program: what stands before the last slash of the first word.
    sed "s|^\(ExecStart=[-@:+!]*\)/[^ ]*/|\1${prefix//[&|\\]/\\&}/bin/|" "$unit" >"$work/${unit##*/}"
    put 644 lib/systemd/system "$work/${unit##*/}"
done

if [ -e "$list" ]; then
    # Files of an earlier version that this one has no more.
    { grep -vxFf "$work/installed" "$list" || true; } | remove
fi
install -D -m 644 "$work/installed" "$list"

echo "Installed ${#programs[@]} programs in $root/bin, with man pages (man poetry-suite) and completions."
case :$PATH: in
    *:"$prefix/bin":*) ;;
    *) [ -n "${DESTDIR:-}" ] || echo "$prefix/bin is not on the PATH: PATH=$prefix/bin:\$PATH" ;;
esac
echo "To remove all of it: $0 --prefix $prefix --uninstall"
