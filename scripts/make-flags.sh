#!/usr/bin/env bash
# Draws the flags in flags/: those of countries that are stripes and nothing else, as small GIFs, with their names in JSON.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
    '') ;;
    -h | --help)
        echo "Usage: scripts/make-flags.sh"
        echo "Draws flags/CC/cc.gif and writes flags/CC/metadata.json for each country, from the list in this script."
        exit
        ;;
    *) echo "make-flags.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
esac

width=30 height=20

byte() { # byte NUMBER...: escapes for printf
    printf '\\x%02x' "$@"
}

# flag CODE COUNTRY vertical|horizontal COLOUR...: stripes of equal width, at most four colours (RRGGBB)
flag() {
    local code=$1 country=$2 direction=$3 colour x y stripe
    shift 3
    local stripes=("$@") palette=() index=() pixels=() i
    for colour in "${stripes[@]}"; do
        for ((i = 0; i < ${#palette[@]}; i++)); do
            [ "${palette[i]}" != "$colour" ] || break
        done
        palette[i]=$colour
        index+=("$i")
    done
    for ((y = 0; y < height; y++)); do
        for ((x = 0; x < width; x++)); do
            case $direction in
                vertical) stripe=$((x * ${#stripes[@]} / width)) ;;
                *) stripe=$((y * ${#stripes[@]} / height)) ;;
            esac
            # The table of an LZW decoder has to be emptied (128) before its codes get longer than a byte.
            ((${#pixels[@]} % 101 != 0)) || pixels+=(128)
            pixels+=("${index[stripe]}")
        done
    done
    pixels+=(129)
    mkdir -p "flags/$code"
    {
        printf 'GIF89a%b' "$(byte "$width" 0 "$height" 0 0xf1 0 0)"
        for ((i = 0; i < 4; i++)); do
            colour=${palette[i]:-000000}
            printf '%b' "$(byte "0x${colour:0:2}" "0x${colour:2:2}" "0x${colour:4:2}")"
        done
        printf ',%b' "$(byte 0 0 0 0 "$width" 0 "$height" 0 0 7)"
        for ((i = 0; i < ${#pixels[@]}; i += 255)); do
            local block=("${pixels[@]:i:255}")
            printf '%b' "$(byte "${#block[@]}" "${block[@]}")"
        done
        printf '%b;' "$(byte 0)"
    } >"flags/$code/$code.gif"
    printf '{"country": "%s", "code": "%s"}\n' "$country" "${code^^}" >"flags/$code/metadata.json"
}

flag am Armenia horizontal d90012 0033a0 f2a800
flag at Austria horizontal ed2939 ffffff ed2939
flag be Belgium vertical 000000 fae042 ed2939
flag bg Bulgaria horizontal ffffff 00966e d62612
flag ci "Ivory Coast" vertical f77f00 ffffff 009e60
flag co Colombia horizontal fcd116 fcd116 003893 ce1126
flag de Germany horizontal 000000 dd0000 ffce00
flag ee Estonia horizontal 0072ce 000000 ffffff
flag fr France vertical 0055a4 ffffff ef4135
flag ga Gabon horizontal 009e60 fcd116 3a75c4
flag gn Guinea vertical ce1126 fcd116 009460
flag hu Hungary horizontal cd2a3e ffffff 436f4d
flag id Indonesia horizontal ff0000 ffffff
flag ie Ireland vertical 169b62 ffffff ff883e
flag it Italy vertical 009246 ffffff ce2b37
flag lt Lithuania horizontal fdb913 006a44 c1272d
flag lu Luxembourg horizontal ed2939 ffffff 00a1de
flag lv Latvia horizontal 9e3039 9e3039 ffffff 9e3039 9e3039
flag mc Monaco horizontal ce1126 ffffff
flag ml Mali vertical 14b53a fcd116 ce1126
flag mu Mauritius horizontal ea2839 1a206d ffd500 00a551
flag ng Nigeria vertical 008751 ffffff 008751
flag nl Netherlands horizontal ae1c28 ffffff 21468b
flag pe Peru vertical d91023 ffffff d91023
flag pl Poland horizontal ffffff dc143c
flag ro Romania vertical 002b7f fcd116 ce1126
flag ru Russia horizontal ffffff 0039a6 d52b1e
flag sl "Sierra Leone" horizontal 1eb53a ffffff 0072c6
flag td Chad vertical 002664 fecb00 c60c30
flag th Thailand horizontal a51931 f4f5f8 2d2a4a 2d2a4a f4f5f8 a51931
flag ua Ukraine horizontal 0057b7 ffd700
flag ye Yemen horizontal ce1126 ffffff 000000
