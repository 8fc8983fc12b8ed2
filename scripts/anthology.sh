#!/usr/bin/env bash
# One page from five sources: three slow ones, one that is reset, one that is silent; as text, and as a picture.
set -euo pipefail
cd "$(dirname "$0")/.."

picture=
case ${1:-} in
    '') ;;
    -h | --help)
        echo "Usage: scripts/anthology.sh [FILE.png]"
        echo "Shows a page of poetry-anthology as it comes, without its markup; FILE is a picture of it by Chromium."
        exit
        ;;
    *.png) picture=$1 ;;
    *) echo "anthology.sh: '$1' is no name of a picture; see --help" >&2 && exit 2 ;;
esac
for tool in slowpoetry fastpoetry poetry-anthology curl; do
    command -v "$tool" >/dev/null || { echo "anthology.sh: there is no $tool" >&2 && exit 1; }
done
if [ -n "$picture" ] && ! chromium=$(command -v chromium || command -v google-chrome); then
    echo "anthology.sh: there is no Chromium for a picture" >&2 && exit 1
fi

work=$(mktemp -d)
children=()
trap 'kill -9 "${children[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

# serve NAME COMMAND...: starts a server that goes on until the end of this script, and finds out where it is.
serve() {
    local name=$1 tries
    shift
    "$@" -q --port-file "$work/$name" >/dev/null 2>&1 &
    children+=($!)
    disown $!
    for tries in {1..3000}; do
        [ ! -s "$work/$name" ] || return 0
        read -rt 0.01 <> <(:) || true
    done
    echo "anthology.sh: after $tries looks $name is not there" >&2
    exit 1
}

serve science slowpoetry --num-bytes 50 --delay 150ms science
serve fascination slowpoetry --num-bytes 60 --delay 150ms fascination
serve ecstasy slowpoetry --num-bytes 100 --delay 150ms ecstasy
serve reset fastpoetry --num-bytes 50 --delay 300ms --cut-at 150 --cut rst science
serve silent fastpoetry --first-byte-delay 1h science
sources=()
for name in science fascination ecstasy reset silent; do
    sources+=("$name=$(cat "$work/$name")")
done
serve anthology poetry-anthology --timeout 8s --idle-timeout 3s "${sources[@]}"
page=http://localhost:$(cat "$work/anthology")/

# Without its markup and its picture, as it comes.
curl -sN "$page" | sed -un -e '/<head>/d; /<svg/,/<\/svg>/d; s/<h2>/\n/; s/<p class="\(how\|why\)">/\n/g' \
    -e 's/<[^>]*>//g; /[^ \n]/p'

if [ -n "$picture" ]; then
    # Forgotten, so that everything is fetched again.
    kill -HUP "${children[-1]}"
    "$chromium" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --window-size=1000,900 \
        --user-data-dir="$work/profile" --screenshot="$picture" "$page" >/dev/null 2>&1
    echo "A picture of it is in $picture"
fi
