#!/usr/bin/env bash
# Measures poetry-proxy --http beside squid and nginx, in interleaved rounds, and prints the medians as Markdown.
set -euo pipefail

usage() {
    cat <<'TXT'
Usage: scripts/bench-forward.sh [--rounds N] [--time SECONDS] [SECTION...]

Sections: hit miss cold bulk [default: all]
  hit   replies of 41 bytes and of 13 KB out of memory, on 32 kept connections, beside squid
  miss  41 bytes that nobody keeps, from an origin of its own, beside nginx as a forward proxy
  cold  a thousand clients at once for what it does not have: fetches, and how long after upstream's first byte theirs comes
  bulk  1 GB through it, beside nginx

  --rounds N      rounds of each measurement, of which the median counts [default: 9]
  --time SECONDS  time of each measurement, a whole number [default: 1]

Needs nginx, wrk and curl; without squid its rows are missing (Debian: apt-get install nginx-light wrk curl squid). CPU is that
of the proxy alone.
TXT
}

rounds=9 seconds=1 sections=()
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=${2:?--rounds needs a number} && shift 2 ;;
        --time) seconds=${2:?--time needs a number} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        hit | miss | cold | bulk) sections+=("$1") && shift ;;
        *) echo "bench-forward.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
    esac
done
[ ${#sections[@]} -gt 0 ] || sections=(hit miss cold bulk)
for tool in nginx wrk curl; do
    command -v "$tool" >/dev/null || { echo "bench-forward.sh: there is no $tool" >&2 && exit 1; }
done

cd "$(dirname "$0")/.."
cargo build --release --quiet --bin poetry-proxy
bin=${CARGO_TARGET_DIR:-target}/release

work=$(mktemp -d)
chmod 755 "$work"
servers=()
clean_up() {
    trap '' INT TERM
    for server in "${servers[@]}"; do
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_port() { # says it in $port
    for port in $(shuf -i 20000-29999 -n 50); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
}

await() { # await NAME PORT
    local tries=0
    until (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 1000 ] || { echo "bench-forward.sh: $1 does not listen" >&2 && cat "$work/$1.log" >&2 && exit 1; }
        sleep 0.01
    done
}

# with_nginx NAME: started with the server blocks on stdin; says its port in $port, and its process in $pid
with_nginx() {
    mkdir "$work/$1"
    cat >"$work/$1/nginx.conf" <<TXT
daemon off; master_process off; pid $work/$1/pid; error_log stderr crit;
events { worker_connections 10000; }
http { access_log off; sendfile on; keepalive_requests 1000000000;
    client_body_temp_path $work/$1/1; proxy_temp_path $work/$1/2; fastcgi_temp_path $work/$1/3;
    uwsgi_temp_path $work/$1/4; scgi_temp_path $work/$1/5;
$(cat) }
TXT
    nginx -p "$work/$1" -c "$work/$1/nginx.conf" -e stderr 2>"$work/$1.log" &
    pid=$!
    servers+=("$pid")
    await "$1" "$port"
}

root=$work/root
mkdir "$root"
head -c 41 /dev/zero | tr '\0' x >"$root/small"
head -c 13000 /dev/urandom >"$root/large"
truncate -s 1G "$root/huge"
free_port
with_nginx origin <<TXT
    server { listen 127.0.0.1:$port backlog=4096; root $root;
        location / { expires 1h; } location /once/ { alias $root/; } }
TXT
origin=http://127.0.0.1:$port

free_port
with_nginx forward <<TXT
    server { listen 127.0.0.1:$port backlog=4096; resolver 127.0.0.1; proxy_buffering off;
        location / { proxy_pass http://\$http_host\$request_uri; } }
TXT
nginx_at=127.0.0.1:$port nginx_is=$pid

exec {ready}< <(exec "$bin/poetry-proxy" -q --http 2>"$work/log")
ours_is=$!
servers+=("$ours_is")
read -r line <&"$ready" || { cat "$work/log" >&2 && exit 1; }
ours_at=${line##* } ours_at=${ours_at%.}

squid_at=""
if command -v squid >/dev/null; then
    free_port
    squid_at=127.0.0.1:$port
    cat >"$work/squid.conf" <<TXT
http_port 127.0.0.1:$port
http_access allow all
cache_mem 64 MB
maximum_object_size_in_memory 1 MB
access_log none
cache_log /dev/null
pid_filename none
coredump_dir $work
shutdown_lifetime 0 seconds
TXT
    squid -N -f "$work/squid.conf" >"$work/squid.log" 2>&1 &
    squid_is=$!
    servers+=("$squid_is")
    await squid "$port"
fi

# A proxy is asked for a whole URL.
cat >"$work/absolute.lua" <<'TXT'
local url = os.getenv("URL")
wrk.headers["Host"] = url:match("http://([^/]+)")
if os.getenv("OWN") then wrk.headers["Cookie"] = "of=somebody" end
request = function() return wrk.format("GET", url) end
TXT

cpu() { # cpu PID: of a process and its children, in ms
    local process
    for process in "$1" $(pgrep -P "$1"); do
        cat "/proc/$process/stat"
    done | awk -v tick="$(getconf CLK_TCK)" '{ sum += $14 + $15 } END { printf "%d", sum * 1000 / tick }'
}

ask() { # ask NAME PROXY PID URL: requests per second, and the proxy's CPU time for each
    local before
    before=$(cpu "$3")
    URL=$4 wrk -t 1 -c 32 -d "$seconds" -s "$work/absolute.lua" "http://$2/" >"$work/wrk"
    ! grep -q "Non-2xx\|Socket errors" "$work/wrk" || { echo "bench-forward.sh: $1:" >&2 && cat "$work/wrk" >&2 && exit 1; }
    awk -v ms="$(($(cpu "$3") - before))" '
        /requests in/ { count = $1 }
        /^Requests\/sec:/ { print "rate=" $2, "us=" ms * 1000 / count }
    ' "$work/wrk" >>"$work/$1"
}

median() { # median FIELD FILE
    tr ' ' '\n' <"$2" | sed -n "s/^$1=//p" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

table() { # table BASE NAME:TITLE...
    local base=$work/$1 row
    printf '| proxy | requests/s | ratio | CPU µs each | ratio |\n|---|---|---|---|---|\n'
    for row in "${@:2}"; do
        [ -e "$work/${row%%:*}" ] || continue
        [ -e "$base" ] || base=$work/${row%%:*}
        awk -v title="${row#*:}" -v rate="$(median rate "$work/${row%%:*}")" -v us="$(median us "$work/${row%%:*}")" \
            -v base_rate="$(median rate "$base")" -v base_us="$(median us "$base")" \
            'BEGIN { printf "| %s | %d | %.2f | %.1f | %.2f |\n", title, rate, rate / base_rate, us, us / base_us }'
    done
}

hit() {
    local size round
    for size in small large; do
        for ((round = 0; round < rounds; round++)); do
            [ -z "$squid_at" ] || ask "squid-$size" "$squid_at" "$squid_is" "$origin/$size"
            ask "ours-$size" "$ours_at" "$ours_is" "$origin/$size"
        done
        printf '\n### A reply of %s bytes from memory, 32 kept connections\n\n' "$(stat -c %s "$root/$size")"
        table "squid-$size" "squid-$size:squid" "ours-$size:poetry-proxy --http"
    done
}

miss() {
    local round
    for ((round = 0; round < rounds; round++)); do
        # With a cookie: nothing is shared.
        OWN=1 ask nginx-miss "$nginx_at" "$nginx_is" "$origin/once/small"
        OWN=1 ask ours-miss "$ours_at" "$ours_is" "$origin/once/small"
        ask ours-shared "$ours_at" "$ours_is" "$origin/once/small"
    done
    printf '\n### A reply of 41 bytes that nobody keeps, 32 kept connections\n\n'
    table nginx-miss "nginx-miss:nginx, forward" "ours-miss:poetry-proxy --http, a fetch for each" \
        "ours-shared:poetry-proxy --http, those who wait share a fetch"
}

cold() {
    local clients round
    cargo build --release --quiet --package poetry-tools --bin cold_key
    printf '\n### At once for what is not there: after the first byte of upstream, in ms\n\n'
    printf '| clients | fetches | first | median | last |\n|---|---|---|---|---|\n'
    for clients in 100 500 1000; do
        for ((round = 0; round < rounds; round++)); do
            "$bin/cold_key" "$ours_at" --clients "$clients" >>"$work/cold-$clients"
        done
        awk -v clients="$clients" -v fetches="$(median fetches "$work/cold-$clients")" -v first="$(median first "$work/cold-$clients")" \
            -v half="$(median median "$work/cold-$clients")" -v last="$(median last "$work/cold-$clients")" \
            'BEGIN { printf "| %d | %d | %.1f | %.1f | %.1f |\n", clients, fetches, first / 1e3, half / 1e3, last / 1e3 }'
    done
}

bulk() {
    local round name at
    for ((round = 0; round < rounds; round++)); do
        for name in nginx ours; do
            at=${name}_at
            curl -sS -o /dev/null -x "${!at}" -w 'rate=%{speed_download}\n' "$origin/huge" >>"$work/$name-bulk"
        done
    done
    printf '\n### 1 GB\n\n| proxy | MB/s | of nginx |\n|---|---|---|\n'
    for name in nginx ours; do
        awk -v name="$name" -v rate="$(median rate "$work/$name-bulk")" -v base="$(median rate "$work/nginx-bulk")" \
            'BEGIN { printf "| %s | %.0f | %.2f |\n", name == "ours" ? "poetry-proxy --http" : "nginx, forward", rate / 1e6, rate / base }'
    done
}

processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
printf '%s, %s processors; medians of %s rounds\n' "${processor:-unknown processor}" "$(nproc)" "$rounds"
for section in "${sections[@]}"; do
    "$section"
done
