#!/usr/bin/env bash
# Builds the testbed's kernel, unless it is there: Linux 7.2 for arm64, with the configuration in kernel.config. When
# Debian has no such source any more it is the latest 7.x that it has, and says so.
#
#   tests/kernel/build.sh      prints the folder; JOBS=N compiles with N processes (as many as there are processors)
#
# It goes to $XDG_CACHE_HOME/viommu/kernel/HASH-SERIES (~/.cache), about 10 minutes on two processors and 3 GB while it lasts.
set -euo pipefail

# shellcheck source=tests/kernel/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The package of the source that we want, or else of the latest of its kind.
source_package() {
  local found wanted="linux-source-$kernel_series"
  found="$(viommu_apt cache pkgnames "${wanted%.*}." | grep -xE "${wanted%.*}\.[0-9]+" | sort -V)"
  if grep -xF "$wanted" <<<"$found"; then return; fi
  found="$(tail -n 1 <<<"$found")"
  [[ -n "$found" ]] || viommu_die "Debian has no $wanted, and none later"
  viommu_say "NOTICE: Debian has no $wanted any more; $found takes its place"
  printf '%s\n' "$found"
}

# Everything happens in a folder beside the kernel's, which gets its name when it is complete: what broke off never counts.
build() {
  local folder work config line package
  mkdir -p "$VIOMMU_CACHE/kernel"
  work="$(mktemp -d -p "$VIOMMU_CACHE/kernel" building.XXXXXX)"
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$work'" EXIT
  viommu_apt_update
  package="$(source_package)"
  folder="$(kernel_folder "${package##*-}")"
  [[ ! -e "$folder/Image" ]] || return 0
  viommu_say "Fetching $package"
  viommu_fetch "$work/package" sid "$package"
  viommu_fetch "$work/busybox" bookworm busybox-static:arm64
  mkdir -p "$work/source" "$work/out" "$work/done"
  tar -xf "$work/package/usr/src/$package.tar.xz" -C "$work/source" --strip-components=1
  rm -rf "$work/package"

  local make=(nice -n 10 make -s -C "$work/source" "O=$work/out" ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-)
  config="$work/config"
  grep '^CONFIG_' "$VIOMMU_ROOT/tests/kernel/kernel.config" >"$config"
  "${make[@]}" "KCONFIG_ALLCONFIG=$config" allnoconfig >&2
  # What depends on something that is off silently stays off.
  while IFS= read -r line; do
    if [[ "$line" == *=n ]]; then
      ! grep -q "^${line%n}" "$work/out/.config"
    else
      grep -qxF -- "$line" "$work/out/.config"
    fi || viommu_die "the kernel's configuration does not hold $line"
  done <"$config"
  viommu_say "Building Linux $("${make[@]}" kernelversion) in $work (log: ${work##*/}/make.log)"
  "${make[@]}" "-j${JOBS:-$(nproc)}" Image >"$work/make.log" 2>&1 || {
    tail -n 30 "$work/make.log" >&2
    viommu_die "the kernel does not build"
  }

  cp "$work/out/arch/arm64/boot/Image" "$work/busybox/bin/busybox" "$work/done/"
  cp "$work/out/.config" "$work/done/config"
  "${make[@]}" kernelrelease >"$work/done/release"
  # Somebody else may have been faster; his is as good.
  mv -T "$work/done" "$folder" 2>/dev/null || [[ -e "$folder/Image" ]]
}

kernel_setup
if [[ ! -e "$(kernel_folder)/Image" ]]; then (build) >&2; fi
kernel_folder
