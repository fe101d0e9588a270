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
readonly pci=0000:00:02.0
readonly device=$host/$pci
readonly other=$host/0000:00:03.0
# A VM's memory, and how its guest's tables lead to it.
readonly ram=/dev/shm/ram
readonly from=0x100000 from_page=64
readonly to=0x200000 to_page=65
readonly elsewhere_page=66

kernel_setup
tests/kernel/build.sh >/dev/null
viommu_arm64
targets=(//agent:viommu-agent //tests/guest:viommu-guest //tests/kernel:viommu-edu //tests/kernel:viommu-fd-store)
"${BAZEL[@]}" build "${VIOMMU_ARM64_FLAGS[@]}" "${targets[@]}" >&2
work="$(mktemp -d)"
arm64="$("${BAZEL[@]}" info "${VIOMMU_ARM64_FLAGS[@]}" bazel-bin 2>/dev/null)"
mkdir -p "$work/files/run"
for target in "${targets[@]#//}"; do cp -L "$arm64/${target/://}" "$work/files/run/"; done
viommu_arm64_collect "$work/files" "$work/files/run/"*
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

# start_agent [PROGRAM]: by PROGRAM, if given. What another agent has logged is forgotten.
start_agent() {
  guest "cd /run/viommu; : >/tmp/agent.log; ${1:-} ./viommu-agent --host=$host --server=10.0.2.2:$server_port --backend=iommufd \
    --tls-allow-insecure --state-dir=/tmp/state --listen=unix:/tmp/agent.sock --metrics-listen=127.0.0.1:9465 \
    --bind=0000:00:02.0 --bind=0000:00:03.0 </dev/null >>/tmp/agent.log 2>&1 & echo \$! >/tmp/agent.pid"
}

# The VM's memory, made anew; prints its vSTE.
make_ram() {
  guest "cd /run/viommu; ./viommu-guest create $ram && ./viommu-guest map $ram $from $from_page && \
    ./viommu-guest map $ram $to $to_page"
}
# Hands it to the agent, as a VMM does when it has connected, and holds on to it.
hand_over() {
  guest "cd /run/viommu; : >/tmp/vmm.log; ./viommu-guest run $ram --socket /tmp/agent.sock.fd --vm vm1 \
    </dev/null >/tmp/vmm.log 2>&1 & for i in \$(seq 50); do grep -q handed /tmp/vmm.log && exit 0; sleep 0.2; done; cat /tmp/vmm.log; exit 1"
}
# Whether the device copies a text of at most 12 characters from one virtual address of the guest's to another.
copies() {
  local text
  printf -v text '%-12s' "$1"
  guest "cd /run/viommu; ./viommu-guest put $ram $from_page '$text' && ./viommu-guest put $ram $to_page 'nothing     ' && \
    ./viommu-edu $pci copy $from $to 64; ./viommu-guest get $ram $to_page" >"$work/copied" || return 1
  [[ "$(<"$work/copied")" == "$text" ]] || { cat "$work/copied" && return 1; }
}
copies_nothing() { ! copies "$1"; }
unmapped_is_refused() {
  guest "/run/viommu/viommu-guest unmap $ram $from" && ctl invalidate v1 tlbi-nh-asid:asid=5 && copies_nothing unmapped || return 1
  guest "/run/viommu/viommu-guest map $ram $from $from_page"
}
# The guest lets an address that the device has just used lead elsewhere.
moved_page_is_seen() {
  copies before || return 1
  guest "cd /run/viommu; ./viommu-guest put $ram $elsewhere_page after && ./viommu-guest map $ram $from $elsewhere_page" || return 1
  ctl invalidate v1 tlbi-nh-asid:asid=5 || return 1
  guest "/run/viommu/viommu-edu $pci copy $from $to 64; /run/viommu/viommu-guest get $ram $to_page" | grep -qx "after *" || return 1
  guest "/run/viommu/viommu-guest map $ram $from $from_page" && ctl invalidate v1 tlbi-nh-asid:asid=5
}
# The init of the guest has handed the devices to vfio-pci; a machine's own have another driver, or none, at first.
take_drivers() {
  guest 'for pci in 0000:00:02.0 0000:00:03.0; do echo $pci >/sys/bus/pci/drivers/vfio-pci/unbind && \
    echo >/sys/bus/pci/devices/$pci/driver_override || exit 1; done' && no_drivers
}
no_drivers() {
  guest 'cd /sys/bus/pci/devices; for pci in 0000:00:02.0 0000:00:03.0; do [ ! -e $pci/driver ] && \
    [ "$(cat $pci/driver_override)" = "(null)" ] || { ls -l $pci; exit 1; }; done'
}
vfio_drivers() {
  guest 'cd /sys/bus/pci/devices; for pci in 0000:00:02.0 0000:00:03.0; do \
    [ "$(basename "$(readlink $pci/driver)")" = vfio-pci ] || { ls -l $pci; exit 1; }; done'
}
stop_agent() {
  guest 'kill -TERM $(cat /tmp/agent.pid)' &&
    within 20 guest '[ ! -e /proc/$(cat /tmp/agent.pid)/exe ] || ! readlink /proc/$(cat /tmp/agent.pid)/exe'
}
boot_id() { guest 'cat /proc/sys/kernel/random/boot_id'; }
another_boot() {
  local now
  now="$(boot_id)"
  echo "before $1, now $now"
  [[ -n "$now" && -n "$1" && "$now" != "$1" ]]
}
given_back() {
  [[ "$(kept_devices)" == 2 ]] && ctl unset vdev-id v1/0x11 --wait=applied && [[ "$(kept_devices)" == 1 ]]
}
kept_devices() { guest 'ls -l /proc/$(pidof viommu-fd-store)/fd | grep -c /dev/vfio/devices/'; }
lost_nothing() { ! guest 'grep -E "context lost|objects of the last agent are gone" /tmp/agent.log'; }
orderly_restart() {
  start_copying
  guest ': >/tmp/agent.log; kill -TERM $(pidof viommu-agent)' || return 1
  within 30 guest 'grep -q "context found again" /tmp/agent.log' || return 1
  lost_nothing || return 1
  within 30 hand_over || return 1
  stop_copying
}
# The device copies all the while between the two.
start_copying() {
  guest "cd /run/viommu; ./viommu-edu $pci loop $from $to $ram $from_page $to_page </dev/null >/tmp/loop.log 2>&1 & \
    echo \$! >/tmp/loop.pid"
}
stop_copying() {
  guest 'kill $(cat /tmp/loop.pid); for i in $(seq 50); do [ -e /proc/$(cat /tmp/loop.pid) ] || break; sleep 0.2; done; cat /tmp/loop.log' \
    >"$work/loop"
  cat "$work/loop"
  grep -q '^copies [1-9][0-9]*, wrong 0$' "$work/loop"
}
# Or has ended at registers that were switched off.
missed_copies() { ! stop_copying; }

server_port="$(free_port)"
"$bin/server/viommu-server" --listen="127.0.0.1:$server_port" --metrics-listen="127.0.0.1:$(free_port)" \
  --store="rocksdb:$work/store" >"$work/server.log" 2>&1 &
server_pid=$!
within 30 ctl status

viommu_say "With CANWBS"
start_guest
check "its devices have no driver at first" take_drivers
start_agent
check "an agent that is told to binds them" within 30 vfio_drivers
check "it ends" stop_agent
check "and gives them back" no_drivers
start_agent
check "the agent connects" within 30 is host "$host" state HOST_STATE_CONNECTED
check "its devices have their StreamIDs" is device "$device" streamId 16
ctl get smmus -o name || true
ctl get devices || true
guest 'cat /tmp/agent.log' || true
smmu="$(ctl get smmus -o name | head -n 1)"
check "a stage 2 is created" ctl create stage2domain vm1 --host "$host" --vm vm1 --smmu "$smmu"
check "a viommu is created" ctl create viommu v1 --smmu "$smmu" --stage2domain vm1 --wait=applied
check "a vdev_id is set" ctl set vdev-id v1 "$device" 0x10 --wait=applied
check "and another" ctl set vdev-id v1 "$other" 0x11 --wait=applied
vste="$(make_ram)"
check "the VM's memory is handed over" hand_over
check "a domain that translates is created" ctl create nesteddomain v1/s1 --translate --vste "$vste" --wait=applied
check "a device is attached to it" ctl attach "$device" v1/s1 --wait=applied
ready="$(field vdevice v1/0x10 state)"
check "the vdevice is ready" grep -q READY <<<"$ready"
check "its caches are invalidated" ctl invalidate v1 tlbi-nh-asid:asid=5 cfgi-cd-all:vdev_id=0x10
check "it reaches the guest's memory by the guest's addresses" copies first
check "but not by an address that the guest has taken away" unmapped_is_refused

viommu_say "The agent is killed and starts again"
start_copying
check "the agent is killed" guest 'kill -9 $(cat /tmp/agent.pid); sleep 1'
check "its device misses copies" missed_copies
check "and reaches nothing any more" copies_nothing killed
check "the server sees it go" within 30 is host "$host" state HOST_STATE_DISCONNECTED
start_agent
check "the agent is back" within 30 is host "$host" state HOST_STATE_CONNECTED
check "an invalidation by its other vdev_id is taken again" within 30 ctl invalidate v1 cfgi-cd-all:vdev_id=0x11
check "the VM's memory is handed over again" within 30 hand_over
check "the device is attached as before: it reaches the guest's memory" within 30 copies second
boot="$(boot_id)"

viommu_say "The machine reboots"
stop_guest
check "the server sees it go, too" within 60 is host "$host" state HOST_STATE_DISCONNECTED
start_guest
check "it is another boot" another_boot "$boot"
start_agent ./viommu-fd-store
check "the agent is back after the reboot" within 30 is host "$host" state HOST_STATE_CONNECTED
check "invalidations are taken again" within 30 ctl invalidate v1 tlbi-nh-asid:asid=5 cfgi-cd-all:vdev_id=0x10
check "and the vdevice is ready" within 30 is vdevice v1/0x10 state "$ready"
make_ram >/dev/null
check "the VM's memory is handed over after the reboot" within 30 hand_over
check "the device is attached as before the reboot" within 30 copies third

viommu_say "The agent's descriptors are kept, and it is killed"
start_copying
within 10 guest 'sleep 1'
check "the agent is killed that has handed its descriptors to the store" guest 'kill -9 $(pidof viommu-agent)'
check "the next one finds its context again" within 30 guest 'grep -q "context found again" /tmp/agent.log'
check "it has lost nothing" lost_nothing
check "an invalidation by the vdev_ids is taken" within 30 ctl invalidate v1 cfgi-cd-all:vdev_id=0x10 cfgi-cd-all:vdev_id=0x11
check "the VMM hands its memory over again" within 30 hand_over
check "the device has copied all the while" stop_copying
cat "$work/loop"
check "an invalidation reaches the viommu that was kept" moved_page_is_seen
check "no VM notices an orderly restart either" orderly_restart
check "what was kept can be detached" ctl detach v1/0x10 --wait=applied
check "and is: it reaches nothing by the guest's addresses" copies_nothing detached
check "a device that is given back is kept no more" given_back

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
