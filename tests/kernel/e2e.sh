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
readonly pci=0000:00:02.0 other_pci=0000:00:03.0
readonly device=$host/$pci
readonly other=$host/$other_pci
# No StreamIDs of theirs, so that nothing works without being translated.
readonly vdev=0x42 other_vdev=0x43
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
# It is asked first what it has seen.
end_guest() {
  check "its kernel is content" kernel_is_content
  stop_guest
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
    --bind=$pci --bind=$other_pci </dev/null >>/tmp/agent.log 2>&1 & echo \$! >/tmp/agent.pid"
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
# has_words FILE WORDS…: whether each is in it, word for word.
has_words() {
  local file="$1" words status=0
  shift
  for words in "$@"; do
    grep -qF -- "$words" "$file" || { echo "missing: $words" && status=1; }
  done
  ((status == 0)) || cat "$file"
  return "$status"
}
# What arrives when the guest has TEXT, of at most 12 characters, at one virtual address, and the device is told to copy it
# to another, where there is "nothing"; goes to $work/copied. The device may be out of order.
copy() {
  guest "cd /run/viommu; ./viommu-guest put $ram $from_page '$(text "$1")' && ./viommu-guest put $ram $to_page '$(text nothing)' && \
    { ./viommu-edu $pci copy $from $to 64; [ \$? -le 1 ]; } && ./viommu-guest get $ram $to_page" >"$work/copied"
}
text() { printf '%-12s' "$1"; }
# arrives TEXT WHAT: it is WHAT that arrives.
arrives() {
  copy "$1" || return 1
  [[ "$(<"$work/copied")" == "$2" ]] || { cat "$work/copied" && return 1; }
}
copies() { arrives "$1" "$(text "$1")"; }
copies_nothing() { arrives "$1" "$(text nothing)"; }
# The device takes what it may not read for zeros.
copies_zeros() { arrives "$1" ""; }
forget() { ctl invalidate v1 tlbi-nh-asid:asid=5; }
# What the guest changes in its tables shows when it has invalidated, and not before.
unmapped_is_refused() {
  copies before && guest "/run/viommu/viommu-guest unmap $ram $from" && copies stale && forget && copies_zeros unmapped &&
    guest "/run/viommu/viommu-guest map $ram $from $from_page"
}
# The guest lets an address that the device has just used lead elsewhere.
moved_page_is_seen() {
  copies before &&
    guest "cd /run/viommu; ./viommu-guest put $ram $elsewhere_page '$(text after)' && ./viommu-guest map $ram $from $elsewhere_page" &&
    copies stale && forget && arrives stale "$(text after)" && guest "/run/viommu/viommu-guest map $ram $from $from_page" && forget
}
# The init of the guest has handed the devices to vfio-pci; a machine's own have another driver, or none, at first. One goes to
# pci-stub, which is told of its kind; the other one shall be for a driver that is not there.
take_drivers() {
  guest "for pci in $pci $other_pci; do echo \$pci >/sys/bus/pci/drivers/vfio-pci/unbind; done; cd /sys/bus/pci/devices; \
    echo >$pci/driver_override && echo somebody >$other_pci/driver_override && \
    echo 1234 11e8 >/sys/bus/pci/drivers/pci-stub/new_id" && former_drivers
}
# drivers WANTED: "ADDRESS DRIVER OVERRIDE" of both devices.
drivers() {
  guest "cd /sys/bus/pci/devices; for pci in $pci $other_pci; do \
    echo \$pci \$(basename \"\$(readlink \$pci/driver || echo none)\") \$(cat \$pci/driver_override); done" >"$work/drivers"
  [[ "$(<"$work/drivers")" == "$1" ]] || { cat "$work/drivers" && return 1; }
}
former_drivers() { drivers "$pci pci-stub (null)"$'\n'"$other_pci none somebody"; }
vfio_drivers() { drivers "$pci vfio-pci vfio-pci"$'\n'"$other_pci vfio-pci vfio-pci"; }
# checks_host STATUS WORDS…: what the agent says of the host, and how it ends.
checks_host() {
  local status="$1"
  shift
  guest "/run/viommu/viommu-agent --check-host; [ \$? = $status ]" >"$work/host-check" || { cat "$work/host-check" && return 1; }
  has_words "$work/host-check" "$@"
}
# logged WORDS…: whether the agent has, in one line or several.
logged() {
  guest 'cat /tmp/agent.log' >"$work/agent-log" && has_words "$work/agent-log" "$@"
}
# What the guest's device was refused for: in the log, which has one line about a viommu at first, and counted.
fault_is_told() {
  logged "guest fault" "viommu=viommus/v1 vdev_id=$vdev fault=F_TRANSLATION" || return 1
  guest 'wget -qO- http://127.0.0.1:9465/metrics' >"$work/metrics" || return 1
  grep -E '^viommu_agent_guest_events_total\{event="F_TRANSLATION"\} [1-9]' "$work/metrics" ||
    { grep guest_events "$work/metrics"; return 1; }
}
# The kernel has nothing to say against itself: a warning or worse would also have ended the guest (boot.sh).
kernel_is_content() {
  guest dmesg >"$work/dmesg" && has_words "$work/dmesg" "Linux version" && kernel_content "$work/dmesg"
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
save_state() {
  mkdir "$work/state" && guest 'tar -c -C /tmp/state . | base64' | base64 -d | tar -x -C "$work/state" &&
    [[ -s "$work/state/journal" ]]
}
journal_of_another_boot() {
  logged "journal open" && grep -E 'journal open.* items=[1-9][0-9]* .* same_boot=false contexts=0' "$work/agent-log"
}
describes_lack() {
  ctl describe host "$host" >"$work/host" || return 1
  grep -E '^ *viommu +no +.*CANWBS' "$work/host" || { cat "$work/host" && return 1; }
}
# A viommu is made with the first device that comes to it.
viommu_is_refused() {
  ctl create viommu v2 --smmu "$smmu" --stage2domain vm2 || return 1
  if ctl set vdev-id v2 "$other" "$other_vdev" --wait=applied; then return 1; fi
  ctl describe viommu v2 >"$work/refused" && has_words "$work/refused" SMMU_INCAPABLE CANWBS
}
agent_is_alive() {
  guest '[ "$(pidof viommu-agent)" = "$(cat /tmp/agent.pid)" ]' && is host "$host" state HOST_STATE_CONNECTED
}
given_back() {
  [[ "$(kept_devices)" == 2 ]] && ctl unset vdev-id "v1/$other_vdev" --wait=applied && [[ "$(kept_devices)" == 1 ]]
}
kept_devices() { guest 'ls -l /proc/$(pidof viommu-fd-store)/fd | grep -c /dev/vfio/devices/'; }
# The agent that has found its context again.
lost_nothing() {
  logged "context found again" "journal open" && ! grep -E "context lost|objects of the last agent are gone" "$work/agent-log"
}
orderly_restart() {
  start_copying || return 1
  guest ': >/tmp/agent.log; kill -TERM $(pidof viommu-agent)' || return 1
  within 30 guest 'grep -q "context found again" /tmp/agent.log' || return 1
  lost_nothing || return 1
  within 30 hand_over || return 1
  stop_copying
}
# The device copies all the while between the two.
start_copying() {
  guest "cd /run/viommu; (./viommu-edu $pci loop $from $to $ram $from_page $to_page & echo \$! >/tmp/loop.pid; wait \$!; \
    echo ended \$?) </dev/null >/tmp/loop.log 2>&1 &" && within 10 guest 'grep -x copying /tmp/loop.log'
}
# end_copying WORDS: the last ones of the loop, an extended regular expression.
end_copying() {
  guest 'kill $(cat /tmp/loop.pid) 2>/dev/null; for i in $(seq 50); do grep -q ^ended /tmp/loop.log && break; sleep 0.2; done; cat /tmp/loop.log' \
    >"$work/loop"
  cat "$work/loop"
  tail -n +2 "$work/loop" | tr '\n' ' ' | grep -qE "^$1 \$"
}
stop_copying() { end_copying 'copies [1-9][0-9]*, wrong 0 ended 0'; }
missed_copies() { end_copying 'copies [1-9][0-9]*, wrong [1-9][0-9]* ended 0'; }

server_port="$(free_port)"
"$bin/server/viommu-server" --listen="127.0.0.1:$server_port" --metrics-listen="127.0.0.1:$(free_port)" \
  --store="rocksdb:$work/store" >"$work/server.log" 2>&1 &
server_pid=$!
within 30 ctl status

viommu_say "With CANWBS"
start_guest
check "the agent's check of the host says that VMs can be served" checks_host 0 "yes /dev/iommu" "yes $pci behind smmu3." \
  "yes   ioas" "yes   map_ioas" "yes   stage2" "yes   viommu" "yes   vdevice" "yes   nested" "yes   invalidate" \
  "yes   veventq" "yes   stream_ids: 0x10 in" "yes boot id" "VMs can be served"
check "one of its devices has a driver at first, the other none" take_drivers
start_agent
check "an agent that is told to binds them" within 30 vfio_drivers
check "it ends" stop_agent
check "and gives them back" former_drivers
start_agent
check "the agent connects" within 30 is host "$host" state HOST_STATE_CONNECTED
check "its devices have their StreamIDs" is device "$device" streamId 16
ctl get smmus -o name || true
ctl get devices || true
guest 'cat /tmp/agent.log' || true
smmu="$(ctl get smmus -o name | head -n 1)"
check "a stage 2 is created" ctl create stage2domain vm1 --host "$host" --vm vm1 --smmu "$smmu"
check "a viommu is created" ctl create viommu v1 --smmu "$smmu" --stage2domain vm1 --wait=applied
check "a vdev_id is set" ctl set vdev-id v1 "$device" "$vdev" --wait=applied
check "and another" ctl set vdev-id v1 "$other" "$other_vdev" --wait=applied
vste="$(make_ram)"
check "the VM's memory is handed over" hand_over
check "a domain that translates is created" ctl create nesteddomain v1/s1 --translate --vste "$vste" --wait=applied
check "a device is attached to it" ctl attach "$device" v1/s1 --wait=applied
ready="$(field vdevice "v1/$vdev" state)"
check "the vdevice is ready" grep -q READY <<<"$ready"
check "its caches are invalidated" ctl invalidate v1 tlbi-nh-asid:asid=5 "cfgi-cd-all:vdev_id=$vdev"
check "it reaches the guest's memory by the guest's addresses" copies first
check "but not by an address that the guest has taken away and invalidated" unmapped_is_refused
check "and its VM's fault is told" within 10 fault_is_told

viommu_say "The agent is killed and starts again"
check "its device copies without a pause" start_copying
check "the agent is killed" guest 'kill -9 $(cat /tmp/agent.pid); sleep 1'
check "its device misses copies" missed_copies
check "and reaches nothing any more" copies_nothing killed
check "the server sees it go" within 30 is host "$host" state HOST_STATE_DISCONNECTED
start_agent
check "the agent is back" within 30 is host "$host" state HOST_STATE_CONNECTED
check "it says what was lost, and whose it was" logged "objects of the last agent are gone" "vms=vm1"
check "an invalidation by its other vdev_id is taken again" within 30 ctl invalidate v1 "cfgi-cd-all:vdev_id=$other_vdev"
check "the VM's memory is handed over again" within 30 hand_over
check "the device is attached as before: it reaches the guest's memory" within 30 copies second
boot="$(boot_id)"
check "the server knows the boot" is host "$host" bootId "$boot"
# As on a disk. It is only added to.
check "the journal is there" save_state
check "the agent ends in order" stop_agent
check "and gives back what one took that was killed" former_drivers

viommu_say "The machine reboots"
end_guest
check "the server sees it go, too" within 60 is host "$host" state HOST_STATE_DISCONNECTED
start_guest --file "$work/state:/run/state"
check "it is another boot" another_boot "$boot"
guest 'cp -r /run/state /tmp/'
start_agent ./viommu-fd-store
check "the agent is back after the reboot" within 30 is host "$host" state HOST_STATE_CONNECTED
check "it has none of root's capabilities, as in its unit" guest 'grep -xE "CapEff:\s0{16}" /proc/$(pidof viommu-agent)/status'
check "its journal is of another boot, and not believed" journal_of_another_boot
check "the server knows that, too" within 10 is host "$host" bootId "$(boot_id)"
check "invalidations are taken again" within 30 ctl invalidate v1 tlbi-nh-asid:asid=5 "cfgi-cd-all:vdev_id=$vdev"
check "and the vdevice is ready" within 30 is vdevice "v1/$vdev" state "$ready"
make_ram >/dev/null
check "the VM's memory is handed over after the reboot" within 30 hand_over
check "the device is attached as before the reboot" within 30 copies third

viommu_say "The agent's descriptors are kept, and it is killed"
check "its device copies without a pause again" start_copying
check "the agent is killed that has handed its descriptors to the store" guest 'kill -9 $(pidof viommu-agent)'
check "the next one finds its context again" within 30 guest 'grep -q "context found again" /tmp/agent.log'
check "it has lost nothing" lost_nothing
check "an invalidation by the vdev_ids is taken" within 30 ctl invalidate v1 "cfgi-cd-all:vdev_id=$vdev" "cfgi-cd-all:vdev_id=$other_vdev"
check "the VMM hands its memory over again" within 30 hand_over
check "the device has copied all the while" stop_copying
cat "$work/loop"
check "an invalidation reaches the viommu that was kept" moved_page_is_seen
check "an address that is taken away there is refused" unmapped_is_refused
check "and the fault is told, although the queue is another one" within 10 fault_is_told
check "no VM notices an orderly restart either" orderly_restart
check "what was kept can be detached" ctl detach "v1/$vdev" --wait=applied
check "and is: it reaches nothing by the guest's addresses" copies_nothing detached
check "a device that is given back is kept no more" given_back

viommu_say "Without CANWBS"
end_guest
start_guest --no-canwbs
check "the agent's check of the host says what is missing" checks_host 3 "no    viommu: VIOMMU_ALLOC: EOPNOTSUPP" CANWBS \
  "no VM can be served"
start_agent
check "the agent serves such a host" within 30 is host "$host" state HOST_STATE_CONNECTED
check "the server can say what it lacks" describes_lack
check "a stage 2 is created all the same" ctl create stage2domain vm2 --host "$host" --vm vm2 --smmu "$smmu" --wait=applied
check "a viommu is refused, and why" viommu_is_refused
check "the agent goes on" agent_is_alive
end_guest
exit "$failed"
