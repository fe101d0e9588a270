#!/usr/bin/env bash
# The kernel tier of ./test: the conformance suite on the testbed's kernel and beside it on the personality that emulates it,
# what the firmware without CANWBS makes of it, and the agent there, end to end (e2e.sh).
#
#   tests/kernel/run.sh [--results FILE] [-- ARGUMENT…]    builds what is missing, the kernel too; ARGUMENTs are GoogleTest's,
#                                                          such as --gtest_filter=...; then nothing is compared
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
# Fewer that pass, and something of the testbed is gone, however green the rest is.
readonly least=780

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
cases() {
  sed -n -e 's/^\[       OK \] \([^ ]*\).*/pass \1/p' -e 's/^\[  SKIPPED \] \([^ ]*\) (.* ms)$/skip \1/p' \
    -e 's/^\[  FAILED  \] \([^ ,]*\)\(, where.*\)\{0,1\} (.* ms)$/fail \1/p' "$1"
}
# only VERDICT FILE: its names in a file of cases, without the rig.
only() { sed -n "s/^$1 //p" "$2" | sed -E 's,/(iommufd|emulated_linux72)(_|$),/\2,' | LC_ALL=C sort; }
# none_but WHAT: whether nothing comes in; prints what does.
none_but() { ! sed "s/^/$1: /" | grep .; }
# The cases of the personality linux-7.2, on this machine.
emulated() {
  "${BAZEL[@]}" build "${VIOMMU_BAZEL_FLAGS[@]}" //tests/conformance:conformance_test >&2 || return 1
  "$("${BAZEL[@]}" info bazel-bin 2>/dev/null)/tests/conformance/conformance_test" --gtest_color=no \
    '--gtest_filter=*/emulated_linux72*' >"$work/emulation" || true
  cases "$work/emulation" >"$work/emulated"
}
# What makes the suite on the kernel worth something for the emulation, and a green run something for the kernel.
compare() {
  local passed status=0
  passed="$(grep -c '^pass' "$work/cases")"
  emulated || status=1
  check "at least $least cases pass, $passed do" "$((passed < least))"
  none_but "not on the kernel" < <(comm -13 <(only '[a-z]*' "$work/cases") <(only '[a-z]*' "$work/emulated")) || status=1
  check "every case of the emulation is one here" "$status"
  status=0
  none_but "not on the emulation" < <(comm -23 <(only pass "$work/cases") <(only pass "$work/emulated")) || status=1
  check "what passes on the kernel passes on the personality linux-7.2" "$status"
  status=0
  sed -n '/^skipped, /,/ cases on /s/^  /skip /p' "$work/suite" >"$work/table"
  none_but "skipped and not listed" < <(comm -23 <(only skip "$work/cases") <(only skip "$work/table")) || status=1
  none_but "in the table" < <(grep '^skipped, no reason given' "$work/suite") || status=1
  check "every case that is skipped is listed with its reason" "$status"
}

kernel_setup
tests/kernel/build.sh >/dev/null
viommu_arm64
"${BAZEL[@]}" build "${VIOMMU_ARM64_FLAGS[@]}" //tests/conformance:kernel_conformance >&2
bin="$("${BAZEL[@]}" info "${VIOMMU_ARM64_FLAGS[@]}" bazel-bin 2>/dev/null)"
suite="$bin/tests/conformance/kernel_conformance"

viommu_say "The conformance suite on Linux $(<"$(kernel_folder)/release")"
status=0
# Some cases want huge pages for their VMs' memory. The kernel's own messages come last.
# shellcheck disable=SC2016  # for the guest
tests/kernel/boot.sh --limit "$limit" --file "$suite:/run/suite" -- /bin/sh -c \
  'echo 64 >/proc/sys/vm/nr_hugepages; /run/suite "$@"; status=$?; echo viommu-dmesg; dmesg; exit $status' \
  suite --gtest_color=no "$@" >"$work/console" || status=$?
sed '/^viommu-dmesg$/,$d' "$work/console" >"$work/suite"
sed '1,/^viommu-dmesg$/d' "$work/console" >"$work/dmesg"
cases "$work/suite" >"$work/cases"
grep -v '^skip' "$work/cases" >>"$results" || true
grep '^fail' "$work/cases" || true
sed -n '/^\[==========\] .* ran/,$p' "$work/suite"
if ! grep -q '^\[==========\] .* ran' "$work/suite"; then
  tail -n 40 "$work/console"
  check "the suite ends by itself (status $status)" 1
elif grep -q '^fail' "$work/cases"; then
  failed=1
else
  check "the suite succeeds as a whole" "$status"
fi
status=0
{ [[ -s "$work/dmesg" ]] && kernel_content "$work/dmesg"; } || status=1
check "the kernel meets no fault of its own" "$status"
(($# > 0)) || compare

# Without the bit nothing of ours may work, and the backend has to say why.
viommu_say "Without CANWBS"
status=0
tests/kernel/boot.sh --no-canwbs --limit 120 -- "$suite" --no-canwbs '--gtest_filter=*Viommu.AroundTheCache/*' \
  >"$work/control" || status=$?
grep '^viommu ' "$work/control" || true
grep -q ' 1 passed, 0 failed, 0 skipped$' "$work/control" || status=1
check "without CANWBS a viommu is refused, and a stage 2 is not" "$status"
if grep -qE '^viommu +no +[^ ]' "$work/control"; then status=0; else status=1; fi
check "without CANWBS the backend says that there are no viommus" "$status"
viommu_say "End to end"
tests/kernel/e2e.sh --results "$results" || failed=1
exit "$failed"
