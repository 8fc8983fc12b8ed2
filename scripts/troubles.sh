#!/usr/bin/env bash
# Seven troubles for a client with a time limit of two seconds, as a job in CI would try them: curl, and one in Python.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
    '' | slowpoetry | fastpoetry) server=${1:-slowpoetry} ;;
    -h | --help)
        echo "Usage: scripts/troubles.sh [slowpoetry|fastpoetry]"
        echo "Shows curl and a client in Python seven troubles, and checks that both notice, and leave in time."
        exit
        ;;
    *) echo "troubles.sh: '$1' is no server of these; see --help" >&2 && exit 2 ;;
esac
for tool in "$server" curl python3; do
    command -v "$tool" >/dev/null || { echo "troubles.sh: there is no $tool" >&2 && exit 1; }
done

# A poem server sends any file: an HTTP reply is one.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head=$'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n'
# shellcheck disable=SC2059 # it is the format
{ printf "$head" "$(wc -c <poetry/science.txt)" && cat poetry/science.txt; } >"$work/reply"

# Its statuses are those of curl: 28 after a time-out, 56 after a reset, 18 with half a reply.
cat >"$work/client.py" <<'PYTHON'
import asyncio, sys

async def fetch(host, port):
    for attempt in range(5):
        try:
            reader, writer = await asyncio.open_connection(host, port)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.25 * attempt)
    writer.write(b"GET / HTTP/1.1\r\nHost: poetry\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split()[0])
    await reader.readexactly(length)

try:
    asyncio.run(asyncio.wait_for(fetch(*sys.argv[1:]), timeout=2))
except asyncio.TimeoutError:
    sys.exit(28)
except ConnectionResetError:
    sys.exit(56)
except asyncio.IncompleteReadError:
    sys.exit(18)
PYTHON

# trouble NAME STATUS EXPECTATION FLAG...: with these flags both clients have this exit status, and did as is expected.
trouble() {
    local name=$1 status=$2 expected=$3 client ended
    shift 3
    for client in curl python; do
        local command=(curl --silent --max-time 2 --output /dev/null 'http://{}/')
        [ "$status" != 0 ] || command+=(--retry 5 --retry-delay 1 --retry-connrefused)
        [ "$client" = curl ] || command=(python3 "$work/client.py" '{host}' '{port}')
        ended=0
        "$server" --quiet "$@" "$work/reply" --expect "$expected" -- "${command[@]}" || ended=$?
        if [ "$ended" != "$status" ]; then
            echo "troubles.sh: $name: $client with $server ended with $ended, not with $status" >&2
            exit 1
        fi
        printf '%-18s %-7s %s\n' "$name" "$client" "as it should"
    done
}

trouble "a slow first byte" 28 'left < 4s' --first-byte-delay 10s
trouble "a stall" 28 'left < 4s' --num-bytes 1k --cut-at 200 --cut hang
trouble "a reset" 56 'bytes = 200' --num-bytes 100 --cut-at 200 --cut rst
trouble "half a poem" 18 'bytes = 200' --num-bytes 1k --cut-at 200 --cut fin
trouble "silence" 28 'bytes = 0' --cut-at 0 --cut hang
trouble "refused, then fine" 0 'served = 1' --num-bytes 1k --listen-after 400ms
trouble "bandwidth" 28 'left < 4s' --rate 100
