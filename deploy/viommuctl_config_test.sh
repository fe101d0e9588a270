#!/usr/bin/env bash
# viommuctl understands the example of its contexts, and uses it.
#
#   viommuctl_config_test.sh BINARY EXAMPLE
set -euo pipefail

run() { env -i HOME="${TEST_TMPDIR:?}" "$1" --config "$2" "${@:3}"; }

run "$1" "$2" config current | grep -x 'server  *127.0.0.1:7070'
run "$1" "$2" --context production config current | grep -x 'tls-key  */etc/viommu/operator.key'
run "$1" "$2" config list | grep 'viommu.example:7070'
