#!/usr/bin/env bash
# The benchmark of invalidations through the kernel, in the testbed: ./bench kernel.
#
#   tests/kernel/bench.sh [--quick] [--json FILE]     builds what is missing, the kernel too
set -euo pipefail

# shellcheck source=tests/kernel/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
kernel_end_with_parent "$@"
# shellcheck source=tools/arm64.sh
source "$VIOMMU_ROOT/tools/arm64.sh"

json=""
arguments=()
while (($# > 0)); do
  case "$1" in
    --json)
      json="$(realpath -m -- "${2:?}")"
      shift
      ;;
    --json=*) json="$(realpath -m -- "${1#--json=}")" ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
kernel_setup
tests/kernel/build.sh >/dev/null
viommu_arm64
"${BAZEL[@]}" build "${VIOMMU_ARM64_FLAGS[@]}" //tests/bench:kernel_bench >&2
bin="$("${BAZEL[@]}" info "${VIOMMU_ARM64_FLAGS[@]}" bazel-bin 2>/dev/null)"

# The guest has no file of ours: its console carries the rows, too.
status=0
# shellcheck disable=SC2016  # for the guest
tests/kernel/boot.sh --limit 600 --file "$bin/tests/bench/kernel_bench:/run/bench" -- /bin/sh -c \
  '/run/bench --json /tmp/rows "$@"; status=$?; echo viommu-rows; cat /tmp/rows; exit $status' bench \
  ${arguments[@]+"${arguments[@]}"} | tee "$work/console" | sed '/^viommu-rows$/,$d' || status=$?
((status == 0)) || exit "$status"
[[ -z "$json" ]] || sed -n '/^viommu-rows$/,/^\]$/{/^viommu-rows$/d;p}' "$work/console" >"$json"
