#!/usr/bin/env bash
# The units under systemd itself. Both services, installed as deploy/README.md says, start, find each other and come back when
# they are killed; and what the agent trusts systemd's store with is kept and let go of as agent/systemd_fd_store.h wants it.
# There is no /dev/iommu here: for the store another service takes the agent's place, in its unit and with its code.
#
#   systemd_test.sh SERVER AGENT VIOMMUCTL FD_STORE_SERVICE     from the repository's root
#
# systemd is the first process of namespaces of its own, over file systems that forget, and all ends with it. Where that
# cannot be, the test says why and succeeds.
# Functions are called by name:
# shellcheck disable=SC2317
set -euo pipefail

# --- Outside: makes room, and waits ---

skip() {
  echo "SKIPPED: $*"
  exit 0
}

# clean_up PID CGROUP
clean_up() {
  kill -KILL "$1" 2>/dev/null || true
  while grep -q 'populated 1' "$2/cgroup.events"; do sleep 0.1; done
  find "$2" -depth -type d -exec rmdir {} +
}

readonly namespaces=(--mount --pid --fork --kill-child --cgroup --ipc --uts --net)
readonly no_room=77

outside() {
  local cgroups cgroup status=0
  [[ "$(id -u)" == 0 ]] || skip "only root can make what systemd wants to find"
  [[ -x /lib/systemd/systemd ]] || skip "systemd is not installed"
  unshare "${namespaces[@]}" true 2>"$work/room.log" || skip "$(<"$work/room.log")"
  cgroups="$(findmnt --first-only --noheadings --types cgroup2 --output TARGET)" || skip "there are no control groups of version 2"
  cgroup="$cgroups/viommu-systemd-test-$$"
  mkdir "$cgroup" 2>"$work/room.log" || skip "$(<"$work/room.log")"
  # It ends with us, however we end, and all that is in its namespaces and its group with it.
  (
    echo "$BASHPID" >"$cgroup/cgroup.procs"
    exec setpriv --pdeathsig KILL unshare "${namespaces[@]}" "$0" --first-process "$work" "$@"
  ) &
  # shellcheck disable=SC2064  # those of now
  trap "clean_up $! '$cgroup'" EXIT
  wait "$!" || status=$?
  ((status != no_room)) || skip "$(<"$work/room.log")"
  [[ -e "$work/verdict" ]] || {
    cat "$work"/*.log
    echo "systemd ended with status $status and without a verdict"
    exit 1
  }
  exit "$(<"$work/verdict")"
}

# --- The first process: becomes systemd ---

# What is written to FOLDER is written to memory.
forgetful() {
  local scratch="/run/scratch$1"
  mkdir -p "$scratch"/{upper,work} &&
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$scratch/upper,workdir=$scratch/work" "$1"
}
# systemd would change settings of the kernel, which is everybody's.
make_room() {
  mount --make-rprivate / && mount -t proc proc /proc && umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
    mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys &&
    mount -t tmpfs tmpfs /run && forgetful /usr && forgetful /etc && forgetful /var
}

first_process() {
  local target
  make_room 2>"$work/room.log" || exit "$no_room"
  echo host-a >/etc/hostname
  # Nothing of this machine is started: of its units there are those that every unit refers to, and they are empty.
  for target in /usr/lib/systemd/system /usr/lib/systemd/system-generators /etc/systemd/system; do
    mount -t tmpfs tmpfs "$target"
  done
  for target in sysinit basic shutdown network-online time-sync multi-user; do
    printf '[Unit]\nDefaultDependencies=no\n' >"/usr/lib/systemd/system/$target.target"
  done
  # There is no journal.
  mkdir -p /run/log /etc/systemd/system/service.d
  printf '[Service]\nStandardOutput=append:/run/log/%%p\n' >/etc/systemd/system/service.d/log.conf

  # As in deploy/README.md.
  install -m 0755 "$@" /usr/bin/
  install -m 0644 -D -t /etc/viommu deploy/config/server.yaml deploy/config/agent.yaml
  install -m 0644 -t /etc/systemd/system deploy/systemd/*.service
  install -m 0644 deploy/inventory/grace.yaml /etc/viommu/inventory.yaml

  "$0" --checks "$work" "/usr/bin/$(basename "$4")" &
  exec env -i container=viommu-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=multi-user.target --log-target=console --show-status=no 2>"$work/systemd.log"
}

# --- A process beside systemd: checks ---

failed=0
check() {
  local name="$1"
  shift
  if "$@" >"$work/check.out" 2>&1; then
    echo "ok    $name"
  else
    echo "FAIL  $name"
    { cat "$work/check.out" && tail -n 5 /run/log/*; } | sed 's/^/      /'
    failed=1
  fi
}

# within_a_minute COMMAND…: until it succeeds; its last words if it does not.
within_a_minute() {
  local end=$((SECONDS + 60))
  until "$@" >"$work/within.out" 2>&1; do
    ((SECONDS < end)) || { cat "$work/within.out" && return 1; }
    sleep 0.1
  done
}

property() { systemctl show "$1" --property="$2" --value; }
# has UNIT PROPERTY VALUE
has() { [[ "$(property "$1" "$2")" == "$3" ]] || { systemctl show "$1" --property="$2" && return 1; }; }
# says WORDS COMMAND…: they are in what it prints.
says() {
  local words="$1"
  shift
  "$@" >"$work/says" 2>&1 || true
  grep -qF -- "$words" "$work/says" || { cat "$work/says" && return 1; }
}

# Whether the unit has another process than PID, which is ready.
another_process() { ! has "$1" MainPID "$2" && has "$1" ActiveState active; }
killed() {
  local pid
  pid="$(property "$1" MainPID)"
  systemctl kill --kill-who=main --signal=KILL "$1" && within_a_minute another_process "$1" "$pid"
}
restarted() {
  local pid
  pid="$(property "$1" MainPID)"
  systemctl restart "$1" && another_process "$1" "$pid"
}

# drop_in LINE…: what changes in the agent's unit, instead of what has changed.
drop_in() {
  mkdir -p /etc/systemd/system/viommu-agent.service.d
  printf '[Service]\n' >/etc/systemd/system/viommu-agent.service.d/test.conf
  (($# == 0)) || printf '%s\n' "$@" >>/etc/systemd/system/viommu-agent.service.d/test.conf
  systemctl daemon-reload
}

# The agent has the emulated backend, whose SMMUs end with it.
services() {
  local device smmu
  check "both services start, and say that they are ready" systemctl start viommu-server viommu-agent
  check "the server sees the host" within_a_minute says CONNECTED viommuctl get hosts
  check "the agent agrees with the server" within_a_minute says SYNCED viommuctl local status
  device="$(viommuctl get devices -o name | head -n 1)"
  smmu="$(viommuctl get device "$device" -o json | sed -n 's/.*"smmu": *"\([^"]*\)".*/\1/p')"
  check "a stage 2 is made" viommuctl create stage2domain vm1 --host host-a --vm vm1 --smmu "$smmu" --wait=applied
  check "a viommu is made" viommuctl create viommu v1 --smmu "$smmu" --stage2domain vm1 --wait=applied
  check "a vdev_id is set" viommuctl set vdev-id v1 "$device" 0x42 --wait=applied
  check "an invalidation is taken" viommuctl invalidate v1 cfgi-cd-all:vdev_id=0x42
  check "the agent is killed and started again" killed viommu-agent
  check "by its journal it knows what is to be made anew" says "objects of the last agent are gone" cat /run/log/viommu-agent
  check "an invalidation is taken again" within_a_minute viommuctl invalidate v1 cfgi-cd-all:vdev_id=0x42
  check "the agent is restarted, and the socket's folder stays" folder_stays
  check "the server is killed and started again" killed viommu-server
  check "the agent comes back to it" within_a_minute says SYNCED viommuctl local status
  check "the server has its record" viommuctl get vdevice v1/0x42
  check "an agent that stands still is replaced" replaced_when_it_stands_still
  check "the emulated backend has nothing in the store" has viommu-agent NFileDescriptorStore 0
  [[ ! -e /sys/bus/pci ]] || check "the drop-in of docs/iommufd.md lets it write what binds devices" can_bind
  check "the agent ends in order" systemctl stop viommu-agent
  check "systemd thinks so, too" has viommu-agent Result success
  echo nonsense: 1 >>/etc/viommu/server.yaml
  check "a server with a bad configuration is not tried again" not_tried_again
}

folder_stays() {
  local before
  before="$(stat -c %i /run/viommu)"
  restarted viommu-agent && [[ "$(stat -c %i /run/viommu)" == "$before" ]]
}
replaced_when_it_stands_still() {
  local pid
  drop_in WatchdogSec=2s
  restarted viommu-agent || return 1
  pid="$(property viommu-agent MainPID)"
  kill -STOP "$pid" && within_a_minute another_process viommu-agent "$pid"
}
may_write() { nsenter --target="$(property viommu-agent MainPID)" --mount test -w /sys/bus/pci/drivers_probe -a -w /sys/devices; }
can_bind() {
  drop_in
  restarted viommu-agent && ! may_write || return 1
  drop_in "ReadWritePaths=/sys/bus/pci /sys/devices"
  restarted viommu-agent && may_write
}
not_tried_again() {
  if systemctl restart viommu-server; then return 1; fi
  has viommu-server ActiveState failed && has viommu-server ExecMainStatus 78 && has viommu-server NRestarts 0
}

# ask COMMAND…: what the service in the agent's place answers.
ask() {
  local answer=""
  # Opened like this neither waits for another end.
  echo "$*" 1<>/run/viommu/commands
  read -t 60 -r answer <>/run/viommu/answers
  echo "$answer"
}
# answers ANSWER COMMAND…
answers() {
  local answer=""
  answer="$(ask "${@:2}")"
  [[ "$answer" == "$1" ]] || { echo "$answer" && return 1; }
}

store() {
  local instead=(ExecStart= "ExecStart=$store_service /run/viommu") all=(iommufd.k=of-iommu iommufd.l= vfio.k.0000-01-00.0=of-vfio)
  drop_in "${instead[@]}"
  check "a service takes the agent's place" systemctl start viommu-agent
  check "the store is empty" answers "0:" taken
  check "a file is kept" answers "done" keep iommufd.k of-iommu
  check "and one by a device's name" answers "done" keep vfio.k.0000-01-00.0 of-vfio
  check "and one at its end, of which nobody may conclude anything" answers "done" keep-broken iommufd.l
  check "the service is killed" killed viommu-agent
  check "the next one has these files by their names" answers "3: ${all[*]}" taken
  check "systemd is replaced by another one, as by an upgrade" replaced
  check "the service is restarted by that" restarted viommu-agent
  check "the next one has them, too" answers "3: ${all[*]}" taken
  check "another is kept, whose end can be seen" answers "done" keep-pipe iommufd.m
  check "the store has closed it when a removal returns" answers closed remove iommufd.m
  check "one of those before is removed" ask remove iommufd.l
  check "more are kept than the unit allows" answers "done" keep-many 2060
  check "the service with so many is killed" killed viommu-agent
  check "the next one has as many as the unit allows, and not what was removed" says "2048: " ask taken
  # Whose agent ends with it, on a host whose VMs live by the store.
  drop_in ExecStart= "ExecStart=/usr/bin/viommu-agent --config /etc/viommu/no-such.yaml"
  check "the configuration becomes bad" refuses_to_start
  drop_in "${instead[@]}"
  check "and good again" within_a_minute has viommu-agent ActiveState active
  check "the store has lost nothing by it" says "2048: " ask taken
  check "the unit is stopped" systemctl stop viommu-agent
  check "and started" systemctl start viommu-agent
  check "a stop has emptied the store" answers "0:" taken
}

systemd_answers() { systemctl show --property=Version; }
replaced() { systemctl daemon-reexec && within_a_minute systemd_answers; }
refuses_to_start() {
  if systemctl restart viommu-agent; then return 1; fi
  has viommu-agent ExecMainStatus 78
}

checks() {
  # Whatever becomes of us, systemd ends.
  trap 'systemctl --force exit 1' EXIT
  within_a_minute systemd_answers
  services
  store
  echo "$failed" >"$work/verdict"
}

case "${1:-}" in
  --first-process)
    work="$2"
    shift 2
    first_process "$@"
    ;;
  --checks)
    work="$2"
    store_service="$3"
    checks
    ;;
  *)
    work="${TEST_TMPDIR:?}"
    outside "$@"
    ;;
esac
