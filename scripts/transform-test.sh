#!/usr/bin/env bash
# Sends one request to a transform server, by hand as it were, and prints the reply.
set -euo pipefail

case ${1:-} in
    [0-9]*) port=$1 ;;
    -h | --help | '')
        echo "Usage: scripts/transform-test.sh PORT [TRANSFORM [POEM]]"
        echo "Sends a netstring to the transform server at 127.0.0.1:PORT and prints what it says."
        [ $# -gt 0 ] && exit 0 || exit 2
        ;;
    *) echo "transform-test.sh: '$1' is no port; see --help" >&2 && exit 2 ;;
esac

LC_ALL=C # so that ${#payload} counts bytes
payload=${2-cummingsify}.${3-HERE IS MY POEM}
request=${#payload}:$payload,
echo "request: $request" >&2
if command -v nc >/dev/null; then
    reply=$(printf '%s' "$request" | nc 127.0.0.1 "$port")
else
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf '%s' "$request" >&3
    reply=$(cat <&3)
fi
[ -n "$reply" ] || { echo "transform-test.sh: no reply" >&2 && exit 1; }
printf '%s\n' "$reply"
