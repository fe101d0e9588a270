# shellcheck shell=bash
# The cross build for arm64: bazel build "${VIOMMU_ARM64_FLAGS[@]}" TARGET. To be sourced after tools/setup.sh and
# tools/debian.sh:
#
#   viommu_arm64                             fetches arm64's libraries, unless they are there; sets VIOMMU_ARM64_FLAGS
#   viommu_arm64_collect FOLDER PROGRAM…     puts all that dynamic programs need, but for themselves, into a root
#
# The libraries are those of Debian's own arm64 packages, unpacked in a folder: nothing of them is installed.

# What is linked: the libraries of every build, and those of tests.
viommu_arm64_packages() {
  awk '$2 == "build" && $1 ~ /-dev$/ { print $1 } END { print "libgmock-dev"; print "libgtest-dev"; print "librapidcheck-dev" }' \
    "$VIOMMU_ROOT/tools/packages.txt"
}

# Named after the packages: another list is another folder.
viommu_arm64_folder() {
  local hash
  hash="$(viommu_arm64_packages | sort | sha256sum)"
  printf '%s\n' "$VIOMMU_CACHE/arm64/${hash:0:16}"
}

viommu_arm64() {
  local folder work packages
  folder="$(viommu_arm64_folder)"
  if [[ ! -e "$folder" ]]; then
    viommu_say "Fetching arm64 libraries into $folder"
    mkdir -p "$VIOMMU_CACHE/arm64"
    work="$(mktemp -d -p "$VIOMMU_CACHE/arm64" fetching.XXXXXX)"
    mapfile -t packages < <(viommu_arm64_packages)
    if ! { viommu_apt_update && viommu_fetch_arm64 "$work" "${packages[@]}"; }; then
      rm -rf "$work"
      viommu_die "the arm64 libraries cannot be fetched"
    fi
    chmod 755 "$work"
    # Somebody else may have been faster; his are as good.
    mv -T "$work" "$folder" 2>/dev/null || rm -rf "$work"
  fi
  # shellcheck disable=SC2034  # for the script that sources this
  VIOMMU_ARM64_FLAGS=("${VIOMMU_BAZEL_FLAGS[@]}" --config=arm64 "--repo_env=VIOMMU_ARM64_SYSROOT=$folder")
}

# Where the dynamic loader looks, and the loader itself, are those of Debian.
viommu_arm64_collect() {
  local root="$1" folder name found names
  shift
  folder="$(viommu_arm64_folder)"
  local libraries="$root/lib/aarch64-linux-gnu" next=("$@")
  mkdir -p "$libraries"
  while ((${#next[@]} > 0)); do
    mapfile -t names < <(readelf -d "${next[@]}" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u)
    next=()
    for name in "${names[@]}"; do
      [[ -e "$libraries/$name" ]] && continue
      found="$(find "$folder/lib" "$folder/usr/lib" -name "$name" | head -n 1)"
      [[ -n "$found" ]] || viommu_die "no arm64 package that is linked has $name"
      cp -L "$found" "$libraries/$name"
      next+=("$libraries/$name")
    done
  done
  cp -L "$folder/lib/ld-linux-aarch64.so.1" "$root/lib/"
}
