#!/usr/bin/env bash
# Boots the testbed's kernel in QEMU and runs a program as root in it: an emulated SMMUv3 with both stages, and behind it
# "edu" PCI devices, which vfio-pci has: 0000:00:02.0 and 0000:00:03.0, 0000:00:05.0 and .1, which share an IOMMU group, and
# 0000:02:01.0, with two StreamIDs. Its console is our standard output.
#
#   tests/kernel/boot.sh [OPTION…] [--] PROGRAM [ARGUMENT…]
#
#   --file SOURCE:PATH     puts a file, or a folder with all in it, at PATH in the guest; any number
#   --no-canwbs            the firmware's own tables, with which Linux refuses to make viommus
#   --limit SECONDS        of wall clock, after which QEMU is ended (300)
#   --net                  a network in which 10.0.2.2 is our loopback
#   --forward PORT:GUEST   the same, and our port PORT of the loopback leads to GUEST's
#   --verbose              the kernel's messages, too
#   --qemu ARGUMENT        one more for QEMU; any number
#
# PROGRAM is a file of ours, which goes to /run, or, when it is in none of our folders, what the guest finds: /bin/sh.
# Exits as PROGRAM does; 124 when the limit has passed, 125 when the guest ended without a word. So it does, with a panic,
# when the kernel meets a fault of its own.
set -euo pipefail

usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; }

# shellcheck source=tests/kernel/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
kernel_end_with_parent "$@"

files=()
canwbs=true
limit=300
network=""
loglevel=1
qemu=()
while (($# > 0)); do
  case "$1" in
    --no-canwbs) canwbs=false ;;
    --net) network="${network:-user,id=net}" ;;
    --verbose) loglevel=7 ;;
    --file | --limit | --forward | --qemu)
      (($# > 1)) || {
        usage
        exit 2
      }
      case "$1" in
        --file) files+=("$2") ;;
        --limit) limit="$2" ;;
        --forward) network="${network:-user,id=net},hostfwd=tcp:127.0.0.1:${2%:*}-:${2#*:}" ;;
        --qemu) qemu+=("$2") ;;
      esac
      shift
      ;;
    --)
      shift
      break
      ;;
    -*)
      usage
      exit 2
      ;;
    *) break ;;
  esac
  shift
done
(($# > 0)) || {
  usage
  exit 2
}

folder="$(kernel_folder)"
[[ -e "$folder/Image" ]] || viommu_die "there is no kernel in $folder; tests/kernel/build.sh builds one"
kernel_qemu_version >/dev/null || viommu_die "there is no QEMU from $kernel_least_qemu on"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# The guest's root: busybox, our init, what the caller brings. Symbolic links stay within it.
root="$work/root"
mkdir -p "$root"/{bin,dev,proc,run,sys,tmp}
cp "$folder/busybox" "$root/bin/busybox"
cp "$VIOMMU_ROOT/tests/kernel/guest_init.sh" "$root/init"
for file in ${files[@]+"${files[@]}"}; do
  to="$root/${file##*:}"
  mkdir -p "$(dirname "$to")"
  cp -RL --no-preserve=ownership "${file%:*}" "$to"
done
program="$1"
shift
if [[ -f "$program" && "$program" != /bin/* && ! -e "$root/$program" ]]; then
  cp "$program" "$root/run/"
  program="/run/$(basename "$program")"
fi
printf '%q ' "$program" "$@" >"$root/run/command"
chmod -R u+w "$root"
chmod 755 "$root/init"
: >"$work/initrd"
if "$canwbs"; then
  iort="$(kernel_iort)"
  cat "$iort" >"$work/initrd"
fi
(cd "$root" && find . | sort | cpio --quiet -o -H newc -R 0:0) >>"$work/initrd"

edu=edu,dma_mask=0xffffffffffffffff
# Commas are within arguments.
# shellcheck disable=SC2054
arguments=(
  -machine "virt,gic-version=3,its=on,iommu=smmuv3,acpi=on" -global arm-smmuv3.stage=nested
  -cpu max -accel tcg,thread=multi -smp 2 -m 1536M
  -bios "$kernel_uefi" -kernel "$folder/Image" -initrd "$work/initrd"
  -append "console=ttyAMA0 panic=-1 acpi=force panic_on_warn=1 oops=panic loglevel=$loglevel viommu.time=$(date +%s)"
  -device "$edu,addr=2" -device "$edu,addr=3"
  # Functions of one device between which nothing keeps accesses apart (ACS), and one behind a bridge to plain PCI.
  -device "$edu,addr=5.0,multifunction=on" -device "$edu,addr=5.1"
  -device "pcie-root-port,id=pcie,addr=6" -device "pcie-pci-bridge,id=pci,bus=pcie" -device "$edu,bus=pci,addr=1"
  -display none -monitor none -serial stdio -no-reboot
)
if [[ -n "$network" ]]; then
  arguments+=(-netdev "$network" -device "virtio-net-pci,netdev=net,romfile=,addr=1")
else
  arguments+=(-nic none)
fi

# The firmware clears the screen; what is for us begins with our init. The terminal ends lines with a carriage return, too.
shown='1,/^viommu-init$/d'
((loglevel == 7)) && shown=""
set +e
setpriv --pdeathsig TERM timeout --kill-after=5 "$limit" qemu-system-aarch64 "${arguments[@]}" ${qemu[@]+"${qemu[@]}"} </dev/null 2>&1 |
  sed -u -e 's/\r//g' -e "$shown" | tee "$work/console"
status=${PIPESTATUS[0]}
((status == 124 || status == 137)) && exit 124
status="$(sed -n 's/^viommu-exit \([0-9]*\)$/\1/p' "$work/console" | tail -n 1)"
exit "${status:-125}"
