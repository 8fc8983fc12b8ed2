#!/usr/bin/env bash
# Fetches URLs with a process for each, four at a time: examples/clients/xargs-curl.sh URL ...
set -euo pipefail
case ${1-} in
    -h | --help | "") echo "Usage: examples/clients/xargs-curl.sh URL ..." && exit ;;
esac
printf '%s\n' "$@" | xargs -P 4 -n 1 curl --silent
