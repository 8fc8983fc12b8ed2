#!/usr/bin/env bash
# Writes assets/unicode/: the names of characters, from the files of the Unicode Character Database that a package brings.
set -euo pipefail
cd "$(dirname "$0")/.."

# The package whose files they are, and the version of Unicode that these have to be of.
package=unicode_names2 package_version=4.0.0 unicode=17.0.0

case ${1:-} in
    '') ;;
    -h | --help)
        echo "Usage: scripts/make-names.sh"
        echo "Writes assets/unicode/ anew, from Unicode $unicode as the package $package $package_version has it."
        exit
        ;;
    *) echo "make-names.sh: unknown argument '$1'; see --help" >&2 && exit 2 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Cargo unpacks the sources of whatever a package asks for.
mkdir "$work/src" && : >"$work/src/lib.rs"
printf '[package]\nname = "names"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\n%s = "=%s"\n' \
    "$package" "$package_version" >"$work/Cargo.toml"
manifest=$(cargo metadata --quiet --manifest-path "$work/Cargo.toml" --format-version 1 |
    grep -o "\"manifest_path\":\"[^\"]*/$package-$package_version/Cargo.toml\"" | cut -d '"' -f 4)
data=$(dirname "$manifest")/data
grep -q "^# NameAliases-$unicode.txt" "$data/NameAliases.txt" || {
    echo "make-names.sh: these files are not of Unicode $unicode: $data" >&2
    exit 1
}

out=assets/unicode
mkdir -p "$out"
cp "$data/LICENSE-UNICODE" "$out/LICENSE"

# Fields of UnicodeData.txt: code, name, general category, ...; of NameAliases.txt: code, alias, type. (UAX #44)
export LC_ALL=C
awk -F ';' -v OFS='' '
    FNR == NR {
        sub(/ *#.*/, "")
        if (NF == 3) aliases[$1] = aliases[$1] ";" ($3 == "correction" ? "!" : "") $2
        next
    }
    $2 !~ /^</ || $1 in aliases { print $1, " ", $2 ~ /^</ ? "" : $2, aliases[$1] }
' "$data/NameAliases.txt" "$data/UnicodeData.txt" >"$out/names.txt"

awk -F ';' -v OFS='' '
    $2 ~ /, First>$/ { first = $1 }
    $2 ~ /^<CJK Ideograph.*, Last>$/ { print first, "..", $1, " CJK UNIFIED IDEOGRAPH-*" }
    $2 ~ /^<Tangut Ideograph.*, Last>$/ { print first, "..", $1, " TANGUT IDEOGRAPH-*" }
    $2 == "<Hangul Syllable, Last>" { print first, "..", $1, " HANGUL SYLLABLE *" }
' "$data/UnicodeData.txt" >"$out/ranges.txt"

awk -F ';' -v OFS='' '
    function value(hex,    i, n) {
        n = 0
        for (i = 1; i <= length(hex); i++) n = n * 16 + index("0123456789ABCDEF", substr(hex, i, 1)) - 1
        return n
    }
    function end() { if (first != "") print first, "..", last, " ", category }
    $3 !~ /^(Cc|Cf|Mc|Me|Mn|Zl|Zp|Zs)$/ { next }
    $3 == category && value($1) == value(last) + 1 { last = $1; next }
    { end(); first = last = $1; category = $3 }
    END { end() }
' "$data/UnicodeData.txt" >"$out/categories.txt"
