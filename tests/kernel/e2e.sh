#!/usr/bin/env bash
# End to end on a real kernel: the server and the CLI here, the agent with its iommufd backend in the testbed's guest.
#
#   tests/kernel/e2e.sh [--results FILE]     FILE gets a line "pass NAME" or "fail NAME" per check
# Functions are called by name, and some of what is quoted is for the guest:
# shellcheck disable=SC2317,SC2016
set -euo pipefail

# shellcheck source=tests/kernel/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
kernel_end_with_parent "$@"
# shellcheck source=tools/arm64.sh
source "$VIOMMU_ROOT/tools/arm64.sh"

results=/dev/null
case "${1:-}" in
  "") ;;
  --results) results="$(realpath -m -- "$2")" ;;
  *)
    sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac

readonly host=guest
readonly device=$host/0000:00:02.0
readonly other=$host/0000:00:03.0

kernel_setup
tests/kernel/build.sh >/dev/null
viommu_arm64
"${BAZEL[@]}" build "${VIOMMU_ARM64_FLAGS[@]}" //agent:viommu-agent //tests/guest:viommu-guest >&2
work="$(mktemp -d)"
arm64="$("${BAZEL[@]}" info "${VIOMMU_ARM64_FLAGS[@]}" bazel-bin 2>/dev/null)"
mkdir -p "$work/files/run"
cp -L "$arm64/agent/viommu-agent" "$arm64/tests/guest/viommu-guest" "$work/files/run/"
viommu_arm64_collect "$work/files" "$work/files/run/viommu-agent" "$work/files/run/viommu-guest"
"${BAZEL[@]}" build "${VIOMMU_BAZEL_FLAGS[@]}" //server:viommu-server //cli:viommuctl >&2
bin="$("${BAZEL[@]}" info bazel-bin 2>/dev/null)"

