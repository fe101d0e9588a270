# shellcheck shell=bash
# What the testbed's scripts share. To be sourced; it sources tools/setup.sh and tools/debian.sh.

# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/setup.sh"
# shellcheck source=tools/debian.sh
source "$VIOMMU_ROOT/tools/debian.sh"

# shellcheck disable=SC2034  # for boot.sh
kernel_uefi=/usr/share/qemu-efi-aarch64/QEMU_EFI.fd
# The first with stage 2 under stage 1 in its SMMUv3.
kernel_least_qemu=9.1

# kernel_end_with_parent "$@": begins the script again so that it gets a SIGTERM when its parent ends, also by a SIGKILL.
# Scripts that run QEMU call it first: it would live on until its limit, and use a processor all the while.
kernel_end_with_parent() {
  [[ "${VIOMMU_ENDS_WITH_PARENT:-}" == "$$" ]] || VIOMMU_ENDS_WITH_PARENT=$$ exec setpriv --pdeathsig TERM "$0" "$@"
}

# What the testbed is for; Debian drops it when it has a later one (build.sh).
kernel_series=7.2

# kernel_folder [SERIES]: where the kernel is, or will be: named after everything that it is made of, so that a change makes
# another one. Without SERIES the latest that there is, unless it is the one that we want.
kernel_folder() {
  local hash folder newest
  hash="$(cd "$VIOMMU_ROOT/tests/kernel" && cat kernel.config build.sh | sha256sum)"
  folder="$VIOMMU_CACHE/kernel/${hash:0:16}"
  newest="$folder-${1:-$kernel_series}"
  if [[ -z "${1:-}" && ! -e "$newest" ]]; then
    newest="$(find "$VIOMMU_CACHE/kernel" -maxdepth 1 -path "$folder-*" 2>/dev/null | sort -V | tail -n 1 || true)"
  fi
  printf '%s\n' "${newest:-$folder-$kernel_series}"
}

# Version of the QEMU that is installed; nothing if it is missing or too old.
kernel_qemu_version() {
  local version
  version="$(qemu-system-aarch64 --version 2>/dev/null | sed -n '1s/.*version \([0-9.]*\).*/\1/p')"
  [[ -n "$version" ]] && dpkg --compare-versions "$version" ge "$kernel_least_qemu" && printf '%s\n' "$version"
}

# Says why the tier cannot run as things are; nothing if it can.
kernel_missing() {
  local folder missing
  folder="$(kernel_folder "")" # of no series: what build.sh passes, shellcheck does not see
  missing="$(viommu_missing_packages cross kernel | paste -sd ' ')"
  if [[ ! -e "$folder/Image" ]]; then
    echo "there is no kernel in $folder; ./test --kernel builds one"
  elif [[ -n "$missing" ]]; then
    echo "packages are missing: $missing"
  elif ! kernel_qemu_version >/dev/null; then
    echo "there is no QEMU from $kernel_least_qemu on"
  fi
}

# Installs what building and booting need, after asking where somebody can answer.
kernel_setup() {
  viommu_setup build cross kernel
  kernel_qemu_version >/dev/null && return
  viommu_install_from bookworm-backports qemu-system-arm
  kernel_qemu_version >/dev/null || viommu_die "QEMU is still older than $kernel_least_qemu"
}

# The table of QEMU's firmware with the one bit that lets viommus be made (iort.h), as the beginning of an initramfs; the
# kernel takes it in place of the firmware's. It is made once for each QEMU and each way to make it: prints the file's name.
kernel_iort() {
  local hash file work
  hash="$(cd "$VIOMMU_ROOT/tests/kernel" && cat iort.h iort.cc iort_canwbs.cc | sha256sum)"
  file="$(kernel_folder)/iort-$(kernel_qemu_version)-${hash:0:16}.cpio"
  if [[ ! -e "$file" ]]; then
    work="$(mktemp -d)"
    # Where the caller stands matters to him.
    if ! (viommu_setup build && kernel_make_iort "$work") >&2; then
      rm -rf "$work"
      return 1
    fi
    mv "$work/iort.cpio" "$file"
    rm -rf "$work"
  fi
  printf '%s\n' "$file"
}

# A first boot, as the firmware has it, says what there is to change.
kernel_make_iort() {
  local work="$1" program
  "${BAZEL[@]}" build "${VIOMMU_BAZEL_FLAGS[@]}" //tests/kernel:iort_canwbs || return 1
  program="$("${BAZEL[@]}" info bazel-bin 2>/dev/null)/tests/kernel/iort_canwbs"
  "$VIOMMU_ROOT/tests/kernel/boot.sh" --no-canwbs --limit 120 \
    -- /bin/sh -c 'echo BEGIN; base64 /sys/firmware/acpi/tables/IORT; echo END' >"$work/console" || {
    tail -n 30 "$work/console"
    return 1
  }
  mkdir -p "$work/root/kernel/firmware/acpi"
  sed -n '/^BEGIN$/,/^END$/{/^BEGIN$/d;/^END$/d;p}' "$work/console" | base64 -d |
    "$program" >"$work/root/kernel/firmware/acpi/iort.aml" || return 1
  (cd "$work/root" && find kernel | sort | cpio --quiet -o -H newc -R 0:0) >"$work/iort.cpio"
}

# kernel_content FILE: whether the kernel has, by its messages, met no fault of its own; prints what it says.
kernel_content() {
  ! grep -E -A 20 'WARNING:|BUG:|Oops|Internal error|Kernel panic|Call trace:|soft lockup|blocked for more than' "$1"
}
