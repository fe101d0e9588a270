#!/usr/bin/env bash
# The example configurations and the binaries agree: the examples are good, what they comment out are real options, and
# they name every option there is.
#
#   config_test.sh BINARY EXAMPLE [flag…]     flags stand for what the example takes from the machine it is for
set -euo pipefail

binary="$1"
example="$2"
shift 2
flags=("$@")

# Only the file speaks: not the environment of whoever runs the test.
run() { env -i "$binary" "$@" "${flags[@]}"; }

# "section.key" of every option of a file of at most two levels, commented out or not. Prose has no word before a colon.
options() {
  sed -E 's/^( *)# ( *[a-z_]+:( .*)?)$/\1\2/' "$1" | awk '
    /^[a-z_]+:/     { section = $1; sub(/:.*/, "", section); if ($0 ~ /^[a-z_]+: *[^ #]/) print section }
    /^ +[a-z_]+:/   { key = $1; sub(/:.*/, "", key); print section "." key }' | sort -u
}

echo "The example is good:"
run --check-config --config "$example"

echo "It is about the options there are:"
work="${TEST_TMPDIR:?}"
run --print-config --config "$example" >"$work/effective.yaml"
if ! diff <(options "$work/effective.yaml") <(options "$example"); then
  echo "< is missing in $example, > is no option of $binary"
  exit 1
fi

echo "What it comments out is good, too, with certificates where it names some:"
mkdir -p "$work/tls"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout "$work/tls/key" -out "$work/tls/pem" \
  2>"$work/openssl.log" || {
  cat "$work/openssl.log"
  exit 1
}
sed -E -e 's/^( *)# ( *[a-z_]+:( .*)?)$/\1\2/' -e "s,/[^ ]*\.pem$,$work/tls/pem," -e "s,/[^ ]*\.key$,$work/tls/key," \
  "$example" >"$work/all.yaml"
run --check-config --config "$work/all.yaml"