# What was started here, and nothing else, is ended; QEMU ends with this script in any case.
server_pid=""
boot_pid=""
finish() {
  local status=$?
  ((status == 0)) || tail -n 15 "$work"/*.log
  stop_guest
  [[ -z "$server_pid" ]] || { kill "$server_pid" && wait "$server_pid"; } 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

failed=0
check() {
  local name="$1"
  shift
  if "$@" >"$work/check.out" 2>&1; then
    echo "ok    $name"
    echo "pass $name" >>"$results"
  else
    echo "FAIL  $name"
    sed 's/^/      /' "$work/check.out"
    echo "fail $name" >>"$results"
    failed=1
  fi
}

# within SECONDS COMMAND…: until it succeeds; its last words if it does not.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >"$work/within.out" 2>&1; do
    if ((SECONDS >= end)); then
      cat "$work/within.out"
      return 1
    fi
    sleep 0.5
  done
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

export XDG_CONFIG_HOME="$work/config"
ctl() { timeout 60 "$bin/cli/viommuctl" --server="127.0.0.1:$server_port" "$@"; }
field() { ctl get "$1" "$2" -o json | grep -o "\"$3\": *\"*[^\",]*" | head -n 1 | sed 's/.*: *"*//'; }
is() { [[ "$(field "$1" "$2" "$3")" == "$4" ]] || { ctl get "$1" "$2" -o json && return 1; }; }

# guest COMMAND: in a shell of the guest (guest_shell.sh); its output, and its exit status. QEMU takes a connection before
# the guest does, and a guest between two connections refuses it: then once more.
guest() {
  local answer _
  for _ in {1..20}; do
    answer="$(guest_once "$1" 2>/dev/null || true)"
    [[ "$answer" == *guest-status* ]] && break
    sleep 0.3
  done
  sed '/^guest-status/d' <<<"$answer"
  [[ "$answer" == *"guest-status 0" ]]
}
guest_once() {
  exec 3<>"/dev/tcp/127.0.0.1/$guest_port"
  printf '(%s) 2>&1; echo "guest-status $?"; exit\n' "$1" >&3
  timeout 20 cat <&3
}

# start_guest [OPTION…]: boots, and waits for its shell.
start_guest() {
  guest_port="$(free_port)"
  tests/kernel/boot.sh --limit 400 --verbose --forward "$guest_port:2323" --file "$work/files/lib:/lib" \
    --file "$work/files/run:/run/viommu" --file tests/kernel/guest_shell.sh:/run/shell "$@" -- /bin/sh /run/shell \
    >>"$work/guest.log" 2>&1 &
  boot_pid=$!
  within 90 guest true
}
stop_guest() {
  [[ -n "$boot_pid" ]] || return 0
  within 10 guest 'touch /run/stop; (sleep 1; poweroff -f) >/dev/null 2>&1 &' || true
  wait "$boot_pid" 2>/dev/null || true
  boot_pid=""
}

start_agent() {
  guest "cd /run/viommu; ./viommu-agent --host=$host --server=10.0.2.2:$server_port --backend=iommufd --tls-allow-insecure \
    --state-dir=/tmp/state --listen=unix:/tmp/agent.sock --metrics-listen=127.0.0.1:9465 \
    --bind=0000:00:02.0 --bind=0000:00:03.0 </dev/null >>/tmp/agent.log 2>&1 & echo \$! >/tmp/agent.pid"
}

server_port="$(free_port)"
"$bin/server/viommu-server" --listen="127.0.0.1:$server_port" --metrics-listen="127.0.0.1:$(free_port)" \
  --store="rocksdb:$work/store" >"$work/server.log" 2>&1 &
server_pid=$!
within 30 ctl status

viommu_say "With CANWBS"
start_guest
start_agent
check "the agent connects" within 30 is host "$host" state HOST_STATE_CONNECTED
ctl get smmus -o name || true
ctl get devices || true
guest 'cat /tmp/agent.log' || true
smmu="$(ctl get smmus -o name | head -n 1)"
check "a stage 2 is created" ctl create stage2domain vm1 --host "$host" --vm vm1 --smmu "$smmu"
check "a viommu is created" ctl create viommu v1 --smmu "$smmu" --stage2domain vm1 --wait=applied
check "a vdev_id is set" ctl set vdev-id v1 "$device" 0x10 --wait=applied
check "and another" ctl set vdev-id v1 "$other" 0x11 --wait=applied
check "a bypass domain is created" ctl create nesteddomain v1/bypass --bypass --wait=applied
check "a device is attached to it" ctl attach "$device" v1/bypass --wait=applied
ready="$(field vdevice v1/0x10 state)"
check "the vdevice is ready" grep -q READY <<<"$ready"
check "its caches are invalidated" ctl invalidate v1 tlbi-nh-asid:asid=5 cfgi-cd-all:vdev_id=0x10

viommu_say "The agent is killed and starts again"
check "the agent is killed" guest 'kill -9 $(cat /tmp/agent.pid)'
check "the server sees it go" within 30 is host "$host" state HOST_STATE_DISCONNECTED
start_agent
check "the agent is back" within 30 is host "$host" state HOST_STATE_CONNECTED
check "an invalidation by its other vdev_id is taken again" within 30 ctl invalidate v1 cfgi-cd-all:vdev_id=0x11

viommu_say "The machine reboots"
stop_guest
check "the server sees it go, too" within 60 is host "$host" state HOST_STATE_DISCONNECTED
start_guest
start_agent
check "the agent is back after the reboot" within 30 is host "$host" state HOST_STATE_CONNECTED
check "invalidations are taken again" within 30 ctl invalidate v1 tlbi-nh-asid:asid=5 cfgi-cd-all:vdev_id=0x10
check "and the vdevice is ready" within 30 is vdevice v1/0x10 state "$ready"

viommu_say "Without CANWBS"
stop_guest
start_guest --no-canwbs
no_vm_is_served() {
  ! guest "/run/viommu/viommu-agent --check-host" >"$work/host-check" || return 1
  cat "$work/host-check"
  grep -q 'CANWBS' "$work/host-check" && grep -q 'no VM can be served' "$work/host-check"
}
check "the agent's check of the host says what is missing" within 10 no_vm_is_served
stop_guest
exit "$failed"
