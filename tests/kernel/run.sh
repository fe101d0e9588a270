#!/usr/bin/env bash
# The kernel tier of ./test: the conformance suite on the testbed's kernel, what the firmware without CANWBS makes of it, and
# the agent there, end to end (e2e.sh).
#
#   tests/kernel/run.sh [--results FILE] [-- ARGUMENT…]    builds what is missing, the kernel too; ARGUMENTs are GoogleTest's,
#                                                          such as --gtest_filter=..., which replaces ours
#   tests/kernel/run.sh --why-not                          says why it cannot run without building a kernel, or nothing
#
# FILE gets a line "pass NAME" or "fail NAME" per case.
set -euo pipefail

# shellcheck source=tests/kernel/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
kernel_end_with_parent "$@"
# shellcheck source=tools/arm64.sh
source "$VIOMMU_ROOT/tools/arm64.sh"

results=/dev/null
while (($# > 0)); do
  case "$1" in
    --why-not)
      kernel_missing
      exit 0
      ;;
    --results)
      results="$(realpath -m -- "$2")"
      shift
      ;;
    --)
      shift
      break
      ;;
    *)
      sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
      exit 2
      ;;
  esac
  shift
done

# Most of it is the devices'.
readonly limit=1800
# The "edu" device takes a tenth of a second for an access, and these cases want thousands of them.
readonly too_long='*DmaConcurrent.*'

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
failed=0

# check NAME STATUS
check() {
  if [[ "$2" == 0 ]]; then
    echo "pass $1" >>"$results"
  else
    echo "fail $1" >>"$results"
    echo "FAIL  $1"
    failed=1
  fi
}

# GoogleTest's lines on the console, one for each case that ran.
cases() { sed -n -e 's/^\[       OK \] \([^ ]*\).*/pass \1/p' -e 's/^\[  FAILED  \] \([^ ,]*\)\(, where.*\)\{0,1\} (.* ms)$/fail \1/p' "$1"; }

kernel_setup
tests/kernel/build.sh >/dev/null
viommu_arm64
"${BAZEL[@]}" build "${VIOMMU_ARM64_FLAGS[@]}" //tests/conformance:kernel_conformance >&2
bin="$("${BAZEL[@]}" info "${VIOMMU_ARM64_FLAGS[@]}" bazel-bin 2>/dev/null)"
suite="$bin/tests/conformance/kernel_conformance"

viommu_say "The conformance suite on Linux $(<"$(kernel_folder)/release")"
status=0
tests/kernel/boot.sh --limit "$limit" -- "$suite" --gtest_color=no "--gtest_filter=-$too_long" "$@" >"$work/suite" || status=$?
cases "$work/suite" | tee -a "$results" >"$work/cases"
grep '^fail' "$work/cases" || true
sed -n '/^\[==========\] .* ran/,$p' "$work/suite"
if ! grep -q '^\[==========\] .* ran' "$work/suite"; then
  tail -n 20 "$work/suite"
  check "the suite ends by itself (status $status)" 1
elif grep -q '^fail' "$work/cases"; then
  failed=1
else
  check "the suite succeeds as a whole" "$status"
fi

# Without the bit nothing of ours may work, and the backend has to say why.
viommu_say "Without CANWBS"
status=0
tests/kernel/boot.sh --no-canwbs --limit 120 -- "$suite" --gtest_filter=-* >"$work/control" || status=$?
grep '^viommu ' "$work/control" || true
if grep -qE '^viommu +no +[^ ]' "$work/control"; then status=0; else status=1; fi
check "without CANWBS the backend says that there are no viommus" "$status"
viommu_say "End to end"
tests/kernel/e2e.sh --results "$results" || failed=1
exit "$failed"
